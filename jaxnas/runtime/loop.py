"""The loop on the host around programs of steps: it counts, checks that losses are finite, and stops when asked to."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Protocol, TypeVar

import numpy as np

State = TypeVar("State")


class Measured(Protocol):
    """What n steps measured.

    Attributes:
      finite: bool [n], whether every loss of a step was finite.
    """

    finite: np.ndarray


MeasuredT = TypeVar("MeasuredT", bound=Measured)


class NonFiniteLossError(RuntimeError):
    """A loss was NaN or infinite; the message names the step."""


class RunInterruptedError(RuntimeError):
    """A run was asked to stop and did, after a whole step."""


def never() -> bool:
    """Never asks to stop."""
    return False


def run_programs(
    state: State,
    step: int,
    total: int,
    dispatch: Callable[[State, int], tuple[State, MeasuredT, bool]],
    *,
    advice: Callable[[int], str],
    stop: Callable[[], bool] = never,
) -> Iterator[tuple[State, MeasuredT]]:
    """Runs programs from one step to the last.

    Args:
      state: after `step` steps.
      step: steps done.
      total: steps in all.
      dispatch: (state, steps done) -> (state, what one or more steps measured, on the host, whether to stop).
      advice: what to say of a step (from 0) with a loss that is not finite, after the step's number.
      stop: asked after each program whether to end the run there.

    Yields:
      After each program: the state, and what its steps measured.

    Raises:
      NonFiniteLossError: naming the first step (from 1) with a loss that is NaN or infinite.
      RunInterruptedError: after `stop` or `dispatch` asked for it; the state yielded last holds all that was done.
    """
    while step < total:
        state, measured, stopped = dispatch(state, step)
        if not np.all(measured.finite):
            first = step + int(np.argmin(measured.finite))
            raise NonFiniteLossError(f"loss is not finite at step {first + 1} {advice(first)}")
        step += len(measured.finite)
        yield state, measured
        if (stopped or stop()) and step < total:
            raise RunInterruptedError(f"stopped after step {step} of {total}")


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether SIGTERM or SIGINT came. A second one has its usual effect, at once."""
    received = []

    def receive(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for number in before:
            signal.signal(number, receive)
    except ValueError:  # not in the main thread, which handles signals
        yield never
        return
    try:
        yield lambda: bool(received)
    finally:
        restore()
