"""Which part of the largest model each architecture keeps: masks, extraction and sizes.

A decision keeps a set of positions on each axis that it changes, and some leaves as a whole. Where several decisions
change one axis, what is kept is what all of them keep: a concatenation of two parts, or heads times units of a head.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic import matching
from jaxnas.elastic.matching import Path

Pattern = str | int  # "leading", "middle", "middle_up", "trailing"; a number: leading in each of so many groups


def kept_positions(pattern: Pattern, length: int, size: int) -> np.ndarray:
    """The positions of an axis that a pattern keeps, bool [length].

    >>> np.flatnonzero(kept_positions("middle", 5, 3)).tolist(), np.flatnonzero(kept_positions(2, 6, 4)).tolist()
    ([1, 2, 3], [0, 1, 3, 4])
    """
    place = np.arange(length)
    if isinstance(pattern, int):
        return place % (length // pattern) < size // pattern
    start = {
        "leading": 0,
        "middle": (length - size) // 2,
        "middle_up": (length - size + 1) // 2,
        "trailing": length - size,
    }[pattern]
    return (place >= start) & (place < start + size)


def patterns(length: int, sizes: Sequence[int]) -> list[Pattern]:
    """The patterns that an axis may have, whose choices leave these sizes."""
    groups = [g for g in range(2, length) if all(size % g == 0 for size in (length, *sizes))]
    return ["leading", "middle", "trailing", "middle_up", *groups]


@dataclass(frozen=True)
class Changes:
    """What one decision changes, seen alone.

    Attributes:
      sizes: (leaf, axis) -> int [C_d], the size of the axis; the largest where the leaf is absent.
      present: leaf -> bool [C_d], of leaves that some choice leaves out.
    """

    sizes: dict[tuple[Path, int], np.ndarray]
    present: dict[Path, np.ndarray]

    @property
    def leaves(self) -> list[Path]:
        """All that the decision changes."""
        return list(dict.fromkeys([path for path, _ in self.sizes] + list(self.present)))


@dataclass(eq=False)
class Layout:
    """The slices of all decisions.

    Attributes:
      shapes: leaf -> shape in the largest model.
      kept: (leaf, axis) -> {decision: bool [C_d, n]}.
      present: leaf -> {decision: bool [C_d]}.
    """

    shapes: Mapping[Path, tuple[int, ...]]
    kept: dict[tuple[Path, int], dict[int, np.ndarray]] = field(default_factory=dict)
    present: dict[Path, dict[int, np.ndarray]] = field(default_factory=dict)

    def masks(self, arch: Any, numpy: Any = np) -> dict[Path, Any]:
        """Leaf -> bool array of the leaf's rank, for the leaves that some decision changes.

        Args:
          arch: int [D]; may be traced.
          numpy: `jax.numpy` where it is.
        """
        rows: dict[Any, Any] = {}  # many leaves have the same table

        def row(decision: int, table: np.ndarray) -> Any:
            key = decision, table.shape, table.tobytes()
            if key not in rows:
                rows[key] = numpy.asarray(table)[arch[decision]]
            return rows[key]

        found: dict[Path, Any] = {}
        for (path, axis), tables in self.kept.items():
            ones = [1] * len(self.shapes[path])
            ones[axis] = -1
            for decision, table in tables.items():
                mask = row(decision, table).reshape(ones)
                found[path] = found[path] & mask if path in found else mask
        for path, flags in self.present.items():
            for decision, table in flags.items():
                mask = row(decision, table).reshape([1] * len(self.shapes[path]))
                found[path] = found[path] & mask if path in found else mask
        return found

    def mask(self, variables: Any, arch: jax.Array) -> Any:
        """The variables of the largest model with 0 in all that the architecture does not have; traced."""
        masks = self.masks(arch, jnp)
        flat, structure = jax.tree.flatten(variables)
        for place, path in enumerate(matching.paths(variables)):
            if path in masks and jnp.issubdtype(flat[place].dtype, jnp.inexact):
                flat[place] = jnp.where(masks[path], flat[place], jnp.zeros((), flat[place].dtype))
        return jax.tree.unflatten(structure, flat)

    def is_present(self, path: Path, arch: np.ndarray) -> bool:
        """Whether the architecture has this leaf."""
        return all(table[arch[decision]] for decision, table in self.present.get(path, {}).items())

    def positions(self, path: Path, axis: int, arch: np.ndarray) -> np.ndarray | None:
        """The positions kept on an axis, int [n']; None for all."""
        tables = self.kept.get((path, axis))
        if tables is None:
            return None
        return np.flatnonzero(np.all([table[arch[decision]] for decision, table in tables.items()], axis=0))

    def shape(self, path: Path, arch: np.ndarray) -> tuple[int, ...]:
        """The shape of a leaf in the architecture's own model."""
        kept = (self.positions(path, axis, arch) for axis in range(len(self.shapes[path])))
        return tuple(n if p is None else len(p) for n, p in zip(self.shapes[path], kept))

    def names(self, arch: np.ndarray, smaller: Sequence[Path]) -> dict[Path, Path]:
        """Leaf of the architecture's own model -> leaf of the largest.

        Raises:
          ValueError: if they cannot be the same leaves.
        """
        present = [path for path in self.shapes if self.is_present(path, arch)]
        found = matching.renamed(present, smaller)
        if found is None:
            mine, theirs = {matching.name_of(p) for p in present}, {matching.name_of(p) for p in smaller}
            raise ValueError(
                f"choices leave out leaves together in another way than one by one "
                f"({', '.join(sorted(mine ^ theirs)[:4])}); "
                f"give the layers names of their own, such as name=f'block_{{i}}'"
            )
        return found

    def extract(self, leaves: Mapping[Path, Any], arch: np.ndarray, smaller: Sequence[Path]) -> dict[Path, Any]:
        """The leaves of the architecture's own model, sliced from those of the largest; on the host."""
        names = self.names(arch, smaller)
        extracted = {}
        for path in smaller:
            leaf = leaves[names[path]]
            for axis in range(leaf.ndim):
                positions = self.positions(names[path], axis, arch)
                if positions is not None and len(positions) < leaf.shape[axis]:
                    leaf = leaf[(slice(None),) * axis + (positions,)]
            extracted[path] = leaf
        return extracted

    def decisions_of(self, path: Path) -> tuple[int, ...]:
        """The decisions that change a leaf."""
        found = set(self.present.get(path, {}))
        for axis in range(len(self.shapes[path])):
            found |= set(self.kept.get((path, axis), {}))
        return tuple(sorted(found))

    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of decisions that change one leaf: where sizes multiply."""
        together = (itertools.combinations(self.decisions_of(path), 2) for path in self.shapes)
        return sorted(set(itertools.chain.from_iterable(together)))

    def add(self, decision: int, changes: Changes, chosen: Mapping[tuple[Path, int], np.ndarray]) -> None:
        """Enters what a decision changes, `chosen` being the positions it keeps; replaces what was entered before."""
        self.remove(decision)
        for key, table in chosen.items():
            self.kept.setdefault(key, {})[decision] = table
        for path, flags in changes.present.items():
            self.present.setdefault(path, {})[decision] = flags

    def remove(self, decision: int) -> None:
        """Forgets a decision."""
        for tables in (self.kept, self.present):
            for key in [key for key, table in tables.items() if decision in table]:
                del tables[key][decision]
                if not tables[key]:
                    del tables[key]
