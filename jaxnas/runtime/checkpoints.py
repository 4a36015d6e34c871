"""Checkpoints of a search that survive kills, full disks and flipped bits. The only file that knows of Orbax.

A checkpoint is one folder, named by its step:

    checkpoints/1200/state/        the leaves of the state, written by Orbax under their names in the tree
    checkpoints/1200/digest.json   sha256 of every file and of every leaf

It is built under a hidden name and renamed when it is whole and on the disk, so a folder named by a number is always a
complete checkpoint. The digests then tell what happened to it afterwards: a restore verifies them and falls back to
the checkpoint before.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import chex
import jax
import numpy as np
import orbax.checkpoint
from orbax.checkpoint import v1 as ocp

from jaxnas.runtime import digests, named_leaves

_LOGGER = logging.getLogger(__name__)
_STATE = "state"
_BUILDING, _DELETING, _CORRUPT = ".saving-", ".deleting-", "corrupt-"

# Orbax renamed these between 0.11 and 0.12.
_orbax_save = ocp.save if hasattr(ocp, "save") else ocp.save_pytree
_orbax_load = ocp.load if hasattr(ocp, "load") else ocp.load_pytree


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A checkpoint that was found corrupt.

    Attributes:
      step: its step.
      path: where it lies now, set aside under another name where that was possible.
      reason: what is wrong with it.
    """

    step: int
    path: pathlib.Path
    reason: str


@dataclasses.dataclass(frozen=True)
class Restored:
    """The newest whole checkpoint.

    Attributes:
      step: its step.
      state: pytree with the structure, shapes and dtypes that were asked for.
      skipped: newer checkpoints that were corrupt, newest first.
    """

    step: int
    state: chex.ArrayTree
    skipped: tuple[Skipped, ...] = ()


