"""Files that are whole or absent, and JSON that every reader understands."""

import contextlib
import dataclasses
import math
import os
import pathlib
import tempfile
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
    """Gives a temporary path beside `path` to write to, and moves it to `path` if all went well."""
    final = pathlib.Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, for writers that choose the format by it.
    descriptor, name = tempfile.mkstemp(prefix=f".{final.stem}-", suffix=final.suffix, dir=final.parent)
    temporary = pathlib.Path(name)
    try:
        os.close(descriptor)
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp keeps its files from everybody else.
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
