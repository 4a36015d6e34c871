"""One search over three phases: weights only, weights and distributions in turn, distributions only.

A step of the weights takes a minibatch of the training split and descends the mean loss of sampled architectures; a
step of the distributions takes a minibatch of the validation split, evaluates what the strategy asks for, and tells it
(METHOD, steps 1 to 7). Many steps are one program on the device; between programs the host logs and saves. All that
the next step depends on is in `SearchState`, and every random number comes from its key and its step, so that a search
cut at any program boundary continues as if nothing had happened.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.search.settings import SearchSettings
from jaxnas.search.steps import Examples, NonFiniteLossError, SearchInterruptedError, State, StepMetrics, Steps
from jaxnas.strategies.base import Strategy
from jaxnas.supernet.batching import Evaluation

__all__ = ["NonFiniteLossError", "Search", "SearchState", "StepMetrics"]


@flax.struct.dataclass
class SearchState(State):
    """All that the next step depends on.

    Attributes:
      step, key, params, optimizer, strategy: see `State`.
      data_keys: random keys [2], constant, of the order of the training and the validation split.
      train_cursor: position in the training split.
      valid_cursor: position in the validation split.
    """

    data_keys: jax.Array
    train_cursor: data.Cursor
    valid_cursor: data.Cursor


@dataclass(frozen=True, eq=False)
class Search:
    """A strategy, a supernet and data, ready to run.

    Attributes:
      strategy: what proposes and learns.
      supernet: module with `apply({"params": params}, images, arch) -> logits` and `init_params(key)`.
      dataset: its normalisation and whether flips keep the classes.
      train: training split, for the weights.
      valid: validation split, for the distributions.
      settings: the rest.
    """

    strategy: Strategy
    supernet: object
    dataset: data.ImageDataset
    train: data.Split
    valid: data.Split
    settings: SearchSettings

    def __post_init__(self):
        for field, name in (("train", "batch_size"), ("valid", "valid_batch_size")):
            split, size = getattr(self, field), getattr(self.settings, name)
            if size > len(split.labels):
                raise ValueError(f"{name} must be at most the {len(split.labels)} images of its split, got {size}")
            # uint8 images live on the device for the whole search.
            object.__setattr__(self, field, Examples(jnp.asarray(split.images), jnp.asarray(split.labels)))

    def init(self, seed: int) -> SearchState:
        """The state before the first step."""
        key, params_key = jax.random.split(jax.random.key(seed))
        # Not inside jit, where the many small arrays take seconds to compile.
        return self._init(key, self.supernet.init_params(params_key))

    @functools.partial(jax.jit, static_argnums=0)
    def _init(self, key: jax.Array, params: chex.ArrayTree) -> SearchState:
        key, strategy_key, data_key = jax.random.split(key, 3)
        data_keys = jax.random.split(data_key)
        return SearchState(
            **self.steps.fresh(key, params, strategy_key),
            data_keys=data_keys,
            train_cursor=data.start(data_keys[0], len(self.train.labels)),
            valid_cursor=data.start(data_keys[1], len(self.valid.labels)),
        )

    def run(
        self, state: SearchState, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[SearchState, str, StepMetrics]]:
        """Runs the search from `state` to its end.

        The arrays of a yielded state are donated to the next program: save or copy it before going on.

        Args:
          state: from `init`, an earlier run or a checkpoint.
          stop: asked after each program whether to end the search there.

        Yields:
          After each program: the state, the phase, and the metrics of its steps (numpy, leading axis: steps).

        Raises:
          NonFiniteLossError: naming the first step (from 1) with a loss that is no number; the state is lost.
          SearchInterruptedError: after `stop` said so; the state yielded last holds all that was done.
        """
        step = int(state.step)
        while step < self.settings.total_steps:
            phase, end = self.settings.phase(step)
            count = min(self.settings.steps_per_dispatch, end - step)
            state, metrics = self._run_steps(state, self.train, self.valid, jnp.int32(count), phase)
            metrics = jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], metrics)
            if not metrics.finite.all():
                first = step + 1 + int(np.argmin(metrics.finite))
                raise NonFiniteLossError.at(first, phase, self.settings)
            step += count
            yield state, phase, metrics
            if stop() and step < self.settings.total_steps:
                raise SearchInterruptedError(f"stopped after step {step} of {self.settings.total_steps}")

    @functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=1)
    def _run_steps(
        self, state: SearchState, train: Examples, valid: Examples, count: jax.Array, phase: str
    ) -> tuple[SearchState, StepMetrics]:
        """The first `count` of `steps_per_dispatch` steps; a fixed length keeps one compiled program for each phase."""
        nothing = self.steps.no_metrics()

        def step(state: SearchState, active: jax.Array) -> tuple[SearchState, StepMetrics]:
            return jax.lax.cond(
                active,
                lambda state: self._step(state, train, valid, phase),
                lambda state: (state, nothing),
                state,
            )

        return jax.lax.scan(step, state, jnp.arange(self.settings.steps_per_dispatch) < count)

    def _step(
        self, state: SearchState, train: Examples, valid: Examples, phase: str
    ) -> tuple[SearchState, StepMetrics]:
        settings = self.settings
        train_minibatches = valid_minibatches = None
        if phase in ("weights", "joint"):
            indices, cursor = data.next_indices(state.data_keys[0], state.train_cursor, settings.batch_size)
            state = state.replace(train_cursor=cursor)
            train_minibatches = self._minibatches(train, indices)
        if phase in ("joint", "distributions"):
            indices, cursor = data.next_indices(state.data_keys[1], state.valid_cursor, settings.valid_batch_size)
            state = state.replace(valid_cursor=cursor)
            valid_minibatches = self._minibatches(valid, indices)
        return self.steps.step(state, phase, train_minibatches, valid_minibatches)

    def _minibatches(self, split: Examples, indices: jax.Array) -> Examples:
        indices = indices.reshape(self.settings.accumulate, -1)
        return jax.tree.map(lambda leaf: leaf[indices], split)

    @functools.cached_property
    def steps(self) -> Steps:
        """The steps that this search repeats."""
        return Steps(self.strategy, self.supernet, self.settings, self._prepare)

    def _prepare(self, minibatch: Examples, key: jax.Array | None) -> jax.Array:
        images = data.normalize(minibatch.images, self.dataset.mean, self.dataset.std)
        if key is None:
            return images
        settings = self.settings
        return data.augment(
            key, images, crop_padding=settings.crop_padding, flip=self.dataset.flip, cutout=settings.cutout
        )

    def evaluate_on(self, params: chex.ArrayTree, indices: jax.Array, archs: jax.Array) -> Evaluation:
        """Losses and accuracies on one validation minibatch.

        Args:
          params: weights of the supernet.
          indices: int [B] into the validation split.
          archs: int32 [S, D].

        Returns:
          Evaluation with arrays [S].
        """
        return self._evaluate_minibatch(params, self.minibatch(indices), archs)

    def minibatch(self, indices: jax.Array) -> Examples:
        """Images and labels of the validation split: int [B] -> Examples [B]."""
        return jax.tree.map(lambda leaf: leaf[indices], self.valid)

    @functools.partial(jax.jit, static_argnums=0)
    def _evaluate_minibatch(self, params: chex.ArrayTree, minibatch: Examples, archs: jax.Array) -> Evaluation:
        return self.steps.evaluate_minibatch(params, minibatch, archs)

    def evaluate(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """Losses and accuracies on the whole validation split.

        Batch norm needs minibatches: the split is cut into equal ones of at most `valid_batch_size` images, which
        leaves out fewer images than there are minibatches.

        Args:
          params: weights of the supernet.
          archs: int32 [S, D].

        Returns:
          Evaluation with arrays [S].
        """
        return jax.tree.map(lambda leaf: leaf.mean(0), self.evaluate_minibatches(params, archs))

    def evaluate_minibatches(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """As `evaluate`, for each of the M minibatches: arrays [M, S]."""
        return self._evaluate(params, self.valid, jnp.asarray(archs))

    @functools.partial(jax.jit, static_argnums=0)
    def _evaluate(self, params: chex.ArrayTree, valid: Examples, archs: jax.Array) -> Evaluation:
        count = -(-len(valid.labels) // self.settings.valid_batch_size)
        size = len(valid.labels) // count
        minibatches = jax.tree.map(lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), valid)

        return jax.lax.map(lambda minibatch: self._evaluate_minibatch(params, minibatch, archs), minibatches)
