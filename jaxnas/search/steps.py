"""The two steps that every search on a supernet is made of, whatever holds its images and on however many devices.

A step of the weights descends the mean loss of sampled architectures on a minibatch of the training split; a step of
the distributions evaluates what the strategy asks for on a minibatch of the validation split, and tells it (METHOD,
steps 1 to 7). Gradients and losses pass through `average`: where a minibatch is spread over devices, it takes the mean
over them, and every device then holds the same state without exchanging it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnas import distribution
from jaxnas.search.settings import SearchSettings, make_optimizer
from jaxnas.strategies.base import Strategy
from jaxnas.supernet import batching as batching_lib
from jaxnas.supernet.precision import compute_in

Tree = TypeVar("Tree")


@flax.struct.dataclass
class Examples:
    """Images with labels: a whole split, a minibatch, or several minibatches.

    Attributes:
      images: uint8 [..., H, W, 3].
      labels: int32 [...].
      flips: bool [...], which images to mirror; None where that is not decided yet.
    """

    images: jax.Array
    labels: jax.Array
    flips: jax.Array | None = None


@flax.struct.dataclass
class State:
    """All that the next step depends on, but for the images.

    Attributes:
      step: int32 [], steps done.
      key: random key, constant; step t uses fold_in(key, t).
      params: weights of the supernet.
      optimizer: state of the optax chain.
      strategy: state of the strategy.
    """

    step: jax.Array
    key: jax.Array
    params: chex.ArrayTree
    optimizer: optax.OptState
    strategy: chex.ArrayTree


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


class NonFiniteLossError(RuntimeError):
    """A loss was NaN or infinite; the message names the step."""

    @classmethod
    def at(cls, step: int, phase: str, settings: SearchSettings) -> "NonFiniteLossError":
        """The error of a step, counted from 1."""
        return cls(
            f"loss is not finite at step {step} (phase {phase}); lower the learning rate "
            f"({settings.learning_rate}) or the clipping norm ({settings.clip_norm})"
        )


class SearchInterruptedError(RuntimeError):
    """A search was asked to stop and did, after a whole step."""


def _alone(tree: Tree) -> Tree:
    return tree


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a search with one strategy, supernet and settings.

    Attributes:
      strategy: what proposes and learns.
      supernet: module with `apply({"params": params}, images, arch) -> logits`.
      settings: the rest.
      prepare: (Examples of a minibatch, random key) -> float [B, H, W, 3], normalised; augmented if there is a key.
      average: mean over the devices of a tree; the identity where there is one.
    """

    strategy: Strategy
    supernet: Any
    settings: SearchSettings
    prepare: Callable[[Examples, jax.Array | None], jax.Array]
    average: Callable[[Tree], Tree] = _alone

    def fresh(self, key: jax.Array, params: chex.ArrayTree, strategy_key: jax.Array) -> dict[str, Any]:
        """The fields of `State` before the first step."""
        return {
            "step": jnp.int32(0),
            "key": key,
            "params": params,
            "optimizer": make_optimizer(self.settings).init(params),
            "strategy": self.strategy.init(strategy_key),
        }

    def step(
        self, state: State, phase: str, train: Examples | None, valid: Examples | None
    ) -> tuple[State, StepMetrics]:
        """One step of a search.

        Args:
          state: `State`, or a dataclass with its fields and more, which stay as they are.
          phase: "weights", "joint" or "distributions".
          train: A minibatches for the weights, [A, B, ...], whose gradients are averaged; unused where the phase has no
            such step.
          valid: likewise, for the distributions.
        """
        metrics = self.no_metrics()
        weights_key, distributions_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if phase in ("weights", "joint"):
            state, metrics = self._step_weights(state, metrics, train, weights_key, uniform=phase == "weights")
        if phase in ("joint", "distributions"):
            state, metrics = self._step_distributions(state, metrics, valid, distributions_key)
        return state.replace(step=state.step + 1), metrics

    def _step_weights(
        self, state: State, metrics: StepMetrics, minibatches: Examples, key: jax.Array, uniform: bool
    ) -> tuple[State, StepMetrics]:
        """Step 7: a descent of the mean loss of sampled architectures on training images."""
        settings = self.settings
        batch_key, archs_key, subset_key = jax.random.split(key, 3)
        strategy_state = self.strategy.init(archs_key) if uniform else state.strategy
        archs, _ = self.strategy.ask(archs_key, strategy_state)
        if settings.weight_samples is not None:
            archs = jax.random.permutation(subset_key, archs)[: settings.weight_samples]

        def gradient(minibatch: Examples, key: jax.Array) -> tuple[chex.ArrayTree, batching_lib.Evaluation]:
            return batching_lib.gradient(
                self._apply,
                state.params,
                self.prepare(minibatch, key),
                minibatch.labels,
                archs,
                batching=settings.batching,
                chunk_size=settings.chunk_size,
                label_smoothing=settings.label_smoothing,
            )

        gradients, evaluation = self.average(_mean_over(gradient, minibatches, batch_key))
        updates, optimizer = make_optimizer(settings).update(gradients, state.optimizer, state.params)
        state = state.replace(params=optax.apply_updates(state.params, updates), optimizer=optimizer)
        metrics = metrics.replace(
            train_loss=evaluation.loss.mean(),
            train_accuracy=evaluation.accuracy.mean(),
            finite=metrics.finite & jnp.isfinite(evaluation.loss).all(),
        )
        return state, metrics

    def _step_distributions(
        self, state: State, metrics: StepMetrics, minibatches: Examples, key: jax.Array
    ) -> tuple[State, StepMetrics]:
        """Steps 1 to 6: every sample is evaluated once, on common validation images."""
        archs, strategy_state = self.strategy.ask(key, state.strategy)

        def evaluate(minibatch: Examples, key: jax.Array) -> batching_lib.Evaluation:
            del key  # images of the validation split are not augmented
            return self.evaluate_minibatch(state.params, minibatch, archs)

        evaluation = self.average(_mean_over(evaluate, minibatches, key))
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
        return state.replace(strategy=strategy_state), metrics

    def evaluate_minibatch(
        self, params: chex.ArrayTree, minibatch: Examples, archs: jax.Array
    ) -> batching_lib.Evaluation:
        """Losses and accuracies [S] of architectures on this device's images."""
        return batching_lib.evaluate(
            self._apply,
            params,
            self.prepare(minibatch, None),
            minibatch.labels,
            archs,
            batching=self.settings.batching,
            chunk_size=self.settings.chunk_size,
        )

    def _apply(self, params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> jax.Array:
        def apply(params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> jax.Array:
            return self.supernet.apply({"params": params}, images, arch)

        return compute_in(self.settings.precision, apply)(params, images, arch)

    def no_metrics(self) -> StepMetrics:
        """Metrics before anything is measured."""
        nan, nans = jnp.float32(jnp.nan), jnp.full(len(self.strategy.penalties), jnp.nan, jnp.float32)
        return StepMetrics(nan, nan, nans, nans, nans, nans, nans, jnp.bool_(True))


def _mean_over(function: Callable[[Examples, jax.Array], Tree], minibatches: Examples, key: jax.Array) -> Tree:
    """Mean over A minibatches, one after the other, which bounds the memory by one of them."""
    count = len(minibatches.labels)
    if count == 1:
        return function(jax.tree.map(lambda leaf: leaf[0], minibatches), key)

    def add(total: Tree, part: tuple[Examples, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(lambda a, b: a + b / count, total, function(*part)), None

    parts = (minibatches, jax.random.split(key, count))
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *first))
    return jax.lax.scan(add, zero, parts)[0]
