"""Latency tables of a search: of one device, or of several devices by the names that budgets give them.

One table makes a cost called "latency". Tables of several devices are given as texts such as "phone=phone.json", and
make costs called as the devices are. A search keeps a copy of each in its folder.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxnas.networks import latency
from jaxnas.networks.latency import LatencyTable
from jaxnas.search.budgets import COSTS
from jaxnas.spaces.base import SearchSpace

LATENCY_FILE = "latency.json"  # in the folder of a search, of the only table
DEVICES = "devices"  # of what files decide about a search, see `describe`
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")  # part of a file's name

Given = Path | Sequence[str] | None


def normalised(given: Given) -> Path | tuple[str, ...] | None:
    """One form of a setting: a file, or texts such as "phone=phone.json".

    Raises:
      ValueError: as `parse`.

    >>> normalised(["a.json"]), normalised(["phone=phone.json"])
    (PosixPath('a.json'), ('phone=phone.json',))
    """
    files = parse(given)
    if files.keys() <= {latency.NAME}:
        return files.get(latency.NAME)
    return tuple(f"{name}={path}" for name, path in files.items())


def parse(given: Given) -> dict[str, Path]:
    """Files of tables by the names of their costs.

    Args:
      given: the file of one table, a text for each of several tables, such as "phone=phone.json", or None for no table.
        A text that begins with no device's name, such as ./a=b.json, is the file of one table.

    Raises:
      ValueError: if a text has no name, a name is not one of a device, or a device is named twice.

    >>> parse(["phone=a.json", "server=b.json"])
    {'phone': PosixPath('a.json'), 'server': PosixPath('b.json')}
    >>> parse(Path("a.json"))
    {'latency': PosixPath('a.json')}
    """
    if given is None or isinstance(given, Path):
        return {} if given is None else {latency.NAME: given}
    texts = [given] if isinstance(given, str) else list(given)
    split = [text.partition("=") for text in texts]
    if len(split) == 1 and not (split[0][1] and _NAME.fullmatch(split[0][0].strip())):
        return {latency.NAME: Path(texts[0]).expanduser()}
    files: dict[str, Path] = {}
    for text, (name, equals, path) in zip(texts, split):
        name, path = name.strip(), path.strip()
        if not (equals and path):
            raise ValueError(
                f"latency must name a device for each of several tables, such as phone=phone.json, got {text!r}"
            )
        _check_name(name)
        if name.casefold() in map(str.casefold, files):  # which some file systems do not tell apart
            raise ValueError(f"latency must name each device once, got {name!r} twice")
        files[name] = Path(path).expanduser()
    return files


def read(given: Given, inputs: Mapping[str, Any] | None = None) -> dict[str, LatencyTable]:
    """Tables by the names of their costs.

    Args:
      given: as of `parse`.
      inputs: what `describe` said of the tables that a run was begun with, which these must be; None for any.

    Raises:
      ValueError: as `parse`, or if a table is missing, damaged, or not the one that the run was begun with.
    """
    return {name: latency.read(path, _known(inputs, name)) for name, path in parse(given).items()}


def added_to(space: SearchSpace, tables: Mapping[str, LatencyTable]) -> SearchSpace:
    """The space with the latencies among its costs; ValueError if a table is not of this space at this size."""
    for name, table in tables.items():
        space = table.added_to(space, name)
    return space


def describe(tables: Mapping[str, LatencyTable]) -> dict[str, Any]:
    """What tables decide about a search, JSON-ready: "latency" of the only table, or "devices" by name."""
    described = {
        name: {"device": table.device, "batch_size": table.batch_size, "digest": table.digest}
        for name, table in tables.items()
    }
    return described if described.keys() <= {latency.NAME} else {DEVICES: described}


def file_name(cost: str) -> str:
    """The file of a table in the folder of a search.

    >>> file_name("latency"), file_name("phone")
    ('latency.json', 'latency_phone.json')
    """
    return LATENCY_FILE if cost == latency.NAME else f"latency_{cost}.json"


def in_folder(folder: Path, given: Given) -> Path | tuple[str, ...] | None:
    """The setting with the files in the folder of the search in place of those that it was begun with."""
    files = parse(given)
    if files.keys() <= {latency.NAME}:
        return folder / file_name(latency.NAME) if files else None
    return tuple(f"{name}={folder / file_name(name)}" for name in files)


def names(inputs: Any) -> list[str]:
    """The costs of which a search had tables, by what `describe` said of them.

    Raises:
      ValueError: if a name is not one of a device.
    """
    devices = inputs.get(DEVICES) if isinstance(inputs, Mapping) else None
    found = list(devices) if isinstance(devices, Mapping) else []
    for name in found:
        _check_name(name)
    return found or [latency.NAME]


def kept(folder: Path, inputs: Any) -> dict[str, LatencyTable]:
    """The tables in the folder of a search, as far as they are there.

    Args:
      folder: of the search.
      inputs: what `describe` said of them.

    Raises:
      ValueError: if a table is damaged, or not the one that the search was begun with.
    """
    files = {name: folder / file_name(name) for name in names(inputs)}
    return {name: latency.read(path, _known(inputs, name)) for name, path in files.items() if path.exists()}


def _known(inputs: Any, name: str) -> Any:
    """What is known of the table of a cost."""
    if not isinstance(inputs, Mapping):
        return None
    if name == latency.NAME:
        return inputs.get(latency.NAME)
    devices = inputs.get(DEVICES)
    return devices.get(name) if isinstance(devices, Mapping) else None


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name in COSTS:
        raise ValueError(
            f"a device must be called by up to 32 letters, digits, '_' or '-', a letter first, and not "
            f"{', '.join(COSTS)}, got {name!r}"
        )
