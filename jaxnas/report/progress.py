"""What a running search shows: a live table on a terminal, a plain line now and then elsewhere."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from rich import progress
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jaxnas import strategies
from jaxnas.report.wording import duration
from jaxnas.search.loop import Start

_LIVE_SECONDS, _LINE_SECONDS = 0.1, 5.0
_SHOWN = ("train_loss", "loss", "accuracy", "ess", "convergence", "finish_loss", "finish_accuracy")  # of a step


@dataclasses.dataclass(frozen=True)
class _Snapshot:
    """What `SearchDisplay.update` was told last; arrays are float [K]."""

    step: int
    phase: str
    seconds_left: float | None
    loss: np.ndarray | None
    accuracy: np.ndarray | None
    ess: np.ndarray | None
    convergence: np.ndarray | None
    train_loss: float | None
    note: str


class SearchDisplay:
    """Shows a search on a console: a listener of `search.loop.run`, or a context manager around calls of `update`.

    On a terminal it is a live table with a row for each of the K distributions; elsewhere (a log file, continuous
    integration) one line at the start, at each new phase, at the end, and every few seconds between.

    Args:
      penalties: [K], the penalty coefficients, or other numbers that tell the K networks apart.
      total_steps: steps of all phases together.
      console: where to write; standard output if None.
      name: what `penalties` are.
      labels: [K], what is shown of each network in place of its penalty.
    """

    def __init__(
        self,
        penalties: Sequence[float],
        total_steps: int,
        console: Console | None = None,
        name: str = "penalty",
        labels: Sequence[str] | None = None,
    ):
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        self.penalties = tuple(float(penalty) for penalty in penalties)
        self.labels = tuple(labels or (f"{penalty:.4g}" for penalty in self.penalties))
        self.name = name
        self.total_steps = total_steps
        self.console = Console() if console is None else console
        self._live = Live(console=self.console, refresh_per_second=8) if self.console.is_terminal else None
        self._shown_at: float | None = None
        self._shown_phase = ""
        self._began: tuple[float, int] | None = None

    @classmethod
    def of(cls, strategy: strategies.Strategy, total_steps: int, console: Console | None = None) -> "SearchDisplay":
        """A display that tells a strategy's networks apart by their penalties, or by the first of their budgets."""
        budgets = strategy.budgets_by_name
        if budgets is None:
            return cls(strategy.penalties, total_steps, console)
        firsts = [next(iter(budget.items()), ("", math.inf)) for budget in budgets]
        several = len({name for name, _ in firsts}) > 1  # as of several devices
        labels = [f"{name} {value:.4g}" if several else f"{value:.4g}" for name, value in firsts]
        return cls([value for _, value in firsts], total_steps, console, "budget", labels)

    def __enter__(self) -> "SearchDisplay":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *unused: object) -> None:
        if self._live is not None:
            self._live.stop()

    def on_start(self, start: Start) -> None:
        """Says where the search goes on, and begins to show it."""
        announce(start, self.console)
        self.__enter__()
        self._began = None  # a phase of its own has steps of another length
        self.update(start.step, "compiling")

    def on_steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Shows the last of some steps, if it is time to."""
        last = records[-1]
        shown = {name.removeprefix("finish_"): last[name] for name in _SHOWN if name in last}
        self.update(last["step"], last["phase"], **shown)

    def on_end(self) -> None:
        """Ends the live table."""
        self.__exit__()

    def update(
        self,
        step: int,
        phase: str,
        *,
        seconds_per_step: float | None = None,
        seconds_left: float | None = None,
        loss: ArrayLike | None = None,
        accuracy: ArrayLike | None = None,
        ess: ArrayLike | None = None,
        convergence: ArrayLike | None = None,
        train_loss: ArrayLike | None = None,
        note: str = "",
    ) -> bool:
        """Shows the state of the search, if it is time to.

        Cheap to call at every step: device arrays are fetched only when they are shown.

        Args:
          step: steps done, of all phases.
          phase: name of the phase.
          seconds_per_step: to reckon the time left with; measured since the first call if None.
          seconds_left: the time left, where the caller knows better.
          loss: [K] validation loss of each mode.
          accuracy: [K] likewise, in [0, 1].
          ess: [K] effective sample sizes.
          convergence: [K] in [0, 1], how settled each theta_k is.
          train_loss: mean loss of the weight step.
          note: anything else, one short line.

        Returns:
          Whether it was shown.
        """
        now = time.monotonic()
        if self._began is None:
            self._began = (now, step)
        wait = _LINE_SECONDS if self._live is None else _LIVE_SECONDS
        due = self._shown_at is None or now - self._shown_at >= wait
        if not (due or phase != self._shown_phase or step >= self.total_steps):
            return False
        if seconds_left is None:
            if seconds_per_step is None and step > self._began[1]:
                seconds_per_step = (now - self._began[0]) / (step - self._began[1])
            seconds_left = None if seconds_per_step is None else seconds_per_step * (self.total_steps - step)
        loss, accuracy, ess, convergence = (self._array(value) for value in (loss, accuracy, ess, convergence))
        train_loss = None if train_loss is None else float(np.asarray(train_loss))
        snapshot = _Snapshot(int(step), phase, seconds_left, loss, accuracy, ess, convergence, train_loss, note)
        self._shown_at, self._shown_phase = now, phase
        if self._live is not None:
            self._live.update(self._screen(snapshot))
        else:
            line = self._line(snapshot)
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        return True

    def _array(self, value: ArrayLike | None) -> np.ndarray | None:
        if value is None:
            return None
        array = np.asarray(value, np.float64)
        if array.shape != (len(self.penalties),):
            raise ValueError(
                f"arrays must have one number for each of {len(self.penalties)} penalties, got {array.shape}"
            )
        return array

    def _head(self, shown: _Snapshot) -> list[str]:
        parts = [f"step {shown.step}/{self.total_steps}", shown.phase]
        if shown.seconds_left is not None:
            parts.append(f"{duration(shown.seconds_left)} left")
        if shown.train_loss is not None:
            parts.append(f"train loss {shown.train_loss:.3f}")
        return parts

    def _line(self, shown: _Snapshot) -> str:
        parts = self._head(shown)
        for name, values, digits in _columns(shown):
            parts.append(f"{name} {' '.join(f'{value:.{digits}f}' for value in values)}")
        return " | ".join(parts + ([shown.note] if shown.note else []))

    def _screen(self, shown: _Snapshot) -> RenderableType:
        head = Text("  ".join(self._head(shown)), style="bold")
        bar = Table.grid(expand=True)  # A bar alone does not end its line.
        bar.add_row(ProgressBar(total=self.total_steps, completed=shown.step))
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(self.name, justify="right")
        columns = _columns(shown)
        for name, _, _ in columns:
            table.add_column(name, justify="right")
        if shown.convergence is not None:
            table.add_column("")
        for k, label in enumerate(self.labels):
            row: list[RenderableType] = [
                label,
                *(f"{values[k]:.{digits}f}" for _, values, digits in columns),
            ]
            if shown.convergence is not None:
                row.append(ProgressBar(total=1.0, completed=float(np.nan_to_num(shown.convergence[k])), width=20))
            table.add_row(*row)
        return Group(head, bar, table, *([Text(shown.note, style="dim")] if shown.note else []))


class TrainingDisplay:
    """A bar for the training of one network, gone when it ends; nothing where the console is no terminal.

    Args:
      name: of the network.
      console: where to write.
    """

    def __init__(self, name: str, console: Console):
        columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
        self._name = name
        self._bar = progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)

    def on_start(self, start: Start) -> None:
        """Says where the training goes on, and shows the bar."""
        announce(start, self._bar.console)
        self._bar.start()
        self._task = self._bar.add_task(escape(self._name), total=start.total, completed=start.step)

    def on_steps(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=records[-1]["step"])

    def on_end(self) -> None:
        """Removes the bar."""
        self._bar.stop()


def announce(start: Start, console: Console) -> None:
    """Says which checkpoints are damaged, and after which step a run goes on."""
    for skipped in start.skipped:
        words = f"checkpoint of step {skipped.step} is damaged, going back to step {start.step}: {skipped.path}"
        console.print(words, markup=False)
    for note in start.notes:
        console.print(f"warning: {note}", markup=False, highlight=False, soft_wrap=True)
    if start.step > start.first:
        console.print(f"resuming after step {start.step} of {start.total}")


def _columns(shown: _Snapshot) -> list[tuple[str, np.ndarray, int]]:
    """Name, values [K] and decimals of what is known."""
    accuracy = None if shown.accuracy is None else 100 * shown.accuracy
    convergence = None if shown.convergence is None else 100 * shown.convergence
    columns = [
        ("loss", shown.loss, 3),
        ("accuracy %", accuracy, 1),
        ("effective samples", shown.ess, 1),
        ("settled %", convergence, 0),
    ]
    return [(name, values, digits) for name, values, digits in columns if values is not None]
