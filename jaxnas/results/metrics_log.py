"""`metrics.jsonl`: one JSON object a line, whole after a kill, and cut back to the checkpoint on a resume.

Each line ends with the CRC-32 of what stands before it, so that a changed digit is a broken line and no other number:

    {"step": 7, "loss": [0.5, 0.25], "crc32": "1c291ca3"}

Files without any are of an earlier version, or written by hand; they are read as they stand, and continued likewise.
"""

import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from jaxnas.results.files import naming, replacing, to_plain
from jaxnas.results.json_files import parse_json

CHECKSUM = "crc32"
_CHECKED = re.compile(rb'(.*), "crc32": "([0-9a-f]{8})"\}', re.DOTALL)


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
        lines = _whole_lines(self.path) if self.path.exists() else []
        self._checks = not lines or _CHECKED.fullmatch(lines[0]) is not None
        if self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n"):
            self._keep(lines)

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
            text = json.dumps(plain, allow_nan=False).encode()
            line = (_checked(text) if self._checks else text) + b"\n"
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
    return read_whole_lines(path)[0]


def read_whole_lines(path: str | os.PathLike) -> tuple[list[dict[str, Any]], int]:
    """The records of a file, and how many lines are none: damaged, or half written."""
    raw = pathlib.Path(path).read_bytes()
    lines = _whole_lines(pathlib.Path(path), raw)
    records = [parse_json(line) for line in lines]
    for record in records:
        record.pop(CHECKSUM, None)
    return records, len([line for line in raw.split(b"\n") if line]) - len(lines)


def _checked(line: bytes) -> bytes:
    """A JSON object with the checksum of all else in it."""
    return b'%b, "%b": "%08x"}' % (line[:-1], CHECKSUM.encode(), zlib.crc32(line[:-1]))


def _whole_lines(path: pathlib.Path, raw: bytes | None = None) -> list[bytes]:
    *lines, _ = (path.read_bytes() if raw is None else raw).split(b"\n")
    # What follows the last newline is half a line, or nothing.
    records = [line for line in lines if _is_record(line)]
    found = [_CHECKED.fullmatch(line) for line in records]
    sound = [parts is not None and int(parts[2], 16) == zlib.crc32(parts[1]) for parts in found]
    return [line for line, whole in zip(records, sound) if whole] if any(found) else records


def _is_record(line: bytes) -> bool:
    try:
        record = parse_json(line)
    except ValueError:
        return False
    return isinstance(record, dict) and type(record.get("step")) is int
