"""Which positions of an axis each choice keeps: guesses in the order of their likelihood, and those given by hand.

The leading ones are the first guess, or the middle ones of kernels. Other guesses are other places (trailing, leading
in groups), and the positions that still matter to the outputs when the rest of a decision is masked: those that have
gradients.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnas.elastic.comparison import Comparison
from jaxnas.elastic.matching import Path, name_of
from jaxnas.elastic.slices import Changes, Layout, Pattern, kept_positions, patterns

ROUNDS = 3  # of inference by gradients
COMBINATIONS = 200  # of patterns on axes of different sizes

Kept = dict[tuple[Path, int], np.ndarray]  # (leaf, axis) -> bool [C_d, n]
ByHand = Mapping[str, Mapping[int, Any]]  # leaf name -> axis -> pattern, or positions kept by each choice


@dataclass(frozen=True, eq=False)
class Positions:
    """The guesses for the decisions of one space.

    Attributes:
      comparison: models to compare.
      by_hand: slices that the user gives.
    """

    comparison: Comparison
    by_hand: ByHand

    @property
    def _choices(self) -> Any:
        return self.comparison.models.choices

    @property
    def _largest(self) -> dict[Path, Any]:
        return self.comparison.models.largest.sliced

    def likeliest(self, changes: Changes) -> Kept:
        """The first guess for a decision."""
        return self._all(changes, self._guess(changes))

    def _guess(self, changes: Changes) -> Callable[[tuple[Path, int]], Pattern]:
        """Leading, or middle where a decision changes nothing but what look like sizes of kernels."""
        spatial = all(axis < len(self._largest[path].shape) - 2 for path, axis in changes.sizes)
        return lambda key: "middle" if spatial else "leading"

    def _all(self, changes: Changes, guess: Callable[[tuple[Path, int]], Pattern]) -> Kept:
        """The positions of all axes of a decision by a pattern for each, but for those given by hand."""
        kept = {}
        for key, sizes in changes.sizes.items():
            path, axis = key
            length = self._largest[path].shape[axis]
            pattern = self.by_hand.get(name_of(path), {}).get(axis, guess(key))
            if isinstance(pattern, (str, int)):
                if pattern not in patterns(length, sizes.tolist()):
                    raise ValueError(
                        f"slices[{name_of(path)!r}][{axis}] must be one of {patterns(length, sizes.tolist())}, or the "
                        f"positions that each choice keeps, got {pattern!r}"
                    )
                kept[key] = np.stack([kept_positions(pattern, length, int(size)) for size in sizes])
            else:
                kept[key] = self._positions_by_hand(path, axis, pattern, length, sizes)
        return kept

    @staticmethod
    def _positions_by_hand(path: Path, axis: int, given: Any, length: int, sizes: np.ndarray) -> np.ndarray:
        if len(given) != len(sizes) or any(len(set(row)) != size for row, size in zip(given, sizes)):
            raise ValueError(
                f"slices[{name_of(path)!r}][{axis}] must hold the positions that each choice keeps, "
                f"{', '.join(map(str, sizes))} of {length}, got {[len(row) for row in given]}"
            )
        table = np.zeros((len(sizes), length), bool)
        for row, positions in zip(table, given):
            row[np.asarray(positions)] = True
        return table

    def check_by_hand(self) -> None:
        """Raises ValueError where the slices given by hand name no leaf or axis of the model."""
        names = {name_of(path): leaf.shape for path, leaf in self._largest.items()}
        for name, axes in self.by_hand.items():
            if name not in names:
                raise ValueError(f"slices must name leaves of the model, got {name!r}; there are {', '.join(names)}")
            if any(not 0 <= axis < len(names[name]) for axis in axes):
                raise ValueError(f"slices[{name!r}] must name axes of shape {names[name]}, got {tuple(axes)}")

    def hypotheses(self, decision: int) -> Iterator[Callable[[Changes], Kept]]:
        """Ways to guess the positions that a decision keeps, the likeliest first."""
        yield self.likeliest

        def everywhere(pattern: Pattern) -> Callable[[Changes], Kept]:
            return lambda changes: self._all(changes, lambda key: pattern)

        def inferred(start: Pattern, rounds: int) -> Callable[[Changes], Kept]:
            return lambda changes: self._inferred(decision, changes, start, rounds)

        yield from map(everywhere, ("leading", "middle"))
        yield from (inferred("leading", rounds) for rounds in range(1, ROUNDS + 1))
        yield from map(everywhere, ("trailing", "middle_up"))
        yield from (inferred(groups, rounds) for groups in (2, 3, 4) for rounds in range(1, ROUNDS + 1))
        # Axes of one size keep the same positions.
        for place in range(COMBINATIONS):
            yield lambda changes, place=place: self._combined(changes, place)

    def _combined(self, changes: Changes, place: int) -> Kept:
        """One of the combinations of a pattern for each kind of axis, those with the fewest unusual ones first."""
        kinds: dict[tuple[int, ...], list[Pattern]] = {}
        for (path, axis), sizes in changes.sizes.items():
            length = self._largest[path].shape[axis]
            kinds[(length, *sizes.tolist())] = patterns(length, sizes.tolist())
        ranked = itertools.chain.from_iterable(
            itertools.product(*(options[1:] if kind in unusual else options[:1] for kind, options in kinds.items()))
            for count in range(len(kinds) + 1)
            for unusual in itertools.combinations(kinds, count)
        )
        combination = next(itertools.islice(ranked, place, None), None)
        if combination is None:
            return self._all(changes, lambda key: "leading")
        chosen = dict(zip(kinds, combination))
        return self._all(
            changes,
            lambda key: chosen[(self._largest[key[0]].shape[key[1]], *changes.sizes[key].tolist())],
        )

    def _inferred(self, decision: int, changes: Changes, start: Pattern, rounds: int) -> Kept:
        """Each axis keeps the positions that matter to the outputs when the decision's other axes are masked."""

        def first(key: tuple[Path, int]) -> Pattern:
            path, axis = key
            fitting = patterns(self._largest[path].shape[axis], changes.sizes[key].tolist())
            return start if start in fitting else "leading"

        kept = self._all(changes, first)
        for _ in range(rounds):
            inferred = {key: self._live_positions(decision, changes, kept, key) for key in kept}
            by_hand = {key for key in kept if key[1] in self.by_hand.get(name_of(key[0]), {})}
            kept = {
                key: table if inferred[key] is None or key in by_hand else inferred[key] for key, table in kept.items()
            }
        return kept

    def _live_positions(self, decision: int, changes: Changes, kept: Kept, key: tuple[Path, int]) -> np.ndarray | None:
        """Bool [C_d, n], or None where gradients do not tell as many positions as there should be."""
        path, axis = key
        layout = Layout({p: leaf.shape for p, leaf in self._largest.items()})
        layout.add(decision, changes, {other: table for other, table in kept.items() if other != key})
        table = np.ones_like(kept[key])
        for choice, size in enumerate(changes.sizes[key]):
            if size == table.shape[1]:
                continue
            masked = self.comparison.masked_leaves(layout, self._choices.changed(decision, choice))
            live = self.comparison.live(masked)[path]
            alive = live.any(tuple(a for a in range(live.ndim) if a != axis))
            if alive.sum() != size:
                return None
            table[choice] = alive
        return table
