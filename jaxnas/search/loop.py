"""A run from its newest checkpoint to its end, or to the signal that asks it to stop: of a search or a retraining.

What happens on the way is written to `metrics.jsonl` and told to listeners, such as a display or a log for TensorBoard.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jaxnas.results import MetricsLog, read_metrics
from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.runtime.damage import Skipped
from jaxnas.runtime.loop import RunInterruptedError, stop_on_signals
from jaxnas.search import environment

State = TypeVar("State")


class Trainer(Protocol[State]):
    """What is run.

    Attributes:
      total_steps: steps of the whole run.
    """

    total_steps: int

    def run(self, state: State, stop: Callable[[], bool]) -> Iterator[tuple[Any, ...]]:
        """Yields tuples after some steps each: the state, then what they measured."""

    def records(self, step: int, state: State, *measured: Any) -> list[dict[str, Any]]:
        """Records for metrics.jsonl of what `run` yielded; `step` steps were done before. The last has the step now."""


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
      step: steps done before; 0 for a fresh run.
      total: steps of the whole run.
      records: of the steps done; none on processes that do not report.
      skipped: newer checkpoints that were damaged.
      notes: what is special about this start, each a line for people.
      first: steps of what came before this run in the same folder, as a search comes before the finishing.
    """

    step: int
    total: int
    records: list[dict[str, Any]]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()
    first: int = 0


class Listener(Protocol):
    """What follows a run."""

    def on_start(self, start: Start) -> None:
        """Called before the first step."""

    def on_steps(self, records: list[dict[str, Any]]) -> None:
        """Called after some steps with their records."""

    def on_end(self) -> None:
        """Called at the end, also after an error."""


class Keeper(Protocol):
    """What a run keeps for later beside its log and its state: exactly what the steps up to its checkpoint measured."""

    def resume(self, step: int) -> None:
        """Called before the first step with the steps done before: what is of later ones goes."""

    def keep(self, step: int, *measured: Any) -> None:
        """Called with what `Trainer.run` yielded beside the state; `step` steps were done before."""

    def write(self) -> None:
        """Called before each checkpoint is saved."""


def run(
    trainer: Trainer[State],
    state: State,
    workdir: Path,
    checkpoints: Checkpoints,
    *,
    checkpoint_seconds: float,
    listeners: Sequence[Listener] = (),
    keeper: Keeper | None = None,
    report: bool = True,
    first_step: int = 0,
) -> tuple[State, float]:
    """Runs to the end from the newest checkpoint, and logs what is measured.

    Args:
      trainer: a search or a retraining.
      state: before the first step.
      workdir: where `metrics.jsonl` lies.
      checkpoints: where the states lie.
      checkpoint_seconds: seconds between checkpoints.
      listeners: what follows the run.
      keeper: what it keeps; on the process that writes.
      report: whether this process writes the log; one of a job does.
      first_step: steps of what came before in the same folder; the trainer counts on from there.

    Returns:
      The state at the end, and the seconds that the run took in all.

    Raises:
      RunInterruptedError: after SIGTERM or SIGINT; the checkpoint of the last step is whole.
      OSError: if the log cannot be written; the last step is saved if a checkpoint can be.
    """
    step, skipped, records = first_step, (), []
    restored = checkpoints.restore_newest(state)
    if restored is not None:
        state, step, skipped = restored.state, restored.step, restored.skipped
    devices.together(lambda: None if keeper is None else keeper.resume(step))

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        log = stack.enter_context(MetricsLog(workdir / "metrics.jsonl")) if report else None
        if log is not None:
            if step < trainer.total_steps:  # else what lies beyond is of a later phase, with checkpoints of its own
                log.truncate_after(step)
            records = read_metrics(log.path) if step and log.path.exists() else []

        def save(step: int, state: State) -> None:
            # The checkpoint last: a kill in between leaves more than the older one needs.
            if keeper is not None:
                keeper.write()
            if log is not None:
                log.sync()
            checkpoints.save(step, state)

        before = max((record["wall_seconds"] for record in records if _has_seconds(record)), default=0.0)
        notes = ()
        if log is not None:
            notes = (
                *environment.renew(workdir, resumed=step > first_step),
                *missing_records(records, step, trainer.total_steps),
            )
        for listener in listeners:
            listener.on_start(Start(step, trainer.total_steps, records, skipped, notes, first_step))
            stack.callback(listener.on_end)
        started = saved = time.monotonic()
        saved_step = step
        try:
            for next_state, *measured in trainer.run(state, stop):
                state = next_state
                records = trainer.records(step, state, *measured)
                if keeper is not None:
                    keeper.keep(step, *measured)
                step = records[-1]["step"]
                seconds = round(before + time.monotonic() - started, 3)
                for record in records:
                    record["wall_seconds"] = seconds
                    if log is not None:
                        log.append(record)
                for listener in listeners:
                    listener.on_steps(records)
                if time.monotonic() - saved >= checkpoint_seconds or step == trainer.total_steps:
                    save(step, state)
                    saved, saved_step = time.monotonic(), step
        except (RunInterruptedError, OSError) as error:
            if saved_step < step:
                _save_last(save, checkpoints, step, state, error)
            raise
    return state, before + time.monotonic() - started


def _save_last(
    save: Callable[[int, Any], None],
    checkpoints: Checkpoints,
    step: int,
    state: Any,
    reason: RunInterruptedError | OSError,
) -> None:
    """Saves before the run ends; where the file system is why it ends, that may fail as well and is not told."""
    try:
        save(step, state)
        checkpoints.wait()
    except Exception:  # of the disk, or of a state whose buffers the failed program had taken already
        if not isinstance(reason, OSError):
            raise


def missing_records(records: Sequence[Mapping[str, Any]], step: int, total: int) -> tuple[str, ...]:
    """Which steps the log has lost: the state is in the checkpoints alone, so that a run goes on all the same.

    A run writes a record for each step, or for equally many steps each but the last of all. A line is missing where
    more steps lie between two records than between others.

    Args:
      records: of the log.
      step: that the run goes on after.
      total: steps of the whole run.

    Returns:
      A line for people, or none if all is there.
    """
    steps = [0, *(record["step"] for record in records if 0 < record["step"] <= step), step]
    strides = [after - before for before, after in zip(steps[:-1], steps[1:]) if after > before]
    usual = min(strides[:-1] if step == total and len(strides) > 1 else strides, default=1) if records else 1
    known = {record["step"] for record in records}
    gaps = [  # a record that is there tells of its own steps
        (before + 1, after - usual if after in known else after)
        for before, after in zip(steps[:-1], steps[1:])
        if after - before > usual
    ]
    if not gaps:
        return ()
    shown = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in gaps[:5]) + (
        ", ..." if len(gaps) > 5 else ""
    )
    return (f"metrics.jsonl has lost records of steps {shown}; curves and wall_seconds lack them, the result does not",)


def _has_seconds(record: Mapping[str, Any]) -> bool:
    return type(record.get("wall_seconds")) in (int, float)
