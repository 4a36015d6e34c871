"""Search strategies on networks whose true errors are known.

    python -m experiments.tabular_search --table ../shared/tabular/nasbench_macro.npz --cost flops --noise 0.03 \
        --methods shared_model independent random nsga2 --evaluations 4000 --seeds 32 --out runs/macro

About a minute on two CPU cores, most of it NSGA-II's; `shared_model` alone takes seconds. It prints the regret of every
method, paired tests, and the evaluations each needs for the regret of independent searches; it writes result.json and
curves.png.
"""

import dataclasses
import pathlib

import numpy as np

from experiments import cli
from jaxnas import tasks
from jaxnas.report import tabular as report
from jaxnas.tasks import comparison
from jaxnas.tasks.recorded import RecordedTask, Recording


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares search strategies on a table of evaluated networks."""

    table: pathlib.Path
    """npz file with choices int [N, D] (all combinations), errors [N] in [0, 1], costs [N] and maybe choice_names."""
    cost: str
    """Name of the array of costs; scaled so that the cheapest network has R = 0 and the most expensive R = 1."""
    out: pathlib.Path
    """Folder for result.json and curves.png."""
    error: str = "error"
    """Name of the array of errors."""
    losses: tuple[pathlib.Path, ...] = ()
    """Recorded supernets of this table's space (`experiments.record_supernet`), each searched with all seeds: a step
    sees one of its minibatches, and regret is that of the mean loss; hypervolume and distance are of the table."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise of one evaluation, as a minibatch would give."""
    methods: tuple[str, ...] = ("shared_model", "independent", "random")
    """One or more of shared_model, importance_sampling, independent (with its best of 2, 4, 8 samples), random,
    evolution, nsga2, constrained, pnag, smem_nas, moarr."""
    penalties: tuple[float, ...] | None = None
    """Penalty coefficients, the increase of the loss that is accepted for going from the highest cost to the lowest;
    one network is found for each."""
    distributions: int | None = None
    """Instead of penalties: their number, geometric from 0.02 to 0.3 (default 5)."""
    evaluations: int = 4000
    """Evaluations of one search, all networks together."""
    seeds: int = 32
    """Number of searches with each method."""
    first_seed: int = 0
    """The first of the seeds."""


def penalties_of(config: Config) -> tuple[float, ...]:
    """The penalties, given or geometric."""
    if config.penalties is not None and config.distributions is not None:
        raise ValueError("give either penalties or distributions, not both")
    if config.penalties is not None:
        return config.penalties
    distributions = 5 if config.distributions is None else config.distributions
    if distributions < 1:
        raise ValueError(f"distributions must be at least 1, got {distributions}")
    return tuple(np.geomspace(0.02, 0.3, distributions).tolist())


def problems_of(config: Config, benchmark: tasks.Table) -> list[tasks.TabularTask]:
    """The table as a problem, or one problem for each recorded supernet."""
    name = config.table.stem
    if not config.losses:
        return [tasks.TabularTask.from_table(benchmark, config.noise, name=name)]
    if config.noise:
        raise ValueError(f"noise must be 0 with recorded losses, whose minibatches have their own, got {config.noise}")
    return [RecordedTask.of_recording(Recording.read(path), benchmark, name=name) for path in config.losses]


def main(config: Config) -> None:
    """Runs the comparison."""
    penalties = penalties_of(config)
    if config.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {config.seeds}")
    benchmark = tasks.read_table(config.table, config.cost, config.error)
    problems = problems_of(config, benchmark)
    planned = [comparison.plan(config.methods, task, penalties, config.evaluations) for task in problems]
    recorded = comparison.recorded_counts(config.evaluations, planned[0])
    folder = report.prepare(config.out)

    results = comparison.run_all(problems, planned, recorded, config.seeds, config.first_seed)
    comparisons = comparison.compare("shared_model", results) if "shared_model" in results else []
    reaches = comparison.reaches(results)

    content = report.as_json(
        results,
        comparisons,
        reaches,
        table=str(config.table),
        losses=[str(path) for path in config.losses],
        cost=config.cost,
        error=config.error,
        noise=config.noise,
        penalties=list(penalties),
        seeds=config.seeds,
        first_seed=config.first_seed,
    )
    report.write(folder, content, report.curves(results))
    console = cli.console(log_width=140)
    shown = [report.result_table(results)]
    shown += [report.comparison_table("shared_model", comparisons)] if comparisons else []
    shown += [report.reach_table(reaches)] if reaches else []
    for table in [*shown, report.level_table(results)]:
        console.print(table.rich())
    console.print(f"wrote {folder / 'result.json'} and {folder / 'curves.png'}")


if __name__ == "__main__":
    cli.run(main, Config)
