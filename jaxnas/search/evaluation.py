"""Losses of architectures on the validation split, or on one minibatch, whatever the source and the devices."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.runtime import devices
from jaxnas.runtime.placement import Placement
from jaxnas.search.sources import Feed, InMemory, Source
from jaxnas.search.steps import Steps
from jaxnas.supernet.batching import Evaluation


@dataclass(frozen=True, eq=False)
class Evaluator:
    """What evaluates architectures.

    Attributes:
      steps: of the search.
      placement: the devices.
      source: the validation split.
      examples: its examples as programs take them; None where it is a stream.
      batch_size: most examples of a minibatch of a split in memory.
    """

    steps: Steps
    placement: Placement
    source: Source
    examples: Any
    batch_size: int

    def on_minibatches(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """On each of the M minibatches of the split: int [S, D] -> arrays [M, S]."""
        with devices.noticing_lost_processes():
            params, archs = self.placement.put((params, jnp.asarray(archs, jnp.int32)))
            if isinstance(self.source, InMemory):
                return self.placement.get(self._split(params, self.examples, archs, None))
            whole = max(len(self.source) // self.source.stream.batch_size, 1)
            count = min(self.source.evaluation_batches, whole)
            feed = Feed(self.source, self.placement.spread, 0, 1, count)
            try:
                measured = [self._minibatch(params, feed.take(), archs, None) for _ in range(count)]
                measured = [jax.device_get(self.placement.get(one)) for one in measured]
            finally:
                feed.close()
        return jax.tree.map(lambda *leaves: np.stack(leaves), *measured)

    def on_batch(self, params: chex.ArrayTree, batch: Any, archs: jax.Array) -> Evaluation:
        """On one minibatch [B, ...]: int [S, D] -> arrays [S]."""
        params, archs = self.placement.put((params, archs))
        minibatches = self.placement.spread(jax.tree.map(lambda leaf: leaf[None], batch))
        return self.placement.get(self._minibatch(params, minibatches, archs, None))

    @functools.cached_property
    def _minibatch(self) -> Callable[..., Evaluation]:
        def evaluate(params: chex.ArrayTree, minibatches: Any, archs: jax.Array, unused: None) -> Evaluation:
            """On one minibatch [1, B, ...], of which each device has its part."""
            del unused
            minibatch = jax.tree.map(lambda leaf: leaf[0], minibatches)
            return self.placement.average(self.steps.evaluate_minibatch(params, minibatch, archs))

        return self.placement.compile(evaluate)

    @functools.cached_property
    def _split(self) -> Callable[..., Evaluation]:
        across = self.placement.count
        count = min(-(-len(self.source) // self.batch_size), len(self.source) // across)
        size = len(self.source) // (count * across) * across

        def evaluate(params: chex.ArrayTree, examples: Any, archs: jax.Array, unused: None) -> Evaluation:
            """On all minibatches of a split that every device has."""
            del unused
            minibatches = jax.tree.map(
                lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), examples
            )

            def one(minibatch: Any) -> Evaluation:
                part = self.placement.part(minibatch)
                return self.placement.average(self.steps.evaluate_minibatch(params, part, archs))

            return jax.lax.map(one, minibatches)

        return self.placement.compile(evaluate)
