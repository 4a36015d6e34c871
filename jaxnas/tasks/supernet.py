"""A trained supernet with frozen weights as a search task, and what its scores are worth.

`losses = evaluate(archs)` on one common validation minibatch is the same seam that tables plug in at. Strategies may be
host programs here: the supernet's forward pass is all of the time.
"""

from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies.base import Strategy
from jaxnas.training import Search


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
        indices = jax.random.choice(key, len(self.search.valid.labels), (size,), replace=False)
        return self.search.evaluate_on(self.params, indices, archs).loss

    def run(self, strategy: Strategy, evaluations: int, seed: int) -> np.ndarray:
        """Searches until at least `evaluations` architecture-minibatch losses were used.

        Args:
          strategy: any strategy on the supernet's space.
          evaluations: total number of losses.
          seed: of the search and its minibatches.

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
            state, _ = strategy.tell(state, archs, self.losses(batch_key, jnp.asarray(archs)))
            used += len(archs)
        return np.asarray(strategy.modes(state))
