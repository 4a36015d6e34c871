"""Checkpoints of a run that survive kills, full disks and flipped bits.

A checkpoint is one folder, named by its step:

    checkpoints/1200/state/        the leaves of the state, written by Orbax under their names in the tree
    checkpoints/1200/digest.json   sha256 of every file and of every leaf, see `jaxnas.runtime.damage`

Orbax writes and reads the arrays. Its commit, its background thread and its retention are not used: the digests of all
files must be in a folder before it is committed, and Orbax writes files of its own in the very call that renames the
folder, so there is no place for the digests between the two. A folder is therefore built under a hidden name, sealed
and renamed here, in one thread, and what Orbax has not committed it cannot retain or delete. Nor does Orbax keep a copy
of a state whose buffers the caller donates to the next step: on CPUs its view of an array is the buffer itself.
"""

import logging
import os
import pathlib
import shutil
import threading
import time
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.results.files import flush_folder
from jaxnas.runtime import array_files, damage, devices, named_leaves
from jaxnas.runtime.array_files import one_line
from jaxnas.runtime.damage import Restored

_LOGGER = logging.getLogger(__name__)
_STATE = "state"
_BUILDING, _DELETING = ".saving-", ".deleting-"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line for the user."""


class Checkpoints:
    """The checkpoints of one run, in one local folder; use it as a context manager.

    `save` copies the state to the host before it returns, so the caller may donate the state's buffers to the next
    step at once; the writing goes on in a thread. In a job of several processes each has one: process 0 alone needs
    the folder, reads and writes, and sends the others what it read.

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
        self._writes = devices.is_host_zero()
        if self._writes:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"cannot make the folder {self.directory}: {one_line(error)}") from error

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
        """Steps of the checkpoints on disk, oldest first."""
        names = [path.name for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir()]
        return tuple(sorted(int(name) for name in names if name == str(int(name))))

    def save(self, step: int, state: chex.ArrayTree) -> None:
        """Saves a state in the background, after the save before it has ended.

        Args:
          step: at least the newest step on disk; the same step again replaces that checkpoint.
          state: pytree of arrays, typed random keys and Python numbers.

        Raises:
          CheckpointError: if the save before this one failed.
          ValueError: if `step` is negative or older than the newest checkpoint, or a leaf is not an array.
        """
        if not self._writes:
            return
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
        """Restores the newest whole checkpoint, the same on every process.

        Corrupt checkpoints are skipped with a warning and, once an older one is restored, renamed `corrupt-STEP`.

        Args:
          like: pytree of arrays or `jax.ShapeDtypeStruct`: structure, shapes, dtypes and placement to restore into.
            Its values are not read, so they may be donated ones. Weakly typed arrays come back strongly typed.

        Returns:
          The checkpoint, or None if the folder holds none.

        Raises:
          CheckpointError: if every checkpoint is corrupt, or one is whole but of another structure than `like`;
            on processes other than 0 a ValueError with its message.
        """
        restored = devices.together(lambda: self._restore(like) if self._writes else None)
        step = int(devices.broadcast(jnp.int32(-1 if restored is None else restored.step)))
        if step < 0:
            return None
        state = devices.broadcast(jax.tree.map(jnp.asarray, like) if restored is None else restored.state)
        return Restored(step, state, () if restored is None else restored.skipped)

    def _restore(self, like: chex.ArrayTree) -> Restored | None:
        self.wait()
        folders = [(step, self.directory / str(step)) for step in reversed(self.steps)]
        try:
            return damage.newest_whole(folders, lambda step, folder: _read(folder, step, like))
        except damage.DamagedError as error:
            raise CheckpointError(
                f"every checkpoint in {self.directory} is corrupt ({error}); move the folder away to start again"
            ) from error

    def _save_in_thread(self, step: int, leaves: list[named_leaves.Leaf]) -> None:
        building, final = self.directory / f"{_BUILDING}{step}", self.directory / str(step)
        try:
            for prefix in (_BUILDING, _DELETING):  # What a killed run left behind.
                for leftover in self.directory.glob(f"{prefix}*"):
                    shutil.rmtree(leftover)
            building.mkdir()
            _write(building, step, leaves)
            if final.exists():  # A folder cannot be replaced by a rename; a kill in between falls back on the older.
                _delete(final)
            os.rename(building, final)
            flush_folder(self.directory)
        except Exception as error:  # Whatever Orbax, the file system or the disk came up with.
            _remove_unfinished(building)
            self._error = CheckpointError(
                f"could not save the checkpoint of step {step} in {self.directory}: {one_line(error)}; "
                "earlier checkpoints are untouched"
            )
            self._error.__cause__ = error
            return
        for old in self.steps[: -self.keep]:
            try:
                _delete(self.directory / str(old))
            except OSError as error:
                _LOGGER.warning("could not delete the old checkpoint of step %d: %s", old, one_line(error))


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes what a save that failed has written; its other writes, in threads of TensorStore, may create it again."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
        if not folder.exists():
            return


def _delete(path: pathlib.Path) -> None:
    """Deletes a checkpoint; renamed first, so that a kill leaves no half of it under its name."""
    doomed = path.with_name(f"{_DELETING}{path.name}")
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def _write(folder: pathlib.Path, step: int, leaves: list[named_leaves.Leaf]) -> None:
    """Writes a whole checkpoint into an empty folder and forces it to the disk."""
    # Orbax refuses arrays without elements; their signatures tell all about them.
    array_files.save(folder / _STATE, {leaf.name: leaf.value for leaf in leaves if leaf.value.size})
    described = [{**leaf.signature(), "sha256": damage.array_digest(leaf.value)} for leaf in leaves]
    damage.seal(folder, {"step": step, "leaves": described})


def _read(folder: pathlib.Path, step: int, like: chex.ArrayTree) -> chex.ArrayTree:
    """Reads a checkpoint into the structure of `like`, after verifying all of it."""
    try:
        body = damage.verify(folder)  # Before Orbax sees the files: its C++ reader was made for sound ones.
    except PermissionError as error:
        raise CheckpointError(f"cannot read the checkpoint {folder}: {one_line(error)}") from error
    if body["step"] != step:
        raise damage.DamagedError(f"it was saved as step {body['step']}")
    found = {entry["name"]: entry for entry in body["leaves"]}
    _check_match(folder, found, named_leaves.signatures(like))
    stored = {name: np.empty(entry["shape"], entry["dtype"]) for name, entry in found.items()}
    full = {name: value for name, value in stored.items() if value.size}
    if full:
        try:
            stored |= array_files.load(folder / _STATE, full)
        except Exception as error:  # The files are what was written, so this is no corruption to skip.
            raise CheckpointError(f"Orbax cannot read the checkpoint {folder}: {one_line(error)}") from error
    leaves = {name: named_leaves.Leaf(name, np.asarray(stored[name]), entry["key"]) for name, entry in found.items()}
    for name, leaf in leaves.items():
        if damage.array_digest(leaf.value) != found[name]["sha256"]:
            raise damage.DamagedError(f"the leaf {name} is not what was saved")
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
