"""Models of the latency of whole networks: sums over decisions, and over pairs of them, fitted to a few measurements.

Three models compete, each a linear regression whose result is a cost that budgets can be kept by exactly:

1. each choice takes its time;
2. besides, the costs that the space counts (multiply-adds, parameters, another device's latency) take time in
   proportion, in all, which is not shrunk, and in their parts: what attention heads, hidden units or the depth add to
   them. Sizes that multiply are exact there, so that few networks suffice;
3. besides, each pair of choices whose decisions multiply in a count takes its time; all pairs, where no decisions do
   and the space is small.

All are fitted by ridge regression to relative errors, since timings vary in proportion. The one with the least
leave-one-out error is taken, of equals the first.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from jaxnas.cost import LARGEST_TABLE, AdditiveCost, Cost, InteractionCost
from jaxnas.networks.latency import NAME, UNIT
from jaxnas.networks.ridge import Ridge, ridge, shared_choices, without_place
from jaxnas.spaces import SearchSpace

FEWEST = 8  # measured networks that a fit can be trusted with
_ROUNDING = 1e-7  # relative error that is none
_NOTHING = 1e-9  # of the largest number, below which others are rounding

Scope = tuple[int, ...]  # decisions in ascending order


@dataclass(frozen=True)
class _Parts:
    """A sum of tables over decisions as a vector: the entries of all tables, one after the other.

    Attributes:
      scopes: the decisions of each table, single ones first.
      sizes: C_d of each decision.
    """

    scopes: tuple[Scope, ...]
    sizes: tuple[int, ...]

    def shape(self, scope: Scope) -> tuple[int, ...]:
        """C_d of the decisions of a table."""
        return tuple(self.sizes[d] for d in scope)

    @property
    def ends(self) -> np.ndarray:
        """Where each table ends."""
        return np.cumsum([np.prod(self.shape(scope)) for scope in self.scopes])

    def chosen(self, archs: np.ndarray) -> np.ndarray:
        """Which entries architectures int [N, D] have: bool [N, entries]."""
        parts = []
        for scope in self.scopes:
            shape = self.shape(scope)
            flat = np.ravel_multi_index(tuple(archs[:, d] for d in scope), shape)
            parts.append(np.arange(np.prod(shape)) == flat[:, None])
        return np.concatenate(parts, axis=1)

    def vector(self, tables: Sequence[tuple[Scope, np.ndarray]]) -> np.ndarray:
        """The entries of some of the tables; 0 for the others."""
        given = {scope: np.ravel(table) for scope, table in tables}
        return np.concatenate([given.get(scope, np.zeros(np.prod(self.shape(scope)))) for scope in self.scopes])

    def cost(self, name: str, fixed: float, vector: np.ndarray) -> Cost:
        """The cost in seconds with these entries; additive if those of single decisions are all there are."""
        rows, interactions, scale = [], [], abs(fixed) + np.abs(vector).max(initial=0.0)
        for scope, flat in zip(self.scopes, np.split(vector, self.ends[:-1])):
            if len(scope) == 1:
                fixed += float(flat.min())
                rows.append((flat - flat.min()).tolist())
            elif np.ptp(flat) > _NOTHING * scale:
                interactions.append((scope, flat.tolist()))
            else:
                fixed += float(flat.mean())
        if interactions:
            return InteractionCost(name, UNIT, fixed, rows, interactions)
        return AdditiveCost(name, UNIT, fixed, rows)


def fit(space: SearchSpace, archs: np.ndarray, seconds: np.ndarray, name: str = NAME) -> Cost:
    """The latency of all networks of a space from those of some.

    Args:
      space: of the networks; its costs are features.
      archs: int [N, D], different networks.
      seconds: float [N], measured, positive.
      name: of the cost.

    Returns:
      A cost in seconds, additive or with products of decisions.

    Raises:
      ValueError: if times are not positive.
    """
    archs, seconds = np.asarray(archs, int), np.asarray(seconds, np.float64)
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        raise ValueError(f"seconds must be positive, got {seconds[~(np.isfinite(seconds) & (seconds > 0))][0]}")
    pairs, counted = _pairs(space), [scope for cost in space.costs for scope, _ in _tables(cost) if len(scope) > 1]
    singles = [(d,) for d in range(len(space.num_choices))]
    parts = _Parts((*singles, *dict.fromkeys([*counted, *pairs])), space.num_choices)
    chosen, least, best = parts.chosen(archs).astype(np.float64), np.inf, None
    for columns, known in _models(space, parts, pairs):
        cost, errors = _fitted(parts, chosen, seconds, columns, known, name)
        error = np.mean(np.maximum(errors**2, _ROUNDING**2))
        if (best is None or error < least) and (cost := _not_negative(cost)):
            least, best = error, cost
    return best


def _models(
    space: SearchSpace, parts: _Parts, pairs: Sequence[Scope]
) -> list[tuple[sparse.csc_array, Sequence[np.ndarray]]]:
    """The features of each model as sums of tables: those that are shrunk [entries, F], and those that are not."""
    table = np.repeat(np.arange(len(parts.scopes)), np.diff(parts.ends, prepend=0))  # of each entry
    single = np.flatnonzero(table < len(space.num_choices))
    of_pairs = np.flatnonzero(np.isin(table, [place for place, scope in enumerate(parts.scopes) if scope in pairs]))
    names = shared_choices(space)
    shared = np.zeros((len(table), names.shape[1]))
    shared[single] = names
    each = sparse.eye_array(len(table), format="csc")
    columns, totals = [each[:, single], sparse.csc_array(shared)], []
    models = [(columns, totals)]
    groups, totals = _counted(space, parts)
    if totals:
        models.append((columns := [*columns, sparse.csc_array(groups.T)], totals))
    if pairs:
        models.append(([*columns, each[:, of_pairs]], totals))
    return [(sparse.hstack(columns, format="csc"), totals) for columns, totals in models]


def _not_negative(cost: Cost) -> Cost | None:
    """The cost with its constant raised until no network takes less than no time.

    None where too many decisions interact to know, or to keep budgets: never with single choices alone.
    """
    try:
        short = _NOTHING * abs(cost.highest) - cost.lowest  # a little more, as sums in another order are rounded
        return cost if short <= 0 else dataclasses.replace(cost, fixed=cost.fixed + short)
    except ValueError:
        return None


def _fitted(
    parts: _Parts,
    chosen: np.ndarray,
    seconds: np.ndarray,
    columns: sparse.csc_array,
    known: Sequence[np.ndarray],
    name: str,
) -> tuple[Cost, np.ndarray]:
    """A model as a cost, and its relative leave-one-out errors [N].

    Args:
      parts: of the space.
      chosen: float [N, entries], which entries of the tables each network has.
      seconds: float [N].
      columns: [entries, F], the features that are shrunk, as sums of tables.
      known: those that are not, likewise, each [entries].
      name: of the cost.
    """
    unit = seconds.mean()
    weights = unit / seconds  # of the rows, for relative errors
    free = [np.ones(len(seconds)), *(chosen @ vector for vector in known)]
    found: Ridge = ridge(
        weights[:, None] * np.stack(free, axis=1),
        weights[:, None] * (columns.T @ chosen.T).T,
        np.ones(len(seconds)),
    )
    vector = columns @ found.weights + sum(
        (weight * vector for weight, vector in zip(found.free[1:], known)), np.zeros(chosen.shape[1])
    )
    return parts.cost(name, unit * float(found.free[0]), unit * vector), found.errors


def _tables(cost: Cost) -> list[tuple[Scope, np.ndarray]]:
    """The tables of a cost, without its constant."""
    single = [((d,), np.asarray(row, np.float64)) for d, row in enumerate(cost.table)]
    return [*single, *((scope, np.asarray(flat, np.float64)) for scope, flat in getattr(cost, "interactions", ()))]


def _pairs(space: SearchSpace) -> list[Scope]:
    """The pairs of decisions that may take time together."""
    scopes = {scope for cost in space.costs for scope, _ in _tables(cost) if len(scope) > 1}
    if not scopes and space.size <= LARGEST_TABLE:  # else no bounds of the cost could be had
        scopes = {tuple(range(len(space.num_choices)))}
    return sorted({pair for scope in scopes for pair in itertools.combinations(scope, 2)})


def _counted(space: SearchSpace, parts: _Parts) -> tuple[np.ndarray, list[np.ndarray]]:
    """The costs of a space as sums of tables, those that differ between networks, in parts and as a whole.

    Returns:
      float [F, entries], for each cost a row for each set of keywords whose decisions share tables, and for each cost
      float [entries]. All are divided by what the cost spans.
    """
    names = [without_place(decision.name) for decision in space.decisions]
    groups, totals = [], []
    for cost in space.costs:
        span = float(cost.highest - cost.lowest)
        if not span > 0:
            continue
        by_keywords: dict[frozenset[str], list[tuple[Scope, np.ndarray]]] = {}
        for scope, table in _tables(cost):
            by_keywords.setdefault(frozenset(names[d] for d in scope), []).append((scope, table / span))
        groups += [parts.vector(tables) for tables in by_keywords.values()]
        totals.append(parts.vector([each for tables in by_keywords.values() for each in tables]))
    return np.reshape(groups, (len(groups), parts.ends[-1])), totals
