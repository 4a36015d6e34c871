"""The folder of a run: owned by one process, and made or checked to be of the same run before anything is written."""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxnas.results.files import OF_THE_DISK, write_json
from jaxnas.results.json_files import read_sealed, seal
from jaxnas.results.ownership import owned

FRESH = Path("runs")  # where fresh folders are made


@contextlib.contextmanager
def open_workdir(
    path: Path | None,
    name: str,
    config: Mapping[str, Any],
    comparable: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
    extendable: Collection[str] = (),
) -> Iterator[Path]:
    """Makes or reopens the folder of a run, which this process owns until the context ends.

    Args:
      path: the folder; None for a fresh one under runs/.
      name: what to call a fresh one.
      config: JSON-ready description of the run, kept in `config.json`.
      comparable: what must be equal in two descriptions of the same run, by name; raises ValueError on a description of
        something else. By default all that stands in it.
      extendable: names of numbers that may be larger than in the folder, such as of steps; `config.json` gets them.

    Yields:
      The folder.

    Raises:
      OwnedError: if another process owns the folder; nothing in it is touched.
      ValueError: if the folder holds another search (naming the fields that differ) or cannot be written.
      OSError: naming the file, if the disk is full or broken.
    """
    path = _make(path, name)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(owned(path))
        except OSError as error:
            _raise_of_the_disk(error)
            raise ValueError(f"workdir {path} cannot be written: {error.strerror}; choose another folder") from error
        _prepare(path, config, comparable, extendable)
        yield path


def _make(path: Path | None, name: str) -> Path:
    """The folder, which may exist; a fresh one, which did not, where no path is given."""
    try:
        if path is not None:
            Path(path).mkdir(parents=True, exist_ok=True)
            return Path(path)
        path = FRESH
        path.mkdir(exist_ok=True)
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
        for attempt in itertools.count(1):
            path = FRESH / (stem if attempt == 1 else f"{stem}-{attempt}")
            with contextlib.suppress(FileExistsError):  # another process may have made it a moment ago
                path.mkdir()
                return path
    except OSError as error:
        _raise_of_the_disk(error)
        raise ValueError(f"workdir {path} cannot be made: {error.strerror}") from error


def _prepare(
    path: Path,
    config: Mapping[str, Any],
    comparable: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    extendable: Collection[str],
) -> None:
    """Compares the folder's `config.json` with this one, or writes it."""
    config_path = path / "config.json"
    config = json.loads(json.dumps(config))
    extended = False
    if config_path.exists():
        extended = _check_same(config_path, config, comparable, extendable)
    elif (path / "checkpoints").exists() or (path / "result.json").exists():
        raise ValueError(f"workdir {path} holds results without a config.json; choose another folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"workdir {path} cannot be written; choose another folder")
    if not config_path.exists() or extended:
        try:
            write_json(config_path, seal(config))
        except OSError as error:
            _raise_of_the_disk(error)
            raise ValueError(f"workdir {path} cannot be written: {error.strerror}") from error


def _raise_of_the_disk(error: OSError) -> None:
    """Raises an error that is none of the path that was given."""
    if error.errno in OF_THE_DISK:
        raise error


def _check_same(
    config_path: Path,
    config: dict[str, Any],
    comparable: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    extendable: Collection[str],
) -> bool:
    """Whether what is extendable is extended, and all else the same; ValueError if not."""
    try:
        existing = read_sealed(config_path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config_path} cannot be read; choose another folder") from error
    if not isinstance(existing, dict):
        raise ValueError(f"{config_path} is no configuration of a search; choose another folder")
    try:
        existing = comparable(existing)
    except ValueError as error:
        raise ValueError(f"{config_path} cannot be compared: {error}; choose another folder") from error
    config = comparable(config)
    keys = sorted(existing.keys() | config.keys())
    extended = [key for key in extendable if key in existing and key in config and config[key] > existing[key]]
    different = [
        f"{key} ({existing.get(key)!r} there, {config.get(key)!r} now)"
        for key in keys
        if existing.get(key) != config.get(key) and key not in extended
    ]
    if different:
        raise ValueError(
            f"workdir {config_path.parent} holds another search, different in {', '.join(different)}; "
            "give the same settings to resume it, or choose another folder"
        )
    return bool(extended)
