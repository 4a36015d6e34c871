"""A cost with products of decisions, and its exact bounds."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost.additive import AdditiveCost, real, scale

LARGEST_TABLE = 2**22  # entries of a table that the elimination of decisions may make


@dataclass(frozen=True)
class InteractionCost:
    """A cost with products: R(c) = fixed + sum_d table_d(c_d) + sum_T table_T(c_T), each T a few decisions.

    The parameters of a layer whose two widths are chosen are such a product. It serves wherever `AdditiveCost` does.

    Attributes:
      name: what is counted, such as "params" or "macs".
      unit: its unit, for display.
      fixed: cost of the parts that no decision changes.
      table: D rows; entry c of row d is the cost of choice c of decision d, and row d has C_d entries.
      interactions: (decisions in ascending order, their table of shape [C_d, ...], flat in C order), each set of
        decisions once. Lists and arrays become tuples of Python numbers.

    Raises:
      ValueError: if an entry is not a finite real number, or a table has not one for each combination of choices.

    >>> cost = InteractionCost("macs", "multiply-adds", 1, ((0, 2), (0, 0)), (((0, 1), (1, 2, 3, 6)),))
    >>> cost.total([[1, 1], [0, 1]]).tolist(), cost.lowest, cost.highest
    ([9, 3], 2, 9)
    """

    name: str
    unit: str
    fixed: float
    table: tuple[tuple[float, ...], ...]
    interactions: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]

    def __post_init__(self):
        single = AdditiveCost(self.name, self.unit, self.fixed, self.table)  # which checks them
        object.__setattr__(self, "fixed", single.fixed)
        object.__setattr__(self, "table", single.table)
        checked = []
        for decisions, flat in self.interactions:
            ds = tuple(map(int, decisions))
            known = min(ds, default=-1) >= 0 and max(ds) < len(self.table) and list(ds) == sorted(set(ds))
            sizes = [len(self.table[d]) for d in ds] if known else None
            if not known or len(flat) != math.prod(sizes):
                raise ValueError(f"cost {self.name!r} needs a table of {sizes} numbers for decisions {ds}")
            where = f"table of cost {self.name!r} for decisions {ds}"
            checked.append((ds, tuple(real(value, where) for value in flat)))
        object.__setattr__(self, "interactions", tuple(checked))

    @functools.cached_property
    def _tables(self) -> tuple[tuple[tuple[int, ...], np.ndarray], ...]:
        """Decisions and their table, of single decisions and of several."""
        single = [((d,), np.asarray(row)) for d, row in enumerate(self.table)]
        joint = [
            (decisions, np.asarray(flat).reshape([len(self.table[d]) for d in decisions]))
            for decisions, flat in self.interactions
        ]
        return (*single, *joint)

    @functools.cached_property
    def _least(self) -> tuple[float, tuple[int, ...]]:
        return _minimum(self._tables, len(self.table))

    @functools.cached_property
    def _most(self) -> tuple[float, tuple[int, ...]]:
        least, arch = _minimum([(decisions, -table) for decisions, table in self._tables], len(self.table))
        return -least, arch

    @property
    def lowest(self) -> float:
        """Total of the cheapest architecture."""
        return self.fixed + self._least[0]

    @property
    def highest(self) -> float:
        """Total of the most expensive architecture."""
        return self.fixed + self._most[0]

    @property
    def cheapest(self) -> tuple[int, ...]:
        """An architecture with the lowest total, D choices."""
        return self._least[1]

    @property
    def dearest(self) -> tuple[int, ...]:
        """An architecture with the highest total, D choices."""
        return self._most[1]

    def total(self, archs: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Exact totals in units, on the host: int [..., D] -> [...] (integers stay integers)."""
        archs = np.asarray(archs)
        return np.sum([table[tuple(archs[..., d] for d in ds)] for ds, table in self._tables], axis=0) + self.fixed

    def __call__(self, archs: jax.Array) -> jax.Array:
        """Scaled cost, jit-compilable: int [S, D] -> float32 [S] in [0, 1]; 0 everywhere if all cost the same."""
        archs = jnp.asarray(archs)
        scaled = jnp.asarray(self.scaled_table(), jnp.float32)[jnp.arange(archs.shape[-1]), archs].sum(-1)
        for decisions, table in self.scaled_interactions():
            scaled += jnp.asarray(table, jnp.float32)[tuple(archs[..., d] for d in decisions)]
        return scaled

    def scale(self, total: float) -> float:
        """R of a total in units; 0 if all architectures cost the same."""
        return scale(total, self.lowest, self.highest)

    def scaled_table(self) -> np.ndarray:
        """What each choice alone adds to R, float64 [D, C]; 0 in the padding.

        The constant is part of the first decision's row, so that these entries and those of `scaled_interactions` sum
        to R.
        """
        span = self.highest - self.lowest
        scaled = np.zeros((len(self.table), max(len(row) for row in self.table)))
        if span > 0:
            for d, row in enumerate(self.table):
                scaled[d, : len(row)] = np.asarray(row) / span
            scaled[0, : len(self.table[0])] += (self.fixed - self.lowest) / span
        return scaled

    def scaled_interactions(self) -> list[tuple[tuple[int, ...], np.ndarray]]:
        """What choices together add to R beyond that: decisions and float64 [C_d, ...]; empty if all cost the same."""
        span = self.highest - self.lowest
        return [(ds, table / span) for ds, table in self._tables if len(ds) > 1] if span > 0 else []

    def expected(self, theta: jax.Array) -> jax.Array:
        """Exact mean of the scaled cost under distributions: float [K, D, C] -> float32 [K]."""
        mean = (theta * jnp.asarray(self.scaled_table(), jnp.float32)).sum((-2, -1))
        for decisions, table in self.scaled_interactions():
            # Three axes at most: with one for each of six decisions jaxlib 0.10 miscompiled this in a search, on CPUs.
            partial = jnp.asarray(table, jnp.float32).reshape(1, -1)
            for d, count in zip(decisions, table.shape):  # choices of a product of categoricals are independent
                partial = (theta[:, d, :count, None] * partial.reshape(len(partial), count, -1)).sum(1)
            mean += partial[:, 0]
        return mean


