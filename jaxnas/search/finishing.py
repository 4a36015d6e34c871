"""Networks that share weights, trained together on common minibatches: the last phase of a search.

After the search, the K networks found continue from the weights that they share in the supernet, each computed as a
network of its own. A step takes one minibatch, computes all networks on it one after the other, and descends the sum of
their losses. The learning rate follows its own cosine; the result is a moving average of the weights. The outputs of
one network, the teacher, may be part of the loss of the others (Hinton et al., arXiv 1503.02531; within one model as in
universally slimmable networks, arXiv 1903.05134).

With the mean of the losses, weights that belong to one network alone, as many of the most expensive one do, would learn
K times slower than in a network trained alone.

As in the steps before, all that the next step depends on is in the state, and every random number comes from its key
and its step.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data
from jaxnas.runtime import loop
from jaxnas.runtime.placement import ONE_DEVICE, Placement
from jaxnas.search.dispatch import Dispatcher, run_dispatched
from jaxnas.search.settings import FinishSettings, SearchSettings
from jaxnas.search.sources import Feed, InMemory, Source
from jaxnas.search.steps import Prepare, mean_over
from jaxnas.supernet.batching import Evaluation, Loss
from jaxnas.supernet.distillation import divergence, taught
from jaxnas.supernet.optimizers import moving_average, sgd
from jaxnas.supernet.precision import compute_in

PHASE = "finishing"

# (shared weights, inputs) -> outputs of one network in training.
Member = Callable[[chex.ArrayTree, Any], Any]


@flax.struct.dataclass
class FinishState:
    """All that the next step depends on.

    Attributes:
      step: int32 [], steps of this phase that are done.
      key: random key, constant; step t uses fold_in(key, t).
      params: weights that the networks share.
      average: their exponential moving average.
      optimizer: state of the optax chain.
      data_key: random key, constant, of the order of the examples; None, as is the cursor, where they are streamed, and
        their position follows from `step`.
      cursor: position in the examples.
    """

    step: jax.Array
    key: jax.Array
    params: chex.ArrayTree
    average: chex.ArrayTree
    optimizer: optax.OptState
    data_key: jax.Array | None = None
    cursor: data.Cursor | None = None


@flax.struct.dataclass
class FinishMetrics:
    """What one step reports.

    Attributes:
      loss: float32 [U], of each member on its training minibatch.
      metrics: {name: float32 [U]}, likewise, of what the loss function measures beside the loss.
      finite: bool [], whether every loss was finite.
      input_seconds: float32 [], time for which the step waited for its minibatch, where it is streamed.
      step_seconds: float32 [], time from one step to the next, the waiting included, likewise.
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]
    finite: jax.Array
    input_seconds: np.ndarray | None = None
    step_seconds: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Finishing:
    """Networks that share weights, and the examples to train them on: a `jaxnas.search.loop.Trainer`.

    Attributes:
      members: U networks, all different.
      source: training examples.
      settings: of this phase.
      training: minibatches, optimiser and precision, as in the search.
      prepare: (minibatch, random key or None) -> inputs of the networks; see `steps.Prepare`.
      loss: (outputs, minibatch) -> (loss, other measures by name), each a mean over the examples.
      teacher: number of the network whose outputs the others may learn from: logits [B, ..., classes].
      which: for each of the K networks that are recorded, its number among the members; None for all as they are. Two
        may be the same.
      first_step: steps that the search did before this phase.
      placement: the devices.
    """

    members: Sequence[Member]
    source: Source
    settings: FinishSettings
    training: SearchSettings
    prepare: Prepare
    loss: Loss
    teacher: int = 0
    which: Sequence[int] | None = None
    first_step: int = 0
    placement: Placement = ONE_DEVICE

    def __post_init__(self):
        size, parts, count = self.training.batch_size, self.training.accumulate, self.placement.count
        if size % (parts * count):
            raise ValueError(
                f"batch_size must be a multiple of accumulate ({parts}) times the number of devices ({count}), "
                f"got {size}"
            )
        if not self._in_memory and self.source.stream.batch_size != size // parts:
            raise ValueError(
                f"the stream must have minibatches of batch_size / accumulate = {size // parts} examples, "
                f"got {self.source.stream.batch_size}"
            )

    @property
    def total_steps(self) -> int:
        """Steps of the search and of this phase."""
        return self.first_step + self.settings.finish_steps

    @property
    def _in_memory(self) -> bool:
        return isinstance(self.source, InMemory)

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return sgd(
            self.settings.finish_learning_rate,
            steps=max(self.settings.finish_steps, 1),
            warmup=0.0,
            momentum=self.training.momentum,
            weight_decay=self.training.weight_decay,
            clip_norm=self.training.clip_norm,
        )

    def init(self, params: chex.ArrayTree, key: jax.Array) -> FinishState:
        """The state before the first step, one copy.

        Args:
          params: the weights to begin with.
          key: random key of the order of examples and of what is random in their preparation.
        """
        key, data_key = jax.random.split(key)
        params = jax.tree.map(jnp.asarray, params)
        order = {"data_key": data_key, "cursor": data.start(data_key, len(self.source))} if self._in_memory else {}
        average = jax.tree.map(jnp.copy, params)
        return FinishState(jnp.int32(0), key, params, average, self._optimizer.init(params), **order)

    def run(self, state: FinishState, stop: Callable[[], bool] = loop.never) -> Iterator[tuple[FinishState, Any]]:
        """Trains from `state` to the end; yields and raises as `Search.run`, without the phase."""
        done, parts = int(state.step), self.training.accumulate
        feeds = ()
        if not self._in_memory:
            left = self.settings.finish_steps - done
            feeds = (Feed(self.source, self.placement.spread, done * parts, parts, left),)

        def dispatch(state: FinishState, step: int) -> tuple[FinishState, FinishMetrics, bool]:
            count = min(self.training.steps_per_dispatch, self.total_steps - step)
            return self._dispatcher(state, PHASE, count, feeds[0].take if feeds else None, stop)

        rate = self.settings.finish_learning_rate
        return run_dispatched(
            self.placement,
            state,
            self.first_step + done,
            self.total_steps,
            dispatch,
            feeds=feeds,
            advice=lambda step: f"(phase {PHASE}); lower finish_learning_rate ({rate})",
            stop=stop,
        )

    def records(self, step: int, state: FinishState, metrics: FinishMetrics) -> list[dict[str, Any]]:
        """Records for metrics.jsonl of what `run` yielded; `step` steps, of all phases, were done before."""
        del state
        which = range(len(self.members)) if self.which is None else self.which
        each = {"loss": metrics.loss, **metrics.metrics}
        measured = {f"finish_{name}": value[:, np.array(which)] for name, value in each.items()}
        for name in ("input_seconds", "step_seconds"):
            if getattr(metrics, name) is not None:
                measured[name] = getattr(metrics, name)
        return [
            {
                "step": step + index + 1,
                "phase": PHASE,
                **{name: np.asarray(values[index]).tolist() for name, values in measured.items()},
            }
            for index in range(len(metrics.finite))
        ]

    def lower(self, state: FinishState) -> jax.stages.Lowered:
        """The program of these steps, to be compiled and looked at, where the examples are in memory.

        Args:
          state: one copy, or shapes of it.
        """
        return self._dispatcher.lower(state, PHASE, None)

    @functools.cached_property
    def _dispatcher(self) -> Dispatcher:
        examples = self.placement.put(self.source.examples) if self._in_memory else None
        length = self.training.steps_per_dispatch if self._in_memory else 1
        return Dispatcher(self._step, self.placement, examples, length)

    def _step(
        self, state: FinishState, examples: Any, minibatches: Any, phase: str
    ) -> tuple[FinishState, FinishMetrics]:
        del phase  # there is one
        if self._in_memory:
            indices, cursor = data.next_indices(state.data_key, state.cursor, self.training.batch_size)
            state = state.replace(cursor=cursor)
            indices = indices.reshape(self.training.accumulate, -1)
            minibatches = jax.tree.map(lambda leaf: leaf[indices], examples)
        key = jax.random.fold_in(state.key, state.step)
        gradient = functools.partial(self._gradient, state.params)
        gradients, evaluation = self.placement.average(mean_over(gradient, minibatches, key))
        updates, optimizer = self._optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        average = moving_average(state.average, params, state.step, self.settings.finish_average)
        state = state.replace(step=state.step + 1, params=params, average=average, optimizer=optimizer)
        return state, FinishMetrics(evaluation.loss, evaluation.metrics, jnp.isfinite(evaluation.loss).all())

    def _gradient(self, params: chex.ArrayTree, minibatch: Any, key: jax.Array) -> tuple[chex.ArrayTree, Evaluation]:
        """Gradient of the sum of all losses, and these losses [U], on this device's part of a minibatch."""
        # Prepared whole, then cut: what is random in it does not depend on the number of devices.
        part = self.placement.part if self._in_memory else lambda tree: tree
        inputs, batch = part((self.prepare(minibatch, key), minibatch))
        # The teacher first, whose outputs the others need.
        order = sorted(range(len(self.members)), key=lambda k: k != self.teacher)
        branches = [functools.partial(self._add_member, k, inputs, batch) for k in order]
        zero, targets = jax.tree.map(jnp.zeros_like, params), None
        if self.settings.finish_distillation:
            outputs = jax.eval_shape(functools.partial(self._outputs, self.teacher), params, inputs)
            targets = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outputs)

        def add(carry: tuple[chex.ArrayTree, Any], place: jax.Array) -> tuple[tuple[chex.ArrayTree, Any], Evaluation]:
            return jax.lax.switch(place, branches, params, *carry)

        # A branch of a loop has memory of its own, which the next one takes over: it is that of the largest network.
        # Of networks one behind the other in one program, the compiler for CPUs moves parts past each other.
        (total, _), measured = jax.lax.scan(add, (zero, targets), jnp.arange(len(order)))
        return total, jax.tree.map(lambda leaf: leaf[np.argsort(order)], measured)

    def _add_member(
        self, k: int, inputs: Any, batch: Any, params: chex.ArrayTree, total: chex.ArrayTree, targets: Any
    ) -> tuple[tuple[chex.ArrayTree, Any], Evaluation]:
        """The total with the gradient of one network added, and the outputs of the teacher once they are known."""
        share = self.settings.finish_distillation

        def objective(params: chex.ArrayTree) -> tuple[jax.Array, tuple[Evaluation, Any]]:
            outputs = self._outputs(k, params, inputs)
            value, metrics = self.loss(outputs, batch)
            if not share or k == self.teacher:
                return value, (Evaluation(value, metrics), outputs)
            distance = divergence(outputs, targets, self.settings.finish_temperature)
            return taught(value, distance, share), (Evaluation(value, metrics), targets)

        gradients, (evaluation, outputs) = jax.grad(objective, has_aux=True)(params)
        targets = jax.lax.stop_gradient(outputs) if share else None
        return (jax.tree.map(jnp.add, total, gradients), targets), evaluation

    def _outputs(self, k: int, params: chex.ArrayTree, inputs: Any) -> Any:
        member = compute_in(self.training.precision, lambda params, inputs, _: self.members[k](params, inputs))
        return member(params, inputs, None)
