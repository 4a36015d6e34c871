"""JSON that others may have written: sizes are known before parsing, and every number is finite.

A sealed document is an object that holds the sha256 of all else in it, so that a changed digit does not pass.
"""

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGEST = 2**28  # bytes of a file; result.json of a comparison of 20 methods with 100 seeds has some 20 MB
DEEPEST = 100  # brackets in brackets; the deepest document of this library has 8
DIGEST = "sha256"  # the name of a sealed document's digest in it
LONGEST_INTEGER = 300  # digits; floats end at 1.8e308
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def read_json(path: str | os.PathLike, largest: int = LARGEST) -> Any:
    """Reads a file that holds JSON.

    Args:
      path: the file.
      largest: bytes that it may have.

    Raises:
      OSError: if it cannot be read.
      ValueError: in one line without the path, if it is too large, or as `parse_json`.
    """
    with pathlib.Path(path).open("rb") as file:
        raw = file.read(largest + 1)
    if len(raw) > largest:
        raise ValueError(f"it has more than the {largest:,} bytes that are read")
    return parse_json(raw)


def parse_json(raw: bytes) -> Any:
    """Parses JSON as RFC 8259 has it: no NaN, no Infinity.

    Raises:
      ValueError: in one line, if it is not UTF-8, no JSON, nested deeper than `DEEPEST`, or a number is not finite
        or longer than `LONGEST_INTEGER`.
    """
    if _depth(raw) > DEEPEST:
        raise ValueError(f"it has more than {DEEPEST} brackets in one another")
    try:
        return json.loads(raw.decode("utf-8"), parse_float=_float, parse_int=_integer, parse_constant=_constant)
    except RecursionError as error:
        raise ValueError("it has too many brackets in one another") from error


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON-ready document with the digest of all that stands in it."""
    body = unsealed(document)
    return {**body, DIGEST: hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()}


def unsealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without its digest."""
    return {name: value for name, value in document.items() if name != DIGEST}


def read_sealed(path: str | os.PathLike, largest: int = LARGEST) -> Any:
    """Reads a file as `read_json` does, compares it with the digest in it, and leaves this out.

    What has no digest is of an earlier version or written by hand, and is read as it is.

    Raises:
      OSError: if the file cannot be read.
      ValueError: as `read_json`, or if it is not what was written.
    """
    document = read_json(path, largest)
    if not isinstance(document, dict) or DIGEST not in document:
        return document
    if document != seal(document):
        raise ValueError(f"it is not what was written: its {DIGEST} is another one; remove it after a change")
    return unsealed(document)


def _depth(raw: bytes) -> int:
    """Most brackets that are open at once, those in strings left out; more where strings are broken."""
    symbols = np.frombuffer(_STRING.sub(b"", raw), np.uint8)
    steps = np.zeros(len(symbols), np.int8)
    for opening, closing in (b"[]", b"{}"):
        steps += symbols == opening
        steps -= symbols == closing
    return int(steps.cumsum(dtype=np.int64).max(initial=0))


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.20} is not finite")
    return value


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"the number {text:.20}... has more than {LONGEST_INTEGER} digits")
    return int(text)


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not valid in JSON")
