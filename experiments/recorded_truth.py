"""How well the losses of recorded supernets rank networks, which limits searches on them.

    python -m experiments.recorded_truth --table nasbench_macro.npz --losses benchmarks/recorded/*.npz

Takes seconds. Prints Kendall's tau of the losses with the true errors, and how far the networks of least objective are
from the best that cost no more: by the loss on all minibatches, on half of them, on one, and by its main effects
(`jaxnas/tasks/recorded_truth.py`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import cli
from jaxnas.results.tables import Column, Table
from jaxnas.search import presets
from jaxnas.tasks import read_table, recorded_truth
from jaxnas.tasks.recorded import Recording


@dataclass(frozen=True)
class Config:
    """Compare the losses of recorded supernets with true errors.

    Attributes:
      table: npz file with the true errors of all networks of the recorded space.
      losses: recorded supernets, see `experiments.record_supernet`.
      cost: name of the table's array of costs.
      penalties: coefficients of the objectives whose best networks are compared.
    """

    table: Path
    losses: tuple[Path, ...]
    cost: str = "flops"
    penalties: tuple[float, ...] = presets.MEMORY.configs["cpu"].method.penalties


def main(config: Config) -> None:
    """Prints a table for each question, and the mean over supernets."""
    if not config.losses:
        raise ValueError("losses must name at least one recorded supernet, got none")
    table = read_table(config.table, config.cost)
    found = [recorded_truth.measure(Recording.read(path), table, config.penalties) for path in config.losses]
    names = [path.stem for path in config.losses]
    console = cli.console(log_width=140)
    console.print(_correlations(found, names).rich())
    console.print(_distances(found, names).rich())
    for name, each in zip(names, found):
        console.print(
            f"{name}: losses spread by {each.spread:.3f} nats over networks; one minibatch adds {each.minibatch:.3f}, "
            f"{each.common_minibatch:.3f} where all see the same",
            soft_wrap=True,
        )


def _correlations(found: list[recorded_truth.RecordedTruth], names: list[str]) -> Table:
    rows = []
    for score in found[0].rank_correlation:
        each = [truth.rank_correlation[score] for truth in found]
        cells = [f"{one['overall']:.3f} / {one['cheaper_half']:.3f} / {one['dearer_half']:.3f}" for one in each]
        means = [np.mean([one[part] for one in each]) for part in ("overall", "cheaper_half", "dearer_half")]
        rows.append((score, *cells, " / ".join(f"{mean:.3f}" for mean in means)))
    title = "Kendall's tau with the true errors: overall / cheaper half / dearer half"
    return Table(title, (Column("ranked by the loss on", "name"), *names, "mean"), rows)


def _distances(found: list[recorded_truth.RecordedTruth], names: list[str]) -> Table:
    rows = []
    for score in found[0].distance:
        each = [100 * truth.distance[score] for truth in found]
        rows.append((score, *(f"{distance:.2f}" for distance in each), f"{np.mean(each):.2f}"))
    title = "True error of the networks of least objective, points above the best that costs no more"
    return Table(title, (Column("least objective by", "name"), *names, "mean"), rows)


if __name__ == "__main__":
    cli.run(main, Config)
