"""K separate searches, one for each penalty, which importance sampling replaces.

Paper: Akimoto, Shirakawa, Yoshinari, Uchida, Saito, Nishida: "Adaptive Stochastic Natural Gradient Method for One-Shot
Neural Architecture Search", ICML 2019, arXiv 1905.08537.

Idea: Run plain ASNG once for each penalty; a distribution learns from its own samples only.

Faithful: The natural gradient step with adaptive step size and margin; ranks as utilities.

Deviations: The K searches run side by side in one program; nothing passes between them.

Limits: On NAS-Bench-201 not shown to beat random search after 1,000 evaluations: each of K searches has a K-th of them,
and a natural gradient needs more steps (in docs/explanation/ablation.md it is better after 4,000).
"""

import functools
from dataclasses import dataclass

import chex
import flax.struct
import jax
import jax.numpy as jnp

from jaxnas import asng, distribution, importance
from jaxnas.strategies import base
from jaxnas.strategies.importance_sampling import State, initial_state


@flax.struct.dataclass
class Info(base.Info):
    """Diagnostics of one `tell`: besides those of all strategies, the utilities.

    Attributes:
      utility: float32 [K, lambda], of each distribution's own samples.
    """

    utility: jax.Array


@dataclass(frozen=True)
class Independent(base.Settings):
    """K independent ASNG searches, run side by side.

    Attributes:
      space: the search space.
      penalties: eps_k, one search for each.
      samples: lambda, architectures drawn in a step of each search; at least 2. 8 works best with much
        noise or many evaluations, 2 otherwise.
      cost: scaled cost R(c); None for the first cost of the space.

    Raises:
      ValueError: if a setting is out of range.
    """

    def __post_init__(self):
        super().__post_init__()
        if self.samples < 2:
            raise ValueError(
                f"samples must be at least 2 for independent searches: one loss has no rank, got {self.samples}"
            )

    def init(self, key: jax.Array) -> State:
        """K uniform distributions; the key is not used."""
        del key
        return initial_state(self.space, self.penalties)

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Draws lambda architectures for each search: int32 [S, D], grouped by search, and the state as it was."""
        return distribution.sample(key, state.theta, self.samples), state

    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, Info]:
        """Updates each distribution with its own samples.

        Args:
          state: the state that the architectures were drawn from.
          archs: int32 [S, D], in the order of `ask`.
          losses: float [S].
          costs: float [S, J], measured in place of R; None for R.

        Returns:
          The next state and the diagnostics of the step.
        """
        return self._learn(state, base.evaluations(self.cost, archs, losses, costs))

    @functools.partial(jax.jit, static_argnums=0)
    def _learn(self, state: State, told: base.Evaluations) -> tuple[State, Info]:
        k, decisions = len(self.penalties), len(self.space.decisions)
        chex.assert_shape(told.archs, (k * self.samples, decisions))
        own_archs = told.archs.reshape(k, self.samples, decisions)
        objective = told.objective(state.penalties)  # [K, S]
        own = objective.reshape(k, k, self.samples)[jnp.arange(k), jnp.arange(k)]  # [K, lambda]
        log_weights = jnp.where(told.usable, jnp.zeros_like(told.losses), -jnp.inf).reshape(k, self.samples)
        utility = importance.weighted_quantile_utility(own, log_weights)

        def update(theta, asng_state, archs, utility):
            gradient = distribution.natural_gradient(theta[None], archs, utility[None])[0]
            return asng.update(theta, asng_state, gradient, self.space.num_choices)

        theta, asng_state = jax.vmap(update)(state.theta, state.asng, own_archs, utility)
        info = Info(objective=objective, ignored=told.ignored, utility=utility)
        return state.replace(theta=theta, asng=asng_state), info

    def modes(self, state: State) -> jax.Array:
        """The most probable architecture of each distribution, int32 [K, D]."""
        return distribution.mode(state.theta)