def _minimum(tables: Sequence[tuple[tuple[int, ...], np.ndarray]], count: int) -> tuple[float, tuple[int, ...]]:
    """The least sum of tables over all architectures, and an architecture that has it.

    Decisions are eliminated, those with the fewest partners first.

    Raises:
      ValueError: if so many decisions interact that a table outgrows `LARGEST_TABLE`.
    """
    if (corner := _ascending(tables, count)) is not None:
        return corner
    left, remaining, least = list(tables), set(range(count)), 0
    eliminated: list[tuple[int, tuple[int, ...], np.ndarray]] = []  # with their partners, and the best choice for these
    while remaining:

        def partners(d: int) -> list[int]:
            return sorted(set().union(*(set(ds) for ds, _ in left if d in ds)))  # noqa: B023

        decision = min(remaining, key=lambda d: len(partners(d)))
        scope = partners(decision)
        sizes = {d: table.shape[ds.index(d)] for ds, table in left for d in ds}
        if np.prod([float(sizes[d]) for d in scope]) > LARGEST_TABLE:
            raise ValueError(
                f"interactions must be sparse for exact bounds, got {len(scope)} decisions that all interact; "
                f"make one decision of some of them"
            )
        summed = np.zeros([sizes[d] for d in scope], np.result_type(*(table for _, table in left)))
        for ds, table in left:
            if decision in ds:
                summed = summed + table.reshape([sizes[d] if d in ds else 1 for d in scope])
        left = [(ds, table) for ds, table in left if decision not in ds]
        axis, scope = scope.index(decision), tuple(d for d in scope if d != decision)
        reduced = summed.min(axis)
        eliminated.append((decision, scope, summed.argmin(axis)))
        if scope:
            left.append((scope, reduced))
        else:
            least += reduced.item()
        remaining.discard(decision)
    best: dict[int, int] = {}
    for decision, scope, choice in reversed(eliminated):
        best[decision] = int(choice[tuple(best[d] for d in scope)])
    return least, tuple(best[d] for d in range(count))


def _ascending(
    tables: Sequence[tuple[tuple[int, ...], np.ndarray]], count: int
) -> tuple[float, tuple[int, ...]] | None:
    """As `_minimum`, at the one end of all decisions where each falls whatever the others are; None if not known."""
    for end in (0, -1):
        rises = [0] * count
        for ds, table in tables:
            for axis, d in enumerate(ds):
                rise = np.moveaxis(np.diff(table, axis=axis), axis, 0) * (1 if end == 0 else -1)
                rises[d] = rises[d] + rise.reshape(len(rise), -1).min(1)
        if all((np.asarray(rise) >= 0).all() for rise in rises):
            least = sum(table[(end,) * len(ds)].item() for ds, table in tables)
            sizes = {d: size for ds, table in tables for d, size in zip(ds, table.shape)}
            return least, tuple(0 if end == 0 else sizes[d] - 1 for d in range(count))
    return None
