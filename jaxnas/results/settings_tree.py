"""A settings tree: nested frozen dataclasses, each setting a field of one of them under a name of its own.

A field that is a dataclass is a group of settings, any other field is a setting. Names are unique in the whole tree, so
that a setting needs no path: its name is its option on a command line and its name in messages. `config.json` is the
tree itself, see `to_json`; what a run found in files beside its settings stands there under "inputs".
"""

import dataclasses
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

Tree = TypeVar("Tree")

INPUTS = "inputs"  # of config.json: contents of files that decide the outcome, such as a fingerprint of the data


def undecisive(default: Any = None) -> Any:
    """A field whose value does not decide the outcome of a run, such as a folder: resuming may change it."""
    return dataclasses.field(default=default, metadata={"decides": False})


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a tree.

    Attributes:
      name: unique in the tree.
      group: name of the field that holds it; None at the top of the tree.
      type: of its values.
      decides: whether the outcome of a run depends on it.
    """

    name: str
    group: str | None
    type: Any
    decides: bool


def settings(tree: type) -> dict[str, Setting]:
    """All settings of a tree by name.

    Raises:
      ValueError: if two have the same name.
    """
    found: dict[str, Setting] = {}
    for group, kind in _groups(tree).items():
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            if dataclasses.is_dataclass(hints[field.name]):
                continue
            if field.name in found:
                raise ValueError(f"{tree.__name__} has two settings called {field.name!r}; rename one")
            decides = field.metadata.get("decides", True)
            found[field.name] = Setting(field.name, group, hints[field.name], decides)
    return found


def _groups(tree: type) -> dict[str | None, type]:
    """The dataclasses that hold settings, by the field of the tree; None for the tree itself."""
    hints = typing.get_type_hints(tree)
    groups = {field.name: hints[field.name] for field in dataclasses.fields(tree)}
    return {None: tree, **{name: kind for name, kind in groups.items() if dataclasses.is_dataclass(kind)}}


def values(config: Any) -> dict[str, Any]:
    """The values of all settings by name."""
    return {
        name: getattr(config if setting.group is None else getattr(config, setting.group), name)
        for name, setting in settings(type(config)).items()
    }


def make(tree: type[Tree], **given: Any) -> Tree:
    """The tree with these values of settings, by their names, and the defaults of all others.

    Raises:
      ValueError: if there is no such setting, or a value is out of range.
      TypeError: if a setting without a default is not given.
    """
    grouped = _grouped(tree, given)
    groups = {group: kind(**grouped.get(group, {})) for group, kind in _groups(tree).items() if group is not None}
    return tree(**groups, **grouped.get(None, {}))


def replace(config: Tree, **changes: Any) -> Tree:
    """The tree with other values of some settings, by their names.

    Raises:
      ValueError: if there is no such setting, or a value is out of range.
    """
    grouped = _grouped(type(config), changes)
    top = grouped.pop(None, {})
    groups = {group: dataclasses.replace(getattr(config, group), **new) for group, new in grouped.items()}
    return dataclasses.replace(config, **groups, **top)


def _grouped(tree: type, given: Mapping[str, Any]) -> dict[str | None, dict[str, Any]]:
    """Values of settings by group and name; ValueError if there is no such setting."""
    known = settings(tree)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"there is no setting called {', '.join(unknown)}; choose from {', '.join(known)}")
    grouped: dict[str | None, dict[str, Any]] = {}
    for name, value in given.items():
        grouped.setdefault(known[name].group, {})[name] = value
    return grouped


def to_json(config: Any, *, decisive: bool = False) -> dict[str, Any]:
    """The tree as JSON, groups as objects; `from_json` reads it back.

    Args:
      config: the tree.
      decisive: leave out what does not decide the outcome.
    """
    document: dict[str, Any] = {}
    found = settings(type(config))
    for name, value in values(config).items():
        if found[name].decides or not decisive:
            group = found[name].group
            (document if group is None else document.setdefault(group, {}))[name] = _plain(value)
    return document


def from_json(tree: type[Tree], document: Mapping[str, Any]) -> Tree:
    """Reads what `to_json` wrote; a setting that is not there has its field's default.

    Raises:
      ValueError: in one line, if the document is of something else or of an earlier version, or a value is of the wrong
        type or out of range.
    """
    groups = {name: kind for name, kind in _groups(tree).items() if name is not None}
    if not isinstance(document, Mapping) or not any(isinstance(document.get(name), Mapping) for name in groups):
        raise ValueError(
            f"the configuration has none of {', '.join(groups)}: it is of an earlier version, or of something else"
        )
    found = settings(tree)
    given = {}
    for name, value in document.items():
        if name in groups:
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} of the configuration must be an object, is {value!r:.60}")
            given |= {(name, inner): each for inner, each in value.items()}
        elif name != INPUTS:
            given[None, name] = value
        elif not isinstance(value, Mapping):
            raise ValueError(f"{name} of the configuration must be an object, is {value!r:.60}")
    unknown = [name for group, name in given if name not in found or found[name].group != group]
    if unknown:
        raise ValueError(f"the configuration has settings that are not known here: {', '.join(unknown)}")
    read = {name: _read(name, found[name].type, value) for (_, name), value in given.items()}
    missing = [name for name, setting in found.items() if name not in read and _is_required(tree, setting)]
    if missing:
        raise ValueError(f"the configuration lacks {', '.join(missing)}")
    return make(tree, **read)


def comparable(tree: type, document: Mapping[str, Any]) -> dict[str, Any]:
    """What two configurations of the same run have in common, JSON-ready, by name: what decides, and the inputs.

    Raises:
      ValueError: as `from_json`.
    """
    config = from_json(tree, document)
    found = settings(tree)
    decisive = {name: _plain(value) for name, value in values(config).items() if found[name].decides}
    return {**decisive, **document.get(INPUTS, {})}


def _is_required(tree: type, setting: Setting) -> bool:
    field = next(field for field in dataclasses.fields(_groups(tree)[setting.group]) if field.name == setting.name)
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, pathlib.Path) else value


def _read(name: str, kind: Any, value: Any) -> Any:
    """A JSON value as a value of the type."""
    arguments = typing.get_args(kind)
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        if value is None and types.NoneType in arguments:
            return None
        inner = [argument for argument in arguments if argument is not types.NoneType]
        # A list is for the tuple of a union, a text for its words, else for its path or text.
        kinds = {list: (tuple,), str: (typing.Literal, pathlib.Path, str)}.get(type(value), ())
        fitting = [each for kind in kinds for each in inner if kind in (each, typing.get_origin(each))]
        return _read(name, (fitting or inner)[0], value)
    if typing.get_origin(kind) is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{name} must be one of {', '.join(arguments)}, got {value!r:.60}")
        return value
    if typing.get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_read(name, arguments[0], each) for each in value)
    accepted = {float: (int, float), pathlib.Path: (str,)}.get(kind, (kind,))
    plain = typing.get_origin(kind) is None and isinstance(value, accepted)
    if not plain or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {value!r:.60}")
    return kind(value)
