"""Costs by counting: multiply-adds from a program, parameters from shapes, as sums that a search can optimise.

A cost of a space is fitted exactly: single changes of the largest architecture give a table for each decision, and what
two or more changes together cost beyond that (inclusion and exclusion) gives tables of pairs and, for convolutions
whose kernel and both widths are chosen, of triples. The sums are held against the counts of random architectures.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxnas.cost import AdditiveCost, Cost, InteractionCost
from jaxnas.elastic import programs
from jaxnas.elastic.choices import Choices
from jaxnas.elastic.matching import Path
from jaxnas.elastic.models import Models, accepts
from jaxnas.elastic.slices import Layout

MOST_TOGETHER = 4  # decisions whose sizes multiply in one product


def multiply_adds(function: Callable[..., Any], *arguments: Any) -> int:
    """Multiply-adds of one call: those of its matrix products and convolutions.

    Loops count as often as they run, both of a program's nested calls and of its rematerialised parts; what its outputs
    do not depend on counts nothing. Zeros that a convolution inserts between inputs (transposed convolution) count
    nothing either.

    Args:
      function: arrays to arrays.
      *arguments: arrays or their shapes.

    Raises:
      ValueError: if it holds a product in a loop of unknown length, in branches of other cost, or in a custom kernel.
    """
    return _count(programs.trace(function, *arguments))


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "ragged_dot":
        return math.prod(equation.outvars[0].aval.shape) * equation.invars[0].aval.shape[-1]
    if name == "conv_general_dilated":
        return _count_convolution(equation)
    inner = [_count(part) for part in programs.subprograms(equation)]
    if not any(inner):
        return 0
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "while":
        raise ValueError(
            "macs cannot be counted: the model multiplies matrices in a while loop, whose length is not known; "
            "use lax.scan or a fori_loop with fixed bounds"
        )
    if name == "cond":
        if len(set(inner)) > 1:
            raise ValueError(
                f"macs cannot be counted: branches of a conditional cost {inner} multiply-adds; which runs is not known"
            )
        return inner[0]
    if name == "pallas_call":
        raise ValueError(
            "macs cannot be counted: the model multiplies matrices in a Pallas kernel; use jax.numpy there"
        )
    if name == "shard_map":
        return math.prod(params["mesh"].shape.values()) * sum(inner)
    return sum(inner)


def _count_convolution(equation: core.JaxprEqn) -> int:
    params = equation.params
    numbers = params["dimension_numbers"]
    left, kernel, out = equation.invars[0].aval.shape, equation.invars[1].aval.shape, equation.outvars[0].aval.shape
    # One output unit at one place: the kernel's places and the inputs of its group.
    each = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    if any(dilation > 1 for dilation in params["lhs_dilation"]):
        places = math.prod(left[axis] for axis in numbers.lhs_spec[2:])
        units = out[numbers.out_spec[1]]
        return out[numbers.out_spec[0]] * places * units * each
    return math.prod(out) * each


def count_macs(models: Models, arch: np.ndarray) -> int:
    """Multiply-adds of an architecture's own model on one example, in evaluation."""
    abstract = models.abstract(arch)
    one = _one_example(models)
    return multiply_adds(models.function(arch), abstract.tree(abstract.leaves), one)


def _one_example(models: Models) -> Any:
    """The inputs with a batch of one; as they are where the model takes no such thing."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), models.inputs)
    leaves = jax.tree.leaves(shapes)
    if any(not leaf.shape or leaf.shape[0] != leaves[0].shape[0] for leaf in leaves):
        return shapes
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), shapes)
    return one if accepts(models, one) else shapes


def count_params(models: Models, arch: np.ndarray) -> int:
    """Parameters of an architecture's own model; what is not trained does not count."""
    leaves = models.abstract(arch).leaves
    return sum(math.prod(leaf.shape) for path, leaf in leaves.items() if path[0] == "params")


def params_cost(models: Models, layout: Layout) -> Cost:
    """The parameters of all architectures, from the slices of each leaf."""
    changed = [path for path in _trained(layout) if layout.decisions_of(path)]
    fixed = sum(math.prod(layout.shapes[path]) for path in set(_trained(layout)) - set(changed))
    fitted = Fit(models.choices, layout, lambda arch: _params(layout, changed, arch)).run("params")
    return assemble("params", "parameters", fixed + fitted.value(models.choices.largest), fitted.tables, models.choices)


def macs_cost(models: Models, layout: Layout) -> Cost:
    """The multiply-adds of all architectures, counted on a few of them.

    Raises:
      ValueError: if sums over products of up to `MOST_TOGETHER` decisions do not reproduce the counts.
    """
    fitted = Fit(models.choices, layout, lambda arch: count_macs(models, arch)).run("macs")
    return assemble("macs", "multiply-adds", fitted.value(models.choices.largest), fitted.tables, models.choices)


def _trained(layout: Layout) -> list[Path]:
    return [path for path in layout.shapes if path[0] == "params"]


def _params(layout: Layout, leaves: Iterable[Path], arch: np.ndarray) -> int:
    return sum(math.prod(layout.shape(path, arch)) for path in leaves if layout.is_present(path, arch))


Tables = dict[tuple[int, ...], np.ndarray]


