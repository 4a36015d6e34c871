"""Files that are whole or absent, and JSON that every reader understands."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """Turns a value into what strict JSON can hold, without rounding.

    Arrays and tuples become lists, dataclasses and mappings dictionaries, paths strings, and numbers that are not
    finite None, since JSON has no NaN.

    Raises:
      ValueError: if the value holds anything else.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return to_plain(array.tolist())
        if array.dtype.kind == "V":  # bfloat16 and its kin, which numpy knows as void.
            return to_plain(array.astype(np.float32).tolist())
    raise ValueError(f"value must be made of numbers, strings, arrays, lists and dictionaries, got {type(value)}")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path` to write to, and moves it to `path` if all went well.

    A reader, and whoever looks after a crash or a power failure, finds the old file or the new one, whole. The
    temporary file is a new one under a unique name and on the disk before it is moved; a link at `path` is replaced,
    not followed. The mode is that of any new file: 0o666 less the process's umask.

    Raises:
      OSError: if the file cannot be written; what was at `path` is as before.
    """
    final = pathlib.Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, for writers that choose the format by it.
    temporary = final.with_name(f".{final.stem[:100]}-{secrets.token_hex(8)}{final.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        flush(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(final.parent)


def write_json(path: str | os.PathLike, value: Any, indent: int | None = 2) -> None:
    """Writes a value as strict JSON, through `replacing`.

    Paths that are not UTF-8 are Python strings with lone surrogates, which UTF-8 cannot hold; they are written as
    JSON's escapes and read back as they were.

    Args:
      path: the file.
      value: what `to_plain` takes.
      indent: of the lines; None for one line.

    Raises:
      OSError: if the file cannot be written.
      ValueError: if the value cannot be written as JSON.
    """
    text = json.dumps(to_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    with replacing(path) as temporary:
        temporary.write_bytes((text + "\n").encode("utf-8", "backslashreplace"))


def flush(path: str | os.PathLike) -> None:
    """Forces the content of a file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(folder: str | os.PathLike) -> None:
    """Forces the names in a folder to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        flush(folder)
