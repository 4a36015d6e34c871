"""What the networks of a search are truly worth, where a benchmark table knows the error of every network.

    python -m experiments.table_truth --result runs/cpu/result.json --table nasbench_macro.npz

The table is an npz file with `choices` int [N, D], `error` float [N] and a cost array [N], here `flops`.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import cli
from jaxnas.report import SearchResult, read_result


@dataclass(frozen=True)
class Config:
    """Compare the networks of a search with a table of true errors.

    Attributes:
      result: result.json of a search.
      table: npz file with the true errors of all networks of the same space.
      cost: name of the array of costs.
    """

    result: Path
    table: Path
    cost: str = "flops"


@dataclass(frozen=True)
class Truth:
    """One found network in the table; errors in [0, 1].

    Attributes:
      penalty: its penalty coefficient.
      cost: its cost.
      error: its true error.
      best_within_cost: smallest error of a network that costs no more.
      best_for_penalty: true error of the network with the smallest error + penalty * scaled cost.
      rank_within_cost: networks that cost no more and err less.
    """

    penalty: float
    cost: float
    error: float
    best_within_cost: float
    best_for_penalty: float
    rank_within_cost: int


def read_table(path: Path, cost: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choices [N, D], errors [N] and costs [N] of a table; ValueError where it is not one."""
    try:
        with np.load(path, allow_pickle=False) as table:
            missing = [name for name in ("choices", "error", cost) if name not in table]
            if missing:
                raise ValueError(f"table {path} lacks {', '.join(missing)}; it has {', '.join(table.files)}")
            return table["choices"], table["error"], table[cost]
    except (zipfile.BadZipFile, AttributeError) as error:
        raise ValueError(f"table {path} is not an npz file") from error


def look_up(result: SearchResult, choices: np.ndarray, error: np.ndarray, cost: np.ndarray) -> list[Truth]:
    """The true figures of each found network.

    Raises:
      ValueError: if a network is not in the table.
    """
    scaled = (cost - cost.min()) / (cost.max() - cost.min())
    truths = []
    for found in result.architectures:
        encoding = np.asarray(found.encoding)
        row = np.flatnonzero((choices == encoding).all(-1)) if encoding.shape == choices.shape[1:] else []
        if len(row) != 1:
            raise ValueError(f"network {list(found.encoding)} of space {result.space!r} is not in the table")
        index = row[0]
        affordable = cost <= cost[index]
        truths.append(
            Truth(
                penalty=found.penalty,
                cost=float(cost[index]),
                error=float(error[index]),
                best_within_cost=float(error[affordable].min()),
                best_for_penalty=float(error[np.argmin(error + found.penalty * scaled)]),
                rank_within_cost=int((error[affordable] < error[index]).sum()),
            )
        )
    return truths


def main(config: Config) -> None:
    """Prints the comparison."""
    truths = look_up(read_result(config.result), *read_table(config.table, config.cost))
    table = Table(title="true errors, %")
    for column in ("penalty", config.cost, "error", "best no dearer", "better ones", "best for the penalty"):
        table.add_column(column, justify="right")
    for truth in truths:
        table.add_row(
            f"{truth.penalty:g}",
            f"{truth.cost:,.0f}",
            f"{100 * truth.error:.2f}",
            f"{100 * truth.best_within_cost:.2f}",
            f"{truth.rank_within_cost}",
            f"{100 * truth.best_for_penalty:.2f}",
        )
    console = Console()
    console.print(table)
    gap = np.mean([truth.error - truth.best_within_cost for truth in truths])
    console.print(f"mean distance to the best network that costs no more: {100 * gap:.2f} points")


if __name__ == "__main__":
    cli.run(main, Config)
