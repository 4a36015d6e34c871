"""One process owns a folder that it writes into: a lock that the system frees when the process ends, however it ends.

FOLDER/.owner   locked with flock as long as the folder is owned; says which process owns it, and is empty afterwards

Where processes share a folder, each owns a part of it by a lock file of another name.
"""

import contextlib
import errno
import logging
import os
import pathlib
import socket
import time
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None

_LOGGER = logging.getLogger(__name__)
LOCK = ".owner"
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_ABSENT = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)  # of file systems without locks
NAMING_SECONDS = 1.0  # that an owner gets between its lock and its name in the file


class OwnedError(ValueError):
    """Another process writes into the folder; the message names it."""


@contextlib.contextmanager
def owned(folder: pathlib.Path, lock: str = LOCK) -> Iterator[None]:
    """Owns a folder, which must exist, until the context ends or the process does.

    The lock is taken before the file changes, so that a process that comes second changes nothing. Where the file
    system has no locks, a warning is logged and the folder is not protected.

    Args:
      folder: what is owned, or what holds it.
      lock: name of the lock file in it.

    Raises:
      OwnedError: if another process, or another part of this one, owns the folder.
      OSError: if the file cannot be made.
    """
    if fcntl is None:
        _LOGGER.warning("%s cannot be locked on this system: start one process for it at a time", folder)
        yield
        return
    descriptor = os.open(folder / lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                raise OwnedError(
                    f"workdir {folder} is in use by {_owner(descriptor)}; wait for its end, or choose another folder"
                ) from error
            if error.errno not in _ABSENT:
                raise
            _LOGGER.warning("%s cannot be locked (%s): start one process for it at a time", folder, error.strerror)
        _write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # of a full disk: the lock counts, not the text
                os.ftruncate(descriptor, 0)
            # Not left to `close`, after which a process that was forked meanwhile would still hold it.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode("utf-8", "replace"), 0)


def _owner(descriptor: int) -> str:
    """What the owner wrote of itself, as one line."""
    end = time.monotonic() + NAMING_SECONDS
    while True:
        text = os.pread(descriptor, 300, 0).decode("utf-8", "replace")
        text = "".join(character for character in text if character.isprintable()).strip()
        if text or time.monotonic() > end:
            return text or "another process"
        time.sleep(0.01)
