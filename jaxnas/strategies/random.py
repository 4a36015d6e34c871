"""Uniform random search, the baseline of all comparisons.

Paper: Li and Talwalkar: "Random Search and Reproducibility for Neural Architecture Search", UAI 2019, arXiv 1902.07638.

Idea: Draw architectures uniformly and keep the one that measures best for each penalty.

Faithful: Uniform sampling and the least measured loss.

Deviations: Every sample counts for all penalties; a supernet or a table replaces training.
"""

import functools
from dataclasses import dataclass

import jax

from jaxnas import distribution
from jaxnas.strategies import base, incumbents
from jaxnas.strategies.incumbents import Incumbents


@dataclass(frozen=True)
class Random(base.Settings):
    """Uniform samples, all of which count for all penalties; the result for a penalty is the best measured one.

    Attributes:
      space: the search space.
      penalties: eps_k, one for each of the K networks looked for.
      samples: lambda; a step draws S = K * lambda architectures.
      cost: scaled cost R(c); None for the first cost of the space.

    Raises:
      ValueError: if a setting is out of range.
    """

    def init(self, key: jax.Array) -> Incumbents:
        """Nothing seen; the key is not used."""
        del key
        return incumbents.empty(len(self.penalties), len(self.space.decisions))

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: Incumbents) -> tuple[jax.Array, Incumbents]:
        """S uniform architectures, int32 [S, D], and the state as it was."""
        theta = distribution.uniform(self.space.num_choices)
        return distribution.sample(key, theta[None], self.step_samples), state

    def tell(
        self, state: Incumbents, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[Incumbents, base.Info]:
        """Keeps the best for each penalty: int32 [S, D], float [S], and float [S, J] measured in place of R or None."""
        return self._learn(state, base.evaluations(self.cost, archs, losses, costs))

    @functools.partial(jax.jit, static_argnums=0)
    def _learn(self, state: Incumbents, told: base.Evaluations) -> tuple[Incumbents, base.Info]:
        info = told.info(self.penalties)
        return incumbents.update(state, told.archs, info.objective), info

    def modes(self, state: Incumbents) -> jax.Array:
        """The best measured architecture for each penalty, int32 [K, D]."""
        return state.archs
