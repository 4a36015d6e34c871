"""A folder sealed with the digests of its files: later, whether it still is what was written can be told.

FOLDER/digest.json   {"body": {..., "files": {name: sha256}}, "sha256": of the body}
"""

import hashlib
import json
import os
import pathlib
from typing import Any

from jaxnas.results.files import flush_folder

SEAL = "digest.json"


class BrokenSealError(Exception):
    """A folder is not what was written; the message tells which part of it."""


def seal(folder: pathlib.Path, body: dict[str, Any]) -> None:
    """Writes the seal of a folder and forces all its files to the disk.

    Args:
      folder: the folder, complete.
      body: what else to seal, as JSON.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    sealed = {**body, "files": {name: _file_digest(folder / name, flush=True) for name in names}}
    text = json.dumps({"body": sealed, "sha256": _body_digest(sealed)}, indent=1)
    (folder / SEAL).write_text(text, encoding="utf-8")
    _file_digest(folder / SEAL, flush=True)
    flush_folder(folder)


def verify(folder: pathlib.Path) -> dict[str, Any]:
    """Verifies every file of a folder.

    Returns:
      The body that was sealed with it.

    Raises:
      BrokenSealError: if anything is missing or changed.
      PermissionError: if a file may not be read.
    """
    try:
        document = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        body = document["body"]
        if document["sha256"] != _body_digest(body):
            raise BrokenSealError(f"{SEAL} is not what was written")
        for name, digest in body["files"].items():
            if _file_digest(folder / name) != digest:
                raise BrokenSealError(f"{name} is not what was written")
    except FileNotFoundError as error:
        raise BrokenSealError(f"{pathlib.Path(error.filename).relative_to(folder)} is missing") from error
    except PermissionError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BrokenSealError(f"{SEAL} is not what was written ({type(error).__name__}: {error})") from error
    return body


def _file_digest(path: pathlib.Path, flush: bool = False) -> str:
    with path.open("rb") as file:
        if flush:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _body_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
