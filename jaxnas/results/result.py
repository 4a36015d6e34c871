"""`result.json`: what a search found, in the form that retraining, exports and reports read."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any

from jaxnas.results.files import to_plain, write_json
from jaxnas.results.json_files import read_sealed, seal
from jaxnas.spaces import SPACES, SearchSpace, from_description
from jaxnas.version import __version__

OWN_DATA = "own data"  # name of the data of a search that was given arrays or batches


@dataclasses.dataclass(frozen=True)
class FoundArchitecture:
    """The architecture of one of the K distributions.

    Attributes:
      k: index of the distribution.
      penalty: its penalty coefficient eps_k; in a search with budgets where it ended, that of the first cost
        that this network has a budget of.
      encoding: choice of each of the D decisions.
      description: the architecture in words.
      params: number of its parameters; None where the space does not count them.
      macs: its multiply-adds for one image, likewise.
      probability: of this architecture under theta_k; None where unknown.
      valid_loss: cross-entropy on the validation half with the supernet's weights; None where not finite.
      valid_accuracy: in [0, 1], likewise.
      budgets: the largest costs by name that the architecture had to keep; None in a search with penalties.
      latency: predicted seconds of a call by the search's latency table; None without one.
      latencies: likewise by the names of several devices; None without such tables.
      costs: other costs of the space by name; None where there are none.
      test_accuracy: in [0, 1], of the network as it was trained at the end of the search (`finish_steps`), at the
        width and image size of the supernet; None where it was not.
    """

    k: int
    penalty: float
    encoding: tuple[int, ...]
    description: str
    params: int | None
    macs: int | None
    probability: float | None
    valid_loss: float | None
    valid_accuracy: float | None
    budgets: Mapping[str, float] | None = None
    latency: float | None = None
    costs: Mapping[str, float] | None = None
    test_accuracy: float | None = None
    latencies: Mapping[str, float] | None = None

    def __post_init__(self):
        object.__setattr__(self, "encoding", tuple(int(choice) for choice in self.encoding))


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """One search and the K architectures it found.

    Attributes:
      method: name of the strategy.
      space: name of the search space.
      dataset: name of the data.
      seed: of the search.
      config: everything needed to repeat it.
      versions: of the software, see `versions`.
      evaluations: architecture-minibatch losses used for theta.
      wall_seconds: how long it took.
      architectures: [K], one for each distribution, ordered by penalty; with budgets in the order these were given.
      classes: names of the classes, in the order of the labels; None where a search does not know them.
      images: number of images of each class that the search learnt on or kept for testing; None where it does not know.
      test_images: number of images that the search kept for testing the networks, and did not read; None where it kept
        none: the data set has a split for that, or the networks can be tested on images alone that the search read.
      space_description: what the space of the costs is built from, see `jaxnas.spaces.from_description`; None where it
        is not known, as of a space of one's own, and in results of earlier versions.
    """

    method: str
    space: str
    dataset: str
    seed: int
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    evaluations: int
    wall_seconds: float
    architectures: tuple[FoundArchitecture, ...]
    classes: tuple[str, ...] | None = None
    images: Mapping[str, int] | None = None
    space_description: Mapping[str, Any] | None = None
    test_images: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "architectures", tuple(self.architectures))
        object.__setattr__(self, "classes", None if self.classes is None else tuple(self.classes))
        penalties = [float(found.penalty) for found in self.architectures]
        with_budgets = any(found.budgets for found in self.architectures)
        if not with_budgets and penalties != sorted(penalties):
            raise ValueError(f"architectures must be ordered by penalty, got penalties {penalties}; sort them")
        indices = [int(found.k) for found in self.architectures]
        if len(set(indices)) < len(indices):
            raise ValueError(f"architectures must hold one for each k, got k = {indices}")

    def write(self, path: str | os.PathLike) -> None:
        """Writes the result; a reader finds the old file or the new one, never half of it."""
        write_json(path, seal(to_plain(self)))


def read_result(path: str | os.PathLike) -> SearchResult:
    """Reads a `result.json`.

    Raises:
      ValueError: in one line, if the file is missing, broken, or of something else.
    """
    try:
        document = read_sealed(path)
    except FileNotFoundError as error:
        raise ValueError(f"no search result at {path}; a search writes result.json into its workdir") from error
    except OSError as error:
        raise ValueError(f"cannot read the search result {path}: {error.strerror}") from error
    except ValueError as error:  # Neither UTF-8 nor JSON.
        raise ValueError(f"{path} is not valid JSON ({error}); it is no search result, or damaged") from error
    try:
        return from_document(document)
    except ValueError as error:
        raise ValueError(f"{path} is not a search result: {error}") from error


def from_document(document: Any) -> SearchResult:
    """The result that a JSON document holds; ValueError in one line if it holds none."""
    fields = _checked(document, SearchResult, "the file")
    fields["architectures"] = tuple(
        FoundArchitecture(**_checked(found, FoundArchitecture, f"architectures[{index}]"))
        for index, found in enumerate(fields["architectures"])
    )
    return SearchResult(**fields)


def space_of(result: SearchResult) -> SearchSpace | None:
    """The space whose costs a result tells, built from its description.

    A result without one, of an earlier version, is taken to be of the space of that name with default arguments if the
    costs of all its networks are those of that space.

    Returns:
      The space; None where it is not known.

    Raises:
      ValueError: if the description is damaged or of another space, or an encoding does not belong to the space.
    """
    if result.space_description is not None:
        space = from_description(result.space_description)
        if space.name != result.space:
            raise ValueError(f"space_description is of space {space.name!r}, the result of {result.space!r}")
        for found in result.architectures:
            space.validate(found.encoding)
        return space
    if result.space not in SPACES:
        return None
    space = SPACES[result.space]()
    for found in result.architectures:
        arch = space.validate(found.encoding)
        if (space.cost("params").total(arch), space.cost("macs").total(arch)) != (found.params, found.macs):
            return None
    return space


def versions() -> dict[str, str]:
    """Versions of Python, this library and what it computes with."""
    others = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")}
    return {"python": platform.python_version(), "jaxnas": __version__, **others}


_INTEGER, _NUMBER, _TEXT = (int,), (int, float), (str,)
_TYPES: dict[str, tuple[type, ...]] = {
    "method": _TEXT,
    "space": _TEXT,
    "dataset": _TEXT,
    "seed": _INTEGER,
    "config": (dict,),
    "versions": (dict,),
    "evaluations": _INTEGER,
    "wall_seconds": _NUMBER,
    "architectures": (list,),
    "classes": (list, type(None)),
    "images": (dict, type(None)),
    "test_images": (int, type(None)),
    "space_description": (dict, type(None)),
    "k": _INTEGER,
    "penalty": _NUMBER,
    "encoding": (list,),
    "description": _TEXT,
    "params": (*_INTEGER, type(None)),
    "macs": (*_INTEGER, type(None)),
    "probability": (*_NUMBER, type(None)),
    "valid_loss": (*_NUMBER, type(None)),
    "valid_accuracy": (*_NUMBER, type(None)),
    "budgets": (dict, type(None)),
    "latency": (*_NUMBER, type(None)),
    "costs": (dict, type(None)),
    "latencies": (dict, type(None)),
    "test_accuracy": (*_NUMBER, type(None)),
}
_NOT_NEGATIVE = (
    *("k", "params", "macs", "evaluations", "wall_seconds", "test_images"),
    *("probability", "valid_accuracy", "latency", "test_accuracy"),
)


def _checked(value: Any, kind: type, where: str) -> dict[str, Any]:
    """The fields of one dataclass out of a JSON object; unknown ones, of a later version, are left out."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, is {type(value).__name__}")
    fields = {}
    for field in dataclasses.fields(kind):
        if field.name not in value:
            if field.default is not dataclasses.MISSING:
                continue  # of an earlier version
            raise ValueError(f"{where} has no {field.name!r}")
        item = value[field.name]
        if not isinstance(item, _TYPES[field.name]) or isinstance(item, bool):
            names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in _TYPES[field.name])
            raise ValueError(f"{field.name!r} of {where} must be {names}, is {item!r:.60}")
        if field.name in _NOT_NEGATIVE and item is not None and item < 0:
            raise ValueError(f"{field.name!r} of {where} must be at least 0, is {item!r:.60}")
        fields[field.name] = item
    latencies = fields.get("latencies") or {}
    if not all(type(seconds) in (int, float) and seconds >= 0 for seconds in latencies.values()):
        raise ValueError(f"'latencies' of {where} must hold seconds, 0 or more, is {latencies!r:.60}")
    if "encoding" in fields and not all(type(choice) is int for choice in fields["encoding"]):
        raise ValueError(f"'encoding' of {where} must be a list of int, is {fields['encoding']!r:.60}")
    return fields
