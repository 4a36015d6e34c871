"""The check for damage: digests of a folder's files, verified later; the newest whole folder; damaged ones set aside.

FOLDER/digest.json   {"body": {..., "files": {name: sha256}}, "sha256": of the body}
"""

import dataclasses
import hashlib
import json
import logging
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import chex
import numpy as np

from jaxnas.results.files import flush, flush_folder
from jaxnas.results.json_files import read_json

_LOGGER = logging.getLogger(__name__)
SEAL = "digest.json"
ASIDE = "corrupt-"  # before the name of a damaged folder


class DamagedError(Exception):
    """A folder is not what was written; the message tells which part of it."""


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A checkpoint that was found damaged.

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
      skipped: newer checkpoints that were damaged, newest first.
    """

    step: int
    state: chex.ArrayTree
    skipped: tuple[Skipped, ...] = ()


def seal(folder: pathlib.Path, body: dict[str, Any]) -> None:
    """Writes the digests of a folder and forces all its files to the disk.

    Args:
      folder: the folder, complete.
      body: what else to keep with the digests, as JSON.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sealed = {**body, "files": {name: _file_digest(folder / name, to_disk=True) for name in names}}
    text = json.dumps({"body": sealed, "sha256": _body_digest(sealed)}, indent=1)
    (folder / SEAL).write_text(text, encoding="utf-8")
    flush(folder / SEAL)
    flush_folder(folder)


def verify(folder: pathlib.Path) -> dict[str, Any]:
    """Verifies every file of a folder.

    Returns:
      The body that was sealed with it.

    Raises:
      DamagedError: if anything is missing or changed.
      PermissionError: if a file may not be read.
    """
    try:
        document = read_json(folder / SEAL)
        body = document["body"]
        if document["sha256"] != _body_digest(body):
            raise DamagedError(f"{SEAL} is not what was written")
        for name, digest in body["files"].items():
            if _file_digest(folder / name) != digest:
                raise DamagedError(f"{name} is not what was written")
    except FileNotFoundError as error:
        raise DamagedError(f"{pathlib.Path(error.filename).relative_to(folder)} is missing") from error
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedError(f"{SEAL} is not what was written ({type(error).__name__}: {error})") from error
    return body


def newest_whole(
    folders: Iterable[tuple[int, pathlib.Path]], read: Callable[[int, pathlib.Path], Any]
) -> Restored | None:
    """Reads the first folder that is whole, and sets the damaged ones before it aside as `corrupt-STEP`.

    Args:
      folders: steps and folders, newest first.
      read: (step, folder) -> its state; raises DamagedError where it is damaged.

    Returns:
      What was read; None if there are no folders.

    Raises:
      DamagedError: if all are damaged; they stay where they are.
    """
    skipped: list[Skipped] = []
    for step, folder in folders:
        try:
            state = read(step, folder)
        except DamagedError as error:
            _LOGGER.warning("checkpoint of step %d is corrupt, trying the one before: %s: %s", step, folder, error)
            skipped.append(Skipped(step, folder, str(error)))
        else:
            return Restored(step, state, tuple(_set_aside(damaged) for damaged in skipped))
    if skipped:
        raise DamagedError(f"step {skipped[0].step}: {skipped[0].reason}")
    return None


def array_digest(array: np.ndarray) -> str:
    """The sha256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def _set_aside(damaged: Skipped) -> Skipped:
    name, copy = f"{ASIDE}{damaged.step}", 1
    path = damaged.path.with_name(name)
    while path.exists():
        copy += 1
        path = damaged.path.with_name(f"{name}-{copy}")
    try:
        damaged.path.rename(path)
    except OSError as error:  # A folder that one may only read can still be restored from.
        _LOGGER.warning("could not set %s aside: %s", damaged.path, error.strerror)
        return damaged
    return dataclasses.replace(damaged, path=path)


def _file_digest(path: pathlib.Path, to_disk: bool = False) -> str:
    with path.open("rb") as file:
        if to_disk:
            flush(path)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
