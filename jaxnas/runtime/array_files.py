"""Arrays by name in a folder, written and read by Orbax. The only module that imports Orbax."""

import contextlib
import logging
import os
import pathlib
import re
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint
from orbax.checkpoint import v1 as ocp

from jaxnas.results.files import OF_THE_DISK

# Orbax renamed it between 0.11 and 0.12.
_load = ocp.load if hasattr(ocp, "load") else ocp.load_pytree


def save(folder: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays into a new folder, also in one of several processes, without waiting for the others.

    Not by Orbax's newer interface: it compares folders across processes whatever its options say, and a folder that it
    cannot make leaves a thread behind that waits ten minutes for it, and the end of the process with it.
    """
    with _quiet():
        options = _alone()
        handler = orbax.checkpoint.PyTreeCheckpointHandler(multiprocessing_options=options)
        with orbax.checkpoint.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
            checkpointer.save(folder, arrays)


def load(folder: pathlib.Path, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reads arrays of the names, shapes and dtypes of `like`, likewise."""
    with _quiet():
        if jax.process_count() == 1:
            return _load(folder, like)
        with ocp.Context(multiprocessing_options=_alone()):
            return _load(folder, like)


def one_line(error: BaseException) -> str:
    """What went wrong in an operation on files."""
    text = " ".join(str(error).split()) or type(error).__name__
    # Under Orbax lies TensorStore, whose messages quote whole specifications around what the system said.
    for said in map(os.strerror, OF_THE_DISK):
        if said in text:
            return said
    reason = re.search(r"([^:\[\]]+) \[os_error_code=|\[OS error \d+: ([^\]]+)\]", text)
    if reason:
        return (reason[1] or reason[2]).strip()
    return text if len(text) <= 200 else text[:200] + "..."


def _alone() -> ocp.options.MultiprocessingOptions:
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax's progress reports and guesses, written through absl's logger and the root, out of the run's log."""

    def keep(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    loggers = logging.getLogger("absl"), logging.getLogger()
    for logger in loggers:
        logger.addFilter(keep)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(keep)
