"""A search whose images are streamed from disk and spread over devices and hosts.

The steps are those of `jaxnas.search.steps`; only where images come from and how losses are averaged differ from a
search in memory. The position in the streams follows from the number of steps done, so a checkpoint holds it, and the
images of a step do not depend on the number of devices.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.data.streams import Stream
from jaxnas.runtime import devices
from jaxnas.search.settings import SearchSettings
from jaxnas.search.steps import Examples, NonFiniteLossError, SearchInterruptedError, State, StepMetrics, Steps
from jaxnas.strategies.base import Strategy
from jaxnas.supernet.batching import Evaluation

# Of ImageNet's training images; other photographs are close to it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFETCHED = 2  # minibatches that wait on the devices


@flax.struct.dataclass
class StreamedMetrics(StepMetrics):
    """What one step reports.

    Attributes:
      input_seconds: float32 [], time for which the step waited for images.
      step_seconds: float32 [], time from one step to the next, the waiting included.
    """

    input_seconds: np.ndarray
    step_seconds: np.ndarray


@dataclass(frozen=True, eq=False)
class StreamedSearch:
    """A strategy, a supernet and streams of images, ready to run on all devices.

    Attributes:
      strategy: what proposes and learns.
      supernet: module with `apply({"params": params}, images, arch) -> logits` and `init_params(key)`; its batch norm
        is over `devices.AXIS`, or each device's own.
      train: for the weights; its minibatches are the parts that `settings.accumulate` names.
      valid: for the distributions, likewise.
      settings: the rest.
      evaluation_batches: validation minibatches that `evaluate` uses at most.
    """

    strategy: Strategy
    supernet: object
    train: Stream
    valid: Stream
    settings: SearchSettings
    evaluation_batches: int = 50

    def __post_init__(self):
        settings, count = self.settings, devices.device_count()
        for stream, name in ((self.train, "batch_size"), (self.valid, "valid_batch_size")):
            size = getattr(settings, name)
            if size % (settings.accumulate * count):
                raise ValueError(
                    f"{name} must be a multiple of accumulate ({settings.accumulate}) times the number of devices "
                    f"({count}), got {size}"
                )
            if stream.batch_size != size // settings.accumulate:
                raise ValueError(
                    f"the stream must have minibatches of {name} / accumulate = {size // settings.accumulate} images, "
                    f"got {stream.batch_size}"
                )
        for name in ("crop_padding", "cutout"):
            if getattr(settings, name):
                raise ValueError(f"{name} must be 0: streams crop and flip, got {getattr(settings, name)}")
        if self.evaluation_batches < 1:
            raise ValueError(f"evaluation_batches must be at least 1, got {self.evaluation_batches}")

    def init(self, seed: int) -> State:
        """The state before the first step, one copy."""
        key, params_key, strategy_key = jax.random.split(jax.random.key(seed), 3)
        return State(**self._steps.fresh(key, self.supernet.init_params(params_key), strategy_key))

    @functools.cached_property
    def _steps(self) -> Steps:
        return Steps(self.strategy, self.supernet, self.settings, _prepare, devices.average)

    def run(
        self, state: State, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[State, str, StreamedMetrics]]:
        """Runs the search from `state` to its end.

        Args:
          state: one copy, from `init`, an earlier run or a checkpoint; the same on every process.
          stop: asked at every step whether to end the search; one process's yes is enough for all.

        Yields:
          After each `steps_per_dispatch` steps: the state (one copy), the phase, and the metrics of its steps (numpy,
          leading axis: steps).

        Raises:
          NonFiniteLossError: naming the first step (from 1) with a loss that is no number; the state is lost.
          SearchInterruptedError: after `stop` said so; the state yielded last holds all that was done.
          LostProcessError: if another process of the job ended.
          DeadImagesError: if too many images cannot be read.
        """
        with devices.noticing_lost_processes():
            step, total = int(state.step), self.settings.total_steps
            # pmap would fetch typed random keys to the host at every step: their data goes in their place.
            replicated = devices.replicate(state.replace(key=jax.random.key_data(state.key)))
            feeds = self._feeds(step)
            try:
                while step < total:
                    phase, end = self.settings.phase(step)
                    count = min(self.settings.steps_per_dispatch, end - step)
                    replicated, metrics, stopped = self._run_steps(replicated, feeds, phase, count, stop)
                    if not metrics.finite.all():
                        raise NonFiniteLossError.at(step + 1 + int(np.argmin(metrics.finite)), phase, self.settings)
                    step += len(metrics.finite)
                    copy = devices.unreplicate(replicated)
                    yield copy.replace(key=jax.random.wrap_key_data(copy.key)), phase, metrics
                    if stopped and step < total:
                        raise SearchInterruptedError(f"stopped after step {step} of {total}")
            finally:
                for feed in feeds:
                    feed.close()

    def _feeds(self, step: int) -> tuple["_Feed", "_Feed"]:
        """Training and validation images from where `step` steps have left them."""
        settings, parts = self.settings, self.settings.accumulate
        weights = settings.weight_steps + settings.joint_steps
        left = weights - min(step, weights), settings.total_steps - max(step, settings.weight_steps)
        done = weights - left[0], settings.joint_steps + settings.distribution_steps - left[1]
        return tuple(
            _Feed(stream, first * parts, parts, count)
            for stream, first, count in zip((self.train, self.valid), done, left)
        )

    def _run_steps(
        self, replicated: State, feeds: tuple["_Feed", "_Feed"], phase: str, count: int, stop: Callable[[], bool]
    ) -> tuple[State, StreamedMetrics, bool]:
        """At most `count` steps; fewer if any process wants to stop."""
        wanted = ("weights", "joint"), ("joint", "distributions")
        pending, fetched, stopped = None, [], False
        before = time.perf_counter()
        for _ in range(count):
            started = time.perf_counter()
            minibatches = [feed.take() if phase in phases else None for feed, phases in zip(feeds, wanted)]
            waited = time.perf_counter() - started
            replicated, *measured = self._program(replicated, *minibatches, devices.on_each(float(stop())), phase)
            if pending is not None:  # of the step before, so that the devices always have one to work on
                stopped |= _fetch(pending, fetched)
            now = time.perf_counter()
            pending = (*measured, waited, now - before)
            before = now
            if stopped:
                break
        stopped |= _fetch(pending, fetched)
        return replicated, jax.tree.map(lambda *leaves: np.stack(leaves), *fetched), stopped

    @functools.cached_property
    def _program(self) -> Callable[..., tuple[State, StepMetrics, jax.Array]]:
        def program(state: State, train: Examples | None, valid: Examples | None, stop: jax.Array, phase: str):
            key_data = state.key
            state = state.replace(key=jax.random.wrap_key_data(key_data))
            state, metrics = self._steps.step(state, phase, train, valid)
            return state.replace(key=key_data), metrics, devices.average(stop)

        return devices.on_devices(program, donate=True)

    def evaluate(self, params: chex.ArrayTree, archs: np.ndarray) -> Evaluation:
        """Losses and accuracies on the first `evaluation_batches` minibatches of the validation split, or all of it.

        Every process must call it, with the same arguments.

        Args:
          params: weights of the supernet, one copy.
          archs: int32 [S, D].

        Returns:
          Evaluation with numpy arrays [S].
        """
        return jax.tree.map(lambda leaf: leaf.mean(0), self.evaluate_minibatches(params, archs))

    def evaluate_minibatches(self, params: chex.ArrayTree, archs: np.ndarray) -> Evaluation:
        """As `evaluate`, for each of the M minibatches: numpy arrays [M, S]."""
        whole = max(len(self.valid.subset.indices) // self.valid.batch_size, 1)
        count = min(self.evaluation_batches, whole)
        with devices.noticing_lost_processes():
            replicated = devices.replicate((params, jnp.asarray(archs, jnp.int32)))
            feed = _Feed(self.valid, 0, 1, count)
            try:
                measured = [self._evaluation(*replicated, feed.take(), None) for _ in range(count)]
                measured = [jax.device_get(devices.unreplicate(one)) for one in measured]
            finally:
                feed.close()
        return jax.tree.map(lambda *leaves: np.stack(leaves), *measured)

    @functools.cached_property
    def _evaluation(self) -> Callable[..., Evaluation]:
        def evaluation(params: chex.ArrayTree, archs: jax.Array, minibatches: Examples, unused: None) -> Evaluation:
            del unused
            minibatch = jax.tree.map(lambda leaf: leaf[0], minibatches)
            return devices.average(self._steps.evaluate_minibatch(params, minibatch, archs))

        return devices.on_devices(evaluation)


def _prepare(minibatch: Examples, key: jax.Array | None) -> jax.Array:
    """Normalised and mirrored images; all that is random was drawn on the host."""
    del key
    images = data.normalize(minibatch.images, MEAN, STD)
    return jnp.where(minibatch.flips[:, None, None, None], images[:, :, ::-1], images)


def _fetch(pending: tuple[StepMetrics, jax.Array, float, float], fetched: list[StreamedMetrics]) -> bool:
    """Waits for a step's metrics; returns whether any process wanted to stop."""
    metrics, stop, waited, seconds = pending
    devices.wait(stop)
    metrics, stop = jax.device_get(devices.unreplicate((metrics, stop)))
    times = {"input_seconds": np.float32(waited), "step_seconds": np.float32(seconds)}
    fetched.append(StreamedMetrics(**vars(metrics), **times))
    return bool(stop > 0)


class _Feed:
    """Minibatches of a stream on the devices, read ahead in a thread."""

    def __init__(self, stream: Stream, first: int, parts: int, count: int):
        self._queue: queue.Queue = queue.Queue(PREFETCHED)
        self._closed = threading.Event()
        self._arguments = stream, first, parts, count
        self._thread: threading.Thread | None = None

    def take(self) -> Examples:
        """The next `parts` minibatches, [local devices, parts, R, ...]; raises what went wrong in the thread."""
        if self._thread is None:  # not before images are wanted: a phase may be hours away
            self._thread = threading.Thread(target=self._fill, args=self._arguments, daemon=True, name="images")
            self._thread.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _fill(self, stream: Stream, first: int, parts: int, count: int) -> None:
        try:
            batches = stream.batches(first)
            for _ in range(count):
                taken = [next(batches) for _ in range(parts)]
                stacked = {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}
                examples = Examples(stacked["image"], stacked["label"], stacked["flip"])
                if not self._put(devices.spread(examples)):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
