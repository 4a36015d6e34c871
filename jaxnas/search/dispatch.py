"""Steps as programs on the devices: many at once on examples in memory, one at a time on streams.

The host waits for what a program measured only after the next one is under way, so that the devices always have work.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from jaxnas.runtime import devices, loop, programs
from jaxnas.runtime.placement import Placement
from jaxnas.search.sources import Feed

State = TypeVar("State")
MeasuredT = TypeVar("MeasuredT", bound=loop.Measured)


@dataclass(frozen=True, eq=False)
class Dispatcher:
    """Runs the steps of one kind of state.

    Attributes:
      step: (state, examples, minibatches, phase) -> (state, what it measured: a dataclass pytree with `finite`, and for
        streams `input_seconds` and `step_seconds` if they are recorded); inside a program, with a phase that is static.
      placement: the devices.
      examples: in memory, as programs take them; None for streams.
      length: steps of a program; 1 for streams.
    """

    step: Callable[[Any, Any, Any, str], tuple[Any, Any]]
    placement: Placement
    examples: Any
    length: int

    def __call__(
        self, state: State, phase: str, count: int, take: Callable[[], Any] | None, stop: Callable[[], bool]
    ) -> tuple[State, Any, bool]:
        """Takes steps of one phase.

        Args:
          state: on the devices; its arrays are donated.
          phase: of the steps.
          count: steps to take; fewer are taken if any process wants to stop.
          take: gives the minibatches of the next step of a stream, on the devices; None for examples in memory.
          stop: whether this process wants to stop.

        Returns:
          The state, what the steps measured (numpy, leading axis: steps), and whether any process wants to stop.
        """
        shared, scalar = self.placement.shared, self.placement.scalar
        pending, fetched, stopped = None, [], False
        before = time.perf_counter()
        for done in range(0, count, self.length):
            started = time.perf_counter()
            minibatches = None if take is None else take()
            waited = time.perf_counter() - started
            steps = min(self.length, count - done)
            flag = scalar(np.float32(stop())) if shared else None
            state, *measured = self._program(state, self.examples, minibatches, scalar(np.int32(steps)), flag, phase)
            if pending is not None:
                stopped |= self._fetch(*pending, fetched)
            now = time.perf_counter()
            pending = (*measured, steps, None if take is None else (waited, now - before))
            before = now
            stopped |= not shared and stop()
            if stopped:
                break
        stopped |= self._fetch(*pending, fetched)
        return state, jax.tree.map(lambda *leaves: np.concatenate(leaves), *fetched), stopped

    def _fetch(
        self,
        measured: loop.Measured,
        stop: jax.Array | None,
        steps: int,
        seconds: tuple[float, float] | None,
        fetched: list[Any],
    ) -> bool:
        """Waits for what a program measured; returns whether any process wanted to stop."""
        self.placement.wait(jax.tree.leaves(measured)[0])
        measured, stop = jax.device_get(self.placement.get((measured, stop)))
        measured = jax.tree.map(lambda leaf: leaf[:steps], measured)
        if seconds is not None and hasattr(measured, "step_seconds"):
            waited, whole = (np.full(steps, value, np.float32) for value in seconds)
            measured = measured.replace(input_seconds=waited, step_seconds=whole)
        fetched.append(measured)
        return stop is not None and bool(stop > 0)

    @functools.cached_property
    def _program(self) -> Callable[..., tuple[Any, Any, jax.Array | None]]:
        def program(
            state: Any, examples: Any, minibatches: Any, count: jax.Array, stop: jax.Array | None, phase: str
        ) -> tuple[Any, Any, jax.Array | None]:
            def step(state: Any) -> tuple[Any, Any]:
                return self.step(state, examples, minibatches, phase)

            state, measured = programs.first_steps(step, state, count, self.length)
            return state, measured, self.placement.average(stop)

        return self.placement.compile(program, donate=True)


def run_dispatched(
    placement: Placement,
    state: State,
    step: int,
    total: int,
    dispatch: Callable[[State, int], tuple[State, MeasuredT, bool]],
    *,
    feeds: Sequence[Feed],
    advice: Callable[[int], str],
    stop: Callable[[], bool],
) -> Iterator[tuple[State, MeasuredT]]:
    """Runs programs from one step to the last on the devices.

    Args:
      placement: the devices.
      state: one copy, the same on every process.
      step: steps done.
      total: steps in all.
      dispatch: as of `loop.run_programs`, on the devices.
      feeds: of the minibatches, which are closed at the end.
      advice: as of `loop.run_programs`.
      stop: asked after each program whether to end the run there; one process's yes is enough for all.

    Yields:
      After each program: the state, one copy, and what its steps measured.

    Raises:
      NonFiniteLossError, RunInterruptedError: as `loop.run_programs`.
      LostProcessError: if another process of the job ended.
    """
    with devices.noticing_lost_processes():
        try:
            own = loop.never if placement.shared else stop
            for live, measured in loop.run_programs(
                placement.put(state), step, total, dispatch, advice=advice, stop=own
            ):
                yield placement.get(live), measured
        finally:
            for feed in feeds:
                feed.close()
