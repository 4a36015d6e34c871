"""One evolutionary search for each budget, on one trained supernet: "train once, search many".

Paper: Cai, Gan, Wang, Zhang, Han: "Once-for-All: Train One Network and Specialize it for Efficient Deployment", ICLR
2020, arXiv 1908.09791; Wang et al.: "AlphaNet", arXiv 2102.07954.

Idea: Train a supernet under uniform architectures, then run a separate evolutionary search for each budget, R(c) <=
budget_k: the common practice for K networks.

Faithful: Evolution by mutation and crossover of the best within the hard budget.

Deviations: Dozens of founders and few parents instead of a population of 100, for searches of hundreds of evaluations;
measured losses instead of an accuracy predictor; no progressive shrinking of the supernet.

Limits: On NAS-Bench-201 not shown to beat random search after 1,000 evaluations: at noise 0.01 its median is lower, but
not significantly; at 0.03 it keeps the luckiest of its measurements, and each of the K searches has only a K-th of
them.

Constraints and penalties are different problems. `within_budgets` returns the networks for the constraints; `modes`
returns those for the penalties, by the least measured f_k of all architectures that the K searches evaluated.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import distribution
from jaxnas.strategies import base, incumbents, variation

ROUNDING = 1e-6  # R is float32: the most expensive architecture must stay within a budget of 1


@flax.struct.dataclass
class State:
    """The parents of every search, and the best architectures so far.

    Attributes:
      archs: int32 [K, P, D], the P best architectures that each search evaluated, best first.
      losses: float32 [K, P], their measured losses.
      excess: float32 [K, P], by how much R exceeds the budget, 0 where it does not; infinite where there is none yet.
      evaluated: int32 [K], architectures that each search evaluated so far, without ignored ones.
      incumbents: the best measured architecture for each penalty.
    """

    archs: jax.Array
    losses: jax.Array
    excess: jax.Array
    evaluated: jax.Array
    incumbents: incumbents.Incumbents


@dataclass(frozen=True)
class ConstrainedEvolution(base.Settings):
    """K separate evolutionary searches, each for the smallest loss within its budget.

    Once-for-all starts with a population of 100, keeps the best 25 as parents and makes half of the next 100 by
    mutation (each decision with probability 0.1) and half by crossover, for tens of thousands of evaluations. Here one
    child is made at a time, and the defaults are for hundreds of evaluations.

    A child that exceeds the budget is drawn again, up to `tries` times; of draws within the budget, one that is not a
    parent already is preferred. If all exceed it, the one closest to the budget is taken, and a parent before a more
    expensive child.

    Attributes:
      space: the search space.
      penalties: eps_k; used only to choose the K networks of `modes`.
      samples: lambda, children of each search in a step.
      cost: scaled cost R(c); None for the first cost of the space.
      budgets: the largest cost of each of the K networks, in the unit of `cost` and the order of the penalties. None
        for evenly spaced ones, from the most expensive network for the smallest penalty down to a K-th of the span for
        the largest.
      founders: uniform samples within the budget that each search starts from, at least P.
      parents: P, the best of all that a search has evaluated; they have the children.
      mutation: probability that a mutation changes a decision.
      crossover: share of children that take each decision from one of two parents; the others are mutations.
      tries: draws for each founder or child.

    Raises:
      ValueError: if a setting is out of range.
    """

    samples: int = 2
    budgets: tuple[float, ...] | None = None
    founders: int = 20
    parents: int = 5
    mutation: float = 0.1
    crossover: float = 0.5
    tries: int = 32

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "budgets", check_budgets(self.cost, self.budgets, self.penalties))
        base.check_positive(self, "founders", "parents", "tries")
        if self.founders < self.parents:
            raise ValueError(f"founders must be at least the {self.parents} parents, got {self.founders}")
        if not 0 < self.mutation <= 1:
            raise ValueError(f"mutation must be a probability above 0, such as 0.1, got {self.mutation}")
        if not 0 <= self.crossover < 1:
            raise ValueError(f"crossover must be a share below 1 (the rest are mutations), got {self.crossover}")

    @property
    def scaled_budgets(self) -> tuple[float, ...]:
        """The budgets on the scale of R."""
        return scaled_budgets(self.cost, self.budgets, self.penalties)

    def init(self, key: jax.Array) -> State:
        """No parents yet; the key is not used."""
        del key
        k, decisions = len(self.penalties), len(self.space.decisions)
        return State(
            archs=jnp.zeros((k, self.parents, decisions), jnp.int32),
            losses=jnp.full((k, self.parents), jnp.inf, jnp.float32),
            excess=jnp.full((k, self.parents), jnp.inf, jnp.float32),
            evaluated=jnp.zeros(k, jnp.int32),
            incumbents=incumbents.empty(k, decisions),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Founders, then children: int32 [S, D], lambda for each search in turn, and the state as it was."""
        founder_key, child_key = jax.random.split(key)
        k, decisions = len(self.penalties), len(self.space.decisions)
        theta = distribution.uniform(self.space.num_choices)
        founders = distribution.sample(founder_key, theta[None], k * self.samples * self.tries)
        founders = founders.reshape(k, self.samples, self.tries, decisions)
        founding = (state.evaluated < self.founders)[:, None, None]  # [K, 1, 1]
        draws = jnp.where(founding[..., None], founders, self._children(child_key, state.archs))
        # A parent is the last resort: within the budget, if a founder ever was.
        last = jnp.broadcast_to(state.archs[:, None, :1], (k, self.samples, 1, decisions))
        last = jnp.where(founding[..., None], founders[:, :, :1], last)
        draws = jnp.concatenate([draws, last], axis=2)  # [K, lambda, tries + 1, D]

        excess = self._excess(draws)
        is_parent = (draws[:, :, :, None] == state.archs[:, None, None]).all(-1).any(-1)
        # 0 for what is new and within the budget, 1 for what is within it, more for what exceeds it; the first wins.
        order = jnp.where(excess > 0, 1 + excess, jnp.where(founding, 0.0, is_parent))
        chosen = order.argmin(-1)[..., None, None]
        return jnp.take_along_axis(draws, chosen, axis=2).reshape(-1, decisions), state

    def _children(self, key: jax.Array, parents: jax.Array) -> jax.Array:
        """Draws of the children of each search: int32 [K, P, D] -> [K, lambda, tries, D]."""
        parent_key, kind_key, side_key, mutation_key, choice_key = jax.random.split(key, 5)
        k, decisions = len(self.penalties), len(self.space.decisions)
        shape = (k, self.samples, self.tries)
        pairs = jax.random.randint(parent_key, (k, *shape[1:], 2), 0, self.parents)
        pairs = jax.vmap(lambda archs, index: archs[index])(parents, pairs)  # [K, lambda, tries, 2, D]
        first, second = pairs[..., 0, :], pairs[..., 1, :]
        crossed = jnp.where(jax.random.bernoulli(side_key, shape=(*shape, decisions)), first, second)
        changes = jax.random.bernoulli(mutation_key, self.mutation, (*shape, decisions))
        mutated = variation.change(choice_key, first, changes, self.space.num_choices)
        return jnp.where(jax.random.bernoulli(kind_key, self.crossover, (*shape, 1)), crossed, mutated)

    def _excess(self, archs: jax.Array) -> jax.Array:
        """By how much R exceeds each search's budget, 0 where it does not: int32 [K, ..., D] -> float32 [K, ...]."""
        cost = self.cost(archs.reshape(-1, archs.shape[-1])).reshape(archs.shape[:-1])
        budgets = jnp.asarray(self.scaled_budgets, jnp.float32).reshape(-1, *[1] * (cost.ndim - 1))
        over = cost - budgets
        return jnp.where(over > ROUNDING, over, 0.0)

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.Info]:
        """Lets the best of parents and children be parents; ignored samples never are.

        Args:
          state: the state that `ask` was given.
          archs: int32 [S, D], lambda for each search in turn, as `ask` returned them.
          losses: float [S].
          costs: None; a network is refused by its cost before it is evaluated.
        """
        base.refuse_measured_costs(costs, "a network is refused by its cost before it is evaluated")
        told = base.evaluations(self.cost, archs, losses)
        info = told.info(self.penalties)
        k = len(self.penalties)
        children, usable = told.archs.reshape(k, self.samples, -1), told.usable.reshape(k, self.samples)
        all_archs = jnp.concatenate([state.archs, children], axis=1)
        all_losses = jnp.concatenate([state.losses, told.losses.reshape(k, self.samples)], axis=1)
        # An ignored child is as good as a place that is still free, and comes after it.
        excess = jnp.where(usable, self._excess(children), jnp.inf)
        all_excess = jnp.concatenate([state.excess, excess], axis=1)
        # Whatever keeps the budget is better than whatever does not.
        best = jnp.lexsort((all_losses, all_excess), axis=-1)[:, : self.parents]
        return State(
            archs=jnp.take_along_axis(all_archs, best[..., None], axis=1),
            losses=jnp.take_along_axis(all_losses, best, axis=1),
            excess=jnp.take_along_axis(all_excess, best, axis=1),
            evaluated=state.evaluated + usable.sum(-1, dtype=jnp.int32),
            incumbents=incumbents.update(state.incumbents, told.archs, info.objective),
        ), info

    def modes(self, state: State) -> jax.Array:
        """The architecture with the least measured f_k of all evaluated ones, int32 [K, D]."""
        return state.incumbents.archs

    def within_budgets(self, state: State) -> jax.Array:
        """The best measured architecture of each search within its budget, int32 [K, D].

        Where a search has not met its budget yet, this is what exceeds it least.
        """
        return state.archs[:, 0]


