"""A cost that is a sum over decisions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


def scale(total: float | np.ndarray, lowest: float, highest: float) -> float | np.ndarray:
    """R of costs in units, 0 for the lowest and 1 for the highest of a space; 0 if all architectures cost the same.

    An infinite bound stays infinite, also where all architectures cost the same.

    >>> scale(15.0, lowest=10.0, highest=20.0)
    0.5
    """
    if highest > lowest:
        return (total - lowest) / (highest - lowest)
    return np.where(np.isinf(total), total, 0.0)[()]


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum over decisions: R(c) = fixed + sum_d table_d(c_d).

    Calling it gives the scaled cost of METHOD's objective, 0 for the cheapest architecture of the space and 1 for the
    most expensive. A penalty is then the increase of the loss that is accepted for going from the latter to the former.

    Attributes:
      name: what is counted, such as "params" or "macs".
      unit: its unit, for display.
      fixed: cost of the parts that no decision changes (stem, head).
      table: D rows; entry c of row d is the cost of choice c of decision d, and row d has C_d entries. Lists and arrays
        become tuples of Python numbers.

    Raises:
      ValueError: if an entry is not a finite real number, or a row has none.

    >>> cost = AdditiveCost("params", "parameters", fixed=10, table=((0, 5), (1, 2, 3)))
    >>> cost.total([[1, 2]]).tolist()
    [18]
    >>> cost([[0, 0], [1, 2]]).tolist()
    [0.0, 1.0]
    """

    name: str
    unit: str
    fixed: float
    table: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        object.__setattr__(self, "fixed", real(self.fixed, f"fixed part of cost {self.name!r}"))
        rows = []
        for d, row in enumerate(self.table):
            where = f"table of cost {self.name!r}, row {d}"
            if not hasattr(row, "__len__") or isinstance(row, str) or not len(row):
                raise ValueError(f"{where} must list the cost of each choice of a decision, got {row!r}")
            rows.append(tuple(real(value, f"{where}, choice {c}") for c, value in enumerate(row)))
        object.__setattr__(self, "table", tuple(rows))

    @property
    def lowest(self) -> float:
        """Total of the cheapest architecture."""
        return self.fixed + sum(min(row) for row in self.table)

    @property
    def highest(self) -> float:
        """Total of the most expensive architecture."""
        return self.fixed + sum(max(row) for row in self.table)

    @property
    def cheapest(self) -> tuple[int, ...]:
        """The architecture with the lowest total, D choices; of equal choices the first."""
        return tuple(row.index(min(row)) for row in self.table)

    @property
    def dearest(self) -> tuple[int, ...]:
        """The architecture with the highest total, D choices; of equal choices the first."""
        return tuple(row.index(max(row)) for row in self.table)

    def total(self, archs: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
        """Exact totals in units, on the host: int [..., D] -> [...] (integers stay integers)."""
        archs = np.asarray(archs)
        rows = [np.asarray(row)[archs[..., d]] for d, row in enumerate(self.table)]
        return np.sum(rows, axis=0) + self.fixed

    def __call__(self, archs: jax.Array) -> jax.Array:
        """Scaled cost, jit-compilable: int [S, D] -> float32 [S] in [0, 1]; 0 everywhere if all cost the same."""
        archs = jnp.asarray(archs)
        return jnp.asarray(self.scaled_table(), jnp.float32)[jnp.arange(archs.shape[-1]), archs].sum(-1)

    def scale(self, total: float) -> float:
        """R of a total in units; 0 if all architectures cost the same.

        >>> AdditiveCost("params", "parameters", fixed=10, table=((0, 5), (1, 2, 3))).scale(18)
        1.0
        """
        return scale(total, self.lowest, self.highest)

    def scaled_table(self) -> np.ndarray:
        """What each choice adds to R, float64 [D, C]; 0 in the padding.

        >>> AdditiveCost("params", "parameters", fixed=10, table=((0, 6), (1, 2, 3))).scaled_table().tolist()
        [[0.0, 0.75, 0.0], [0.0, 0.125, 0.25]]
        """
        span = self.highest - self.lowest
        scaled = np.zeros((len(self.table), max(len(row) for row in self.table)))
        if span > 0:
            for d, row in enumerate(self.table):
                scaled[d, : len(row)] = (np.asarray(row) - min(row)) / span
        return scaled

    def expected(self, theta: jax.Array) -> jax.Array:
        """Exact mean of the scaled cost under distributions: float [K, D, C] -> float32 [K]."""
        return (theta * jnp.asarray(self.scaled_table(), jnp.float32)).sum((-2, -1))


def real(value: float, name: str) -> float:
    """The value as a Python number (integers stay exact); ValueError unless it is a finite real number."""
    plain = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return plain
