"""Memory of networks as costs, in bytes: of their weights, and of their activations."""

import dataclasses
import numbers
from collections.abc import Callable, Collection

from jaxnas.cost import AdditiveCost, Cost, InteractionCost, LargestCost
from jaxnas.spaces.base import SearchSpace
from jaxnas.spaces.mbconv import Layer, MBConvSpace, Operation

WEIGHTS, ACTIVATIONS = "weight_memory", "activation_memory"
NAMES = (WEIGHTS, ACTIVATIONS)
UNIT = "bytes"
BITS = 32  # of a number, where nothing else is asked for


def weight_memory(space: SearchSpace, bits: float = BITS) -> Cost:
    """Bytes of the parameters, including those of batch norm.

    Args:
      space: any space with a cost "params", built-in or of `jaxnas.elastic`.
      bits: bits of a parameter of the deployed network: 32, 16, 8 or 4.

    Raises:
      ValueError: if the space has no cost "params", or `bits` is not positive.

    >>> from jaxnas.spaces import nasbench_macro
    >>> space = nasbench_macro()
    >>> int(space.cost("params").total([2] * 8)), int(weight_memory(space, bits=16).total([2] * 8))
    (2932586, 5865172)
    """
    _check_bits("weight", bits)
    counted = space.cost("params")
    fixed = _bytes(counted.fixed, bits)
    table = tuple(tuple(_bytes(each, bits) for each in row) for row in counted.table)
    if isinstance(counted, AdditiveCost):
        return AdditiveCost(WEIGHTS, UNIT, fixed, table)
    joint = tuple((ds, tuple(_bytes(each, bits) for each in flat)) for ds, flat in counted.interactions)
    return InteractionCost(WEIGHTS, UNIT, fixed, table, joint)


def activation_memory(space: SearchSpace, bits: float = BITS) -> LargestCost:
    """Peak bytes of the activations of one image.

    The network runs operation by operation. Each operation holds its input and its output, and within a residual branch
    also the input of the layer; batch norm, activation functions and the residual sum work in place. This is the "peak
    memory usage" of MCUNet (arXiv 2007.10319) and of uNAS (arXiv 2010.14246). A runtime that fuses operations or
    computes in parts needs less, one that allocates in blocks more.

    Args:
      space: a space of MBConv layers.
      bits: bits of an activation.

    Raises:
      ValueError: if the space is of another kind, or `bits` is not positive.

    >>> from jaxnas.spaces import nasbench_macro
    >>> activation_memory(nasbench_macro(), bits=8).total([[0] * 8, [2] * 8]).tolist()
    [49152, 245760]
    """
    _check_bits("activation", bits)
    if not isinstance(space, MBConvSpace):
        raise ValueError(f"{ACTIVATIONS} is known of spaces of MBConv layers alone, not of {space.name!r}")
    stem_resolution = -(-space.image_size // space.stem_stride)
    last = space.layers[-1]
    fixed = [
        3 * space.image_size**2 + space.stem_channels * stem_resolution**2,
        *(layer_activations(layer, layer.operations[0]) for layer in space.fixed_layers),
        (last.out_channels + space.head_channels) * last.out_resolution**2,
        space.head_channels * last.out_resolution**2 + space.head_channels,  # the pooling
        space.head_channels + space.num_classes,
    ]
    table = tuple(
        tuple(_bytes(layer_activations(layer, operation), bits) for operation in layer.operations)
        for layer in space.layers
    )
    return LargestCost(ACTIVATIONS, UNIT, _bytes(max(fixed), bits), table)


def layer_activations(layer: Layer, operation: Operation) -> int:
    """Peak number of activations of one choice of a layer, for one image."""
    inputs = layer.in_channels * layer.resolution**2
    outputs = layer.out_channels * layer.out_resolution**2
    if operation.is_skip:
        return inputs if layer.keeps_shape else inputs + outputs
    residual = inputs if layer.keeps_shape else 0
    inner = layer.in_channels * operation.expansion
    expanded, filtered = inner * layer.resolution**2, inner * layer.out_resolution**2
    if operation.expansion == 1:  # the depthwise convolution reads the layer's input itself
        return max(inputs + filtered, residual + filtered + outputs)
    return max(inputs + expanded, residual + expanded + filtered, residual + filtered + outputs)


def added_to(
    space: SearchSpace, names: Collection[str], weight_bits: float = BITS, activation_bits: float = BITS
) -> SearchSpace:
    """The space with costs of memory added.

        space = jaxnas.spaces.memory.added_to(space, ["weight_memory"], weight_bits=8)
        family = jaxnas.search(space, ..., budgets={"macs": (2e5, 5e5), "weight_memory": (1e5, 2e5)})

    Args:
      space: the space.
      names: names of costs, of which "weight_memory" and "activation_memory" are added.
      weight_bits: bits of a parameter.
      activation_bits: bits of an activation.

    Raises:
      ValueError: as `weight_memory` and `activation_memory`, or if the space already has this cost for other bits. A
        cost of the user with such a name stays as it is.
    """
    known = {cost.name: cost for cost in space.costs}
    added = []
    for name, make, bits in (
        (WEIGHTS, weight_memory, weight_bits),
        (ACTIVATIONS, activation_memory, activation_bits),
    ):
        if name in names and name in known:
            _check_same_bits(space, known[name], make, bits)
        elif name in names:
            added.append(make(space, bits))
    return dataclasses.replace(space, costs=(*space.costs, *added)) if added else space


def check_bits(costs: Collection[str], **bits: float | None) -> None:
    """Raises ValueError unless bits are those of a cost that is asked for.

    Args:
      costs: the names of all that is penalised or has a budget.
      **bits: `weight_bits` and `activation_bits`, None where they are not given.

    >>> check_bits(["weight_memory"], weight_bits=8, activation_bits=None)
    """
    for name, given in bits.items():
        cost = {"weight_bits": WEIGHTS, "activation_bits": ACTIVATIONS}[name]
        if given is None:
            continue
        if given < 1:
            raise ValueError(f"{name} must be at least 1, such as 32 or 8, got {given}")
        if cost not in costs:
            raise ValueError(
                f"{name} is for {cost}, which has no budget here and is not the cost, got {given}; name it, or leave "
                f"{name} out"
            )


def _check_same_bits(space: SearchSpace, known: Cost, make: Callable[[SearchSpace, float], Cost], bits: float) -> None:
    try:
        wanted = make(space, bits)
    except ValueError:  # one of the user's own
        return
    found = bits * known.highest / wanted.highest
    if found != bits and known == make(space, found):
        raise ValueError(f"space {space.name!r} has {known.name} for {found:g} bits already, got {bits:g}; add it once")


def _check_bits(what: str, bits: float) -> None:
    if not (isinstance(bits, numbers.Real) and 0 < bits < float("inf")):
        raise ValueError(f"{what} bits must be positive, such as 32 or 8, got {bits!r:.60}")


def _bytes(count: float, bits: float) -> float:
    """Whole bytes stay integers."""
    total = count * (int(bits) if isinstance(bits, numbers.Integral) else float(bits))
    return total // 8 if isinstance(total, int) and total % 8 == 0 else total / 8
