"""`evaluations.npz`: every evaluation that the distributions of a search learnt from.

An evaluation is the loss of one architecture on one minibatch; the S evaluations of a step share a minibatch. What is
learnt from them afterwards needs no supernet and no data: see `jaxnas.selection.picking`.

The file, an npz of plain arrays, T steps:

    archs        uint8 [T, S, D]    choices; uint16 where a decision has more than 256
    losses       float32 [T, S]     NaN or infinite where they were so
    steps        int32 [T]          the step of the search, from 1, ascending
    minibatches  int32 [T]          how many validation minibatches came before
    joint        bool [T]           whether the weights were still trained in that step
    about        uint8 [bytes]      JSON: {"format", "space", "num_choices", "description", "run"}
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxnas.results.files import replacing
from jaxnas.results.npz import read_arrays
from jaxnas.spaces import SearchSpace, from_description

FORMAT = "jaxnas evaluations 1"
NAME = "evaluations.npz"
UNIFORM = "uniform_evaluations.npz"  # likewise, of uniformly drawn networks, from which no distribution learnt
_ARRAYS = {"archs": 3, "losses": 2, "steps": 1, "minibatches": 1, "joint": 1}  # name -> axes


@dataclass(frozen=True)
class About:
    """What evaluations are of.

    Attributes:
      space: name of the search space.
      num_choices: C_d of each decision.
      description: what the space is built from, see `SearchSpace.description`; None where unknown.
      run: what decides the search, by name, JSON-ready; empty where unknown.
    """

    space: str
    num_choices: tuple[int, ...]
    description: Mapping[str, Any] | None = None
    run: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, space: SearchSpace, run: Mapping[str, Any] | None = None) -> "About":
        """Of a search on a space; `run` as above."""
        return cls(space.name, space.num_choices, space.description, json.loads(json.dumps(run or {})))

    def differences(self, other: "About") -> list[str]:
        """In words, what two searches differ in; settings that only one of them knows, as of another version, aside."""
        found = [
            f"{name} ({getattr(self, name)!r} there, {getattr(other, name)!r} here)"
            for name in ("space", "num_choices", "description")
            if getattr(self, name) != getattr(other, name)
        ]
        both = sorted(self.run.keys() & other.run.keys())
        return found + [
            f"{name} ({self.run[name]!r:.60} there, {other.run[name]!r:.60} here)"
            for name in both
            if self.run[name] != other.run[name]
        ]


@dataclass(frozen=True, eq=False)
class Evaluations:
    """The evaluations of T steps of S architectures.

    Attributes:
      archs: int [T, S, D].
      losses: float32 [T, S]; not finite where they were not.
      steps: int32 [T], the step of the search, from 1, ascending.
      minibatches: int32 [T], how many validation minibatches came before.
      joint: bool [T], whether the weights were still trained in that step.
    """

    archs: np.ndarray
    losses: np.ndarray
    steps: np.ndarray
    minibatches: np.ndarray
    joint: np.ndarray

    def __len__(self) -> int:
        """Number of evaluations, T S."""
        return self.losses.size

    @classmethod
    def of(cls, archs: np.ndarray, losses: np.ndarray) -> "Evaluations":
        """Of T steps on their own, each on a minibatch of its own: int [T, S, D], float [T, S]."""
        count = len(losses)
        steps = np.arange(count, dtype=np.int32)
        return cls(np.asarray(archs), np.asarray(losses, np.float32), steps + 1, steps, np.zeros(count, bool))

    @classmethod
    def none(cls, samples: int, decisions: int) -> "Evaluations":
        """Of no step."""
        return cls.of(np.zeros((0, samples, decisions), np.uint8), np.zeros((0, samples)))

    def until(self, step: int) -> "Evaluations":
        """Those of a search's first steps."""
        kept = int(np.searchsorted(self.steps, step, side="right"))
        return Evaluations(*(getattr(self, each.name)[:kept] for each in dataclasses.fields(self)))

    def write(self, path: str | os.PathLike, about: About) -> None:
        """Writes the file, whole or not at all."""
        small = np.uint8 if max(about.num_choices) <= 256 else np.uint16
        text = json.dumps({"format": FORMAT, **dataclasses.asdict(about)}).encode()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                archs=self.archs.astype(small),
                losses=self.losses.astype(np.float32),
                steps=self.steps.astype(np.int32),
                minibatches=self.minibatches.astype(np.int32),
                joint=self.joint.astype(bool),
                about=np.frombuffer(text, np.uint8),
            )


