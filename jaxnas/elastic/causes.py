"""Why a decision cannot be searched by masks: the likely cause and the remedy, in words."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend import core

from jaxnas.elastic import programs
from jaxnas.elastic.comparison import TOLERANCE, Comparison, distance
from jaxnas.elastic.matching import name_of
from jaxnas.elastic.slices import Changes, Layout


def explain(
    comparison: Comparison, layout: Layout, decision: int, choice: int, changes: Changes, difference: float
) -> str:
    """One message: decision, leaf, difference, likely cause and remedy.

    Args:
      comparison: the models.
      layout: the slices of the decision that were tried first.
      decision: which one.
      choice: its largest choice that is not exact.
      changes: what the decision changes.
      difference: of masked and extracted outputs, relative; infinite if they could not be compared.
    """
    axis = comparison.models.choices.axes[decision]
    arch = comparison.models.choices.changed(decision, choice)
    cause, remedy = _cause(comparison, layout, arch, changes)
    left_out = [path for path, flags in changes.present.items() if not flags[choice]]
    leaf = name_of((left_out or changes.leaves)[0])
    more = len(left_out or changes.leaves) - 1
    return (
        f"{axis.name}={axis.values[choice]!r} is not exact: the largest model with masked parameters and the model of "
        f"this choice differ by {difference:.1e} (relative to the largest output, allowed {TOLERANCE:g}), "
        f"{'without' if left_out else 'with a slice of'} {leaf}{f' and {more} more leaves' if more else ''}. "
        f"Likely cause: {cause}. Remedy: {remedy}."
    )


def _cause(comparison: Comparison, layout: Layout, arch: np.ndarray, changes: Changes) -> tuple[str, str]:
    if _sigmoid(comparison, layout, arch):
        return (
            "sigmoid units, or others that are not 0 at 0, which masked parameters do not switch off",
            "take units that are 0 at 0, such as relu, gelu, silu or tanh, or subtract their value at 0",
        )
    large, small = (list(programs.equations(_jaxpr(comparison, a))) for a in (comparison.models.choices.largest, arch))
    if changes.present and not _same_primitives(large, small):
        norms = [sum(e.primitive.name == "rsqrt" for e in part) for part in (large, small)]
        if norms[0] > norms[1]:
            return (
                "a post-norm block left out: its norm is on the main path, where masking gives 0 and leaving out "
                "gives the block's input",
                "norm the input of the block's branch instead (pre-norm), or do not leave the block out",
            )
        if changes.sizes:
            return (
                "a layer that only some sizes have, such as the projection of a shortcut between different widths: "
                "masking it gives 0 and leaving it out gives its input",
                "build the layer for every size, or give only sizes that have it",
            )
        return (
            "a block left out that is no residual branch: masking it gives 0 and leaving it out gives its input",
            "add the block's output to its input, or let only sizes inside the block change",
        )
    equation = _changed_number(large, small)
    if equation is not None:
        scope = str(equation.source_info.name_stack)  # of Linen modules
        where = f" in {scope}" if scope else ""
        after = large[next(i for i, e in enumerate(large) if e is equation) :]
        if equation.primitive.name in ("div", "mul") and _feeds_norm(equation, after):
            return (
                f"a norm over an elastic width{where}, whose mean and variance count the masked units",
                "keep the normed width fixed and let widths inside the blocks change, or norm groups of a fixed size "
                "(GroupNorm with group_size) or each unit over the batch (BatchNorm)",
            )
        return (
            f"a number in the computation{where} that depends on the size, such as 1/sqrt(head_dim) or a mean of units",
            "compute it from a fixed size, or keep this size fixed",
        )
    return (
        "interleaved axes: the units of a smaller choice are not one block of the axis of the largest, as after a "
        "reshape or shuffle of units with others",
        "give the elastic units an axis of their own, or say which positions each choice keeps with "
        "slices={'leaf': {axis: positions}}",
    )


def _jaxpr(comparison: Comparison, arch: np.ndarray) -> core.Jaxpr:
    abstract = comparison.models.abstract(arch)
    variables = abstract.tree(abstract.leaves)
    function = programs.exact_form(comparison.models.function(arch))  # without nested calls
    return programs.trace(function, variables, comparison.inputs)


def _sigmoid(comparison: Comparison, layout: Layout, arch: np.ndarray) -> bool:
    """Whether the difference is gone where sigmoids and their kin are shifted to be 0 at 0."""
    models = comparison.models
    largest = _jaxpr(comparison, models.choices.largest)
    if not any(e.primitive.name in ("logistic", "cos", "log1p") for e in programs.equations(largest)):
        return False
    try:
        function = programs.exact_form(models.function(models.choices.largest), zero_units=True)
        variables = models.largest.tree(comparison.masked_leaves(layout, arch))
        masked = comparison.numbers(
            programs.compile_fast(function, variables, comparison.inputs)(variables, comparison.inputs)
        )
        extracted = comparison.extracted(layout, arch, zero_units=True)
        return distance(masked, extracted, comparison.describe(arch)) <= TOLERANCE
    except ValueError:
        return False


def _same_primitives(large: list[core.JaxprEqn], small: list[core.JaxprEqn]) -> bool:
    return [e.primitive for e in large] == [e.primitive for e in small]


def _changed_number(large: list[core.JaxprEqn], small: list[core.JaxprEqn]) -> core.JaxprEqn | None:
    """The first equation with a number that is another in the smaller model."""
    for a, b in zip(large, small):
        if a.primitive is not b.primitive:
            return None
        for x, y in zip(_numbers(a), _numbers(b)):
            if x != y:
                return a
    return None


def _numbers(equation: core.JaxprEqn) -> Iterator[Any]:
    for atom in equation.invars:
        if isinstance(atom, core.Literal) and np.ndim(atom.val) == 0 and np.asarray(atom.val).dtype.kind == "f":
            yield float(atom.val)


def _feeds_norm(equation: core.JaxprEqn, after: list[core.JaxprEqn]) -> bool:
    """Whether a root is taken of what an equation gives, without a matrix product in between."""
    reached = set(equation.outvars)
    for later in after[1:]:
        if not reached & {atom for atom in later.invars if isinstance(atom, core.Var)}:
            continue
        if later.primitive.name in ("rsqrt", "sqrt"):
            return True
        if later.primitive.name not in ("dot_general", "conv_general_dilated"):
            reached |= set(later.outvars)
    return False