class Fit:
    """A count of architectures as an exact sum of functions of few decisions.

    Counting takes long: most entries of the tables are guessed from a few counts, as sizes multiply, and the guesses
    are held against architectures in which every choice of every decision appears. If they fail, all are counted.

    Attributes:
      tables: decisions -> int [C_d, ...], what their changes of the largest architecture add to its count beyond what
        fewer of them add.

    Args:
      choices: of the space.
      layout: its slices, for the guesses.
      count: int [D] -> integer.
    """

    def __init__(self, choices: Choices, layout: Layout, count: Callable[[np.ndarray], int]):
        self.tables: Tables = {}
        self._choices, self._layout, self._count = choices, layout, count
        self._known: dict[tuple[int, ...], int] = {}
        self._several = [d for d, n in enumerate(choices.num_choices) if n > 1]

    def run(self, name: str) -> "Fit":
        """Fits the tables.

        Args:
          name: what is counted, for messages.

        Raises:
          ValueError: if no sum of products of up to `MOST_TOGETHER` decisions reproduces the counts.
        """
        proof = self._choices.proof()
        likely = [pair for pair in self._layout.pairs() if set(pair) <= set(self._several)]
        for guess in (True, False):
            self.tables = {}
            for decisions in [(d,) for d in self._several] + likely:
                self._add(decisions, guess)
            if self._proved(proof):
                return self
            for together in range(2, MOST_TOGETHER + 1):
                for decisions in itertools.combinations(self._several, together):
                    smaller = itertools.combinations(decisions, together - 1)
                    if decisions in self.tables or (together > 2 and not all(part in self.tables for part in smaller)):
                        continue
                    if self._excess(decisions, (0,) * together):
                        self._add(decisions, guess)
                if self._proved(proof):
                    return self
        raise ValueError(
            f"{name} are no sum of products of up to {MOST_TOGETHER} decisions: more of them change the sizes of one "
            f"product; make one decision of some of them"
        )

    def value(self, arch: np.ndarray) -> int:
        """The count of an architecture."""
        key = tuple(arch.tolist())
        if key not in self._known:
            self._known[key] = self._count(arch)
        return self._known[key]

    def _proved(self, archs: np.ndarray) -> bool:
        return all(self.value(arch) == self._total(arch) for arch in archs)

    def _total(self, arch: np.ndarray) -> int:
        parts = (table[tuple(arch[list(decisions)])] for decisions, table in self.tables.items())
        return self.value(self._choices.largest) + int(sum(parts))

    def _excess(self, decisions: tuple[int, ...], chosen: tuple[int, ...]) -> int:
        """What these changes together add beyond all that fewer of them add."""
        arch = self._choices.largest
        arch[list(decisions)] = chosen
        return self.value(arch) - self._total(arch)

    def _add(self, decisions: tuple[int, ...], guess: bool) -> None:
        counts = [self._choices.num_choices[d] for d in decisions]
        table = self._guessed(decisions) if guess else None
        if table is None:
            table = np.zeros(counts, np.int64)
            for chosen in itertools.product(*(range(n - 1) for n in counts)):
                table[chosen] = self._excess(decisions, chosen)
        if table.any():
            self.tables[decisions] = table

    def _guessed(self, decisions: tuple[int, ...]) -> np.ndarray | None:
        """The table if counts grow with sizes, or end where leaves are left out; None if that gives no integers."""
        if len(decisions) == 2:
            for whole, part in (decisions, decisions[::-1]):
                gone = self._without(whole, part)
                if gone.any():  # what is left out has no size
                    single = self.tables.get((part,), np.zeros(self._choices.num_choices[part], np.int64))
                    table = np.where(gone[:, None], -single, 0)
                    return table if whole < part else table.T
        corner = self._excess(decisions, (0,) * len(decisions))
        share = 1
        for d in decisions:
            share = np.multiply.outer(share, self._smallness(d))
        table = share * Fraction(corner)
        if any(entry.denominator != 1 for entry in np.ravel(table)):
            return None
        return np.reshape([int(entry) for entry in np.ravel(table)], table.shape).astype(np.int64)

    def _without(self, whole: int, part: int) -> np.ndarray:
        """Which choices of a decision leave out all that another one changes, bool [C]."""
        leaves = [path for path in self._layout.shapes if part in self._layout.decisions_of(path)]
        flags = [self._layout.present.get(path, {}).get(whole) for path in leaves]
        if not leaves or any(flag is None for flag in flags):
            return np.zeros(self._choices.num_choices[whole], bool)
        return ~np.any(flags, axis=0)

    def _smallness(self, decision: int) -> np.ndarray:
        """1 for the smallest choice and 0 for the largest, by the sizes of matrices and kernels: fractions [C]."""
        changed = [path for path in _trained(self._layout) if decision in self._layout.decisions_of(path)]
        changed = [path for path in changed if len(self._layout.shapes[path]) > 1] or changed
        choices = range(self._choices.num_choices[decision])
        sizes = [_params(self._layout, changed, self._choices.changed(decision, choice)) for choice in choices]
        span = sizes[-1] - sizes[0]
        return np.asarray([Fraction(sizes[-1] - size, span) if span else Fraction(0) for size in sizes], object)


def assemble(name: str, unit: str, fixed: int, tables: Tables, choices: Choices) -> Cost:
    """The cost with these tables; additive if all of them are of one decision."""
    single = [np.zeros(n, np.int64) for n in choices.num_choices]
    joint = {}
    for decisions, table in tables.items():
        if len(decisions) == 1:
            single[decisions[0]] = single[decisions[0]] + table
        else:
            joint[decisions] = table
    fixed += sum(int(row.min()) for row in single)  # a choice costs what it adds to the cheapest one
    rows = tuple(tuple((row - row.min()).tolist()) for row in single)
    if not joint:
        return AdditiveCost(name, unit, int(fixed), rows)
    interactions = tuple((decisions, tuple(joint[decisions].reshape(-1).tolist())) for decisions in sorted(joint))
    return InteractionCost(name, unit, int(fixed), rows, interactions)
