"""Finds the slices of a space from shapes, and proves them by comparing outputs.

What each choice changes is read off the shapes of two abstract instances, the largest and one with one choice made
smaller (as `mup` finds infinite dimensions, arXiv 2203.03466). Which positions are kept is a guess (`positions`)
that covering architectures confirm or refute. Where it is refuted, each decision is looked at alone, guess after guess.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnas.elastic import causes, matching
from jaxnas.elastic.comparison import TOLERANCE, Comparison
from jaxnas.elastic.matching import Path, name_of
from jaxnas.elastic.positions import ByHand, Positions
from jaxnas.elastic.slices import Changes, Layout

MATCHES = 32  # ways to match leaves that are tried for one choice
COVERS = 2  # times that each choice of each decision appears in the architectures that prove a layout


@dataclass(frozen=True, eq=False)
class Discovery:
    """The search for the slices of one space.

    Attributes:
      comparison: models to compare.
      positions: guesses which positions are kept.
    """

    comparison: Comparison
    positions: Positions

    def run(self) -> Layout:
        """The slices, proved.

        Raises:
          ValueError: naming decision, leaf, difference, likely cause and remedy, if masks cannot be exact.
        """
        layout = Layout({path: leaf.shape for path, leaf in self._largest.items()})
        self.positions.check_by_hand()
        for decision in range(len(self._choices.axes)):
            matched = []
            for choice in self._smaller(decision):
                matched.append(self._likeliest(layout, decision, choice, matched))
            changes = self._changes(decision, matched)
            self._check_changes(decision, changes)
            layout.add(decision, changes, self.positions.likeliest(changes))
        if self._first_inexact(layout) is None:
            return layout
        for decision in range(len(self._choices.axes)):
            self._resolve(layout, decision)
        failed = self._first_inexact(layout)
        if failed is not None:
            raise ValueError(self._together(layout, failed))
        return layout

    @property
    def _choices(self) -> Any:
        return self.comparison.models.choices

    @property
    def _largest(self) -> dict[Path, Any]:
        return self.comparison.models.largest.sliced

    def _smaller(self, decision: int) -> range:
        """The choices of a decision but for the largest, from large to small."""
        return range(self._choices.num_choices[decision] - 2, -1, -1)

    # What a decision changes.

    def _candidates(
        self, layout: Layout, decision: int, choice: int, before: list[dict[Path, Path]]
    ) -> list[dict[Path, Path]]:
        """Ways to match a choice's leaves with the largest model's, the likeliest first.

        What a larger choice leaves out, a smaller one does too.
        """
        small = self.comparison.models.abstract(self._choices.changed(decision, choice)).sliced
        large = matching.nested(self._largest)
        found = list(itertools.islice(matching.matches(large, matching.nested(small)), MATCHES))
        if not found:
            raise ValueError(self._unmatched(decision, choice, small))
        if len(found) == 1:
            return found
        if before:
            nested = [match for match in found if set(match.values()) <= set(before[-1].values())]
            found = nested or found
        return sorted(found, key=lambda match: self._oddness(layout, decision, match, before))

    def _oddness(
        self, layout: Layout, decision: int, match: dict[Path, Path], before: list[dict[Path, Path]]
    ) -> tuple[float, ...]:
        """The cost of a match: other leaves are left out than those that the decision changes otherwise.

        Blocks of one shape can be told apart by nothing else: outputs are the same whichever of them is left out.
        """
        gone = self._largest.keys() - set(match.values())
        own = {path for path, _ in self._changes(decision, before).sizes} if before else set()
        taken = {path for path, flags in layout.present.items() if any(d != decision for d in flags)}
        axis = self._choices.axes[decision]
        entries = sum(other.keyword == axis.keyword for other in self._choices.axes)
        trained = [path for path in self._largest if path[0] == "params"]  # in the order in which they are made
        ranks = [rank for rank, path in enumerate(trained) if path in gone]
        misplaced = 0.0
        if axis.place is not None and ranks:
            # The entries of a list belong to layers in the order of both.
            misplaced = abs(np.mean(ranks) / len(trained) - (axis.place + 0.5) / entries)
        return -len(gone & own), len(gone & taken), misplaced

    def _likeliest(
        self, layout: Layout, decision: int, choice: int, before: list[dict[Path, Path]]
    ) -> dict[Path, Path]:
        """The match to begin with: where there are several, the first that is exact."""
        candidates = self._candidates(layout, decision, choice, before)
        alone = Layout(layout.shapes)
        for match in candidates[: MATCHES if len(candidates) > 1 else 0]:
            changes = self._changes(decision, [*before, match])
            alone.add(decision, changes, self.positions.likeliest(changes))
            if self._difference(alone, self._choices.changed(decision, choice)) <= TOLERANCE:
                return match
        return candidates[0]

    def _unmatched(self, decision: int, choice: int, small: Mapping[Path, Any]) -> str:
        axis, reason = self._choices.axes[decision], "its leaves are others than those of the largest model"
        for path, leaf in small.items():
            if path not in self._largest:
                reason = f"it has a leaf {name_of(path)} that the largest model has not"
                break
            large = self._largest[path]
            if len(large.shape) != len(leaf.shape) or any(n < m for n, m in zip(large.shape, leaf.shape)):
                reason = f"leaf {name_of(path)} has shape {leaf.shape} there, and {large.shape} in the largest model"
                break
            if large.dtype != leaf.dtype:
                reason = f"leaf {name_of(path)} is {leaf.dtype} there, and {large.dtype} in the largest model"
        return (
            f"{axis.name}={axis.values[choice]!r} is no part of the model with {axis.name}={axis.values[-1]!r}: "
            f"{reason}; the largest choice must have every leaf, each at least as large on every axis"
        )

    def _changes(self, decision: int, matched: list[dict[Path, Path]]) -> Changes:
        """What the choices change, given the matches of all but the largest, from large to small."""
        count = self._choices.num_choices[decision]
        sizes: dict[tuple[Path, int], np.ndarray] = {}
        present: dict[Path, np.ndarray] = {}
        for choice, match in zip(self._smaller(decision), matched):
            small = self.comparison.models.abstract(self._choices.changed(decision, choice)).sliced
            for path in self._largest.keys() - set(match.values()):
                present.setdefault(path, np.ones(count, bool))[choice] = False
            for path, large in match.items():
                for axis, (n, m) in enumerate(zip(self._largest[large].shape, small[path].shape)):
                    if n != m:
                        sizes.setdefault((large, axis), np.full(count, n))[choice] = m
        order = {path: place for place, path in enumerate(self._largest)}
        return Changes(
            {key: sizes[key] for key in sorted(sizes, key=lambda key: (order[key[0]], key[1]))},
            {path: present[path] for path in sorted(present, key=order.__getitem__)},
        )

    def _check_changes(self, decision: int, changes: Changes) -> None:
        axis = self._choices.axes[decision]
        rows = [*changes.sizes.values(), *changes.present.values()]
        for choice, (a, b) in enumerate(itertools.pairwise(axis.values)):
            if any(row[choice] != row[choice + 1] for row in rows):
                continue
            if rows:
                problem = f"changes nothing between {a!r} and {b!r}: the models have the same parameters"
            elif self._same_outputs(decision, choice):
                problem = f"changes nothing: the model ignores the argument {axis.keyword}"
            else:
                problem = "changes what the model computes but no parameter, which masks cannot follow"
            raise ValueError(f"{axis.name} {problem}; leave it out, or give choices that change sizes of parameters")

    def _same_outputs(self, decision: int, choice: int) -> bool:
        layout = Layout({path: leaf.shape for path, leaf in self._largest.items()})
        return self.comparison.difference(layout, self._choices.changed(decision, choice)) <= TOLERANCE

    def _resolve(self, layout: Layout, decision: int) -> None:
        """Finds a decision's slices by looking at it alone; raises ValueError if there are none."""
        first = None
        for kept_of in self.positions.hypotheses(decision):
            alone = Layout(layout.shapes)
            matched: list[dict[Path, Path]] = []
            for choice in self._smaller(decision):
                tried = []
                for match in self._candidates(layout, decision, choice, matched):
                    changes = self._changes(decision, [*matched, match])
                    alone.add(decision, changes, kept_of(changes))
                    tried.append((self._difference(alone, self._choices.changed(decision, choice)), match))
                    if tried[-1][0] <= TOLERANCE:
                        break
                difference, match = min(tried, key=lambda pair: pair[0])
                matched.append(match)
                if difference > TOLERANCE:
                    first = first or (choice, difference, self._changes(decision, matched), kept_of)
                    break
            else:
                changes = self._changes(decision, matched)
                layout.add(decision, changes, kept_of(changes))
                return
            if not changes.sizes:
                break  # nothing to guess
        choice, difference, changes, kept_of = first
        alone = Layout(layout.shapes)
        alone.add(decision, changes, kept_of(changes))
        raise ValueError(causes.explain(self.comparison, alone, decision, choice, changes, difference))

    def _difference(self, layout: Layout, arch: np.ndarray) -> float:
        try:
            return self.comparison.difference(layout, arch)
        except ValueError as error:
            if "outputs must have one shape" in str(error):
                raise
            return np.inf

    # All decisions together.

    def _first_inexact(self, layout: Layout) -> np.ndarray | None:
        """The first of some covering architectures that is not exact."""
        smallest = np.zeros((1, len(self._choices.axes)), np.int32)
        archs = np.concatenate([self._choices.covers(np.random.default_rng(0), COVERS), smallest])
        # Shapes are looked at on more, those that multiply-adds are counted on.
        for arch in np.concatenate([archs, self._choices.proof()]):
            if not self._fits(layout, arch):
                return arch
        return next((arch for arch in archs if self._difference(layout, arch) > TOLERANCE), None)

    def _fits(self, layout: Layout, arch: np.ndarray) -> bool:
        try:
            self.comparison.check_shapes(layout, arch)
        except ValueError:
            return False
        return True

    def _together(self, layout: Layout, arch: np.ndarray) -> str:
        """The message for an architecture that is not exact, though each of its decisions is alone."""
        arch, largest = arch.copy(), self._choices.largest
        for decision in range(len(arch)):  # leave only what is needed for the difference
            changed = arch.copy()
            changed[decision] = largest[decision]
            if self._difference(layout, changed) > TOLERANCE:
                arch = changed
        involved = np.flatnonzero(arch != largest)
        names = " and ".join(
            f"{self._choices.axes[d].name}={self._choices.axes[d].values[arch[d]]!r}" for d in involved
        )
        difference = self.comparison.difference(layout, arch)  # raises where shapes are the reason
        leaf = next((p for p in layout.shapes if len(set(layout.decisions_of(p)) & set(involved)) > 1), None)
        return (
            f"{names} together are not exact, though each is alone: outputs differ by {difference:.1e} (relative)"
            + (f", leaf {name_of(leaf)}" if leaf else "")
            + "; make one decision of them, or fix one"
        )


def discover(comparison: Comparison, by_hand: ByHand) -> Layout:
    """The slices of a space; see `Discovery.run`."""
    return Discovery(comparison, Positions(comparison, by_hand)).run()
