"""Parameters of the largest model with their important units first, so that slices keep what matters.

All axes of a decision are permuted by one permutation, of units that may be one position each, or blocks: whole heads
where only a reshape tells them apart, whole groups where group norm needs it. Which blocks leave the model the same
function is found out by permuting random ones. Decisions that nothing may permute, such as kernel sizes and depth, stay
as they are.

Importance of a unit is its share of the squared magnitudes of all leaves that it is part of (Fang et al., "DepGraph:
towards any structural pruning", arXiv 2301.12900), or, with a loss, the squared first-order change of the loss without
it (Molchanov et al., "Importance estimation for neural network pruning", arXiv 1906.10771).
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnas.elastic import matching
from jaxnas.elastic.choices import Axis
from jaxnas.elastic.comparison import TOLERANCE, Comparison, distance
from jaxnas.elastic.matching import Path
from jaxnas.elastic.slices import Layout


@dataclass(frozen=True)
class Units:
    """The units of one decision.

    Attributes:
      count: U.
      positions: (leaf, axis) -> int [U, M], the positions of each unit.
    """

    count: int
    positions: dict[tuple[Path, int], np.ndarray]

    def permuted(self, leaves: Mapping[Path, Any], order: np.ndarray) -> dict[Path, Any]:
        """The leaves with unit order[u] in place of unit u."""
        leaves = dict(leaves)
        for (path, axis), positions in self.positions.items():
            source = np.arange(leaves[path].shape[axis])
            source[positions.reshape(-1)] = positions[order].reshape(-1)
            leaves[path] = np.take(leaves[path], source, axis)
        return leaves

    def importance(self, leaves: Mapping[Path, np.ndarray], changes: Mapping[Path, np.ndarray] | None) -> np.ndarray:
        """Importance of each unit, float [U].

        Args:
          leaves: parameters.
          changes: first-order change of the loss for each parameter; None to go by magnitudes.
        """
        total = np.zeros(self.count)
        for (path, axis), positions in self.positions.items():
            if path[0] != "params":
                continue
            values = np.square(np.asarray(leaves[path], np.float64)) if changes is None else changes[path]
            sums = values.sum(tuple(a for a in range(values.ndim) if a != axis))[positions].sum(1)
            total += sums if changes is not None else sums / (sums.sum() or 1.0)
        return total if changes is None else np.square(total)


def find_units(layout: Layout, comparison: Comparison, decision: int) -> Units | None:
    """The smallest units whose order does not matter to the model; None if there are none."""
    axis = comparison.models.choices.axes[decision]
    tables = {key: kept[decision] for key, kept in layout.kept.items() if decision in kept}
    segments = {key: _segments(table, axis) for key, table in tables.items()}
    if not tables or None in segments.values():
        return None
    lengths = [sum(end - start for start, end in runs) for runs in segments.values()]
    groups = [len(runs) for runs in segments.values()]
    fixed = [table.shape[1] - length for table, length in zip(tables.values(), lengths)]
    whole = math.gcd(*(length // number for length, number in zip(lengths, groups)))
    rng = np.random.default_rng(0)
    before = comparison.run_largest(comparison.leaves)
    for count in sorted((n for n in range(2, whole + 1) if whole % n == 0), reverse=True):
        sizes = [(table.sum(1) - f) * count for table, f in zip(tables.values(), fixed)]
        if any((size % length).any() for size, length in zip(sizes, lengths)):
            continue  # a choice would cut a unit
        units = Units(count, {key: _positions(runs, count) for key, runs in segments.items()})
        after = comparison.run_largest(units.permuted(comparison.leaves, _derangement(rng, count)))
        if distance(after, before, axis.name) <= TOLERANCE:
            return units
    return None


def _derangement(rng: np.random.Generator, count: int) -> np.ndarray:
    """A random order in which hardly any unit has its old neighbours; the two of two change places."""
    return np.roll(rng.permutation(count), 1) if count > 2 else np.asarray([1, 0])


def _segments(table: np.ndarray, axis: Axis) -> list[tuple[int, int]] | None:
    """The parts of an axis that hold the decision's units, each from the first unit to the last.

    Args:
      table: bool [C_d, n], the positions that each choice keeps.
      axis: the decision.

    Returns:
      (start, end) of each; None if the units of smaller choices are not the first of each part.
    """
    sizes, values = table.sum(1), np.asarray(axis.values, float)
    smaller = np.flatnonzero(sizes < table.shape[1])
    if not len(smaller):
        return None
    least = smaller[0]
    # A size is what others contribute plus so much for each unit of the value, if it is linear in the value.
    slope = (sizes[-1] - sizes[least]) / (values[-1] - values[least])
    fixed = sizes[-1] - slope * values[-1]
    present = [*smaller, len(sizes) - 1]
    if fixed < 0 or fixed % 1 or any(abs(fixed + slope * values[c] - sizes[c]) > 1e-6 for c in present):
        fixed = 0
    dead = np.flatnonzero(np.diff(np.concatenate([[0], ~table[least], [0]]).astype(int)))
    runs = list(zip(dead[::2].tolist(), dead[1::2].tolist()))
    length, rest = divmod(sizes[-1] - int(fixed), len(runs))
    segments = [(end - int(length), end) for _, end in runs]
    if rest or segments[0][0] < 0 or any(a[1] > b[0] for a, b in itertools.pairwise(segments)):
        return None
    for choice in present:
        expected = np.ones(table.shape[1], bool)
        kept, rest = divmod(int(sizes[choice]) - int(fixed), len(runs))
        for start, end in segments:
            expected[start + kept : end] = False
        if rest or (expected != table[choice]).any():
            return None
    return segments


def _positions(segments: list[tuple[int, int]], count: int) -> np.ndarray:
    return np.concatenate([np.arange(start, end).reshape(count, -1) for start, end in segments], axis=1)


def sort(
    layout: Layout, comparison: Comparison, leaves: Mapping[Path, Any], loss: Callable[[Any], jax.Array] | None
) -> dict[Path, Any]:
    """The leaves of the largest model with the important units of each decision first.

    Args:
      layout: the slices of the space.
      comparison: its models.
      leaves: parameters and state, on the host.
      loss: parameters to the loss that importance is the change of; None for magnitudes.

    Raises:
      ValueError: if the sorted model is another function.
    """
    before = comparison.run_largest(leaves)
    leaves = dict(leaves)
    for decision, axis in enumerate(comparison.models.choices.axes):
        units = find_units(layout, comparison, decision)
        if units is None:
            continue
        changes = None if loss is None else _changes(comparison, leaves, loss)
        order = np.argsort(-units.importance(leaves, changes), kind="stable")
        leaves = units.permuted(leaves, order)
        difference = distance(comparison.run_largest(leaves), before, axis.name)
        if difference > TOLERANCE:
            raise ValueError(
                f"params cannot be sorted by {axis.name}: the model's outputs change by {difference:.1e} (relative); "
                f"search from them as they are"
            )
    return leaves


def _changes(
    comparison: Comparison, leaves: Mapping[Path, Any], loss: Callable[[Any], jax.Array]
) -> dict[Path, np.ndarray]:
    """First-order change of the loss for each parameter set to 0, but for the sign."""
    params = comparison.models.largest.tree(leaves)["params"]
    gradient = jax.grad(loss)(params)
    products = jax.tree.map(lambda g, p: np.asarray(g, np.float64) * np.asarray(p, np.float64), gradient, params)
    return matching.paths({"params": products})
