"""Losses of architectures on the validation split, or on one minibatch, whatever the source and the devices."""

import functools
from collections.abc import Callable, Sequence
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
            return _stacked(self._streamed(params, [archs] * self._count))

    def in_turn(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """Each group of architectures on the next minibatch of the split: int [T, S, D] -> arrays [T, S].

        After the M-th minibatch the first one is next.
        """
        archs = np.asarray(archs, np.int32)
        if isinstance(self.source, InMemory):
            count, size = self._count, self._size
            starts = (number % count * size for number in range(len(archs)))
            batches = (self.source.take(jnp.arange(start, start + size)) for start in starts)
            return _stacked([self.on_batch(params, batch, group) for batch, group in zip(batches, archs)])
        with devices.noticing_lost_processes():
            params, *groups = self.placement.put((params, *map(jnp.asarray, archs)))
            passes = [groups[first : first + self._count] for first in range(0, len(groups), self._count)]
            return _stacked([one for each in passes for one in self._streamed(params, each)])

    def on_batch(self, params: chex.ArrayTree, batch: Any, archs: jax.Array) -> Evaluation:
        """On one minibatch [B, ...]: int [S, D] -> arrays [S]."""
        params, archs = self.placement.put((params, archs))
        minibatches = self.placement.spread(jax.tree.map(lambda leaf: leaf[None], batch))
        return self.placement.get(self._minibatch(params, minibatches, archs, None))

    @property
    def _count(self) -> int:
        """M."""
        if isinstance(self.source, InMemory):
            return min(-(-len(self.source) // self.batch_size), len(self.source) // self.placement.count)
        return min(self.source.evaluation_batches, max(len(self.source) // self.source.stream.batch_size, 1))

    @property
    def _size(self) -> int:
        """Examples in each minibatch of a split in memory, on all devices together."""
        across = self.placement.count
        return len(self.source) // (self._count * across) * across

    def _streamed(self, params: chex.ArrayTree, groups: Sequence[jax.Array]) -> list[Evaluation]:
        """Groups of architectures on the first minibatches of a stream, one each."""
        feed = Feed(self.source, self.placement.spread, 0, 1, len(groups))
        try:
            measured = [self._minibatch(params, feed.take(), archs, None) for archs in groups]
            return [jax.device_get(self.placement.get(one)) for one in measured]
        finally:
            feed.close()

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
        count, size = self._count, self._size

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


def _stacked(evaluations: Sequence[Evaluation]) -> Evaluation:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *evaluations)
