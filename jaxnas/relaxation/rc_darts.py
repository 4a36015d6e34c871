"""RC-DARTS-style: DARTS whose mixture is projected onto resource bounds, again and again.

Paper: Jin et al., "RC-DARTS: Resource Constrained Differentiable Architecture Search", arXiv 1912.12814.

Idea: search by DARTS under bounds on the resources, kept by projecting alpha onto the mixtures whose expected cost is
within them.

Faithful: minimise the validation loss over alpha subject to resource constraints, by iterative projection between DARTS
steps (abstract). No code of the paper was found and its text was not available beyond the introduction.

Deviations: The projection is the closest mixture by Kullback-Leibler divergence, in closed form, not the nearest alpha
by gradient descent. It follows every 50th part of the search after a tenth of it. The network is the argmax, repaired
exactly: of all networks within the bounds the one with the largest sum of alpha, since a mixture within a budget may
have an argmax that is not. There is one alpha for each layer or edge instead of one for each of three levels. Adam's
moments are kept over a projection unless `reset_moments` is set.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import distribution, knapsack
from jaxnas.cost import AdditiveCost
from jaxnas.relaxation import base, projection
from jaxnas.spaces.base import SearchSpace


@dataclass(frozen=True)
class Bounds:
    """What a network may cost.

    Attributes:
      upper: largest total of each of the J costs, in its own unit; infinite for none.
      lower: smallest totals; None for none.
    """

    upper: tuple[float, ...]
    lower: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RCDarts:
    """RC-DARTS-style search; its target is `Bounds`, or J budgets (upper bounds) in the units of the costs.

    Attributes:
      space: the search space.
      settings: length and optimisers.
      costs: J additive costs that are bounded; None for the first of the space.
      warmup: steps before the first projection; None for a tenth of the search.
      every: steps between projections; None for a 50th of the search. The last step projects in any case.
      reset_moments: whether Adam's moments of alpha start again after a projection.

    Raises:
      ValueError: if a setting is out of range.
    """

    TARGET: ClassVar[str] = "budgets"

    space: SearchSpace
    settings: base.Settings
    costs: tuple[AdditiveCost, ...] | None = None
    warmup: int | None = None
    every: int | None = None
    reset_moments: bool = False

    def __post_init__(self):
        object.__setattr__(self, "costs", base.default_costs(self.space, self.costs))
        if not self.costs:
            raise ValueError(f"costs must hold at least one: space {self.space.name!r} has none of its own")
        if self.warmup is None:
            object.__setattr__(self, "warmup", self.settings.steps // 10)
        if self.every is None:
            object.__setattr__(self, "every", max(1, self.settings.steps // 50))
        if self.warmup < 0 or self.every < 1:
            raise ValueError(f"warmup must not be negative and every at least 1, got {self.warmup} and {self.every}")

    def init(self, key: jax.Array, params: chex.ArrayTree, target: Bounds | float | tuple[float, ...]) -> base.State:
        """The state before the first step.

        Args:
          key: of alpha's start.
          params: weights of the supernet; an empty tree for a table.
          target: what the network may cost.

        Raises:
          ValueError: if no network is within the bounds.
        """
        bounds = self._bounds(target)
        gain = np.where(distribution.valid_choices(self.space.num_choices), 0.0, -np.inf)
        knapsack.largest_sum(gain, self.costs, bounds.upper, bounds.lower)  # raises where there is none
        lower = bounds.lower or (-np.inf,) * len(self.costs)
        scaled = [[cost.scale(total) for cost, total in zip(self.costs, row)] for row in (lower, bounds.upper)]
        return base.init(key, params, jnp.asarray(scaled, jnp.float32), self.space, self.settings)

    def step(self, state: base.State, loss: base.Loss, train: Any, valid: Any) -> tuple[base.State, base.Losses]:
        """A step of DARTS without a penalty, and a projection of alpha where it is time for one."""

        def gradient(alpha: jax.Array, of_alpha: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
            return jax.value_and_grad(of_alpha)(alpha)

        state, losses = base.step(state, self.space, self.settings, loss, train, valid, gradient)
        since = state.step - self.warmup
        due = ((since > 0) & (since % self.every == 0)) | (state.step == self.settings.steps)
        return jax.lax.cond(due, self._project, lambda state: state, state), losses

    def _project(self, state: base.State) -> base.State:
        tables = jnp.asarray(np.stack([cost.scaled_table() for cost in self.costs]), jnp.float32)
        valid = jnp.asarray(distribution.valid_choices(self.space.num_choices))
        alpha = projection.project(state.alpha, tables, state.target, valid)
        if self.reset_moments:
            fresh = self.settings.alpha_optimizer.init(alpha)
            moved = jnp.any(alpha != state.alpha)
            kept = state.alpha_optimizer
            state = state.replace(alpha_optimizer=jax.tree.map(lambda a, b: jnp.where(moved, a, b), fresh, kept))
        return state.replace(alpha=alpha)

    def derive(self, state: base.State, target: Bounds | float | tuple[float, ...]) -> np.ndarray:
        """Of all networks within the bounds the one with the largest sum of alpha, int32 [D]: the argmax, if it is."""
        bounds = self._bounds(target)
        arch = base.most_likely(state, self.space)
        if knapsack.within(arch, self.costs, bounds.upper, bounds.lower):
            return arch
        valid = distribution.valid_choices(self.space.num_choices)
        gain = np.where(valid, np.asarray(state.alpha, np.float64), -np.inf)
        gain -= gain.max(-1, keepdims=True)
        gain /= max(np.abs(gain[valid]).max(), 1e-12)  # the solver's tolerances are absolute
        return knapsack.largest_sum(gain, self.costs, bounds.upper, bounds.lower)

    def _bounds(self, target: Bounds | float | tuple[float, ...]) -> Bounds:
        if not isinstance(target, Bounds):
            target = Bounds(tuple(float(total) for total in np.atleast_1d(np.asarray(target, np.float64))))
        for name in ("upper", "lower"):
            totals = getattr(target, name)
            if totals is not None and len(totals) != len(self.costs):
                raise ValueError(f"{name} bounds must be one for each of the {len(self.costs)} costs, got {totals}")
        return target
