"""How well a supernet ranks networks, and what searches on it find, compared with a table of true errors.

    python -m experiments.supernet_truth --table nasbench_macro.npz --data-dir DIR --out runs/truth

Trains a supernet with `cifar_search --preset cpu`, for twice the preset's steps, or takes that of an earlier search
(`--run DIR`); scores random architectures with it; then runs every method on the frozen weights with equal evaluations.
In all 40 minutes on two CPU cores.

All methods answer the same K penalties: for `constrained`, whose K searches keep budgets evenly spaced in cost, that is
the least measured objective of all it evaluated (`modes`), as for the other methods without a distribution.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments import cli
from jaxnas import metrics, strategies
from jaxnas.report.shown_search import run_and_show
from jaxnas.results.files import replacing, to_plain
from jaxnas.results.tables import Column
from jaxnas.results.tables import Table as TextTable
from jaxnas.runtime import compilation_cache
from jaxnas.search import presets
from jaxnas.spaces import SPACES
from jaxnas.tasks import Table, TabularTask, judge, read_table
from jaxnas.tasks.finished_search import load_supernet, read_run
from jaxnas.tasks.judge import least_error_within
from jaxnas.tasks.supernet import FrozenSupernet


@dataclass(frozen=True)
class Config:
    """Compare a supernet, and searches on it, with true errors.

    Attributes:
      table: npz file with `choices`, `error` and costs of all networks of the supernet's space.
      out: folder for result.json, and for the search if there is none yet.
      run: folder of a finished `cifar_search` whose supernet is taken.
      data_dir: folder of the prepared TFDS data.
      cost: array of the table that complexity bins and distances use.
      weight_steps: steps of the supernet's weights, if it is trained here.
      architectures: random networks to score.
      images: validation images that score them.
      methods: strategies to compare.
      evaluations: architecture-minibatch losses for each search.
      search_seeds: searches for each method.
      samples: architectures drawn for each penalty in a step.
    """

    table: Path
    out: Path
    run: Path | None = None
    data_dir: Path | None = None
    cost: str = "flops"
    weight_steps: int = 10_000
    architectures: int = 300
    images: int = 2500
    methods: tuple[str, ...] = ("shared_model", "importance_sampling", "independent", "random", "nsga2", "constrained")
    evaluations: int = 1600
    search_seeds: int = 3
    samples: int = 4


def check(config: Config) -> None:
    """Raises ValueError on settings that would fail only after the training."""
    for name, least in (("architectures", 4), ("images", 1), ("evaluations", 1), ("search_seeds", 1), ("samples", 1)):
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    for name in config.methods:
        strategies.check_name(name)


def check_table(task: TabularTask, path: Path, space_name: str) -> None:
    """Raises ValueError unless the table has the decisions of the supernet's space."""
    if space_name not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {space_name!r}")
    wanted = SPACES[space_name]().num_choices
    if task.space.num_choices != wanted:
        raise ValueError(
            f"table {path} is of another space: its decisions have {task.space.num_choices} choices, those of the "
            f"supernet's {space_name!r} have {wanted}; give the table of {space_name!r}, or the run of another supernet"
        )


def score(supernet: FrozenSupernet, archs: np.ndarray, images: int) -> np.ndarray:
    """Mean validation loss of architectures [N, D] over `images` images, float [N]."""
    size = supernet.search.settings.valid_batch_size
    count = max(1, min(images, len(supernet.search.valid)) // size)
    minibatches = [supernet.search.valid.take(jnp.arange(size) + start * size) for start in range(count)]
    losses = [np.asarray(supernet.search.evaluate_batch(supernet.params, one, archs).loss) for one in minibatches]
    return np.mean(losses, axis=0)


def main(config: Config) -> None:
    """Trains or loads, scores, searches, prints and writes `result.json`."""
    console, started = cli.console(), time.perf_counter()
    check(config)
    compilation_cache.enable()
    table = read_table(config.table, config.cost)
    task = TabularTask.from_table(table)
    space = (presets.MEMORY.configs["cpu"] if config.run is None else read_run(config.run)).space.space
    check_table(task, config.table, space)
    config.out.mkdir(parents=True, exist_ok=True)
    run = config.run
    if run is None:
        run = config.out / "search"
        given = {"workdir": run, "data_dir": config.data_dir, "weight_steps": config.weight_steps, "finish_steps": 0}
        run_and_show(presets.MEMORY(preset="cpu", **given), console)
    supernet = load_supernet(run, config.data_dir)

    archs = task.space.sample_uniform(np.random.default_rng(0), config.architectures)
    rows = task.rows(archs)
    tau = judge.rank_correlations(score(supernet, archs, config.images), table.error[rows], table.cost[rows])
    console.print("Kendall tau with the true error: " + ", ".join(f"{name} {value:.3f}" for name, value in tau.items()))

    searches = {name: search(supernet, name, config, task, table) for name in config.methods}
    console.print(searches_table(searches, config).rich())
    result = {
        "table": config.table,
        "cost": config.cost,
        "space": space,
        "penalties": supernet.search.strategy.penalties,
        "networks": len(rows),
        "kendall_tau": tau,
        "evaluations": config.evaluations,
        "samples": config.samples,
        "methods": searches,
        "wall_seconds": time.perf_counter() - started,
    }
    with replacing(config.out / "result.json") as temporary:
        temporary.write_text(json.dumps(to_plain(result), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    console.print(f"results in {config.out}")


def search(supernet: FrozenSupernet, name: str, config: Config, task: TabularTask, table: Table) -> dict[str, Any]:
    """What one method found with every seed, by true figures, and the seconds it took, compiling included.

    For each seed: encodings [K, D], errors [K], costs [K], distances [K] to the least error of a network that costs no
    more, and the hypervolume of the K true errors and scaled costs.
    """
    search_of = supernet.search.strategy
    strategy = strategies.make(name, search_of.space, search_of.penalties, samples=config.samples, cost=search_of.cost)
    found, started = [], time.perf_counter()
    for seed in range(config.search_seeds):
        archs = supernet.run(strategy, config.evaluations, seed)
        rows = task.rows(archs)
        found.append(
            {
                "encodings": archs,
                "error": table.error[rows],
                "cost": table.cost[rows],
                "distance": table.error[rows] - least_error_within(table, table.cost[rows]),
                "hypervolume": float(metrics.hypervolume(table.error[rows], task.cost.scaled[rows])),
            }
        )
    return {"seeds": found, "wall_seconds": time.perf_counter() - started}


def searches_table(searches: dict[str, Any], config: Config) -> TextTable:
    """True errors of what each method found, means over the seeds, smallest penalty first."""
    rows = []
    for name, method in searches.items():
        keys = ("error", "cost", "distance", "hypervolume")
        mean = {key: np.mean([seed[key] for seed in method["seeds"]], axis=0) for key in keys}
        rows.append(
            (
                name,
                " ".join(f"{100 * error:.2f}" for error in mean["error"]),
                " ".join(f"{cost / 1e6:.0f}" for cost in mean["cost"]),
                f"{100 * mean['distance'].mean():.2f}",
                f"{mean['hypervolume']:.4f}",
            )
        )
    return TextTable(
        f"true errors of the networks found with {config.evaluations} evaluations, %",
        (
            Column("method", "name"),
            "error for each penalty",
            f"{config.cost} for each penalty, millions",
            "distance to the best at no higher cost, points",
            "hypervolume",
        ),
        rows,
    )


if __name__ == "__main__":
    cli.run(main, Config)
