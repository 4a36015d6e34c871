"""Named arrays from npz files that anyone may have made: nothing is unpickled, and sizes are known before reading."""

import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np

LARGEST_ARRAY = 2**30  # bytes; the largest public table, of 423,624 networks, has arrays of some 30 MB

# What zipfile and numpy raise on damaged or foreign files, depending on where the damage is.
_UNREADABLE = (
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class _NamedError(ValueError):
    """The file is an npz file, but not with these arrays; the message is complete."""


def read_arrays(
    path: str | os.PathLike, needed: Sequence[str], optional: Sequence[str] = (), largest: int = LARGEST_ARRAY
) -> dict[str, np.ndarray]:
    """Reads arrays of numbers or strings.

    Args:
      path: the npz file.
      needed: names of arrays that must be there.
      optional: names of arrays that may be there.
      largest: bytes that one array may have; what an array's header claims is compared before anything is allocated.

    Returns:
      {name: array}.

    Raises:
      OSError: if the file cannot be opened.
      ValueError: if it is no npz file, lacks an array, or an array holds Python objects or is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            known = sorted(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))
            for name in needed:
                if name not in known:
                    raise _NamedError(f"{path} has no array {name!r}; it has {', '.join(known) or 'none'}")
            names = [*needed, *(name for name in optional if name in known)]
            for name in names:
                size = _claimed_bytes(archive, name)
                if not 0 <= size <= largest:
                    raise _NamedError(
                        f"{path}: array {name!r} claims {size:,} bytes, at most {largest:,} are read; "
                        "the file is damaged or no table"
                    )
            return {name: _read(archive, name) for name in names}
    except _NamedError:
        raise
    except _UNREADABLE as fault:
        reason = "pickled objects are not read" if "pickle" in str(fault).lower() else str(fault) or "it ends early"
        raise ValueError(f"{path} is not a readable npz file of plain arrays: {reason:.200}") from fault


def _claimed_bytes(archive: zipfile.ZipFile, name: str) -> int:
    """How large an array is by its header; negative where a dimension is."""
    with archive.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"array {name!r} is of format {version}, known are (1, 0) and (2, 0)")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return -1 if any(size < 0 for size in shape) else math.prod(shape) * dtype.itemsize


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):  # reading to the end also compares the checksum
            raise ValueError(f"array {name!r} is followed by other data")
        return array
