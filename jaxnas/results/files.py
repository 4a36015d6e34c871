"""Files that are whole or absent, and JSON that every reader understands."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

# What the system says of a disk and not of a path: full, over the quota, broken, or a file that is too large for it.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


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

    A reader finds the old file or the new one, whole, also after a crash or a power failure. The
    temporary file is a new one under a unique name and on the disk before it is moved; a link at `path` is replaced,
    not followed. The mode is that of any new file: 0o666 less the process's umask.

    Raises:
      OSError: if the file cannot be written; what was at `path` is as before.
    """
    final = pathlib.Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, for writers that choose the format by it.
    temporary = final.with_name(f".{final.stem[:100]}-{secrets.token_hex(8)}{final.suffix}")
    with naming(final):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with naming(final, temporary):
            yield temporary
            flush(temporary)
            os.replace(temporary, final)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush_folder(final.parent)


@contextlib.contextmanager
def naming(path: str | os.PathLike, *others: str | os.PathLike) -> Iterator[None]:
    """Lets errors of the system that name no file, or one of `others`, name `path`: of a full disk they name none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, *map(os.fspath, others), *others):
            error.filename, error.filename2 = os.fspath(path), None
        raise


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Gives an empty folder beside `path` to write into, and puts it in the place of `path` if all went well.

    All files are on the disk before. A reader finds the old folder or the new one, for an instant neither; a link at
    `path` is replaced, not followed.

    Raises:
      OSError: if it cannot be written; what was at `path` is as before.
    """
    final = pathlib.Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = (final.with_name(f".{final.name[:100]}-{secrets.token_hex(8)}") for _ in range(2))
    with naming(final, temporary):
        temporary.mkdir()
    try:
        with naming(final, temporary):
            yield temporary
            for each in temporary.rglob("*"):
                if each.is_file() and not each.is_symlink():
                    flush(each)
        flush_folder(temporary)
        is_there = os.path.lexists(final)
        if is_there:  # A folder that holds files cannot be replaced by a rename.
            os.rename(final, old)
        try:
            os.rename(temporary, final)
        except BaseException:
            if is_there:
                os.rename(old, final)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(final.parent)
    if is_there:
        if old.is_symlink() or not old.is_dir():
            old.unlink()
        else:
            shutil.rmtree(old)


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
