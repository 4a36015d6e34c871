"""A trained supernet with frozen weights as a search task, and what its scores are worth.

`losses = evaluate(archs)` on one common validation minibatch is the same seam that tables plug in at. Strategies may be
host programs here: the supernet's forward pass is all of the time.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.search.search import Search
from jaxnas.strategies.base import Strategy
from jaxnas.tasks import introspectability


@dataclass(frozen=True, eq=False)
class FrozenSupernet:
    """Weights of a supernet that searches do not change any more.

    Attributes:
      search: the search that trained them; its validation split, batch size and batching are used.
      params: the weights.
    """

    search: Search
    params: chex.ArrayTree

    def losses(self, key: jax.Array, archs: jax.Array) -> jax.Array:
        """Losses of int32 [S, D] architectures on one random validation minibatch, float32 [S]."""
        size = self.search.settings.valid_batch_size
        return self.search.evaluate_batch(self.params, self.search.valid.sample(key, size), archs).loss

    def losses_and_introspectability(self, key: jax.Array, archs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As `losses`, and introspectability as a measured cost, [S, 1]: see `introspectability.evaluate`."""
        size = self.search.settings.valid_batch_size
        return self._introspect(self.params, self.search.valid.sample(key, size), archs)

    @functools.partial(jax.jit, static_argnums=0)
    def _introspect(
        self, params: chex.ArrayTree, minibatch: data.Examples, archs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def apply(params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> tuple[jax.Array, Any]:
            return self.search.supernet.apply({"params": params}, images, arch, method="apply_with_features")

        images = self.search.prepare(minibatch, None)
        return introspectability.evaluate(apply, params, images, minibatch.labels, archs)

    def run(
        self,
        strategy: Strategy,
        evaluations: int,
        seed: int,
        evaluate: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array | None]] | None = None,
    ) -> np.ndarray:
        """Searches until at least `evaluations` architecture-minibatch losses were used.

        Args:
          strategy: any strategy on the supernet's space.
          evaluations: total number of losses.
          seed: of the search and its minibatches.
          evaluate: (key, archs) -> losses and measured costs, or None for costs; None for `losses` alone.

        Returns:
          int32 [K, D], what the strategy holds for the best.
        """
        key = jax.random.key(seed)
        state = strategy.init(jax.random.fold_in(key, 0))
        used, step = 0, 0
        while used < evaluations:
            step += 1
            ask_key, batch_key = jax.random.split(jax.random.fold_in(key, step))
            archs, state = strategy.ask(ask_key, state)
            archs = jnp.asarray(archs)
            losses, costs = (self.losses(batch_key, archs), None) if evaluate is None else evaluate(batch_key, archs)
            state, _ = strategy.tell(state, archs, losses, costs)
            used += len(archs)
        return np.asarray(strategy.modes(state))
