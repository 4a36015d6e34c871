"""Search spaces as data: decisions, their choices, costs, and encodings that are checked when they are read."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxnas import cost as costs_lib

LARGEST_ENUMERATION = 1_000_000  # architectures that `SearchSpace.enumerate` holds in memory at most, 64 MB at D = 16


@dataclass(frozen=True)
class Decision:
    """One categorical variable of a search space.

    Attributes:
      name: such as "layer 3" or "edge 0-1".
      choices: the names of its C_d choices, in the order of their indices; a list becomes a tuple.

    Raises:
      ValueError: if there is no choice.
    """

    name: str
    choices: tuple[str, ...]

    def __post_init__(self):
        if isinstance(self.choices, str):
            raise ValueError(f"choices of {self.name!r} must be a sequence of names, got {self.choices!r}")
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices:
            raise ValueError(f"choices of {self.name!r} must name at least one, got none")


@dataclass(frozen=True)
class SearchSpace:
    """D decisions and the costs of what they choose.

    Attributes:
      name: name of the space, part of every encoding.
      decisions: the D decisions.
      costs: the costs (`AdditiveCost`, `InteractionCost` or `LargestCost`); the first is the default of searches.
      arguments: names and values that the space was built with, see `spaces.described`; empty if unknown.

    Lists become tuples.

    Raises:
      ValueError: if the table of a cost does not have one row for each decision with one entry for each choice, or two
        costs have the same name.

    >>> space = SearchSpace("toy", (Decision("a", ("x", "y")), Decision("b", ("x", "y", "z"))))
    >>> space.num_choices, space.size
    ((2, 3), 6)
    >>> space.decode({"space": "toy", "encoding": [1, 2]}).tolist()
    [1, 2]
    """

    name: str
    decisions: tuple[Decision, ...]
    costs: tuple[costs_lib.Cost, ...] = ()
    arguments: tuple[tuple[str, float], ...] = dataclasses.field(default=(), kw_only=True)

    def __post_init__(self):
        object.__setattr__(self, "decisions", tuple(self.decisions))
        object.__setattr__(self, "costs", tuple(self.costs))
        names = [cost.name for cost in self.costs]
        if len(set(names)) < len(names):
            raise ValueError(f"costs of space {self.name!r} must have different names, got {', '.join(names)}")
        for cost in self.costs:
            if not isinstance(cost, costs_lib.InteractionCost):
                self._check_rows(cost)

    def _check_rows(self, cost: costs_lib.AdditiveCost | costs_lib.LargestCost) -> None:
        if len(cost.table) != len(self.decisions):
            raise ValueError(
                f"table of cost {cost.name!r} must have one row for each of the {len(self.decisions)} decisions of "
                f"{self.name!r}, got {len(cost.table)}"
            )
        for decision, row in zip(self.decisions, cost.table):
            if len(row) != len(decision.choices):
                raise ValueError(
                    f"table of cost {cost.name!r} must have one entry for each of the {len(decision.choices)} choices "
                    f"of {decision.name!r}, got {len(row)}"
                )

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
        return math.prod(self.num_choices)

    def enumerate(self, largest: int = LARGEST_ENUMERATION) -> np.ndarray:
        """All architectures in lexicographic order, int32 [N, D].

        Args:
          largest: how many architectures the space may have; this bounds the memory.

        Raises:
          ValueError: if the space has more.
        """
        if self.size > largest:
            raise ValueError(
                f"space {self.name!r} has {self.size:,} architectures, at most {largest:,} can be enumerated; "
                "sample from it, or take a smaller space"
            )
        return architectures(self.num_choices, np.arange(self.size))

    @property
    def description(self) -> dict[str, Any] | None:
        """The description from which `spaces.from_description` builds the space again, JSON-ready; None if unknown."""
        return {"name": self.name, **dict(self.arguments)} if self.arguments else None

    def cost(self, name: str) -> costs_lib.Cost:
        """The cost called `name`.

        Raises:
          ValueError: if the space has no cost of this name; the message lists those it has.
        """
        return costs_lib.by_name(self.costs, name)

    def validate(self, arch: Sequence[int] | np.ndarray) -> np.ndarray:
        """Checks one architecture.

        Args:
          arch: D choice indices.

        Returns:
          int32 [D].

        Raises:
          ValueError: if the length is not D, an entry is not an integer, or a choice is out of range.
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
        """The chosen operation of every decision, in one line of text.

        Args:
          arch: D choice indices.

        Raises:
          ValueError: as `validate`.
        """
        arch = self.validate(arch)
        return " | ".join(decision.choices[c] for decision, c in zip(self.decisions, arch))

    def encode(self, arch: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """An architecture as a JSON-ready dictionary that `decode` reads.

        Args:
          arch: D choice indices.

        Raises:
          ValueError: as `validate`.
        """
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


def architectures(num_choices: Sequence[int], rows: np.ndarray) -> np.ndarray:
    """The architectures at these places of the lexicographic order, in which the last decision varies fastest.

    Args:
      num_choices: C_d for each of the D decisions; at most 2**63 architectures in all.
      rows: int [...], from 0 to one less than the number of architectures.

    Returns:
      int32 [..., D].

    Raises:
      ValueError: if a row is out of range, or there are more architectures than 64-bit integers count.

    >>> architectures((2, 3), np.arange(6)).tolist()
    [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    """
    rows, count = np.asarray(rows), math.prod(num_choices)
    if rows.size and not (rows.min() >= 0 and rows.max() < count):
        raise ValueError(f"rows must lie from 0 to {count - 1}, got values from {rows.min()} to {rows.max()}")
    return (rows[..., None] // strides(num_choices) % np.asarray(num_choices)).astype(np.int32)


def rows_of(num_choices: Sequence[int], archs: np.ndarray) -> np.ndarray:
    """The places of architectures in the lexicographic order, the inverse of `architectures`: int [..., D] -> [...].

    >>> rows_of((2, 3), [[0, 2], [1, 0]]).tolist()
    [2, 3]
    """
    return np.asarray(archs) @ strides(num_choices)


def strides(num_choices: Sequence[int]) -> np.ndarray:
    """How far apart in the lexicographic order two neighbouring choices of each decision are; int64 [D].

    The place of architecture c is c @ strides.

    Raises:
      ValueError: if there are more architectures than 64-bit integers count.

    >>> strides((2, 3)).tolist()
    [3, 1]
    """
    if math.prod(num_choices) > 2**63:
        raise ValueError(f"{math.prod(num_choices):,} architectures are more than 64-bit integers can count")
    return np.asarray([math.prod(num_choices[d + 1 :]) for d in range(len(num_choices))], np.int64)


def scaled_channels(channels: int, width: float) -> int:
    """Channels times width, kept a multiple of 8 as MobileNet does; width 1 leaves them as they are."""
    return channels if width == 1 else max(8, int(channels * width + 4) // 8 * 8)
