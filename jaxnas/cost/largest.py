"""A cost that is the largest of its parts, such as the peak memory of a network that runs layer by layer."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost.additive import AdditiveCost, scale


@dataclass(frozen=True)
class LargestCost:
    """A cost that is the largest part: R(c) = max(fixed, max_d table_d(c_d)).

    It serves wherever `AdditiveCost` does. A budget of it leaves out the choices whose own part is over the budget, and
    nothing else, so that budgets are kept exactly.

    Attributes:
      name: what is counted, such as "activation_memory".
      unit: its unit, for display.
      fixed: the largest of the parts that no decision changes.
      table: D rows; entry c of row d is the part of choice c of decision d, and row d has C_d entries. Lists and arrays
        become tuples of Python numbers.

    Raises:
      ValueError: if an entry is not a finite real number, or a row has none.

    >>> cost = LargestCost("activation_memory", "bytes", fixed=4, table=((0, 5), (1, 2, 8)))
    >>> cost.total([[0, 1], [1, 1], [1, 2]]).tolist(), cost.lowest, cost.highest
    ([4, 5, 8], 4, 8)
    """

    name: str
    unit: str
    fixed: float
    table: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        parts = AdditiveCost(self.name, self.unit, self.fixed, self.table)  # which checks them
        object.__setattr__(self, "fixed", parts.fixed)
        object.__setattr__(self, "table", parts.table)

    @property
    def lowest(self) -> float:
        """Total of the cheapest architecture."""
        return max(self.fixed, *(min(row) for row in self.table))

    @property
    def highest(self) -> float:
        """Total of the most expensive architecture."""
        return max(self.fixed, *(max(row) for row in self.table))

    @property
    def cheapest(self) -> tuple[int, ...]:
        """The architecture whose every part is the lowest, D choices; of equal choices the first."""
        return tuple(row.index(min(row)) for row in self.table)

    @property
    def dearest(self) -> tuple[int, ...]:
        """The architecture whose every part is the highest, D choices; of equal choices the first."""
        return tuple(row.index(max(row)) for row in self.table)

    def total(self, archs: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Exact totals in units, on the host: int [..., D] -> [...] (integers stay integers)."""
        archs = np.asarray(archs)
        parts = [np.asarray(row)[archs[..., d]] for d, row in enumerate(self.table)]
        return np.maximum(np.max(parts, axis=0), self.fixed)

    def __call__(self, archs: jax.Array) -> jax.Array:
        """Scaled cost, jit-compilable: int [S, D] -> float32 [S] in [0, 1]; 0 everywhere if all cost the same."""
        archs = jnp.asarray(archs)
        return jnp.asarray(self._scaled_parts, jnp.float32)[jnp.arange(archs.shape[-1]), archs].max(-1)

    def beyond(self, budget: float) -> "LargestCost":
        """The cost with all that is within a budget counted as the budget: what it adds to that is the excess.

        >>> cost = LargestCost("activation_memory", "bytes", fixed=4, table=((0, 5), (1, 2, 8)))
        >>> cost.beyond(6).total([[0, 0], [1, 1], [1, 2]]).tolist()
        [6, 6, 8]
        """
        return dataclasses.replace(self, fixed=max(self.fixed, budget))

    def scale(self, total: float) -> float:
        """R of a total in units; 0 if all architectures cost the same.

        >>> LargestCost("activation_memory", "bytes", fixed=4, table=((0, 5), (1, 2, 8))).scale(5)
        0.25
        """
        return scale(total, self.lowest, self.highest)

    @functools.cached_property
    def _scaled_parts(self) -> np.ndarray:
        """The parts on the scale of R, 0 where they are below the least total: float64 [D, C], 0 in the padding."""
        scaled = np.zeros((len(self.table), max(len(row) for row in self.table)))
        for d, row in enumerate(self.table):
            scaled[d, : len(row)] = [max(self.scale(part), 0.0) for part in row]
        return scaled

    def expected(self, theta: jax.Array) -> jax.Array:
        """Exact mean of the scaled cost under distributions: float [K, D, C] -> float32 [K].

        The decisions are independent, so that P(R <= v) is the product over them of the probability of choices whose
        part is v or less; the mean is the sum of the steps between the values v, each times P(R >= the upper one).
        """
        parts = jnp.asarray(self._scaled_parts, jnp.float32)
        values = np.unique(self._scaled_parts)  # from 0, the least total
        reaches = parts >= jnp.asarray(values[1:], jnp.float32)[:, None, None]  # [V, D, C]
        below = 1 - (theta[:, None] * reaches).sum(-1)  # [K, V, D]
        return ((1 - below.prod(-1)) * jnp.asarray(np.diff(values), jnp.float32)).sum(-1)
