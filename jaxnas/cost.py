"""Complexity R(c) of architectures: exact totals in their units, and the scaled cost that a search penalises."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array | Sequence[float]


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


LARGEST_TABLE = 2**22  # entries of a table that the elimination of decisions may make


@dataclass(frozen=True)
class InteractionCost:
    """A cost with products: R(c) = fixed + sum_d table_d(c_d) + sum_T table_T(c_T), each T a few decisions.

    The parameters of a layer whose two widths are chosen are such a product. It serves wherever `AdditiveCost` does.

    Attributes:
      name: what is counted, such as "params" or "macs".
      unit: its unit, for people.
      fixed: cost of the parts that no decision changes.
      table: D rows; entry c of row d is the cost of choice c of decision d, and row d has C_d entries.
      interactions: (decisions in ascending order, their table of shape [C_d, ...], flat in C order), each set of
        decisions once.

    >>> cost = InteractionCost("macs", "multiply-adds", 1, ((0, 2), (0, 0)), (((0, 1), (1, 2, 3, 6)),))
    >>> cost.total([[1, 1], [0, 1]]).tolist(), cost.lowest, cost.highest
    ([9, 3], 2, 9)
    """

    name: str
    unit: str
    fixed: float
    table: tuple[tuple[float, ...], ...]
    interactions: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]

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
    def lowest(self) -> float:
        """Total of the cheapest architecture."""
        return self.fixed + _minimum(self._tables, len(self.table))

    @functools.cached_property
    def highest(self) -> float:
        """Total of the dearest architecture."""
        return self.fixed - _minimum([(decisions, -table) for decisions, table in self._tables], len(self.table))

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
            partial = jnp.broadcast_to(jnp.asarray(table, jnp.float32), (len(theta), *table.shape))
            for d in decisions:  # choices of a product of categoricals are independent
                probabilities = theta[:, d, : partial.shape[1]]
                partial = (probabilities.reshape(*probabilities.shape, *[1] * (partial.ndim - 2)) * partial).sum(1)
            mean += partial
        return mean


def _minimum(tables: Sequence[tuple[tuple[int, ...], np.ndarray]], count: int) -> float:
    """The least sum of tables over all architectures, by eliminating decisions, those with the fewest partners first.

    Raises:
      ValueError: if so many decisions interact that a table outgrows `LARGEST_TABLE`.
    """
    if (corner := _ascending(tables, count)) is not None:
        return corner
    left, remaining, least = list(tables), set(range(count)), 0
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
        reduced, scope = summed.min(scope.index(decision)), tuple(d for d in scope if d != decision)
        if scope:
            left.append((scope, reduced))
        else:
            least += reduced.item()
        remaining.discard(decision)
    return least


def _ascending(tables: Sequence[tuple[tuple[int, ...], np.ndarray]], count: int) -> float | None:
    """The sum at the one end of all decisions where each falls whatever the others are; None if that is not known."""
    for end in (0, -1):
        rises = [0] * count
        for ds, table in tables:
            for axis, d in enumerate(ds):
                rise = np.moveaxis(np.diff(table, axis=axis), axis, 0) * (1 if end == 0 else -1)
                rises[d] = rises[d] + rise.reshape(len(rise), -1).min(1)
        if all((np.asarray(rise) >= 0).all() for rise in rises):
            return sum(table[(end,) * len(ds)].item() for ds, table in tables)
    return None


Cost = AdditiveCost | InteractionCost


@dataclass(frozen=True)
class JointCost:
    """Several costs at once.

    Attributes:
      costs: J costs of one space.

    >>> both = JointCost((AdditiveCost("a", "units", 0, ((0, 1),)), AdditiveCost("b", "units", 0, ((1, 0),))))
    >>> both([[0], [1]]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    costs: tuple[Cost, ...]

    def __call__(self, archs: jax.Array) -> jax.Array:
        """Scaled costs, jit-compilable: int [S, D] -> float32 [S, J], each in [0, 1]."""
        return jnp.stack([cost(archs) for cost in self.costs], axis=-1)

    def expected(self, theta: jax.Array) -> jax.Array:
        """Exact mean of the scaled costs under distributions: float [K, D, C] -> float32 [K, J]."""
        return jnp.stack([cost.expected(theta) for cost in self.costs], axis=-1)


def _real(value: float, name: str) -> float:
    """The value as a Python number (integers stay exact); ValueError unless it is a finite real number."""
    plain = value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return plain


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


def by_name(costs: Sequence[Cost], name: str) -> Cost:
    """The cost called `name`.

    Raises:
      ValueError: if there is none; the message lists those there are.

    >>> by_name([AdditiveCost("params", "parameters", 0, ((1, 2),))], "params").unit
    'parameters'
    """
    known: Mapping[str, Cost] = {cost.name: cost for cost in costs}
    if name not in known:
        raise ValueError(f"cost {name!r} is not known here; choose one of {', '.join(known)}")
    return known[name]
