"""All methods side by side, at equal cost, judged by true errors.

    python -m experiments.leaderboard --table nasbench_macro.npz nasbench201_cifar10.npz --supernet digits \
        --evaluations 1000 --seeds 20 --supernet-seeds 3 --out runs/leaderboard

On a table every method that learns from losses alone searches with the same evaluations and noise. On a supernet all
methods run, and its training counts (jaxnas/leaderboard/on_supernets.py says how). It prints a table for each problem
and writes result.json and leaderboard.png; `python -m experiments.methods_page` makes docs/reference/methods.md of it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from experiments import cli
from jaxnas import data, strategies, tasks
from jaxnas.leaderboard import on_supernets, on_tables, standings, supernet_problem
from jaxnas.metrics import REFERENCE_POINT
from jaxnas.report import leaderboard as report
from jaxnas.report import tabular
from jaxnas.results import settings_tree
from jaxnas.results.files import replacing, to_plain
from jaxnas.runtime import compilation_cache
from jaxnas.search import presets
from jaxnas.search.build import build as build_search
from jaxnas.search.search import Search
from jaxnas.tasks.judge import BUDGETS


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares all methods on tables and on a supernet."""

    out: pathlib.Path
    """Folder for result.json and leaderboard.png."""
    table: tuple[pathlib.Path, ...] = ()
    """npz files with choices int [N, D] (all combinations), errors [N] in [0, 1] and costs [N]."""
    supernet: str | None = None
    """A supernet to also search on: digits (minutes) or cifar10 (hours on a CPU)."""
    cost: str = "flops"
    """Name of the array of costs in the tables."""
    error: str = "error"
    """Name of the array of errors in the tables."""
    noise: float = 0.01
    """Standard deviation of the Gaussian noise of one evaluation on a table, as a common minibatch would give."""
    methods: tuple[str, ...] | None = None
    """Methods to compare; all that apply if not given."""
    penalties: tuple[float, ...] = (0.02, 0.039, 0.077, 0.152, 0.3)
    """Penalty coefficients on the tables, the increase of the loss that is accepted for going from the highest cost to
    the lowest."""
    evaluations: int = 1000
    """Evaluations of one search, all its networks together; the training of a supernet is not included."""
    seeds: int = 20
    """Number of searches with each method on each table."""
    supernet_seeds: int = 3
    """Number of supernets; each method searches once on each."""
    data_dir: pathlib.Path | None = None
    """Folder of the prepared TFDS data, for cifar10."""


PRESET_OF = {"digits": "quickstart", "cifar10": "cpu"}
JUDGE_SEED = 1000  # of the judge's weights; those of the problems count from 0


def check(config: Config) -> None:
    """Raises ValueError on settings that would fail only after some searches."""
    if not config.table and config.supernet is None:
        raise ValueError("give a table, a supernet (digits or cifar10), or both: there is nothing to compare on")
    if config.supernet is not None and config.supernet not in PRESET_OF:
        raise ValueError(f"supernet must be one of {', '.join(PRESET_OF)}, got {config.supernet!r}")
    for name in ("evaluations", "seeds", "supernet_seeds"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    if len(set(config.table)) < len(config.table):
        raise ValueError("table names one file twice")
    known = {*on_tables.methods(), *on_supernets.methods()}
    for name in config.methods or ():
        strategies.check_name(name, sorted(known))


def command_of(config: Config) -> str:
    """The command line of a run, files by their names."""
    words = ["python -m experiments.leaderboard"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            plain = [each.name if isinstance(each, pathlib.Path) else str(each) for each in values]
            words.append(" ".join([f"--{field.name.replace('_', '-')}", *plain]))
    return " ".join(words)


def applying(config: Config, methods: Iterable[str]) -> tuple[str, ...]:
    """Those of the wanted methods that a kind of problem knows, in its order."""
    return tuple(name for name in methods if config.methods is None or name in config.methods)


def on_table(config: Config, table: tasks.Table, name: str) -> standings.Standings:
    """Searches and judges on a table."""
    task = tasks.TabularTask.from_table(table, config.noise, name=name)
    names = applying(config, on_tables.methods())
    return standings.Standings.of(on_tables.run(task, names, config.penalties, config.evaluations, config.seeds))


def on_supernet(config: Config, console: Console) -> standings.Standings:
    """Trains the judge and the supernets, searches with every method, and judges."""
    preset = presets.MEMORY(preset=PRESET_OF[config.supernet], data_dir=config.data_dir)

    def build(seed: int) -> Search:
        return build_search(settings_tree.replace(preset, seed=seed))

    searches = [build(seed) for seed in range(config.supernet_seeds)]
    strategy = searches[0].strategy
    console.print(f"{config.supernet}: training {config.supernet_seeds} supernets and the judge")
    dataset = data.load(preset.data.dataset, config.data_dir)
    images = dataset.test_images
    if preset.data.image_size != images.shape[1]:
        images = data.resize(images, preset.data.image_size)
    truth = supernet_problem.score_all(
        supernet_problem.train(build(JUDGE_SEED), JUDGE_SEED),
        data.Examples(images, dataset.test_labels),
        strategy.cost,
        strategy.space.name,
    )
    problems = [
        supernet_problem.SupernetProblem(
            supernet_problem.train(search, seed), seed, preset.method.penalties, strategy.cost, config.evaluations
        )
        for seed, search in enumerate(searches)
    ]
    names = applying(config, on_supernets.methods())
    return standings.Standings.of(
        on_supernets.run(problems, names, truth, lambda name: console.print(f"{config.supernet}: {name}"))
    )


def main(config: Config) -> None:
    """Runs every comparison; what is done is saved before the next begins."""
    check(config)
    compilation_cache.enable()
    tables = {path.stem: tasks.read_table(path, config.cost, config.error) for path in config.table}
    folder = tabular.prepare(config.out)
    console = cli.console(log_width=160)
    problems: dict[str, standings.Standings] = {}
    content: dict[str, Any] = {
        "command": command_of(config),
        "hypervolume_reference": list(REFERENCE_POINT),
        "budget_quantiles": list(BUDGETS),
        "problems": {},
    }
    for name in [*tables, *([config.supernet] if config.supernet else [])]:
        if name in tables:
            problems[name] = on_table(config, tables[name], name)
            settings = {
                "cost": config.cost,
                "noise": config.noise,
                "penalties": config.penalties,
                "seeds": config.seeds,
            }
        else:
            problems[name] = on_supernet(config, console)
            preset = presets.MEMORY.configs[PRESET_OF[name]]
            settings = {"penalties": preset.method.penalties, "seeds": config.supernet_seeds}
        console.print(report.standings_table(name, problems[name]).rich())
        content["problems"][name] = standings.as_json(problems[name], **settings)
        with replacing(folder / "result.json") as temporary:
            temporary.write_text(json.dumps(to_plain(content), allow_nan=False) + "\n", encoding="utf-8")
        with replacing(folder / "leaderboard.png") as temporary:
            report.figure(problems).savefig(temporary, dpi=150)
    console.print(f"wrote {folder / 'result.json'} and {folder / 'leaderboard.png'}")


if __name__ == "__main__":
    cli.run(main, Config)
