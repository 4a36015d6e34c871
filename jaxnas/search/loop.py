"""A search from its newest checkpoint to its end, or to the signal that asks it to stop."""

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from rich.console import Console

from jaxnas.report import SearchDisplay, TensorBoardLog
from jaxnas.results import MetricsLog, keeps_theta, read_metrics, theta_field
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.runtime.shared_checkpoints import SharedCheckpoints
from jaxnas.search.search import Search
from jaxnas.search.steps import SearchInterruptedError, State, StepMetrics
from jaxnas.search.streamed import StreamedSearch

SHOWN = ("train_loss", "loss", "accuracy", "ess", "convergence")  # of a step's record, on the live display


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
    except ValueError:  # not in the main thread: whoever started it looks after signals
        yield lambda: False
        return
    try:
        yield lambda: bool(received)
    finally:
        restore()


def records(step: int, phase: str, metrics: StepMetrics, seconds: float) -> list[dict[str, Any]]:
    """One record a step for metrics.jsonl: what the phase has measured, after `step` steps done before."""
    measured = {
        field.name: np.asarray(getattr(metrics, field.name))
        for field in dataclasses.fields(metrics)
        if field.name != "finite"
    }
    measured = {name: values for name, values in measured.items() if not np.isnan(values).any()}
    return [
        {
            "step": step + index + 1,
            "phase": phase,
            **{name: values[index].tolist() for name, values in measured.items()},
            "wall_seconds": round(seconds, 3),
        }
        for index in range(len(metrics.finite))
    ]


def run(
    search: Search | StreamedSearch,
    seed: int,
    workdir: Path,
    checkpoints: Checkpoints | SharedCheckpoints,
    console: Console,
    *,
    checkpoint_seconds: float,
    report: bool = True,
    with_tensorboard: bool = False,
) -> tuple[State, float]:
    """Runs a search to its end from the newest checkpoint, and logs what it measures.

    Args:
      search: the search.
      seed: of its first state.
      workdir: where `metrics.jsonl` lies.
      checkpoints: where its states lie.
      console: for progress.
      checkpoint_seconds: seconds between checkpoints.
      report: whether this process writes the log; one of a job does.
      with_tensorboard: whether it writes event files for TensorBoard too.

    Returns:
      The state at the end, and the seconds that the search took in all.

    Raises:
      SearchInterruptedError: after SIGTERM or SIGINT; the checkpoint of the last step is whole.
    """
    total = search.settings.total_steps
    state, step, before = search.init(seed), 0, 0.0
    restored = checkpoints.restore_newest(state)
    if restored is not None:
        state, step = restored.state, restored.step
        for skipped in restored.skipped:
            console.print(f"checkpoint of step {skipped.step} is damaged, going back to step {step}: {skipped.path}")
        console.print(f"resuming after step {step} of {total}")
    log_path = workdir / "metrics.jsonl"
    budgets = search.strategy.budgets_by_name
    shown_as = search.strategy.penalties if budgets is None else [next(iter(budget.values())) for budget in budgets]
    display = SearchDisplay(shown_as, total, console, name="penalty" if budgets is None else "budget")
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        log = stack.enter_context(MetricsLog(log_path)) if report else None
        if log is not None:
            log.truncate_after(step)
        board = None
        if report and with_tensorboard:
            earlier = read_metrics(log_path) if step else []
            board = TensorBoardLog(workdir / "tensorboard", step, len(search.strategy.penalties), earlier)
            stack.enter_context(board)
        stack.enter_context(display)
        if step and report:
            before = max((record["wall_seconds"] for record in read_metrics(log_path)), default=0.0)
        started = saved = time.monotonic()
        saved_step = step
        display.update(step, "compiling")
        try:
            for next_state, phase, metrics in search.run(state, stop):
                state = next_state
                steps = records(step, phase, metrics, before + time.monotonic() - started)
                if "loss" in steps[-1] and keeps_theta(step + len(steps), len(steps), total):
                    steps[-1] |= theta_field(state.strategy.theta)
                for record in steps if log is not None else ():
                    log.append(record)
                if board is not None:
                    board.extend(steps)
                step += len(steps)
                shown = {name: steps[-1][name] for name in SHOWN if name in steps[-1]}
                display.update(step, phase, **shown)
                if time.monotonic() - saved >= checkpoint_seconds or step == total:
                    checkpoints.save(step, state)
                    saved, saved_step = time.monotonic(), step
        except SearchInterruptedError:
            if saved_step < step:
                checkpoints.save(step, state)
            raise
    return state, before + time.monotonic() - started
