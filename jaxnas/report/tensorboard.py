"""TensorBoard logs: the scalars of metrics.jsonl as event files, written without TensorFlow."""

import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxnas.report.history import SERIES, TRAINING


def check_installed() -> None:
    """Raises ValueError if tensorboardX is not there; called before hours of work."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError("tensorboard logs need tensorboardX; install it with pip install 'jaxnas[tensorboard]'")


class TensorBoardLog:
    """Appends scalars to an event file of a folder. Use it as a context manager.

    The K curves of one quantity stand in one group, such as "loss/k0", "loss/k1"; the page "Custom scalars" shows them
    in one chart.

    Args:
      folder: made if absent.
      step: steps done so far; what an earlier run logged beyond them is hidden from TensorBoard.
      distributions: K.
      earlier: records of the steps done, written if the folder has no log yet, so that none are missing from one that
        a resumed run begins.
    """

    def __init__(
        self, folder: str | os.PathLike, step: int, distributions: int, earlier: Iterable[Mapping[str, Any]] = ()
    ):
        check_installed()
        import tensorboardX

        folder = pathlib.Path(folder)
        begun = any(folder.glob("events.out.tfevents.*"))
        self._writer = tensorboardX.SummaryWriter(os.fspath(folder), purge_step=step + 1 if begun else None)
        self._writer.add_custom_scalars(_layout(distributions))
        if not begun:
            for record in earlier:
                self.append(record)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *unused: object) -> None:
        self._writer.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes the scalars of one record of metrics.jsonl."""
        for name in TRAINING:
            if record.get(name) is not None:
                self._writer.add_scalar(f"train/{name.removeprefix('train_')}", record[name], record["step"])
        for name in SERIES:
            values: Sequence[float | None] = record.get(name, ())
            for k, value in enumerate(values):
                if value is not None:
                    self._writer.add_scalar(f"{name}/k{k}", value, record["step"])


def _layout(distributions: int) -> dict[str, dict[str, list]]:
    tags = {name: [f"{name}/k{k}" for k in range(distributions)] for name in SERIES}
    return {"search": {name: ["Multiline", group] for name, group in tags.items()}}