def evenly_spaced_budgets(penalties: tuple[float, ...]) -> tuple[float, ...]:
    """Budgets from 1 for the smallest penalty in even steps down to 1 / K for the largest.

    >>> evenly_spaced_budgets((0.02, 0.3, 0.1, 0.2))
    (1.0, 0.25, 0.75, 0.5)
    """
    k = len(penalties)
    rank = np.argsort(np.argsort(penalties, kind="stable"), kind="stable")
    return tuple(((k - rank) / k).tolist())


def check_budgets(
    cost: base.Cost, budgets: Sequence[float] | None, penalties: tuple[float, ...]
) -> tuple[float, ...] | None:
    """Budgets as a tuple; None stays None.

    Raises:
      ValueError: unless there is one budget for each of the K penalties, which an architecture meets, and a cost with
        units.
    """
    if budgets is None:
        return None
    budgets = tuple(float(budget) for budget in budgets)
    if len(budgets) != len(penalties):
        raise ValueError(f"budgets must be one for each of the {len(penalties)} penalties, got {len(budgets)}")
    if not hasattr(cost, "scale"):
        raise ValueError(
            "cost must have `lowest`, `highest` and `scale`, as `AdditiveCost` has, for budgets in its unit"
        )
    for budget in budgets:
        if not (math.isfinite(budget) and budget >= cost.lowest):
            raise ValueError(
                f"budgets must be costs of networks, from {cost.lowest:g} to {cost.highest:g} here, got {budget:g}"
            )
    return budgets


def scaled_budgets(
    cost: base.Cost, budgets: tuple[float, ...] | None, penalties: tuple[float, ...]
) -> tuple[float, ...]:
    """The largest R of each of the K networks, at most 1."""
    if budgets is None:
        return evenly_spaced_budgets(penalties)
    return tuple(min(1.0, cost.scale(budget)) for budget in budgets)
