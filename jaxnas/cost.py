"""Complexity R(c) of architectures: exact totals in their units, and the scaled cost that a search penalises."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum over decisions: R(c) = fixed + sum_d table_d(c_d).

    Calling it gives the scaled cost of METHOD's objective, 0 for the cheapest architecture of the space and 1 for the
    dearest; a penalty is then "the loss worth paying for the whole span".

    Attributes:
      name: what is counted, such as "params" or "macs".
      unit: its unit, for people.
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
        object.__setattr__(self, "fixed", _real(self.fixed, f"fixed part of cost {self.name!r}"))
        rows = []
        for d, row in enumerate(self.table):
            where = f"table of cost {self.name!r}, row {d}"
            if not hasattr(row, "__len__") or isinstance(row, str) or not len(row):
                raise ValueError(f"{where} must list the cost of each choice of a decision, got {row!r}")
            rows.append(tuple(_real(value, f"{where}, choice {c}") for c, value in enumerate(row)))
        object.__setattr__(self, "table", tuple(rows))

    @property
    def lowest(self) -> float:
        """Total of the cheapest architecture."""
        return self.fixed + sum(min(row) for row in self.table)

    @property
    def highest(self) -> float:
        """Total of the dearest architecture."""
        return self.fixed + sum(max(row) for row in self.table)

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
        span = self.highest - self.lowest
        return (total - self.lowest) / span if span > 0 else 0.0

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


@dataclass(frozen=True)
class JointCost:
    """Several additive costs at once.

    Attributes:
      costs: J costs of one space.

    >>> both = JointCost((AdditiveCost("a", "units", 0, ((0, 1),)), AdditiveCost("b", "units", 0, ((1, 0),))))
    >>> both([[0], [1]]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    costs: tuple[AdditiveCost, ...]

    def __call__(self, archs: jax.Array) -> jax.Array:
        """Scaled costs, jit-compilable: int [S, D] -> float32 [S, J], each in [0, 1]."""
        return jnp.stack([cost(archs) for cost in self.costs], axis=-1)

    def expected(self, theta: jax.Array) -> jax.Array:
        """Exact mean of the scaled costs under distributions: float [K, D, C] -> float32 [K, J]."""
        tables = jnp.asarray(np.stack([cost.scaled_table() for cost in self.costs]), jnp.float32)
        return (theta[:, None] * tables).sum((-2, -1))


def _real(value: float, name: str) -> float:
    """The value as a Python number (integers stay exact); ValueError unless it is a finite real number."""
    plain = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return plain


def by_name(costs: Sequence[AdditiveCost], name: str) -> AdditiveCost:
    """The cost called `name`.

    Raises:
      ValueError: if there is none; the message lists those there are.

    >>> by_name([AdditiveCost("params", "parameters", 0, ((1, 2),))], "params").unit
    'parameters'
    """
    known: Mapping[str, AdditiveCost] = {cost.name: cost for cost in costs}
    if name not in known:
        raise ValueError(f"cost {name!r} is not known here; choose one of {', '.join(known)}")
    return known[name]
