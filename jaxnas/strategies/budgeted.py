"""One network for each budget: a search that adapts its penalties.

A budget b (such as 30 million multiply-adds) is a constraint on the mean cost,

    minimise over theta_k  E_{c ~ p_k}[ L(c) ]   subject to  E_{c ~ p_k}[ R_j(c) ] <= b_kj,  j = 1..J,

and its penalties are the multipliers of the Lagrangian: dual ascent raises eps_kj while the expected cost is over the
budget and lowers it while it is under (Boyd et al., "Distributed Optimization and Statistical Learning via the
Alternating Direction Method of Multipliers", 2011, section 2.1). Steps are taken in log eps, so that losses of any
scale are possible; expected costs are exact, as the costs are additive. An expected cost within the budget does not
bound the cost of a sample: the result is the most probable architecture *within* the budgets, by
`knapsack.most_probable`.

A network need not have a budget for every cost: with several devices, each network has budgets for its own. A cost
without a budget has no constraint and no multiplier; its penalty is 0.

A cost that is the largest of its parts, such as peak memory, is not a sum over decisions: within its budget it is free,
and only the excess is penalised (`LargestCost.beyond`). The mean excess is never 0, since every choice keeps a little
probability, so this penalty only rises.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import distribution, knapsack
from jaxnas.cost import Cost, JointCost, LargestCost
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import base, robust
from jaxnas.strategies.base import DistributionStrategy, Info

LONGEST_STEP = 1.0  # in log eps
PENALTY_RANGE = (1e-4, 1e2)  # relative to the first: a budget that binds nothing must not drive its penalty to 0


@flax.struct.dataclass
class State:
    """State of the search.

    Attributes:
      inner: the strategy's own, which holds the penalties, float32 [K, J].
      first_penalty: float32 [], where all penalties began; 0 before any losses that can tell.
      step: int32 [], steps told.
      moved: int32 [], the step at which theta last changed.
    """

    inner: Any
    first_penalty: jax.Array
    step: jax.Array
    moved: jax.Array

    @property
    def theta(self) -> jax.Array:
        """float32 [K, D, C]."""
        return self.inner.theta

    @property
    def penalties(self) -> jax.Array:
        """eps_k in use, float32 [K, J]."""
        return self.inner.penalties


@dataclass(frozen=True)
class WithinBudgets(base.DistributionStrategy):
    """Dual ascent on the penalties of a strategy that keeps them in its state.

    Attributes:
      inner: a strategy that keeps penalties in its state, `ImportanceSampling` or `SharedModel`, on a `JointCost` of
        the costs that have budgets; its own penalties only say how many networks there are. Build both with
        `within_budgets`.
      budgets: J for each of the K networks, in the units of the costs; infinite for a cost without a budget.
      rate: step in log eps for each step of the search and each unit of scaled cost beyond the budget.

    Raises:
      ValueError: if the number of budgets is wrong, `rate` is not positive, or no architecture meets a budget.
    """

    inner: DistributionStrategy
    budgets: tuple[tuple[float, ...], ...]
    rate: float = 0.1

    def __post_init__(self):
        if len(self.budgets) != len(self.inner.penalties):
            raise ValueError(
                f"budgets must be one for each of {len(self.inner.penalties)} networks, got {len(self.budgets)}"
            )
        self.most_probable(np.broadcast_to(distribution.uniform(self.space.num_choices), self._theta_shape))
        if not self.rate > 0:
            raise ValueError(f"rate must be positive, such as 0.1, got {self.rate}")

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.inner.space

    @property
    def penalties(self) -> tuple[float, ...]:
        """As many as there are budgets; those in use are in the state."""
        return self.inner.penalties

    @property
    def samples(self) -> int:
        """Lambda."""
        return self.inner.samples

    @property
    def cost(self) -> JointCost:
        """The costs that have budgets."""
        return self.inner.cost

    @property
    def _theta_shape(self) -> tuple[int, int, int]:
        return len(self.budgets), len(self.space.decisions), self.space.max_choices

    def _scaled_budgets(self) -> np.ndarray:
        """The budgets on the scale of R, float32 [K, J]."""
        costs = self.cost.costs
        return np.asarray([[cost.scale(b) for cost, b in zip(costs, row)] for row in self.budgets], np.float32)

    def _bound(self) -> jax.Array:
        """Which networks have a budget of which costs, bool [K, J]."""
        return jnp.isfinite(jnp.asarray(self._scaled_budgets()))

    def init(self, key: jax.Array) -> State:
        """The inner state; penalties begin with the first losses."""
        inner = self.inner.init(key)
        inner = inner.replace(penalties=self._bound().astype(jnp.float32))
        return State(inner, jnp.float32(0), jnp.int32(0), jnp.int32(0))

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Architectures to evaluate, int32 [S, D], and the next state."""
        archs, inner = self.inner.ask(key, state.inner)
        return archs, state.replace(inner=inner)

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, Info]:
        """The inner update, then a step of dual ascent if theta has moved: int32 [S, D], float [S].

        Penalties begin with the first step that has two usable samples or more.
        """
        base.refuse_measured_costs(costs, "a budget is held against expected costs, which only a cost model gives")
        told = base.evaluations(self.cost, archs, losses)
        begins = (state.first_penalty == 0) & (told.usable.sum() > 1)
        first = jnp.where(begins, self._first_penalty(told), state.first_penalty)
        bound = self._bound()
        penalties = jnp.where(begins, jnp.where(bound, first, 0), state.inner.penalties)
        inner, info = self.inner.tell(state.inner.replace(penalties=penalties), told.archs, told.losses)
        step = state.step + 1
        moves = (inner.theta != state.inner.theta).any()
        excess = self.cost.expected(inner.theta) - self._scaled_budgets()  # [K, J]
        # A strategy that learns now and then has its ascent for all the steps that went by.
        ascent = jnp.clip(self.rate * (step - state.moved) * excess, -LONGEST_STEP, LONGEST_STEP)
        lowest, highest = PENALTY_RANGE
        ascended = jnp.clip(penalties * jnp.exp(ascent), lowest * first, highest * first)
        inner = inner.replace(penalties=jnp.where(bound & moves & (first > 0), ascended, penalties))
        return State(inner, first, step, jnp.where(moves, step, state.moved)), info

    def _first_penalty(self, told: base.Evaluations) -> jax.Array:
        """The slope of loss over cost among the samples is as large as this, if the cost explains all of the loss."""
        losses = robust.scale(told.losses, told.usable).cap(told.losses)
        spread = jnp.sqrt(robust.variance(losses, told.usable))
        costs = jnp.sqrt(robust.variance(told.costs, told.usable[:, None]))
        # A cost that is the same for all samples, as an excess that none has, explains nothing.
        varying = jnp.maximum((costs > 0).sum(), 1)
        return jnp.maximum(spread / jnp.maximum(costs.sum() / varying, 1e-6), 1e-6)

    @property
    def budgets_by_name(self) -> tuple[dict[str, float], ...]:
        """What each of the K networks may cost, by the names of the costs that it has budgets of, in their units."""
        pairs = [list(zip(self.cost.costs, row, strict=True)) for row in self.budgets]
        return tuple({cost.name: budget for cost, budget in row if math.isfinite(budget)} for row in pairs)

    def penalties_in_use(self, state: State) -> tuple[float, ...]:
        """The penalties that dual ascent has come to, on the first cost that each network has a budget of."""
        first = np.isfinite(self.budgets).argmax(1)  # a network without budgets has no penalties
        return tuple(np.asarray(state.penalties)[np.arange(len(first)), first].tolist())

    def select(self, state: State, archs: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Of N candidates the most probable within each budget, of those that measure as well as the best: int [K].

        Args:
          state: at the end of the search.
          archs: int [N, D].
          losses: float [M, N], on the same M minibatches.

        Raises:
          ValueError: if no candidate with finite losses is within a budget.
        """
        log_probs = np.asarray(distribution.log_prob(state.theta, jnp.asarray(archs)))
        return knapsack.likely_within(losses, log_probs, archs, self.cost.costs, self.budgets)

    def fits(self, archs: np.ndarray) -> np.ndarray:
        """Whether architectures keep the budgets of each network: int [..., D] -> bool [K, ...]."""
        return np.stack([knapsack.within(archs, self.cost.costs, row) for row in self.budgets])

    def modes(self, state: State) -> np.ndarray:
        """The most probable architecture of each distribution within its budgets, int32 [K, D]; runs on the host."""
        return self.most_probable(np.asarray(state.theta))

    def most_probable(self, theta: np.ndarray) -> np.ndarray:
        """The most probable architectures within the budgets: float [K, D, C] -> int32 [K, D]."""
        found = []
        for one, row in zip(theta, self.budgets, strict=True):
            bounds = [(cost, b) for cost, b in zip(self.cost.costs, row, strict=True) if b != math.inf]
            found.append(knapsack.most_probable(one, [cost for cost, _ in bounds], [b for _, b in bounds]))
        return np.stack(found)


def within_budgets(
    method: Callable[..., DistributionStrategy],
    space: SearchSpace,
    costs: Sequence[Cost],
    budgets: Sequence[Sequence[float]],
    **settings: Any,
) -> WithinBudgets:
    """Builds a search with budgets: `within_budgets(SharedModel, space, [space.cost("macs")], [[30e6], [60e6]])`.

    Args:
      method: `ImportanceSampling` or `SharedModel`.
      space: the search space.
      costs: J costs of the space.
      budgets: float [K, J], in the units of the costs; infinite for a cost without a budget.
      **settings: further settings of the method, such as `samples`.

    Raises:
      ValueError: if a setting is out of range, or no architecture meets a budget.
    """
    rows = np.asarray(budgets, np.float64).reshape(len(budgets), len(costs))
    bounded: list[tuple[Cost, np.ndarray]] = []
    for cost, column in zip(costs, rows.T, strict=True):
        if isinstance(cost, LargestCost):  # what is beyond one budget is another cost than what is beyond another
            limits = [limit for limit in np.unique(column) if limit != math.inf]
            knapsack.check_reachable([cost] * len(limits), limits)
            bounded += [(cost.beyond(limit), np.where(column == limit, limit, math.inf)) for limit in limits]
            bounded += [] if limits else [(cost, column)]
        else:
            bounded.append((cost, column))
    joint = JointCost(tuple(cost for cost, _ in bounded))
    inner = method(space, (1.0,) * len(budgets), cost=joint, **settings)
    return WithinBudgets(inner, tuple(map(tuple, np.stack([column for _, column in bounded], axis=1).tolist())))
