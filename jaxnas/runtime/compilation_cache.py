"""JAX's persistent compilation cache in the user's cache folder, so that a second start compiles nothing.

Its entries are code that is run: the folder is for its owner alone.
"""

import contextlib
import logging
import os
import stat
import time
from pathlib import Path

import jax
from jax._src import compilation_cache

_LOGGER = logging.getLogger(__name__)
CHECKED = ".checked"  # as old as the last look at the entries


def default_directory() -> Path:
    """`$JAXNAS_CACHE`, or `jaxnas/xla` in the user's cache folder."""
    if "JAXNAS_CACHE" in os.environ:
        return Path(os.environ["JAXNAS_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxnas" / "xla"


def enable(directory: Path | None = None) -> None:
    """Turns the cache on, unless the user has set JAX's own (JAX_COMPILATION_CACHE_DIR).

    A folder that belongs to another user, or that others may write to and cannot be made private, is not used.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    directory = directory or default_directory()
    reason = _make_private(directory)
    if reason:
        _LOGGER.warning("programs are not kept in %s: %s", directory, reason)
        return
    _remove_damaged(directory)
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Programs of a supernet are few and slow to compile; small ones are quicker compiled than looked up.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _make_private(directory: Path) -> str:
    """Makes the folder, with mode 0700; why it cannot be used, or nothing."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = directory.stat()
        if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
            return "it belongs to another user"
        if stat.S_IMODE(found.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _remove_damaged(directory: Path) -> None:
    """Removes entries that a kill or a full disk cut, which JAX would neither load nor replace.

    An entry is looked at once: at the first start after it was written.
    """
    marker = directory / CHECKED
    try:
        since = marker.stat().st_mtime_ns if marker.exists() else 0
        now = time.time_ns()
        for entry in directory.glob("*-cache"):
            with contextlib.suppress(FileNotFoundError):  # another process was quicker
                if entry.stat().st_mtime_ns >= since and not _is_whole(entry.read_bytes()):
                    entry.unlink()
        marker.touch()
        os.utime(marker, ns=(now, now))
    except OSError as error:
        _LOGGER.warning("the kept programs in %s could not be checked: %s", directory, error.strerror)


def _is_whole(entry: bytes) -> bool:
    try:
        compilation_cache.extract_executable_and_time(compilation_cache.decompress_executable(entry))
    except AttributeError:  # a JAX that names these otherwise: it will tell what it thinks of the entry
        return True
    except Exception:  # zlib's, zstandard's, or those of slices
        return False
    return True
