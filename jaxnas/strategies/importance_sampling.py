"""K architectures of different complexity in one search, by importance sampling.

Paper: Noda, Saito, Shirakawa: "Efficient Search of Multiple Neural Architectures with Different Complexities via
Importance Sampling", ICANN 2022, arXiv 2207.10334.

Idea: K distributions, one for each penalty, learn from the samples of all of them: an architecture is evaluated once,
whatever K is.

Faithful: One mixture of K distributions, importance weights, a natural gradient step for each (the paper's abstract).

Deviations: The balance heuristic, utilities by weighted quantiles and the step size rule are inferred from the authors'
earlier public work, since the full text was not available: docs/explanation/method.md marks each.

Limits: On NAS-Bench-201 not shown to beat random search after 1,000 evaluations: most cells are good, so random search
does well, and the distributions have not converged (in docs/explanation/ablation.md it is better after 4,000).
"""

import functools
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp

from jaxnas import asng, distribution, importance
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import base


@flax.struct.dataclass
class State:
    """State of the search.

    Attributes:
      theta: float32 [K, D, C], the K distributions.
      asng: their ASNG states, every array with a leading axis K.
      penalties: float32 [K, J], eps_k of each of J costs, J = 1 unless `budgeted.py` is around this.
    """

    theta: jax.Array
    asng: asng.ASNGState
    penalties: jax.Array


def initial_state(space: SearchSpace, penalties: tuple[float, ...]) -> State:
    """K uniform distributions."""
    start = (distribution.uniform(space.num_choices), asng.init(space.num_choices))
    theta, asng_state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(penalties), axis=0), start)
    return State(theta=theta, asng=asng_state, penalties=base.initial_penalties(penalties))


@flax.struct.dataclass
class Info(base.DistributionInfo):
    """Diagnostics of one `tell`: besides those of all strategies with distributions, the utilities.

    Attributes:
      utility: float32 [K, S], in [-1, 1].
    """

    utility: jax.Array


@dataclass(frozen=True)
class ImportanceSampling(base.Settings, base.DistributionStrategy):
    """Importance sampling from the mixture of K distributions, updated by ASNG.

    Attributes:
      space: the search space.
      penalties: eps_k, the increase of the loss that is accepted for going from the highest cost (R = 1) to the lowest
        (R = 0); one network is found for each.
      samples: lambda, architectures drawn from each distribution in a step.
      cost: scaled cost R(c); None for the first cost of the space.

    Raises:
      ValueError: if a setting is out of range.
    """

    def init(self, key: jax.Array) -> State:
        """K uniform distributions; the key is not used."""
        del key
        return initial_state(self.space, self.penalties)

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Draws lambda architectures from each distribution (step 1): int32 [S, D], and the state as it was."""
        return distribution.sample(key, state.theta, self.samples), state

    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, Info]:
        """Updates all K distributions with all S samples (steps 3 to 6).

        Args:
          state: the state that the architectures were drawn from.
          archs: int32 [S, D].
          losses: float [S], all measured on one minibatch.
          costs: float [S, J], measured in place of R; None for R.

        Returns:
          The next state and the diagnostics of the step.
        """
        return self._learn(state, base.evaluations(self.cost, archs, losses, costs))

    @functools.partial(jax.jit, static_argnums=0)
    def _learn(self, state: State, told: base.Evaluations) -> tuple[State, Info]:
        log_weights = importance.mixture_log_weights(state.theta, told.archs)  # [K, S], step 3
        log_weights = jnp.where(told.usable, log_weights, -jnp.inf)
        objective = told.objective(state.penalties)  # [K, S]
        utility = importance.weighted_quantile_utility(objective, log_weights)  # [K, S], step 4
        weights = jnp.exp(log_weights)
        gradient = distribution.natural_gradient(state.theta, told.archs, weights * utility)  # [K, D, C], step 5
        update = functools.partial(asng.update, num_choices=self.space.num_choices)
        theta, asng_state = jax.vmap(update)(state.theta, state.asng, gradient)  # step 6
        ess = importance.effective_sample_size(log_weights)
        info = Info(objective=objective, ignored=told.ignored, weights=weights, ess=ess, utility=utility)
        return state.replace(theta=theta, asng=asng_state), info

    def modes(self, state: State) -> jax.Array:
        """The most probable architecture of each distribution, int32 [K, D]."""
        return distribution.mode(state.theta)
