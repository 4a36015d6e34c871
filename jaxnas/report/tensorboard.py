"""TensorBoard logs: the scalars of metrics.jsonl as event files, written without TensorFlow."""

import importlib.util
import os
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

from jaxnas.results.files import naming
from jaxnas.results.history import SERIES, TRAINING
from jaxnas.search.loop import Start


def check_installed() -> None:
    """Raises ValueError if tensorboardX is not there; called before hours of work."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("tensorboard logs need tensorboardX; install it with pip install 'jaxnas[tensorboard]'")


class TensorBoardLog:
    """Writes scalars to an event file of a folder. Use it as a context manager.

    The K curves of one quantity stand in one group, such as "loss/k0", "loss/k1"; the page "Custom scalars" shows them
    in one chart.

    Args:
      folder: made if absent.
      step: steps done so far; what an earlier run logged beyond them is hidden from TensorBoard.
      distributions: K.
      earlier: records of the steps done, written if the folder has no log yet, so that none are missing from one that
        a resumed run begins.

    Raises:
      OSError: naming the folder or the file, if it cannot be written; so do the methods.
    """

    def __init__(
        self, folder: str | os.PathLike, step: int, distributions: int, earlier: Iterable[Mapping[str, Any]] = ()
    ):
        check_installed()
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._event, self._scalar = Event, summary.scalar
        self._folder = folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        begun = any(folder.glob("events.out.tfevents.*"))
        # Not SummaryWriter: its queue cannot be emptied on demand, and what a kill leaves there would be missing from
        # the log of the resumed run. Files are named by the second, and the suffix tells two of one second apart.
        with naming(folder):
            self._file = EventsWriter(os.fspath(folder / "events"), f".{step:09d}")
        if begun:
            self._write(step + 1, session_log=SessionLog(status=SessionLog.START))
        self._write(0, summary=summary.custom_scalars(_layout(distributions)))
        self.extend(() if begun else earlier)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *unused: object) -> None:
        with naming(self._folder):
            self._file.close()

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes the scalars of records of metrics.jsonl; after it, a kill of the run does not lose them."""
        for record in records:
            for name in TRAINING:
                self._add(f"train/{name.removeprefix('train_')}", record.get(name), record["step"])
            for name in SERIES:
                for k, value in enumerate(record.get(name, ())):
                    self._add(f"{name}/k{k}", value, record["step"])
        with naming(self._folder):
            self._file.flush()

    def _add(self, tag: str, value: float | None, step: int) -> None:
        if value is not None:
            self._write(step, summary=self._scalar(tag, value))

    def _write(self, step: int, **content: Any) -> None:
        with naming(self._folder):
            self._file.write_event(self._event(wall_time=time.time(), step=step, **content))


class TensorBoardListener:
    """Writes a run's records to a `TensorBoardLog`: a listener of `search.loop.run`.

    Args:
      folder: made if absent.
      distributions: K.
    """

    def __init__(self, folder: str | os.PathLike, distributions: int):
        check_installed()
        self._folder, self._distributions = folder, distributions

    def on_start(self, start: Start) -> None:
        """Opens the log."""
        self._log = TensorBoardLog(self._folder, start.step, self._distributions, start.records)

    def on_steps(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes the scalars."""
        self._log.extend(records)

    def on_end(self) -> None:
        """Closes the log."""
        self._log.__exit__()


def _layout(distributions: int) -> dict[str, dict[str, list]]:
    tags = {name: [f"{name}/k{k}" for k in range(distributions)] for name in SERIES}
    return {"search": {name: ["Multiline", group] for name, group in tags.items()}}
