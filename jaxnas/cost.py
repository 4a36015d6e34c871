"""Complexity R(c) of architectures: exact totals in their units, and the scaled cost that a search penalises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array | Sequence[float]


def scale(total: float | np.ndarray, lowest: float, highest: float) -> float | np.ndarray:
    """R of costs in units, 0 for the lowest and 1 for the highest of a space; 0 if all architectures cost the same.

    >>> scale(15.0, lowest=10.0, highest=20.0)
    0.5
    """
    return (total - lowest) / (highest - lowest) if highest > lowest else 0.0 * total


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum over decisions: R(c) = fixed + sum_d table_d(c_d).

    Calling it gives the scaled cost of METHOD's objective, 0 for the cheapest architecture of the space and 1 for the
    dearest; a penalty is then "the loss worth paying for the whole span".

    Attributes:
      name: what is counted, such as "params" or "macs".
      unit: its unit, for people.
      fixed: cost of the parts that no decision changes (stem, head).
      table: D rows; entry c of row d is the cost of choice c of decision d, and row d has C_d entries.

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


def price(penalties: Array, costs: Array) -> Array:
    """What the objectives add to the loss, sum_j eps_kj R_j(c).

    Args:
      penalties: eps, float [K] for one cost, [K, J] for J costs.
      costs: scaled costs R, float [...] for one cost, [..., J] for J costs.

    Returns:
      float [K, ...]; of JAX where one of them is, else of numpy.

    >>> price(np.array([[0.1, 0.0], [0.1, 1.0]]), np.array([1.0, 0.5])).tolist()
    [0.1, 0.6]
    """
    numpy = jnp if isinstance(penalties, jax.Array) or isinstance(costs, jax.Array) else np
    costs = numpy.asarray(costs)
    penalties = numpy.asarray(penalties, costs.dtype if numpy is jnp else np.float64)
    if penalties.ndim == 1:
        penalties, costs = penalties[:, None], costs[..., None]
    penalties = penalties.reshape(len(penalties), *[1] * (costs.ndim - 1), -1)
    return (penalties * costs).sum(-1)  # no matmul, which accelerators round


def objective(losses: Array, penalties: Array, costs: Array) -> Array:
    """The objectives of METHOD, f_k(c) = L(c) + sum_j eps_kj R_j(c), of evaluated architectures.

    Args:
      losses: L, float [...].
      penalties: eps, float [K] for one cost, [K, J] for J costs.
      costs: scaled costs R, float [...] for one cost, [..., J] for J costs.

    Returns:
      float [K, ...]; of JAX where one of them is, else of numpy.

    >>> objective(np.array([0.5, 0.25]), [0.0, 1.0], np.array([0.0, 1.0])).tolist()
    [[0.5, 0.25], [0.5, 1.25]]
    """
    return losses + price(penalties, costs)


def least_objective(losses: np.ndarray, costs: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """The candidate with the least L + eps_k R for each k; of equals the cheaper, so that costs never grow with eps.

    Args:
      losses: float [N], measured on the same images; a loss that is not finite is never chosen.
      costs: float [N], scaled costs R.
      penalties: eps_k, K of them.

    Returns:
      int [K], indices of candidates.

    Raises:
      ValueError: if no loss is finite.

    >>> least_objective(np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.4, 0.0]), penalties=[0.05, 0.3, 1.0]).tolist()
    [0, 1, 2]
    """
    losses, costs = np.asarray(losses, np.float64), np.asarray(costs, np.float64)
    chex.assert_rank([losses, costs], 1)
    chex.assert_equal_shape([losses, costs])
    if not np.isfinite(losses).any():
        raise ValueError(f"losses must hold a finite number to choose by, got none among {len(losses)}")
    values = objective(np.where(np.isfinite(losses), losses, np.inf), penalties, costs)
    return np.array([np.lexsort((costs, row))[0] for row in values])


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
