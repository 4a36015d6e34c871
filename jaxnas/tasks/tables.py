"""Tables of evaluated architectures: read from npz files, and checked before anything is computed from them.

A table is complete: it holds every architecture of its space once. Files are not trusted: nothing in them is unpickled,
and errors are one sentence.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxnas.cost import AdditiveCost
from jaxnas.results.npz import read_arrays
from jaxnas.spaces.base import Decision, architectures

ADDITIVE_TOLERANCE = 1e-9  # of the span of the cost


@dataclass(frozen=True, eq=False)
class Table:
    """A complete table, its N rows in lexicographic order of their choices.

    Attributes:
      decisions: the D decisions; decision d has as many choices as the table uses.
      error: float64 [N], true errors in [0, 1].
      cost: float64 [N], in its own unit.
    """

    decisions: tuple[Decision, ...]
    error: np.ndarray
    cost: np.ndarray

    @property
    def num_choices(self) -> tuple[int, ...]:
        """C_d for each decision."""
        return tuple(len(decision.choices) for decision in self.decisions)

    @property
    def archs(self) -> np.ndarray:
        """The architecture of each row, int32 [N, D]."""
        return architectures(self.num_choices, np.arange(len(self.error)))

    @classmethod
    def from_arrays(
        cls,
        choices: np.ndarray,
        error: np.ndarray,
        cost: np.ndarray,
        choice_names: np.ndarray | Sequence[str] | None = None,
    ) -> "Table":
        """Checks the arrays of a table and puts its rows in order.

        Args:
          choices: int [N, D], every combination of 0 ... C_d - 1 once.
          error: real [N] in [0, 1].
          cost: real [N], finite.
          choice_names: strings [C] for all decisions or [D, C] for each; None for numbers.

        Raises:
          ValueError: naming the array and what is wrong with it.
        """
        choices = _checked_choices(np.asarray(choices))
        rows = len(choices)
        error = _real_column("error", error, rows)
        if error.min() < 0 or error.max() > 1:
            raise ValueError(
                f"error must lie in [0, 1], got values from {error.min():g} to {error.max():g}; "
                "divide percentages by 100"
            )
        cost = _real_column("cost", cost, rows)
        num_choices = tuple(int(n) for n in choices.max(0) + 1)
        order = _lexicographic_order(choices, num_choices)
        return cls(_decisions(num_choices, choice_names), error[order], cost[order])


def additive_cost(table: Table, name: str) -> AdditiveCost:
    """The cost of a table as a sum over decisions.

    Args:
      table: the table.
      name: name and unit of the cost.

    Raises:
      ValueError: if the cost is not additive; the message names an architecture whose cost is not a sum.
    """
    num_choices = table.num_choices
    cost = table.cost.reshape(num_choices)
    first = (0,) * len(num_choices)
    rows = tuple(
        tuple((cost[(*first[:d], slice(None), *first[d + 1 :])] - cost[first]).tolist())
        for d in range(len(num_choices))
    )
    additive = AdditiveCost(name, name, float(cost[first]), rows)
    archs = table.archs
    off = np.abs(additive.total(archs) - table.cost)
    if off.max() > ADDITIVE_TOLERANCE * np.ptp(table.cost):
        worst = archs[off.argmax()].tolist()
        raise ValueError(
            f"cost {name!r} must be a sum over decisions for a budget to be kept exactly; it is not for {worst}"
        )
    return additive


def read_table(path: str | os.PathLike, cost: str, error: str = "error") -> Table:
    """Reads an npz file with `choices` int [N, D], errors [N], costs [N] and, if it has them, `choice_names`.

    Args:
      path: the npz file.
      cost: name of the array of costs.
      error: name of the array of errors.

    Raises:
      OSError: if the file cannot be opened.
      ValueError: if it is not an npz file, lacks an array, has one that is too large, or is not a complete table.
    """
    arrays = read_arrays(path, sorted({"choices", error, cost}), optional=["choice_names"])
    try:
        return Table.from_arrays(arrays["choices"], arrays[error], arrays[cost], arrays.get("choice_names"))
    except ValueError as fault:
        raise ValueError(f"{path}: {fault}") from fault


def _checked_choices(choices: np.ndarray) -> np.ndarray:
    if choices.ndim != 2 or 0 in choices.shape:
        raise ValueError(f"choices must be an array [N, D] with at least one row and column, got {choices.shape}")
    if choices.dtype.kind not in "iu":
        raise ValueError(f"choices must hold integers, got {choices.dtype}")
    if choices.min() < 0:
        raise ValueError(f"choices must not be negative, got {choices.min()}")
    if choices.max() >= len(choices):
        # A column with n choices needs n rows; this also keeps the sizes below far from overflow.
        raise ValueError(f"choices has rows missing: choice {choices.max()} occurs, but there are {len(choices)} rows")
    return choices.astype(np.int64)


def _real_column(name: str, column: np.ndarray, rows: int) -> np.ndarray:
    column = np.asarray(column)
    if column.shape != (rows,):
        raise ValueError(f"{name} must have one entry for each of the {rows} rows of choices, got {column.shape}")
    if column.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold real numbers, got {column.dtype}")
    column = column.astype(np.float64)
    if not np.all(np.isfinite(column)):
        bad = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(f"{name} must be finite everywhere, got {column[bad]} in row {bad}")
    return column


def _lexicographic_order(choices: np.ndarray, num_choices: tuple[int, ...]) -> np.ndarray:
    """The permutation that sorts the rows; ValueError where a row is there twice or not at all."""
    rows = len(choices)
    order = np.lexsort(choices.T[::-1])
    ordered = choices[order]
    repeated = np.flatnonzero(np.all(ordered[1:] == ordered[:-1], axis=1))
    if len(repeated):
        first, second = order[repeated[0]], order[repeated[0] + 1]
        raise ValueError(f"choices has duplicate rows: {first} and {second} are both {choices[first].tolist()}")
    size = math.prod(num_choices)
    if size != rows:
        raise ValueError(
            f"choices has rows missing: columns with {num_choices} choices make {size} architectures, got {rows} rows"
        )
    return order


def _decisions(num_choices: tuple[int, ...], choice_names: np.ndarray | Sequence[str] | None) -> tuple[Decision, ...]:
    most = max(num_choices)
    if choice_names is None:
        choice_names = [str(choice) for choice in range(most)]
    names = np.asarray(choice_names)
    if names.dtype.kind not in "US" or names.ndim not in (1, 2):
        raise ValueError(f"choice_names must be strings [C] or [D, C], got {names.dtype} {names.shape}")
    if names.dtype.kind == "S":
        names = np.char.decode(names, "utf-8")
    if names.ndim == 1:
        names = np.broadcast_to(names, (len(num_choices), len(names)))
    if len(names) != len(num_choices) or names.shape[1] < most:
        raise ValueError(f"choice_names must name {most} choices for {len(num_choices)} decisions, got {names.shape}")
    return tuple(
        Decision(f"decision {d + 1}", tuple(str(name) for name in names[d, :n])) for d, n in enumerate(num_choices)
    )
