"""One search over three phases: weights only, weights and distributions in turn, distributions only.

A step of the weights takes a minibatch of the training split and descends the mean loss of sampled architectures; a
step of the distributions takes a minibatch of the validation split, evaluates what the strategy asks for, and tells it
(METHOD, steps 1 to 7). Many steps are one program on the device; between programs the host logs and saves. All that
the next step depends on is in `SearchState`, and every random number comes from its key and its step, so that a search
cut at any program boundary continues as if nothing had happened.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data, distribution
from jaxnas.settings import SearchSettings, make_optimizer
from jaxnas.strategies.base import Strategy
from jaxnas.supernet import batching as batching_lib
from jaxnas.supernet.precision import compute_in


@flax.struct.dataclass
class Examples:
    """A split on the device.

    Attributes:
      images: uint8 [N, H, W, 3].
      labels: int32 [N].
    """

    images: jax.Array
    labels: jax.Array


class NonFiniteLossError(RuntimeError):
    """A loss was NaN or infinite; the message names the step."""


@flax.struct.dataclass
class SearchState:
    """All that the next step depends on.

    Attributes:
      step: int32 [], steps done.
      key: random key, constant; step t uses fold_in(key, t).
      params: weights of the supernet.
      optimizer: state of the optax chain.
      strategy: state of the strategy.
      data_keys: random keys [2], constant, of the order of the training and the validation split.
      train_cursor: position in the training split.
      valid_cursor: position in the validation split.
    """

    step: jax.Array
    key: jax.Array
    params: chex.ArrayTree
    optimizer: optax.OptState
    strategy: chex.ArrayTree
    data_keys: jax.Array
    train_cursor: data.Cursor
    valid_cursor: data.Cursor


@flax.struct.dataclass
class StepMetrics:
    """What one step reports; NaN where the phase has no such step.

    Attributes:
      train_loss: float32 [], mean over the architectures of the weights' step.
      train_accuracy: float32 [].
      loss: float32 [K], validation loss of the samples, weighted towards each distribution.
      accuracy: float32 [K], likewise.
      ess: float32 [K], effective sample size.
      convergence: float32 [K], mean over decisions of the largest probability.
      entropy: float32 [K], in nats.
      finite: bool [], whether every loss was finite.
    """

    train_loss: jax.Array
    train_accuracy: jax.Array
    loss: jax.Array
    accuracy: jax.Array
    ess: jax.Array
    convergence: jax.Array
    entropy: jax.Array
    finite: jax.Array


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
            step=jnp.int32(0),
            key=key,
            params=params,
            optimizer=make_optimizer(self.settings).init(params),
            strategy=self.strategy.init(strategy_key),
            data_keys=data_keys,
            train_cursor=data.start(data_keys[0], len(self.train.labels)),
            valid_cursor=data.start(data_keys[1], len(self.valid.labels)),
        )

    def run(self, state: SearchState) -> Iterator[tuple[SearchState, str, StepMetrics]]:
        """Runs the search from `state` to its end.

        The arrays of a yielded state are donated to the next program: save or copy it before going on.

        Yields:
          After each program: the state, the phase, and the metrics of its steps (numpy, leading axis: steps).

        Raises:
          NonFiniteLossError: naming the first step (from 1) with a loss that is no number; the state is lost.
        """
        step = int(state.step)
        while step < self.settings.total_steps:
            phase, end = self.settings.phase(step)
            count = min(self.settings.steps_per_dispatch, end - step)
            state, metrics = self._run_steps(state, self.train, self.valid, jnp.int32(count), phase)
            metrics = jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], metrics)
            if not metrics.finite.all():
                first = step + 1 + int(np.argmin(metrics.finite))
                raise NonFiniteLossError(
                    f"loss is not finite at step {first} (phase {phase}); lower the learning rate "
                    f"({self.settings.learning_rate}) or the clipping norm ({self.settings.clip_norm})"
                )
            step += count
            yield state, phase, metrics

    @functools.partial(jax.jit, static_argnums=(0, 5), donate_argnums=1)
    def _run_steps(
        self, state: SearchState, train: Examples, valid: Examples, count: jax.Array, phase: str
    ) -> tuple[SearchState, StepMetrics]:
        """The first `count` of `steps_per_dispatch` steps; a fixed length keeps one compiled program for each phase."""
        nothing = self._no_metrics()

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
        metrics = self._no_metrics()
        weights_key, distributions_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if phase in ("weights", "joint"):
            state, metrics = self._step_weights(state, metrics, train, weights_key, uniform=phase == "weights")
        if phase in ("joint", "distributions"):
            state, metrics = self._step_distributions(state, metrics, valid, distributions_key)
        return state.replace(step=state.step + 1), metrics

    def _step_weights(
        self, state: SearchState, metrics: StepMetrics, train: Examples, key: jax.Array, uniform: bool
    ) -> tuple[SearchState, StepMetrics]:
        """Step 7: a descent of the mean loss of sampled architectures on a training minibatch."""
        settings = self.settings
        batch_key, archs_key, subset_key = jax.random.split(key, 3)
        indices, cursor = data.next_indices(state.data_keys[0], state.train_cursor, settings.batch_size)
        images = data.normalize(train.images[indices], self.dataset.mean, self.dataset.std)
        images = data.augment(
            batch_key,
            images,
            crop_padding=settings.crop_padding,
            flip=self.dataset.flip,
            cutout=settings.cutout,
        )
        strategy_state = self.strategy.init(archs_key) if uniform else state.strategy
        archs, _ = self.strategy.ask(archs_key, strategy_state)
        if settings.weight_samples is not None:
            archs = jax.random.permutation(subset_key, archs)[: settings.weight_samples]
        gradient, evaluation = batching_lib.gradient(
            self._apply,
            state.params,
            images,
            train.labels[indices],
            archs,
            batching=settings.batching,
            chunk_size=settings.chunk_size,
            label_smoothing=settings.label_smoothing,
        )
        updates, optimizer = make_optimizer(settings).update(gradient, state.optimizer, state.params)
        state = state.replace(
            params=optax.apply_updates(state.params, updates), optimizer=optimizer, train_cursor=cursor
        )
        metrics = metrics.replace(
            train_loss=evaluation.loss.mean(),
            train_accuracy=evaluation.accuracy.mean(),
            finite=metrics.finite & jnp.isfinite(evaluation.loss).all(),
        )
        return state, metrics

    def _step_distributions(
        self, state: SearchState, metrics: StepMetrics, valid: Examples, key: jax.Array
    ) -> tuple[SearchState, StepMetrics]:
        """Steps 1 to 6: every sample is evaluated once, on one common validation minibatch."""
        settings = self.settings
        indices, cursor = data.next_indices(state.data_keys[1], state.valid_cursor, settings.valid_batch_size)
        archs, strategy_state = self.strategy.ask(key, state.strategy)
        minibatch = jax.tree.map(lambda leaf: leaf[indices], valid)
        evaluation = self._evaluate_minibatch(state.params, minibatch, archs)
        strategy_state, info = self.strategy.tell(strategy_state, archs, evaluation.loss)
        shares = info.weights / info.weights.sum(-1, keepdims=True)
        metrics = metrics.replace(
            loss=shares @ evaluation.loss,
            accuracy=shares @ evaluation.accuracy,
            ess=info.ess,
            convergence=distribution.convergence(strategy_state.theta),
            entropy=distribution.entropy(strategy_state.theta),
            finite=metrics.finite & jnp.isfinite(evaluation.loss).all(),
        )
        return state.replace(strategy=strategy_state, valid_cursor=cursor), metrics

    def evaluate_on(self, params: chex.ArrayTree, indices: jax.Array, archs: jax.Array) -> batching_lib.Evaluation:
        """Losses and accuracies on one validation minibatch.

        Args:
          params: weights of the supernet.
          indices: int [B] into the validation split.
          archs: int32 [S, D].

        Returns:
          Evaluation with arrays [S].
        """
        return self._evaluate_minibatch(params, jax.tree.map(lambda leaf: leaf[indices], self.valid), archs)

    @functools.partial(jax.jit, static_argnums=0)
    def _evaluate_minibatch(
        self, params: chex.ArrayTree, minibatch: Examples, archs: jax.Array
    ) -> batching_lib.Evaluation:
        images = data.normalize(minibatch.images, self.dataset.mean, self.dataset.std)
        return batching_lib.evaluate(
            self._apply,
            params,
            images,
            minibatch.labels,
            archs,
            batching=self.settings.batching,
            chunk_size=self.settings.chunk_size,
        )

    def _apply(self, params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> jax.Array:
        def apply(params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> jax.Array:
            return self.supernet.apply({"params": params}, images, arch)

        return compute_in(self.settings.precision, apply)(params, images, arch)

    def _no_metrics(self) -> StepMetrics:
        nan, nans = jnp.float32(jnp.nan), jnp.full(len(self.strategy.penalties), jnp.nan, jnp.float32)
        return StepMetrics(nan, nan, nans, nans, nans, nans, nans, jnp.bool_(True))

    def evaluate(self, params: chex.ArrayTree, archs: jax.Array) -> batching_lib.Evaluation:
        """Losses and accuracies on the whole validation split.

        Batch norm needs minibatches: the split is cut into equal ones of at most `valid_batch_size` images, which
        leaves out fewer images than there are minibatches.

        Args:
          params: weights of the supernet.
          archs: int32 [S, D].

        Returns:
          Evaluation with arrays [S].
        """
        return self._evaluate(params, self.valid, jnp.asarray(archs))

    @functools.partial(jax.jit, static_argnums=0)
    def _evaluate(self, params: chex.ArrayTree, valid: Examples, archs: jax.Array) -> batching_lib.Evaluation:
        count = -(-len(valid.labels) // self.settings.valid_batch_size)
        size = len(valid.labels) // count
        minibatches = jax.tree.map(lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), valid)

        evaluations = jax.lax.map(lambda minibatch: self._evaluate_minibatch(params, minibatch, archs), minibatches)
        return jax.tree.map(lambda leaf: leaf.mean(0), evaluations)
