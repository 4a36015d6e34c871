"""The records of a search as TensorBoard event files."""

import os
from collections.abc import Mapping, Sequence
from typing import Any


class TensorBoardLog:
    """Writes the numbers of records as scalars, those of the K distributions side by side. Use it as a context manager.

    Args:
      directory: for the event files.
      step: the last step that counts; what an earlier, longer run wrote after it is hidden.
      names: [K], what to call the distributions.

    Raises:
      ValueError: if tensorboardX is not installed.
    """

    def __init__(self, directory: str | os.PathLike[str], step: int, names: Sequence[str]):
        try:
            import tensorboardX
        except ImportError as error:
            raise ValueError("tensorboard needs a package: pip install 'jaxnas[tensorboard]'") from error
        self.names = tuple(names)
        self._writer = tensorboardX.SummaryWriter(os.fspath(directory), purge_step=step + 1 if step else None)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, *unused: object) -> None:
        self._writer.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one record of `metrics.jsonl`: {"step": int, name: number or [K] numbers, ...}."""
        for name, value in record.items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, record["step"])
            elif isinstance(value, list) and all(isinstance(number, float) for number in value):
                for which, number in zip(self.names, value, strict=True):
                    self._writer.add_scalar(f"{name}/{which}", number, record["step"])
