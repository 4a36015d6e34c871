"""One search over three phases: weights only, weights and distributions in turn, distributions only.

A step of the weights takes a minibatch of the training split and descends the mean loss of sampled architectures; a
step of the distributions takes a minibatch of the validation split, evaluates what the strategy asks for, and tells it
(METHOD, steps 1 to 7). Minibatches come from memory, where many steps are one program on the device, or from a stream,
where a step is one; between programs the host logs and saves. All that the next step depends on is in `SearchState`,
and every random number comes from its key and its step, so that a search cut at any program boundary continues as if
nothing had happened. The minibatches of a step do not depend on the number of devices.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import chex
import flax.struct
import jax

from jaxnas import data
from jaxnas.results import keeps_theta, theta_field
from jaxnas.runtime import loop
from jaxnas.runtime.placement import ONE_DEVICE, Placement
from jaxnas.search import sandwich
from jaxnas.search.dispatch import Dispatcher, run_dispatched
from jaxnas.search.evaluation import Evaluator
from jaxnas.search.ignored import IgnoredShare
from jaxnas.search.images import CrossEntropy, PrepareImages
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import Feed, InMemory, Source
from jaxnas.search.steps import LEARNS_FROM_TRAIN, LEARNS_FROM_VALID, Prepare, State, StepMetrics, Steps
from jaxnas.strategies.base import Strategy
from jaxnas.supernet.batching import Evaluation, Loss
from jaxnas.supernet.distillation import SoftLoss


@flax.struct.dataclass
class SearchState(State):
    """All that the next step depends on.

    Attributes:
      step, key, params, optimizer, strategy: see `State`.
      data_keys: random keys [2], constant, of the order of the training and the validation split; None, as are the
        cursors, where they are streams, whose positions follow from `step`.
      train_cursor: position in the training split.
      valid_cursor: position in the validation split.
    """

    data_keys: jax.Array | None = None
    train_cursor: data.Cursor | None = None
    valid_cursor: data.Cursor | None = None


@dataclass(frozen=True, eq=False)
class Search:
    """A strategy, a supernet and sources of minibatches, ready to run.

    Attributes:
      strategy: the strategy that proposes architectures and learns from their losses.
      supernet: module with `apply({"params": params}, inputs, arch) -> outputs` and `init_params(key)`.
      train: source of minibatches for the weights.
      valid: source of minibatches for the distributions; in memory or streamed, like `train`.
      settings: phases, minibatches, the optimiser and how devices compute.
      prepare: (minibatch, random key or None) -> inputs of the supernet; see `steps.Prepare`. In a search on many
        devices from a stream each device calls it with its part of a minibatch and the same key.
      loss: (outputs, minibatch) -> (loss, {name: metric}), each a mean over the examples; used by the distributions.
      train_loss: likewise, used by the weights; None for `loss`.
      soft_loss: (outputs, a teacher's outputs) -> their distance, a mean over the examples, used if `settings` have
        distillation; None for the divergence of logits [B, ..., classes].
      teacher: a trained network that teaches all architectures in the steps of the weights; None for the most expensive
        of each step.
      placement: the devices.

    Raises:
      ValueError: if sources, settings and placement do not fit each other.
    """

    strategy: Strategy
    supernet: Any
    train: Source
    valid: Source
    settings: SearchSettings
    prepare: Prepare = PrepareImages()
    loss: Loss = CrossEntropy()
    train_loss: Loss | None = None
    soft_loss: SoftLoss | None = None
    teacher: sandwich.Teacher | None = None
    placement: Placement = ONE_DEVICE

    def __post_init__(self):
        if isinstance(self.train, InMemory) != isinstance(self.valid, InMemory):
            raise ValueError("train and valid must both be in memory, or both be streams")
        sandwich.check(self.strategy, self.settings, self.teacher)
        parts, count = self.settings.accumulate, self.placement.count
        for source, name in ((self.train, "batch_size"), (self.valid, "valid_batch_size")):
            size = getattr(self.settings, name)
            if size % (parts * count):
                raise ValueError(
                    f"{name} must be a multiple of accumulate ({parts}) times the number of devices ({count}), "
                    f"got {size}"
                )
            if self._in_memory and size > len(source):
                raise ValueError(f"{name} must be at most the {len(source)} examples of its split, got {size}")
            if not self._in_memory and source.stream.batch_size != size // parts:
                raise ValueError(
                    f"the stream must have minibatches of {name} / accumulate = {size // parts} examples, "
                    f"got {source.stream.batch_size}"
                )

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return self.settings.total_steps

    @property
    def _in_memory(self) -> bool:
        return isinstance(self.train, InMemory)

    @functools.cached_property
    def _steps(self) -> Steps:
        losses = self.loss, self.train_loss or self.loss, self.soft_loss, self.teacher
        # A device gets the whole minibatch from memory, and its part of it from a stream.
        part = {"part": self.placement.part} if self._in_memory else {}
        average = self.placement.average
        return Steps(self.strategy, self.supernet, self.settings, self.prepare, *losses, **part, average=average)

    @functools.cached_property
    def _examples(self) -> tuple[Any, Any, Any]:
        """Both splits as programs take them, None for streams; and the weights of the teacher, if there is one."""
        splits = (self.train.examples, self.valid.examples) if self._in_memory else (None, None)
        return self.placement.put((*splits, None if self.teacher is None else self.teacher.params))

    def init(self, seed: int) -> SearchState:
        """The state before the first step, one copy."""
        key, params_key, strategy_key = jax.random.split(jax.random.key(seed), 3)
        # Not inside jit, where the many small arrays take seconds to compile.
        return self._init(key, self.supernet.init_params(params_key), strategy_key)

    @functools.partial(jax.jit, static_argnums=0)
    def _init(self, key: jax.Array, params: chex.ArrayTree, strategy_key: jax.Array) -> SearchState:
        if not self._in_memory:
            return SearchState(**self._steps.fresh(key, params, strategy_key))
        key, strategy_key, data_key = jax.random.split(key, 3)
        data_keys = jax.random.split(data_key)
        return SearchState(
            **self._steps.fresh(key, params, strategy_key),
            data_keys=data_keys,
            train_cursor=data.start(data_keys[0], len(self.train)),
            valid_cursor=data.start(data_keys[1], len(self.valid)),
        )

    def run(
        self, state: SearchState, stop: Callable[[], bool] = loop.never
    ) -> Iterator[tuple[SearchState, str, StepMetrics]]:
        """Runs the search from `state` to its end.

        On one device the arrays of a yielded state are donated to the next program: save or copy it before the next.

        Args:
          state: one copy, from `init`, an earlier run or a checkpoint; the same on every process.
          stop: asked after each program whether to end the search there; one process's yes is enough for all.

        Yields:
          After at most `steps_per_dispatch` steps: the state (one copy), the phase, and the metrics of its steps
          (numpy, leading axis: steps).

        Raises:
          NonFiniteLossError: naming the first step (from 1) with a loss of the weights that is not finite, or at which
            most losses of the distributions were not (`TooManyIgnoredError`); the state is lost.
          RunInterruptedError: after `stop` asked for it; the state yielded last holds all that was done.
          LostProcessError: if another process of the job ended.
        """
        settings, step = self.settings, int(state.step)

        def advice(step: int) -> str:
            return (
                f"(phase {settings.phase(step)[0]}); lower the learning rate ({settings.learning_rate}) or the "
                f"clipping norm ({settings.clip_norm})"
            )

        ignored = IgnoredShare()

        def dispatch(state: SearchState, step: int) -> tuple[SearchState, StepMetrics, bool]:
            nonlocal ignored
            state, metrics, stopped = self._dispatch(feeds, stop, state, step)
            if settings.phase(step)[0] in LEARNS_FROM_VALID:
                ignored = ignored.after(metrics.ignored, self.strategy.step_samples, step)
            return state, metrics, stopped

        feeds = () if self._in_memory else self._feeds(step)
        programs = run_dispatched(
            self.placement, state, step, self.total_steps, dispatch, feeds=feeds, advice=advice, stop=stop
        )
        for state, metrics in programs:
            phase, _ = settings.phase(step)
            step += len(metrics.finite)
            yield state, phase, metrics

    def records(self, step: int, state: SearchState, phase: str, metrics: StepMetrics) -> list[dict[str, Any]]:
        """Records for metrics.jsonl of what `run` yielded; `step` steps were done before."""
        records = metrics.records(step, phase)
        done = step + len(records)
        if phase in LEARNS_FROM_VALID and keeps_theta(done, len(records), self.total_steps):
            records[-1] |= theta_field(state.strategy.theta)
        return records

    def _feeds(self, step: int) -> tuple[Feed, Feed]:
        """Training and validation minibatches from where `step` steps have left them."""
        settings, parts = self.settings, self.settings.accumulate
        weights = settings.weight_steps + settings.joint_steps
        left = weights - min(step, weights), settings.total_steps - max(step, settings.weight_steps)
        done = weights - left[0], settings.joint_steps + settings.distribution_steps - left[1]
        return tuple(
            Feed(source, self.placement.spread, first * parts, parts, count)
            for source, first, count in zip((self.train, self.valid), done, left)
        )

    def _dispatch(
        self, feeds: tuple[Feed, ...], stop: Callable[[], bool], state: SearchState, step: int
    ) -> tuple[SearchState, StepMetrics, bool]:
        """At most `steps_per_dispatch` steps of one phase; fewer if any process wants to stop."""
        phase, end = self.settings.phase(step)

        def take() -> tuple[Any, ...]:
            wanted = zip(feeds, (LEARNS_FROM_TRAIN, LEARNS_FROM_VALID))
            return tuple(feed.take() if phase in phases else None for feed, phases in wanted)

        count = min(self.settings.steps_per_dispatch, end - step)
        state, metrics, stopped = self._dispatcher(state, phase, count, take if feeds else None, stop)
        return state, metrics.of_phase(phase), stopped

    @functools.cached_property
    def _dispatcher(self) -> Dispatcher:
        def step(state: SearchState, examples: Any, minibatches: Any, phase: str) -> tuple[SearchState, StepMetrics]:
            state, train, valid = self._next(state, examples, phase) if self._in_memory else (state, *minibatches)
            return self._steps.step(state, phase, train, valid, examples[2])

        length = self.settings.steps_per_dispatch if self._in_memory else 1
        return Dispatcher(step, self.placement, self._examples, length)

    def lower(self, phase: str) -> jax.stages.Lowered:
        """The program of a phase, traced for arrays of its shapes: to be compiled and looked at, not to be run."""
        minibatches = None
        if not self._in_memory:
            learning = (LEARNS_FROM_TRAIN, LEARNS_FROM_VALID)
            minibatches = tuple(
                source.shapes(self.settings.accumulate, jax.local_device_count()) if phase in phases else None
                for source, phases in zip((self.train, self.valid), learning)
            )
        return self._dispatcher.lower(jax.eval_shape(lambda: self.init(0)), phase, minibatches)

    def _next(self, state: SearchState, examples: tuple[Any, Any, Any], phase: str) -> tuple[SearchState, Any, Any]:
        """The minibatches [A, B, ...] of a step from memory, and the state with the cursors behind them."""
        settings, minibatches = self.settings, [None, None]
        splits = (
            ("train_cursor", settings.batch_size, LEARNS_FROM_TRAIN),
            ("valid_cursor", settings.valid_batch_size, LEARNS_FROM_VALID),
        )
        for number, (name, size, phases) in enumerate(splits):
            if phase in phases:
                indices, cursor = data.next_indices(state.data_keys[number], getattr(state, name), size)
                state = state.replace(**{name: cursor})
                indices = indices.reshape(settings.accumulate, -1)
                minibatches[number] = jax.tree.map(lambda leaf, indices=indices: leaf[indices], examples[number])
        return state, *minibatches

    def evaluate(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """Losses on the whole validation split, of a stream on at most its `evaluation_batches` first minibatches.

        Batch norm needs minibatches: a split in memory is cut into equal ones of at most `valid_batch_size` examples,
        which leaves out fewer examples than there are minibatches, times devices. Every process must call it, with the
        same arguments.

        Args:
          params: weights of the supernet, one copy.
          archs: int32 [S, D].

        Returns:
          Evaluation with arrays [S].
        """
        return jax.tree.map(lambda leaf: leaf.mean(0), self.evaluate_minibatches(params, archs))

    def evaluate_minibatches(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """As `evaluate`, for each of the M minibatches: arrays [M, S]."""
        return self._evaluator.on_minibatches(params, archs)

    def evaluate_in_turn(self, params: chex.ArrayTree, archs: jax.Array) -> Evaluation:
        """Groups of architectures, each on the next of the M minibatches: int32 [T, S, D] -> arrays [T, S]."""
        return self._evaluator.in_turn(params, archs)

    def evaluate_batch(self, params: chex.ArrayTree, batch: Any, archs: jax.Array) -> Evaluation:
        """As `evaluate`, on one minibatch, such as `valid.take(indices)` or `valid.sample(key, batch_size)`."""
        return self._evaluator.on_batch(params, batch, archs)

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        return Evaluator(self._steps, self.placement, self.valid, self._examples[1], self.settings.valid_batch_size)
