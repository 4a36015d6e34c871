"""The weights of all choices of a layer in nine arrays, whatever the number of choices.

A program takes longer to compile the more arrays it gathers, adds up and updates, and a layer of six MBConvs would have
fifty-four. So the MBConvs of a layer lie along the first axis of their arrays, padded with zeros to the largest kernel
k (a small one in the middle) and the widest expansion E:

    expand     kernel [M, Cin, E]     scale, bias [M, E]       only if some expansion is not 1
    depthwise  kernel [M, k, k, E]    scale, bias [M, E]
    project    kernel [M, E, Cout]    scale, bias [M, Cout]
    shortcut   kernel [Cin, Cout]     scale, bias [Cout]       of a skip that changes the shape

Padding is exact: a channel whose weights, batch norm scale and shift are 0 stays 0 through ReLU6 and the next
convolution, and a kernel in the middle of a larger one of zeros is the same kernel. Padding stays 0 in training, since
no function here has a gradient there.

Sharing by slices (`sharing="slices"`; Once-for-all, arXiv 1908.09791) is M = 1: one MBConv of the largest kernel and
the widest expansion, of which every choice takes its part, the middle of the kernel and the leading channels, batch
norm's scale and shift included. The shapes of the arrays say which it is, and all functions here take both. A choice
that is not sampled then learns too, through the part that it has in common with those that are; nothing corrects the
size of gradients for that. Unlike Once-for-all, a smaller kernel is not transformed further.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.spaces.mbconv import Layer, Operation
from jaxnas.supernet import init
from jaxnas.supernet.switch import Params

SHORTCUT = "shortcut"
SHARINGS = ("separate", "slices")


def check_sharing(sharing: str) -> None:
    """Raises ValueError if `sharing` is none of `SHARINGS`."""
    if sharing not in SHARINGS:
        raise ValueError(f"sharing must be one of {', '.join(SHARINGS)}, got {sharing!r}")


def mbconvs(layer: Layer) -> tuple[Operation, ...]:
    """The M choices of a layer that are no skip, in the order of the choices."""
    return tuple(operation for operation in layer.operations if not operation.is_skip)


def has_skip(layer: Layer) -> bool:
    """Whether the layer can be skipped."""
    return any(operation.is_skip for operation in layer.operations)


def largest_kernel(layer: Layer) -> int:
    """Kernel size k that all are padded to."""
    return max(operation.kernel for operation in mbconvs(layer))


def inner_channels(layer: Layer, operation: Operation) -> int:
    """Channels between the expansion and the projection of an MBConv."""
    return layer.in_channels * operation.expansion


def declare(layer: Layer, sharing: str = "separate") -> Params:
    """The arrays of a layer, as a tree of `init.Array` and `init.Stack`.

    Args:
      layer: the layer.
      sharing: one of `SHARINGS`. Slices are initialised as parts of the largest MBConv.
    """
    if sharing == "slices" and mbconvs(layer):
        layer = _of_largest(layer)
    arrays, operations = {}, mbconvs(layer)
    inners = [inner_channels(layer, operation) for operation in operations]
    if operations:
        norms = _stack([init.norm(inner) for inner in inners])
        kernels = [init.he_normal(op.kernel, op.kernel, i, fan_in=op.kernel**2) for op, i in zip(operations, inners)]
        arrays["depthwise"] = {"kernel": init.Stack(tuple(kernels), centred=2), **norms}
        arrays["project"] = _stack([init.conv(1, inner, layer.out_channels) for inner in inners])
    if any(operation.expansion > 1 for operation in operations):
        arrays["expand"] = _stack(
            [
                init.conv(1, layer.in_channels, inner) if operation.expansion > 1 else init.no_conv()
                for operation, inner in zip(operations, inners)
            ]
        )
    if has_skip(layer) and not layer.keeps_shape:
        arrays[SHORTCUT] = init.conv(1, layer.in_channels, layer.out_channels)
    return arrays


def _of_largest(layer: Layer) -> Layer:
    """The layer with one MBConv, which has room for all that it has."""
    widest = max(operation.expansion for operation in mbconvs(layer))
    skips = tuple(operation for operation in layer.operations if operation.is_skip)
    return dataclasses.replace(layer, operations=(Operation(largest_kernel(layer), widest), *skips))


def _stack(trees: list[dict[str, init.Array]]) -> dict[str, init.Stack]:
    return jax.tree.map(lambda *parts: init.Stack(parts), *trees)


def has_slices(params: Params, layer: Layer) -> bool:
    """Whether these weights of a layer are those of its largest MBConv alone, though it has several."""
    return len(mbconvs(layer)) > 1 and len(params["depthwise"]["kernel"]) == 1


def take(params: Params, layer: Layer, choice: jax.Array, *, mask: bool) -> Params:
    """The arrays of the chosen MBConv, padded with zeros to the largest of the layer.

    Args:
      params: as `declare` has them.
      layer: the layer; every MBConv has an expansion.
      choice: int32 [], index of the operation; a skip, which has no MBConv, has the first.
      mask: give padding gradient 0 here; else the caller must not have one there. Slices are masked anyway.

    Returns:
      `expand`, `depthwise` and `project`.
    """
    operations = mbconvs(layer)
    rows = [0 if operation.is_skip else operations.index(operation) for operation in layer.operations]
    row = at(jnp.asarray(rows, jnp.int32), choice)
    slices = has_slices(params, layer)
    stored = jnp.int32(0) if slices else row
    names = ("expand", "depthwise", "project")
    taken = {name: jax.tree.map(lambda array: at(array, stored), params[name]) for name in names}
    if not (mask or slices):
        return taken
    taps, channels = (at(jnp.asarray(part), row) for part in used(layer))
    masks = {
        "expand": {"kernel": channels, "scale": channels, "bias": channels},
        "depthwise": {"kernel": taps[:, :, None] & channels, "scale": channels, "bias": channels},
        "project": {"kernel": channels[:, None], "scale": True, "bias": True},
    }
    return {name: {key: taken[name][key] * part for key, part in parts.items()} for name, parts in masks.items()}


def at(array: jax.Array, index: jax.Array) -> jax.Array:
    """`array[index]` of an index that is never negative: a third of the operations, of which a layer has dozens."""
    return jax.lax.dynamic_index_in_dim(array, index, keepdims=False, allow_negative_indices=False)


def unpack(params: Params, layer: Layer, operation: Operation) -> Params:
    """The arrays of one choice in their own sizes; of an identity skip there are none.

    Args:
      params: as `declare` has them.
      layer: the layer.
      operation: one of its operations.

    Returns:
      `expand`, `depthwise` and `project` of an MBConv; kernel, scale and bias of a skip that changes the shape.
    """
    if operation.is_skip:
        return params.get(SHORTCUT, {})
    index = 0 if has_slices(params, layer) else mbconvs(layer).index(operation)
    inner = inner_channels(layer, operation)
    border = (largest_kernel(layer) - operation.kernel) // 2
    window = slice(border, border + operation.kernel)

    def of(name: str, kernel: tuple[slice, ...], channels: slice) -> Params:
        arrays = {key: params[name][key][index] for key in ("kernel", "scale", "bias")}
        return {
            "kernel": arrays["kernel"][kernel],
            "scale": arrays["scale"][channels],
            "bias": arrays["bias"][channels],
        }

    used, every = slice(inner), slice(None)
    arrays = {
        "depthwise": of("depthwise", (window, window, used), used),
        "project": of("project", (used, every), every),
    }
    if operation.expansion > 1:
        arrays["expand"] = of("expand", (every, used), used)
    return arrays


def used(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Where rows are not padding: bool [M, k, k] of the depthwise kernel's taps, bool [M, E] of the channels."""
    operations, size = mbconvs(layer), largest_kernel(layer)
    inners = np.array([inner_channels(layer, operation) for operation in operations])
    distance = np.abs(np.arange(size) - size // 2)
    reach = np.array([operation.kernel // 2 for operation in operations])
    inside = distance <= reach[:, None]  # [M, k]
    return inside[:, :, None] & inside[:, None, :], np.arange(inners.max()) < inners[:, None]
