"""The two steps that every search on a supernet is made of, whatever its minibatches hold and on however many devices.

A step of the weights descends the mean loss of sampled architectures on a minibatch of the training split; a step of
the distributions evaluates what the strategy asks for on a minibatch of the validation split, and tells it (METHOD,
steps 1 to 7). Gradients and losses pass through `average`: where a minibatch is spread over devices, it takes the mean
over them, and every device then holds the same state without exchanging it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import distribution
from jaxnas.search import sandwich
from jaxnas.search.settings import SearchSettings
from jaxnas.strategies.base import Strategy
from jaxnas.supernet import batching as batching_lib
from jaxnas.supernet import distillation
from jaxnas.supernet.precision import compute_in

Tree = TypeVar("Tree")

LEARNS_FROM_TRAIN, LEARNS_FROM_VALID = ("weights", "joint"), ("joint", "distributions")  # the phases

# prepare(batch, key) -> inputs of the supernet, with the leading axis of the batch; augmented if there is a key.
Prepare = Callable[[Any, jax.Array | None], Any]


@flax.struct.dataclass
class State:
    """All that the next step depends on, but for the minibatches.

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
    """What one step reports; NaN or nothing where the phase has no such step.

    Attributes:
      train_loss: float32 [], mean over the architectures of the weights' step.
      train_metrics: {name: float32 []}, likewise, of what the loss function measures beside the loss.
      loss: float32 [K], validation loss of the samples, weighted towards each distribution.
      metrics: {name: float32 [K]}, likewise, of what the loss function measures beside the loss.
      ess: float32 [K], effective sample size.
      convergence: float32 [K], mean over decisions of the largest probability.
      entropy: float32 [K], in nats.
      ignored: int32 [], losses of the distributions' step that were not finite, and ignored.
      finite: bool [], whether every loss of the weights' step was finite.
      archs: int32 [S, D], the architectures of the distributions' step.
      losses: float32 [S], their losses, as they were measured.
      input_seconds: float32 [], time for which the step waited for its minibatches, where they are streamed.
      step_seconds: float32 [], time from one step to the next, the waiting included, likewise.
    """

    train_loss: jax.Array
    train_metrics: dict[str, jax.Array]
    loss: jax.Array
    metrics: dict[str, jax.Array]
    ess: jax.Array
    convergence: jax.Array
    entropy: jax.Array
    ignored: jax.Array
    finite: jax.Array
    archs: jax.Array
    losses: jax.Array
    input_seconds: np.ndarray | None = None
    step_seconds: np.ndarray | None = None

    def of_phase(self, phase: str) -> "StepMetrics":
        """On the host: NaN in place of what a phase does not measure.

        Programs leave 0 there, since `jax_debug_nans` takes a NaN for an error.
        """
        lacking = () if phase in LEARNS_FROM_TRAIN else ("train_loss",)
        if phase not in LEARNS_FROM_VALID:
            lacking += ("loss", "ess", "convergence", "entropy", "ignored")
        return self.replace(**{name: np.full(getattr(self, name).shape, np.nan, np.float32) for name in lacking})

    def records(self, step: int, phase: str) -> list[dict[str, Any]]:
        """One record a step for metrics.jsonl: what the phase has measured, after `step` steps done before.

        Raises:
          ValueError: if the loss function measures something by a name that records use for something else.
        """
        measured = {"step": None, "phase": None}
        for field in dataclasses.fields(self):
            if field.name in ("finite", "archs", "losses"):  # every evaluation is in `evaluations.npz`
                continue
            value = getattr(self, field.name)
            prefix = field.name.removesuffix("metrics")  # "train_" of training metrics
            named = {prefix + name: one for name, one in value.items()} if isinstance(value, dict) else None
            for name, one in ({field.name: value} if named is None else named).items():
                if name in measured:
                    raise ValueError(f"metrics of the loss function must have other names than {name!r}")
                measured[name] = None if one is None or np.isnan(one).any() else np.asarray(one)
        measured = {name: values for name, values in measured.items() if values is not None}
        return [
            {
                "step": step + index + 1,
                "phase": phase,
                **{name: value[index].tolist() for name, value in measured.items()},
            }
            for index in range(len(self.finite))
        ]


