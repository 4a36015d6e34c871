"""Search spaces as data: decisions, their choices, costs, and encodings that are checked when they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxnas import cost as costs_lib


@dataclass(frozen=True)
class Decision:
    """One categorical variable of a search space.

    Attributes:
      name: such as "layer 3" or "edge 0-1".
      choices: the names of its C_d choices, in the order of their indices.
    """

    name: str
    choices: tuple[str, ...]


@dataclass(frozen=True)
class SearchSpace:
    """D decisions and the costs of what they choose.

    Attributes:
      name: name of the space, part of every encoding.
      decisions: the D decisions.
      costs: additive costs, the first being the default of searches.

    >>> space = SearchSpace("toy", (Decision("a", ("x", "y")), Decision("b", ("x", "y", "z"))))
    >>> space.num_choices, space.size
    ((2, 3), 6)
    >>> space.decode({"space": "toy", "encoding": [1, 2]}).tolist()
    [1, 2]
    """

    name: str
    decisions: tuple[Decision, ...]
    costs: tuple[costs_lib.AdditiveCost, ...] = ()

    @cached_property
    def num_choices(self) -> tuple[int, ...]:
        """C_d for each decision."""
        return tuple(len(decision.choices) for decision in self.decisions)

    @property
    def max_choices(self) -> int:
        """C, the largest number of choices of a decision."""
        return max(self.num_choices)

    @property
    def size(self) -> int:
        """Number of architectures in the space."""
        return int(np.prod([int(n) for n in self.num_choices], dtype=object))

    def cost(self, name: str) -> costs_lib.AdditiveCost:
        """The cost called `name`; ValueError if the space has none of this name."""
        return costs_lib.by_name(self.costs, name)

    def validate(self, arch: Sequence[int] | np.ndarray) -> np.ndarray:
        """Checks one architecture.

        Args:
          arch: D choice indices.

        Returns:
          int32 [D].

        Raises:
          ValueError: if the length is not D, an entry is no integer, or a choice is out of range.
        """
        array = np.asarray(arch)
        if array.ndim != 1 or len(array) != len(self.decisions):
            raise ValueError(
                f"arch must have one choice for each of the {len(self.decisions)} decisions of {self.name!r}, "
                f"got shape {array.shape}"
            )
        if array.dtype.kind not in "iu":
            raise ValueError(f"arch must hold integers, got {array.tolist()!r}")
        for decision, choice in zip(self.decisions, array.tolist()):
            if not 0 <= choice < len(decision.choices):
                raise ValueError(
                    f"arch has choice {choice} for {decision.name!r} of {self.name!r}; "
                    f"choose 0 to {len(decision.choices) - 1}"
                )
        return array.astype(np.int32)

    def describe(self, arch: Sequence[int] | np.ndarray) -> str:
        """One line for people: the chosen operation of every decision."""
        arch = self.validate(arch)
        return " | ".join(decision.choices[c] for decision, c in zip(self.decisions, arch))

    def encode(self, arch: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """An architecture as a JSON-ready dictionary that `decode` reads."""
        return {"space": self.name, "encoding": self.validate(arch).tolist()}

    def decode(self, encoded: Mapping[str, Any]) -> np.ndarray:
        """Reads what `encode` wrote.

        Returns:
          int32 [D].

        Raises:
          ValueError: if it belongs to another space, or is malformed.
        """
        if not isinstance(encoded, Mapping) or "encoding" not in encoded:
            raise ValueError('an architecture is an object with "space" and "encoding", got something else')
        if encoded.get("space") != self.name:
            raise ValueError(f"the architecture belongs to space {encoded.get('space')!r}, not to {self.name!r}")
        encoding = encoded["encoding"]
        is_list_of_integers = isinstance(encoding, list) and all(type(choice) is int for choice in encoding)
        if not is_list_of_integers:
            raise ValueError(f'"encoding" must be a list of integers, got {encoding!r}')
        try:
            array = np.asarray(encoding, np.int64)
        except OverflowError as error:
            raise ValueError(f'"encoding" must hold choices counted from 0, got {encoding!r}') from error
        return self.validate(array)

    def sample_uniform(self, rng: np.random.Generator, samples: int) -> np.ndarray:
        """Uniform random architectures on the host, int32 [samples, D]."""
        return np.stack([rng.integers(n, size=samples) for n in self.num_choices], axis=1).astype(np.int32)


def scaled_channels(channels: int, width: float) -> int:
    """Channels times width, kept a multiple of 8 as MobileNet does; width 1 leaves them as they are."""
    return channels if width == 1 else max(8, int(channels * width + 4) // 8 * 8)