class Checkpoints:
    """The checkpoints of one run, in one local folder; use it as a context manager.

    `save` copies the state to the host before it returns, so the caller may donate the state's buffers to the next
    step at once; the writing goes on in a thread. In a run of several processes one alone uses it
    (`shared_checkpoints`).

    Args:
      directory: the folder, made if absent.
      keep: how many checkpoints to keep, newest first. Keep two at least to have one to fall back on.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}; 2 leaves a checkpoint to fall back on")
        if "://" in os.fspath(directory) or any(letter in os.fspath(directory) for letter in "*?["):
            # Orbax looks for its own files with glob, which would take these characters for a pattern.
            raise ValueError(f"directory must be a local path without '*', '?' or '[', got {os.fspath(directory)!r}")
        self.directory = pathlib.Path(directory).absolute()
        self.keep = keep
        self._thread: threading.Thread | None = None
        self._error: CheckpointError | None = None
        self._corrupt: set[int] = set()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot make the folder {self.directory}: {_one_line(error)}") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *unused: object) -> None:
        try:
            self.wait()
        except CheckpointError as error:
            if exception_type is None:
                raise
            _LOGGER.warning("%s", error)  # The exception on its way says more about why the run ends.

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the checkpoints on disk, oldest first, without those known to be corrupt."""
        names = [path.name for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir()]
        return tuple(sorted(int(name) for name in names if name == str(int(name)) and int(name) not in self._corrupt))

    def save(self, step: int, state: chex.ArrayTree) -> None:
        """Saves a state in the background, after the save before it has ended.

        Args:
          step: at least the newest step on disk; the same step again replaces that checkpoint.
          state: pytree of arrays, typed random keys and Python numbers.

        Raises:
          CheckpointError: if the save before this one failed.
          ValueError: if `step` is negative or older than the newest checkpoint, or a leaf is not an array.
        """
        self.wait()
        newest = max(self.steps, default=0)
        if step < newest:
            held = f"the newest checkpoint in {self.directory}"
            raise ValueError(f"step must be at least {newest}, {held}, got {step}; restore that or use another folder")
        leaves = named_leaves.to_host(state)
        self._thread = threading.Thread(target=self._save_in_thread, args=(int(step), leaves), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Waits for the save in progress.

        Raises:
          CheckpointError: if it failed. Earlier checkpoints are as they were.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def restore_newest(self, like: chex.ArrayTree) -> Restored | None:
        """Restores the newest whole checkpoint.

        Corrupt checkpoints are skipped with a warning and, once an older one is restored, renamed `corrupt-STEP`.

        Args:
          like: pytree of arrays or `jax.ShapeDtypeStruct`: structure, shapes, dtypes and placement to restore into.
            Its values are not read, so they may be donated ones. Weakly typed arrays come back strongly typed.

        Returns:
          The checkpoint, or None if the folder holds none.

        Raises:
          CheckpointError: if every checkpoint is corrupt, or one is whole but of another structure than `like`.
        """
        self.wait()
        skipped: list[Skipped] = []
        for step in reversed(self.steps):
            path = self.directory / str(step)
            try:
                state = _read(path, step, like)
            except digests.BrokenSealError as error:
                _LOGGER.warning("checkpoint of step %d is corrupt, trying the one before: %s: %s", step, path, error)
                skipped.append(Skipped(step, path, str(error)))
            else:
                return Restored(step, state, tuple(self._set_aside(corrupt) for corrupt in skipped))
        if skipped:
            raise CheckpointError(
                f"every checkpoint in {self.directory} is corrupt (step {skipped[0].step}: {skipped[0].reason}); "
                "move the folder away to start anew"
            )
        return None

    def _set_aside(self, corrupt: Skipped) -> Skipped:
        self._corrupt.add(corrupt.step)
        path, copy = self.directory / f"{_CORRUPT}{corrupt.step}", 1
        while path.exists():
            copy += 1
            path = self.directory / f"{_CORRUPT}{corrupt.step}-{copy}"
        try:
            corrupt.path.rename(path)
        except OSError as error:  # A folder that one may only read can still be restored from.
            _LOGGER.warning("could not set %s aside: %s", corrupt.path, _one_line(error))
            return corrupt
        self._corrupt.discard(corrupt.step)
        return dataclasses.replace(corrupt, path=path)

    def _save_in_thread(self, step: int, leaves: list[named_leaves.Leaf]) -> None:
        building, final = self.directory / f"{_BUILDING}{step}", self.directory / str(step)
        try:
            for prefix in (_BUILDING, _DELETING):  # What a killed run left behind.
                for leftover in self.directory.glob(f"{prefix}*"):
                    shutil.rmtree(leftover)
            building.mkdir()
            _write(building, step, leaves)
            if final.exists():  # A folder cannot be replaced by a rename; a kill in between falls back on the older.
                self._delete(final)
            os.rename(building, final)
            digests.flush_folder(self.directory)
        except Exception as error:  # Whatever Orbax, the file system or the disk came up with.
            shutil.rmtree(building, ignore_errors=True)
            self._error = CheckpointError(
                f"could not save the checkpoint of step {step} in {self.directory}: {_one_line(error)}; "
                "earlier checkpoints are untouched"
            )
            self._error.__cause__ = error
            return
        self._corrupt.discard(step)
        for old in self.steps[: -self.keep]:
            try:
                self._delete(self.directory / str(old))
            except OSError as error:
                _LOGGER.warning("could not delete the old checkpoint of step %d: %s", old, _one_line(error))

    def _delete(self, path: pathlib.Path) -> None:
        """Deletes a checkpoint; renamed first, lest a kill leave half of it under its name."""
        doomed = path.with_name(f"{_DELETING}{path.name}")
        os.rename(path, doomed)
        shutil.rmtree(doomed)


def _write(folder: pathlib.Path, step: int, leaves: list[named_leaves.Leaf]) -> None:
    """Writes a whole checkpoint into an empty folder and forces it to the disk."""
    with _quiet_orbax():  # Orbax refuses arrays without elements; their signatures tell all about them.
        _save_alone(folder / _STATE, {leaf.name: leaf.value for leaf in leaves if leaf.value.size})
    digests.seal(folder, {"step": step, "leaves": [{**leaf.signature(), "sha256": leaf.digest()} for leaf in leaves]})


def _read(folder: pathlib.Path, step: int, like: chex.ArrayTree) -> chex.ArrayTree:
    """Reads a checkpoint into the structure of `like`, after verifying all of it."""
    try:
        body = digests.verify(folder)  # Before Orbax sees the files: its C++ reader was made for sound ones.
    except PermissionError as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {_one_line(error)}") from error
    if body["step"] != step:
        raise digests.BrokenSealError(f"it was saved as step {body['step']}")
    found = {entry["name"]: entry for entry in body["leaves"]}
    _check_match(folder, found, named_leaves.signatures(like))
    stored = {name: np.empty(entry["shape"], entry["dtype"]) for name, entry in found.items()}
    full = {name: value for name, value in stored.items() if value.size}
    if full:
        try:
            with _quiet_orbax():
                stored |= _load_alone(folder / _STATE, full)
        except Exception as error:  # The files are what was written, so this is no corruption to skip.
            raise CheckpointError(f"Orbax cannot read the checkpoint {folder}: {_one_line(error)}") from error
    leaves = {name: named_leaves.Leaf(name, np.asarray(stored[name]), entry["key"]) for name, entry in found.items()}
    for name, leaf in leaves.items():
        if leaf.digest() != found[name]["sha256"]:
            raise digests.BrokenSealError(f"the leaf {name} is not what was saved")
    return named_leaves.from_host(leaves, like)


def _check_match(folder: pathlib.Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in sorted(found.keys() | wanted.keys()):
        entry = {field: value for field, value in found.get(name, {}).items() if field != "sha256"}
        if entry != wanted.get(name, {}):
            raise CheckpointError(
                f"the checkpoint {folder} is of another run: leaf {name} is {_describe(entry)} there, "
                f"{_describe(wanted.get(name))} here; use the same configuration or another folder"
            )


def _describe(entry: dict[str, Any] | None) -> str:
    return f"{entry['key'] or entry['dtype']}{entry['shape']}" if entry else "absent"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    # Under Orbax lies TensorStore, whose messages quote whole specifications around what the system said.
    reason = re.search(r"([^:\[\]]+) \[os_error_code=|\[OS error \d+: ([^\]]+)\]", text)
    if reason:
        return (reason[1] or reason[2]).strip()
    return text if len(text) <= 200 else text[:200] + "..."


def _save_alone(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays, also in one of several processes, without waiting for the others, which do not save."""
    if jax.process_count() == 1:
        _orbax_save(path, arrays)
        return
    # Orbax's newer interface compares folders across processes whatever its options say; this one does not.
    options = _orbax_options()
    handler = orbax.checkpoint.PyTreeCheckpointHandler(multiprocessing_options=options)
    with orbax.checkpoint.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        checkpointer.save(path, arrays)


def _load_alone(path: pathlib.Path, like: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if jax.process_count() == 1:
        return _orbax_load(path, like)
    with ocp.Context(multiprocessing_options=_orbax_options()):
        return _orbax_load(path, like)


def _orbax_options() -> ocp.options.MultiprocessingOptions:
    own = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
    )


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Keeps Orbax's progress reports, written through absl's logger, out of the run's log."""

    def keep(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
