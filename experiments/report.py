"""A report of one or several searches as one self-contained HTML file.

    python -m experiments.report runs/cpu
    python -m experiments.report runs/cpu runs/macro --table ../shared/tabular/nasbench_macro.npz --out report.html

It shows the networks found (cost against error, a drawing of each, costs by layer), how the search went (theta,
effective sample size, entropy), links to exported files, and the command that repeats it.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments import cli
from jaxnas.report.page import write_report
from jaxnas.report.runs import read_folders, read_truth
from jaxnas.search import repeat


@dataclass(frozen=True)
class Config:
    """Write a report of searches as one self-contained HTML file.

    Attributes:
      folders: workdirs of searches; with a table also folders of tabular_search, which are shown as baselines.
      out: the HTML file; by default report.html in the first folder.
      table: npz file of true errors of the search space, with choices int [N, D] and error [N].
    """

    folders: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None
    table: Path | None = None


def main(config: Config) -> None:
    """Reads everything, then writes the report."""
    runs, baselines = read_folders(config.folders)
    truth = None if config.table is None else read_truth(config.table)
    commands = {run.name: line for run in runs if (line := repeat.command(run.result.config)) is not None}
    out = config.folders[0] / "report.html" if config.out is None else config.out
    write_report(out, runs, baselines, truth, commands)
    size = out.stat().st_size / 1e6
    console = cli.console()
    if baselines and truth is None:
        console.print("baselines are left out: their errors need the table, give --table FILE.npz")
    console.print(f"wrote {out}, {size:.2f} MB", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, Config)
