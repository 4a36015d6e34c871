"""One search for K networks, K searches, and one supernet searched K times, at equal cost on real images.

    python -m experiments.family_cost --preset cpu --data-dir DIR --table nasbench_macro.npz --out runs/family_cost

The arms and how their cost is counted: `jaxnas/leaderboard/family_cost.py`. A seed with all arms at all shares takes
hours on two CPU cores; the cheapest run first, and a second call with the same folder resumes. It prints the mean
distance of the K true errors to the best network that costs no more, and writes family_cost.json and family_cost.png.
"""

import dataclasses
from pathlib import Path

from experiments import cli
from jaxnas.leaderboard import family_cost
from jaxnas.report import family_cost as report
from jaxnas.results.files import write_json
from jaxnas.runtime import compilation_cache
from jaxnas.search import presets
from jaxnas.tasks import TabularTask, read_table


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare one search for K networks with other ways to find them, at equal total cost.

    Attributes:
      table: npz file with the true errors of all networks of the preset's space.
      out: folder of all searches and results.
      cost: name of the table's array of costs.
      preset: preset of `experiments.cifar_search`, whose search has share 1.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      arms: one or more of one, shared, separate, searched.
      phases: one or more of two_stage, joint.
      shares: budgets of all runs, as shares of the cost of the preset's search.
      seeds: number of seeds.
      first_seed: the first seed.
    """

    table: Path
    out: Path
    cost: str = "flops"
    preset: str = "cpu"
    data_dir: Path | None = None
    arms: tuple[str, ...] = family_cost.ARMS
    phases: tuple[str, ...] = family_cost.PHASES
    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    seeds: int = 5
    first_seed: int = 0


def main(config: Config) -> None:
    """Runs what is left, and writes the results after each search."""
    if config.seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {config.seeds}")
    compilation_cache.enable()
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    wanted = family_cost.points(config.arms, config.phases, config.shares, seeds)
    search = presets.MEMORY(preset=config.preset, data_dir=config.data_dir)
    table = read_table(config.table, config.cost)
    study = family_cost.Study(search, TabularTask.from_table(table, name=config.table.stem), config.out)
    config.out.mkdir(parents=True, exist_ok=True)
    console, found = cli.console(log_width=140), []
    for family in study.run(wanted, console.print):
        found.append(family)
        write_json(config.out / "family_cost.json", {"runs": [dataclasses.asdict(each) for each in found]})
    for table in report.tables(found):
        console.print(table.rich())
    report.draw(found, config.out / "family_cost.png")


if __name__ == "__main__":
    cli.run(main, Config)
