"""Costs by counting: multiply-adds from a program, parameters from shapes, as sums that a search can optimise.

A cost of a space is fitted exactly: single changes of the largest architecture give a table for each decision, and what
two or more changes together cost beyond that (inclusion and exclusion) gives tables of pairs and, for convolutions
whose kernel and both widths are chosen, of triples. The sums are held against the counts of random architectures.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxnas.cost import AdditiveCost, Cost, InteractionCost
from jaxnas.elastic import programs
from jaxnas.elastic.choices import Choices
from jaxnas.elastic.comparison import Models, accepts
from jaxnas.elastic.slices import Layout

MOST_TOGETHER = 4  # decisions whose sizes multiply in one product
VERIFIED = 8  # random architectures that a fitted cost must reproduce


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
    trained = [path for path in layout.shapes if path[0] == "params"]
    changed = [path for path in trained if layout.decisions_of(path)]

    def count(arch: np.ndarray) -> int:
        return sum(math.prod(layout.shape(path, arch)) for path in changed if layout.is_present(path, arch))

    value, tables = fit(count, models.choices, layout.pairs(), "params")
    fixed = sum(math.prod(layout.shapes[path]) for path in set(trained) - set(changed))
    return assemble("params", "parameters", fixed + value, tables, models.choices.num_choices)


def macs_cost(models: Models, layout: Layout) -> Cost:
    """The multiply-adds of all architectures, counted on a few of them.

    Raises:
      ValueError: if sums over products of up to `MOST_TOGETHER` decisions do not reproduce the counts.
    """
    fixed, tables = fit(lambda arch: count_macs(models, arch), models.choices, layout.pairs(), "macs")
    return assemble("macs", "multiply-adds", fixed, tables, models.choices.num_choices)


Tables = dict[tuple[int, ...], np.ndarray]


def fit(
    count: Callable[[np.ndarray], int], choices: Choices, likely: Iterable[tuple[int, int]], name: str
) -> tuple[int, Tables]:
    """A function of architectures as an exact sum of functions of few decisions.

    Args:
      count: int [D] -> integer.
      choices: of the space.
      likely: pairs of decisions that probably multiply; others are tried if these do not explain the counts.
      name: what is counted, for messages.

    Returns:
      The value of the largest architecture, and what changes of one, two or more decisions add to it: decisions ->
      int [C_d, ...].

    Raises:
      ValueError: if no such sum reproduces the counts of random architectures.
    """
    largest = choices.largest
    known: dict[tuple[int, ...], int] = {}

    def value(arch: np.ndarray) -> int:
        key = tuple(arch.tolist())
        if key not in known:
            known[key] = count(arch)
        return known[key]

    rng = np.random.default_rng(1)
    proof = np.stack([rng.integers(n, size=VERIFIED) for n in choices.num_choices], axis=1).astype(np.int32)
    tables: Tables = {}

    def excess(decisions: tuple[int, ...], chosen: tuple[int, ...]) -> int:
        """What these changes together add beyond all that fewer of them add."""
        arch = largest.copy()
        arch[list(decisions)] = chosen
        return value(arch) - total(arch)

    def total(arch: np.ndarray) -> int:
        parts = (table[tuple(arch[list(decisions)])] for decisions, table in tables.items())
        return value(largest) + int(sum(parts))

    def add(decisions: tuple[int, ...]) -> None:
        counts = [choices.num_choices[d] for d in decisions]
        table = np.zeros(counts, np.int64)
        for chosen in itertools.product(*(range(n - 1) for n in counts)):
            table[chosen] = excess(decisions, chosen)
        if table.any():
            tables[decisions] = table

    def proved() -> bool:
        return all(value(arch) == total(arch) for arch in proof)

    several = [d for d, n in enumerate(choices.num_choices) if n > 1]
    for decision in several:
        add((decision,))
    for pair in likely:
        if set(pair) <= set(several):
            add(tuple(pair))
    if proved():
        return value(largest), tables
    for together in range(2, MOST_TOGETHER + 1):
        for decisions in itertools.combinations(several, together):
            smaller = itertools.combinations(decisions, together - 1)
            if decisions in tables or (together > 2 and not all(part in tables for part in smaller)):
                continue
            if excess(decisions, (0,) * together):
                add(decisions)
        if proved():
            return value(largest), tables
    raise ValueError(
        f"{name} are no sum of products of up to {MOST_TOGETHER} decisions: more of them change the sizes of one "
        f"product; make one decision of some of them"
    )


def assemble(name: str, unit: str, fixed: int, tables: Tables, num_choices: Sequence[int]) -> Cost:
    """The cost with these tables; additive if all of them are of one decision."""
    single = [np.zeros(n, np.int64) for n in num_choices]
    joint = {}
    for decisions, table in tables.items():
        if len(decisions) == 1:
            single[decisions[0]] = single[decisions[0]] + table
        else:
            joint[decisions] = table
    rows = tuple(tuple(row.tolist()) for row in single)
    if not joint:
        return AdditiveCost(name, unit, int(fixed), rows)
    interactions = tuple((decisions, tuple(joint[decisions].reshape(-1).tolist())) for decisions in sorted(joint))
    return InteractionCost(name, unit, int(fixed), rows, interactions)
