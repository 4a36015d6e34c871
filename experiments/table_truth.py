"""What the networks of a search are truly worth, where a benchmark table knows the error of every network.

    python -m experiments.table_truth --result runs/cpu/result.json --table nasbench_macro.npz

The table is an npz file with `choices` int [N, D], `error` float [N] and a cost array [N], here `flops`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import cli
from jaxnas.results import SearchResult, read_result
from jaxnas.results.tables import Table as TextTable
from jaxnas.tasks import Table, TabularTask, read_table
from jaxnas.tasks.judge import least_error_within


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


def look_up(result: SearchResult, table: Table) -> list[Truth]:
    """The true figures of each found network.

    Raises:
      ValueError: if the networks are not of the table's space.
    """
    task = TabularTask.from_table(table, name=result.space)
    objective = task.objective([found.penalty for found in result.architectures])
    truths = []
    for found, values in zip(result.architectures, objective):
        row = int(task.rows(task.space.validate(found.encoding)))
        affordable = table.cost <= table.cost[row]
        truths.append(
            Truth(
                penalty=found.penalty,
                cost=float(table.cost[row]),
                error=float(table.error[row]),
                best_within_cost=float(least_error_within(table, table.cost[row])),
                best_for_penalty=float(table.error[np.argmin(values)]),
                rank_within_cost=int((table.error[affordable] < table.error[row]).sum()),
            )
        )
    return truths


def main(config: Config) -> None:
    """Prints the comparison."""
    truths = look_up(read_result(config.result), read_table(config.table, config.cost))
    shown = TextTable(
        "true errors, %",
        ("penalty", config.cost, "error", "best at no higher cost", "better ones", "best for the penalty"),
        [
            (
                f"{truth.penalty:g}",
                f"{truth.cost:,.0f}",
                f"{100 * truth.error:.2f}",
                f"{100 * truth.best_within_cost:.2f}",
                f"{truth.rank_within_cost}",
                f"{100 * truth.best_for_penalty:.2f}",
            )
            for truth in truths
        ],
    )
    console = cli.console()
    console.print(shown.rich())
    gap = np.mean([truth.error - truth.best_within_cost for truth in truths])
    console.print(f"mean distance to the best network that costs no more: {100 * gap:.2f} points")


if __name__ == "__main__":
    cli.run(main, Config)
