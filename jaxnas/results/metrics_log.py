"""`metrics.jsonl`: one JSON object a line, whole after a kill, and cut back to the checkpoint on a resume."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from jaxnas.results.files import naming, replacing, to_plain
from jaxnas.results.json_files import parse_json


class MetricsLog:
    """Appends records to a file, one line each. Use it as a context manager.

    A half-written last line, which a killed run may leave, is dropped on opening.

    Args:
      path: the file, made if absent.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO | None = None
        if self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n"):
            self._keep(_whole_lines(self.path))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one record and flushes it.

        Args:
          record: {"step": int, ...}; arrays become lists, numbers that are not finite null.

        Raises:
          ValueError: if "step" is missing or not an integer, or a value cannot be written as JSON.
          OSError: naming the file, if the line cannot be written; half of it may be there.
        """
        plain = to_plain(record)
        if type(plain.get("step")) is not int:
            raise ValueError(f"record must have an integer 'step', got {plain.get('step')!r}")
        with naming(self.path):
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)  # a buffer would try again when the file is closed
            line = (json.dumps(plain, allow_nan=False) + "\n").encode()
            while line:  # one write, unless the disk is nearly full
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Forces what was written to the disk.

        Raises:
          OSError: naming the file, if that fails.
        """
        if self._file is not None:
            with naming(self.path):
                os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> int:
        """Drops the records beyond a step, which the resumed run will write again, and broken lines.

        Returns:
          How many lines were dropped.
        """
        self.close()
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines()
        kept = [line for line in _whole_lines(self.path) if parse_json(line)["step"] <= step]
        if len(kept) < len(lines):
            self._keep(kept)
        return len(lines) - len(kept)

    def close(self) -> None:
        """Closes the file; the next `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _keep(self, lines: list[bytes]) -> None:
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in lines))


def read_metrics(path: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a file, also while a run still writes to it: lines that are no record are left out."""
    return [parse_json(line) for line in _whole_lines(pathlib.Path(path))]


def _whole_lines(path: pathlib.Path) -> list[bytes]:
    *lines, _ = path.read_bytes().split(b"\n")  # What follows the last newline is half a line, or nothing.
    return [line for line in lines if _is_record(line)]


def _is_record(line: bytes) -> bool:
    try:
        record = parse_json(line)
    except ValueError:
        return False
    return isinstance(record, dict) and type(record.get("step")) is int