def _alone(tree: Tree) -> Tree:
    return tree


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a search with one strategy, supernet and settings.

    Attributes:
      strategy: what proposes and learns.
      supernet: module with `apply({"params": params}, inputs, arch) -> outputs`.
      settings: the rest.
      prepare: see `Prepare`.
      loss: of the distributions.
      train_loss: of the weights.
      soft_loss: how far the outputs of an architecture are from a teacher's; None for the divergence of logits.
      teacher: what teaches all architectures of a step; None for the most expensive of them, if `settings` want it.
      part: this device's part of a minibatch that all devices hold; the identity where each holds its own.
      average: mean over the devices of a tree; the identity where there is one.
    """

    strategy: Strategy
    supernet: Any
    settings: SearchSettings
    prepare: Prepare
    loss: batching_lib.Loss
    train_loss: batching_lib.Loss
    soft_loss: distillation.SoftLoss | None = None
    teacher: sandwich.Teacher | None = None
    part: Callable[[Tree], Tree] = _alone
    average: Callable[[Tree], Tree] = _alone

    def fresh(self, key: jax.Array, params: chex.ArrayTree, strategy_key: jax.Array) -> dict[str, Any]:
        """The fields of `State` before the first step."""
        return {
            "step": jnp.int32(0),
            "key": key,
            "params": params,
            "optimizer": self.settings.optimizer().init(params),
            "strategy": self.strategy.init(strategy_key),
        }

    def step(
        self, state: State, phase: str, train: Any, valid: Any, teacher_params: chex.ArrayTree = None
    ) -> tuple[State, StepMetrics]:
        """One step of a search.

        Args:
          state: `State`, or a dataclass with its fields and more, which stay as they are.
          phase: "weights", "joint" or "distributions".
          train: A minibatches for the weights, [A, B, ...], whose gradients are averaged; unused where the phase has no
            such step.
          valid: likewise, for the distributions.
          teacher_params: of `teacher`, where there is one.
        """
        metrics = self._no_metrics()
        weights_key, distributions_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if phase in LEARNS_FROM_TRAIN:
            with jax.named_scope("weights"):
                uniform = phase == "weights"
                state, metrics = self._step_weights(state, metrics, train, weights_key, uniform, teacher_params)
        if phase in LEARNS_FROM_VALID:
            with jax.named_scope("distributions"):
                state, metrics = self._step_distributions(state, metrics, valid, distributions_key)
        return state.replace(step=state.step + 1), metrics

    def _step_weights(
        self,
        state: State,
        metrics: StepMetrics,
        minibatches: Any,
        key: jax.Array,
        uniform: bool,
        teacher_params: chex.ArrayTree,
    ) -> tuple[State, StepMetrics]:
        """Step 7: a descent of the mean loss of sampled architectures on the training split."""
        settings = self.settings
        batch_key, archs_key, subset_key = jax.random.split(key, 3)
        strategy_state = self.strategy.init(archs_key) if uniform else state.strategy
        sort = bool(settings.distillation) and self.teacher is None
        archs = sandwich.step_archs(self.strategy, settings, strategy_state, archs_key, subset_key, sort)

        def gradient(minibatch: Any, key: jax.Array) -> tuple[chex.ArrayTree, batching_lib.Evaluation]:
            # Prepared whole, then cut: what is random in it does not depend on the number of devices.
            inputs, batch = self.part((self.prepare(minibatch, key), minibatch))
            arguments = (self._apply, state.params, inputs, batch, archs, self.train_loss)
            options = {"batching": settings.batching, "chunk_size": settings.chunk_size}
            if not settings.distillation:
                return batching_lib.gradient(*arguments, **options)
            return distillation.gradient(
                *arguments,
                soft_loss=self.soft_loss or distillation.of_logits(settings.distillation_temperature),
                share=settings.distillation,
                targets=None if self.teacher is None else self.teacher.apply(teacher_params, inputs),
                **options,
            )

        gradients, evaluation = self.average(mean_over(gradient, minibatches, batch_key))
        updates, optimizer = settings.optimizer().update(gradients, state.optimizer, state.params)
        state = state.replace(params=optax.apply_updates(state.params, updates), optimizer=optimizer)
        metrics = metrics.replace(
            train_loss=evaluation.loss.mean(),
            train_metrics=jax.tree.map(jnp.mean, evaluation.metrics),
            finite=metrics.finite & jnp.isfinite(evaluation.loss).all(),
        )
        return state, metrics

    def _step_distributions(
        self, state: State, metrics: StepMetrics, minibatches: Any, key: jax.Array
    ) -> tuple[State, StepMetrics]:
        """Steps 1 to 6: every sample is evaluated once, on a common minibatch of the validation split."""
        archs, strategy_state = self.strategy.ask(key, state.strategy)

        def evaluate(minibatch: Any, key: jax.Array) -> batching_lib.Evaluation:
            del key  # the validation split is not augmented
            return self.evaluate_minibatch(state.params, self.part(minibatch), archs)

        evaluation = self.average(mean_over(evaluate, minibatches, key))
        strategy_state, info = self.strategy.tell(strategy_state, archs, evaluation.loss)
        shares = info.weights / jnp.maximum(info.weights.sum(-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
        usable = jnp.isfinite(evaluation.loss)
        measured = jax.tree.map(lambda values: shares @ jnp.where(usable, values, 0.0), evaluation)
        metrics = metrics.replace(
            loss=measured.loss,
            metrics=measured.metrics,
            ess=info.ess,
            convergence=distribution.convergence(strategy_state.theta),
            entropy=distribution.entropy(strategy_state.theta),
            ignored=info.ignored,
            archs=archs,
            losses=evaluation.loss.astype(jnp.float32),
        )
        return state.replace(strategy=strategy_state), metrics

    def evaluate_minibatch(self, params: chex.ArrayTree, minibatch: Any, archs: jax.Array) -> batching_lib.Evaluation:
        """Losses [S] of architectures on this device's part of a minibatch."""
        return batching_lib.evaluate(
            self._apply,
            params,
            self.prepare(minibatch, None),
            minibatch,
            archs,
            self.loss,
            batching=self.settings.batching,
            chunk_size=self.settings.chunk_size,
        )

    def _apply(self, params: chex.ArrayTree, inputs: Any, arch: jax.Array) -> Any:
        def apply(params: chex.ArrayTree, inputs: Any, arch: jax.Array) -> Any:
            return self.supernet.apply({"params": params}, inputs, arch)

        return compute_in(self.settings.precision, apply)(params, inputs, arch)

    def _no_metrics(self) -> StepMetrics:
        """Metrics before anything is measured; see `StepMetrics.of_phase`."""
        zero, zeros = jnp.float32(0), jnp.zeros(len(self.strategy.penalties), jnp.float32)
        samples, decisions = self.strategy.step_samples, len(self.strategy.space.decisions)
        archs, losses = jnp.zeros((samples, decisions), jnp.int32), jnp.zeros(samples, jnp.float32)
        return StepMetrics(zero, {}, zeros, {}, zeros, zeros, zeros, jnp.int32(0), jnp.bool_(True), archs, losses)


def mean_over(function: Callable[[Any, jax.Array], Tree], minibatches: Any, key: jax.Array) -> Tree:
    """Mean over A minibatches, one after the other, which bounds the memory by one of them."""
    count = len(jax.tree.leaves(minibatches)[0])
    if count == 1:
        return function(jax.tree.map(lambda leaf: leaf[0], minibatches), key)

    def add(total: Tree, part: tuple[Any, jax.Array]) -> tuple[Tree, None]:
        return jax.tree.map(lambda a, b: a + b / count, total, function(*part)), None

    parts = (minibatches, jax.random.split(key, count))
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, *first))
    return jax.lax.scan(add, zero, parts)[0]
