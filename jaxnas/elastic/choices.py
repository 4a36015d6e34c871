"""What a user may choose: keywords with choices, as decisions and back as hyperparameters."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnas.elastic.adapters import parameters_of
from jaxnas.spaces.base import Decision


@dataclass(frozen=True)
class Axis:
    """One decision of an elastic space.

    Attributes:
      keyword: the argument of `make`.
      place: its place in the tuple that `make` gets; None where the argument is one value.
      values: C_d values, smallest to largest.
    """

    keyword: str
    place: int | None
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """Such as "hidden[2]"."""
        return self.keyword if self.place is None else f"{self.keyword}[{self.place}]"


@dataclass(frozen=True)
class Choices:
    """The decisions, in the order in which they were given."""

    axes: tuple[Axis, ...]

    @property
    def num_choices(self) -> tuple[int, ...]:
        """C_d for each decision."""
        return tuple(len(axis.values) for axis in self.axes)

    @property
    def largest(self) -> np.ndarray:
        """The architecture of the largest values, int32 [D]."""
        return np.asarray(self.num_choices, np.int32) - 1

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """As a search space has them."""
        return tuple(Decision(axis.name, tuple(f"{axis.name}={value}" for value in axis.values)) for axis in self.axes)

    def values(self, arch: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """The keywords of `make` for one architecture.

        >>> choices_of({"heads": [(0, 4), (0, 4)], "width": (8, 16)}).values([1, 0, 1])
        {'heads': (4, 0), 'width': 16}
        """
        values: dict[str, Any] = {}
        for axis, choice in zip(self.axes, np.asarray(arch).tolist(), strict=True):
            value = axis.values[choice]
            values[axis.keyword] = value if axis.place is None else (*values.get(axis.keyword, ()), value)
        return values

    def changed(self, decision: int, choice: int) -> np.ndarray:
        """The largest architecture with one decision changed, int32 [D]."""
        arch = self.largest
        arch[decision] = choice
        return arch

    def covers(self, rng: np.random.Generator, times: int) -> np.ndarray:
        """Architectures in which every choice of every decision appears at least so many times, int32 [N, D]."""
        most = max(self.num_choices)
        columns = [
            np.concatenate([rng.permutation(np.resize(rng.permutation(count), most)) for _ in range(times)])
            for count in self.num_choices
        ]
        return np.stack(columns, axis=1).astype(np.int32)

    def proof(self) -> np.ndarray:
        """Architectures that all that was found out on others is held against, int32 [N, D]."""
        return self.covers(np.random.default_rng(1), 2)


def choices_of(given: Mapping[str, Any]) -> Choices:
    """Reads keywords: a tuple of choices is one decision, a list of tuples one for each entry.

    Raises:
      ValueError: naming the keyword and what it should hold.
    """
    axes: list[Axis] = []
    for keyword, value in given.items():
        if isinstance(value, tuple):
            axes.append(Axis(keyword, None, value))
        elif isinstance(value, list) and value and all(isinstance(entry, tuple) for entry in value):
            axes += [Axis(keyword, place, entry) for place, entry in enumerate(value)]
        else:
            raise ValueError(
                f"{keyword} must be a tuple of choices such as (16, 32, 64), or a list of such tuples, got {value!r}; "
                f"fix values that are not searched inside make, as with functools.partial"
            )
    if not axes:
        raise ValueError("choices must name at least one argument of make, such as width=(16, 32, 64), got none")
    for axis in axes:
        _check(axis)
    return Choices(tuple(axes))


def _check(axis: Axis) -> None:
    numbers = all(isinstance(value, (int, float, np.integer, np.floating)) for value in axis.values)
    if not axis.values or not numbers:
        raise ValueError(f"{axis.name} must hold numbers, one or more, such as (16, 32, 64), got {axis.values!r}")
    if any(a >= b for a, b in zip(axis.values, axis.values[1:])):
        raise ValueError(
            f"{axis.name} must hold its choices from smallest to largest, each once, got {axis.values!r}; "
            f"write {tuple(sorted(set(axis.values)))!r}"
        )


def check_arguments(make: Callable[..., Any], choices: Choices) -> None:
    """Raises ValueError unless `make` can be called with these keywords."""
    parameters = parameters_of(make)
    if not parameters:
        return
    keywords = choices.values(choices.largest)
    if "rngs" in parameters:
        keywords["rngs"] = None
    try:
        inspect.Signature(list(parameters.values())).bind(**keywords)
    except TypeError as error:
        raise ValueError(
            f"make({', '.join(parameters)}) cannot be called with {', '.join(keywords)}: {error}; each keyword of "
            f"elastic must be an argument of make, and every other argument of make needs a default"
        ) from error
