"""True errors of the networks of a search, from a benchmark table with the error of every network.

    python -m experiments.table_truth --result runs/cpu/result.json --table nasbench_macro.npz
    python -m experiments.table_truth --picks picks.json --table nasbench_macro.npz    # of experiments.pick --out

The table is an npz file with `choices` int [N, D], `error` float [N] and a cost array [N], here `flops`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments import cli
from jaxnas.results import SearchResult, read_result
from jaxnas.results.json_files import read_json
from jaxnas.results.tables import Table as TextTable
from jaxnas.search.budgets import in_words
from jaxnas.tasks import Table, TabularTask, read_table
from jaxnas.tasks.judge import least_error_within


@dataclass(frozen=True)
class Config:
    """Compare found networks with a table of true errors.

    Attributes:
      table: npz file with the true errors of all networks of the same space.
      result: result.json of a search.
      picks: instead of it, the networks that experiments.pick wrote.
      cost: name of the array of costs.
    """

    table: Path
    result: Path | None = None
    picks: Path | None = None
    cost: str = "flops"


@dataclass(frozen=True)
class Truth:
    """One found network in the table; errors in [0, 1].

    Attributes:
      cost: its cost.
      error: its true error.
      best_within_cost: smallest error of a network that costs no more.
      rank_within_cost: networks that cost no more and err less.
    """

    cost: float
    error: float
    best_within_cost: float
    rank_within_cost: int


def look_up(encodings: Sequence[Sequence[int]], table: Table, space: str = "table") -> list[Truth]:
    """The true figures of each network.

    Args:
      encodings: [N][D].
      table: of the true errors.
      space: its name, for messages.

    Raises:
      ValueError: if the networks are not of the table's space.
    """
    task, truths = TabularTask.from_table(table, name=space), []
    for encoding in encodings:
        row = int(task.rows(task.space.validate(encoding)))
        affordable = table.cost <= table.cost[row]
        truths.append(
            Truth(
                cost=float(table.cost[row]),
                error=float(table.error[row]),
                best_within_cost=float(least_error_within(table, table.cost[row])),
                rank_within_cost=int((table.error[affordable] < table.error[row]).sum()),
            )
        )
    return truths


def best_for_penalties(penalties: Sequence[float], table: Table) -> np.ndarray:
    """True errors [K] of the networks with the smallest error + penalty * scaled cost."""
    objective = TabularTask.from_table(table).objective(penalties)
    return table.error[np.argmin(objective, axis=-1)]


def of_result(result: SearchResult, table: Table, cost: str) -> tuple[TextTable, list[Truth]]:
    """The networks of a search."""
    found = result.architectures
    truths = look_up([one.encoding for one in found], table, result.space)
    if any(one.budgets for one in found):
        return of_networks([one.budgets or {} for one in found], truths, cost), truths
    penalties = [one.penalty for one in found]
    columns = {
        "penalty": [f"{penalty:g}" for penalty in penalties],
        "best for the penalty": [f"{100 * error:.2f}" for error in best_for_penalties(penalties, table)],
    }
    return text(columns, truths, cost), truths


def of_networks(budgets: Sequence[Mapping[str, float]], truths: Sequence[Truth], cost: str) -> TextTable:
    """Networks that had budgets."""
    return text({"budget": [in_words(each) or "none" for each in budgets]}, truths, cost)


def text(columns: Mapping[str, Sequence[str]], truths: Sequence[Truth], cost: str) -> TextTable:
    """A table for people, the first of the given columns at its left, the others at its right."""
    (name, *others), (first, *rest) = columns, columns.values()
    return TextTable(
        "true errors, %",
        (name, cost, "error", "best at no higher cost", "better ones", *others),
        [
            (
                label,
                f"{truth.cost:,.0f}",
                f"{100 * truth.error:.2f}",
                f"{100 * truth.best_within_cost:.2f}",
                f"{truth.rank_within_cost}",
                *more,
            )
            for label, truth, *more in zip(first, truths, *rest)
        ],
    )


def read_picks(path: Path) -> tuple[list[list[int]], list[Mapping[str, float]]]:
    """Encodings and budgets of the networks that `experiments.pick` wrote.

    Raises:
      ValueError: in one line, if the file is missing or of something else.
    """
    try:
        document = read_json(path)
        networks = [([int(choice) for choice in one["encoding"]], dict(one["budgets"])) for one in document]
    except OSError as error:
        raise ValueError(f"picks {path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"picks must be a file that experiments.pick --out wrote, {path} is none ({error})") from error
    if not networks:
        raise ValueError(f"picks must hold networks, {path} has none")
    return [encoding for encoding, _ in networks], [budgets for _, budgets in networks]


def main(config: Config) -> None:
    """Prints the comparison."""
    if (config.result is None) == (config.picks is None):
        raise ValueError("give either --result, of a search, or --picks, of experiments.pick")
    if config.picks is None:
        result = read_result(config.result)
        shown, truths = of_result(result, read_table(config.table, config.cost), config.cost)
    else:
        encodings, budgets = read_picks(config.picks)
        truths = look_up(encodings, read_table(config.table, config.cost))
        shown = of_networks(budgets, truths, config.cost)
    console = cli.console()
    console.print(shown.rich())
    gap = np.mean([truth.error - truth.best_within_cost for truth in truths])
    console.print(f"mean distance to the best network that costs no more: {100 * gap:.2f} points")


if __name__ == "__main__":
    cli.run(main, Config)