def read_evaluations(path: str | os.PathLike, expected: About | None = None) -> tuple[Evaluations, About]:
    """Reads the evaluations of a search.

    Args:
      path: the file.
      expected: what they must be of; None for anything.

    Raises:
      ValueError: in one line that names the file, if it is missing, damaged, or of something else.
    """
    path = pathlib.Path(path)
    try:
        arrays = read_arrays(path, [*_ARRAYS, "about"])
        about = _about(arrays.pop("about"))
        found = Evaluations(**_checked(arrays, about.num_choices))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: the search kept no evaluations; one of this version does") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ValueError(f"{path} holds no evaluations of a search, or is damaged: {error}") from error
    if expected is not None and (different := about.differences(expected)):
        raise ValueError(f"{path} is of another search, different in {', '.join(different)}")
    return found, about


def space_of(about: About, path: str | os.PathLike) -> SearchSpace:
    """The space that evaluations are of.

    Raises:
      ValueError: naming the file, if it is not known, or another one than when they were written.
    """
    if about.description is None:
        raise ValueError(f"{path} does not tell what its space {about.space!r} is built from; call the library's pick")
    try:
        space = from_description(about.description)
    except ValueError as error:
        raise ValueError(f"{path} is of a space that cannot be built: {error}") from error
    if (space.name, space.num_choices) != (about.space, about.num_choices):
        raise ValueError(
            f"{path} is of {about.space!r} with choices {about.num_choices}, this version's is {space.name!r} with "
            f"{space.num_choices}; use the version that searched"
        )
    return space


class EvaluationsLog:
    """The evaluations of a run as they come, in memory, and in its file as often as `write` is called.

    Args:
      path: the file.
      about: what the run is.
      samples: S.
    """

    def __init__(self, path: str | os.PathLike, about: About, samples: int):
        self.path = pathlib.Path(path)
        self.about = about
        self._parts = [Evaluations.none(samples, len(about.num_choices))]

    @property
    def evaluations(self) -> Evaluations:
        """All so far."""
        if len(self._parts) > 1:
            names = [each.name for each in dataclasses.fields(Evaluations)]
            columns = {name: np.concatenate([getattr(part, name) for part in self._parts]) for name in names}
            self._parts = [Evaluations(**columns)]
        return self._parts[0]

    def resume(self, step: int) -> None:
        """Goes on after a step: what the file holds up to it is kept; nothing, where there is no file.

        Raises:
          ValueError: if the file is damaged or of another search; it is left as it is.
        """
        if not step or not self.path.exists():
            return
        try:
            found, _ = read_evaluations(self.path, self.about)
            if found.losses.shape[1] != self.evaluations.losses.shape[1]:
                raise ValueError(f"{self.path} is of another search, with {found.losses.shape[1]} samples in a step")
        except ValueError as error:
            raise ValueError(f"{error}; move it away to go on without what was kept before") from error
        self._parts = [found.until(step)]

    def append(self, evaluations: Evaluations) -> None:
        """Adds those of the next steps."""
        small = evaluations.archs.astype(np.uint8 if max(self.about.num_choices) <= 256 else np.uint16)
        self._parts.append(dataclasses.replace(evaluations, archs=small))

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        if len(self.evaluations):
            self.evaluations.write(self.path, self.about)


def _about(array: np.ndarray) -> About:
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("about must be bytes")
    document = json.loads(array.tobytes().decode("utf-8"))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"about must be of format {FORMAT!r}")
    space, counts = document.get("space"), document.get("num_choices")
    description, run = document.get("description"), document.get("run")
    sound = isinstance(space, str) and isinstance(run, dict) and isinstance(description, dict | None)
    if not (sound and isinstance(counts, list) and counts and all(type(n) is int and n > 0 for n in counts)):
        raise ValueError("about must name the space, the choices of its decisions and the run")
    return About(space, tuple(counts), description, run)


def _checked(arrays: Mapping[str, np.ndarray], num_choices: tuple[int, ...]) -> dict[str, np.ndarray]:
    kinds = {"archs": "u", "losses": "f", "steps": "i", "minibatches": "i", "joint": "b"}
    for name, axes in _ARRAYS.items():
        if arrays[name].ndim != axes or arrays[name].dtype.kind != kinds[name]:
            raise ValueError(f"array {name!r} is {arrays[name].dtype} {arrays[name].shape}")
    archs, steps = arrays["archs"], arrays["steps"]
    wanted = (*arrays["losses"].shape, len(num_choices))
    if archs.shape != wanted or any(len(arrays[name]) != wanted[0] for name in ("steps", "minibatches", "joint")):
        raise ValueError(f"archs must be {wanted}, and all arrays of as many steps, got {archs.shape}")
    if (archs >= np.asarray(num_choices)).any():
        raise ValueError(f"archs must choose below {num_choices}")
    if len(steps) and (steps[0] < 1 or (np.diff(steps) < 1).any() or (np.diff(arrays["minibatches"]) < 0).any()):
        raise ValueError("steps must ascend from 1, and minibatches must not descend")
    return dict(arrays)
