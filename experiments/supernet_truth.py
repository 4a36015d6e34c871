"""What a supernet's scores are worth, and what searches on it find, against a table of true errors.

    python -m experiments.supernet_truth --table nasbench_macro.npz --data-dir DIR --out runs/truth

Trains a supernet with `cifar_search --preset cpu` (20 minutes on two CPU cores), or takes that of an earlier search
(`--run DIR`); scores random architectures with it; then runs every method on the frozen weights with equal evaluations.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import rich.table
from rich.console import Console

from experiments import cifar_search, cli
from experiments.presets import Preset
from experiments.table_truth import best_within_cost
from jaxnas import compilation_cache, metrics, strategies
from jaxnas.checkpoint import Checkpoints
from jaxnas.report.files import replacing
from jaxnas.tasks import Table, TabularTask, read_table
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
    architectures: int = 300
    images: int = 2500
    methods: tuple[str, ...] = ("importance", "independent", "random", "nsga2")
    evaluations: int = 1600
    search_seeds: int = 3
    samples: int = 4


def load_supernet(run: Path, data_dir: Path | None) -> FrozenSupernet:
    """The trained supernet in the folder of a search.

    Raises:
      ValueError: if the folder holds no finished search.
    """
    try:
        description = json.loads((run / "config.json").read_text())
        seed, method, cost = (description[name] for name in ("seed", "method", "cost"))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"run {run} is not the folder of a search; give one of cifar_search") from error
    preset = Preset.from_description(description)
    search = cifar_search.build(cifar_search.Config(method=method, cost=cost, seed=seed, data_dir=data_dir), preset)
    with Checkpoints(run / "checkpoints") as checkpoints:
        restored = checkpoints.restore_newest(search.init(seed))
    if restored is None or restored.step < preset.settings.total_steps:
        raise ValueError(f"run {run} is not finished; run its cifar_search command again to resume it")
    return FrozenSupernet(search, restored.state.params)


def score(supernet: FrozenSupernet, archs: np.ndarray, images: int) -> np.ndarray:
    """Mean validation loss of architectures [N, D] over `images` images, float [N]."""
    size = supernet.search.settings.valid_batch_size
    count = max(1, min(images, len(supernet.search.valid.labels)) // size)
    losses = [
        np.asarray(supernet.search.evaluate_on(supernet.params, jnp.arange(size) + start * size, archs).loss)
        for start in range(count)
    ]
    return np.mean(losses, axis=0)


def main(config: Config) -> None:
    """Trains or loads, scores, searches, prints and writes `result.json`."""
    console = Console()
    compilation_cache.enable()
    table = read_table(config.table, config.cost)
    task = TabularTask.from_table(table)
    config.out.mkdir(parents=True, exist_ok=True)
    run = config.run
    if run is None:
        run = config.out / "search"
        cifar_search.main(cifar_search.Config(workdir=run, preset="cpu", data_dir=config.data_dir))
    supernet = load_supernet(run, config.data_dir)

    archs = task.space.sample_uniform(np.random.default_rng(0), config.architectures)
    rows = task.rows(archs)
    costs, errors = table.cost, table.error
    losses = score(supernet, archs, config.images)
    cheap, dear = metrics.binned_kendall_tau(losses, errors[rows], costs[rows])
    tau = {
        "overall": metrics.kendall_tau(losses, errors[rows]),
        "cheaper_half": cheap,
        "dearer_half": dear,
        "cost_alone": metrics.kendall_tau(-costs[rows], errors[rows]),
    }
    console.print("Kendall tau with the true error: " + ", ".join(f"{name} {value:.3f}" for name, value in tau.items()))

    searches = {name: search(supernet, name, config, task, table) for name in config.methods}
    console.print(searches_table(searches, config))
    with replacing(config.out / "result.json") as temporary:
        temporary.write_text(json.dumps({"kendall_tau": tau, "networks": len(rows), "methods": searches}, indent=2))


def search(supernet: FrozenSupernet, name: str, config: Config, task: TabularTask, table: Table) -> dict[str, Any]:
    """Every seed's networks and their true figures: errors, costs, and distance to the best that costs no more."""
    search_of = supernet.search.strategy
    strategy = strategies.make(name, search_of.space, search_of.penalties, samples=config.samples, cost=search_of.cost)
    found = []
    for seed in range(config.search_seeds):
        archs = supernet.run(strategy, config.evaluations, seed)
        rows = task.rows(archs)
        found.append(
            {
                "encodings": archs.tolist(),
                "error": table.error[rows].tolist(),
                "cost": table.cost[rows].tolist(),
                "distance": [float(table.error[row]) - best_within_cost(table, row) for row in rows],
            }
        )
    return {"seeds": found}


def searches_table(searches: dict[str, Any], config: Config) -> rich.table.Table:
    """True errors of what each method found, means over the seeds, cheapest penalty first."""
    table = rich.table.Table(title=f"true errors of the networks found with {config.evaluations} evaluations, %")
    table.add_column("method")
    table.add_column("error for each penalty", justify="right")
    table.add_column(f"{config.cost} for each penalty, millions", justify="right")
    table.add_column("distance to the best no dearer, points", justify="right")
    for name, method in searches.items():
        mean = {key: np.mean([seed[key] for seed in method["seeds"]], axis=0) for key in ("error", "cost", "distance")}
        table.add_row(
            name,
            " ".join(f"{100 * error:.2f}" for error in mean["error"]),
            " ".join(f"{cost / 1e6:.0f}" for cost in mean["cost"]),
            f"{100 * mean['distance'].mean():.2f}",
        )
    return table


if __name__ == "__main__":
    cli.run(main, Config)
