"""The chosen operation of a layer by gathering its weights, for batches of architectures on accelerators.

Under `jax.vmap` a `lax.switch` computes every choice. Here the weights of all MBConv choices are padded to the largest
kernel and expansion and the chosen ones are gathered, so that S architectures are one batched matrix product and one
grouped convolution, whatever they chose. Padding is exact: a channel whose weights, batch norm scale and shift are 0
stays 0 through ReLU6 and the next convolution, and a kernel in the middle of a larger one of zeros is the same kernel.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.spaces.mbconv import Layer, Operation
from jaxnas.supernet import ops


def supports(layer: Layer) -> bool:
    """Whether the choices of a layer can be padded to one: an MBConv without an expansion has another structure."""
    return len(layer.operations) > 1 and all(op.is_skip or op.expansion > 1 for op in layer.operations)


def apply_layer(
    params: dict[str, Any], x: jax.Array, choice: jax.Array, layer: Layer, axis_name: str | None = None
) -> jax.Array:
    """The chosen operation of a layer.

    Args:
      params: weights of all choices, by the operations' names.
      x: float [B, H, W, in_channels].
      choice: int32 [], index of the operation.
      layer: the layer; `supports(layer)` holds.
      axis_name: mapped axis over which batch norm takes its statistics, see `ops.batch_norm`.

    Returns:
      float [B, H', W', out_channels].
    """
    batch_norm = functools.partial(ops.batch_norm, axis_name=axis_name)
    convolutions = [operation for operation in layer.operations if not operation.is_skip]
    # Index of each choice among the convolutions; a skip gathers the first, and its result is not used.
    row = jnp.asarray([0 if op.is_skip else convolutions.index(op) for op in layer.operations])[choice]
    padded = [_pad(params[operation.name], layer, operation, convolutions) for operation in convolutions]
    chosen = jax.tree.map(lambda *leaves: jnp.stack(leaves)[row], *padded)

    h = x
    for name, convolve, relu6 in (
        ("expand", ops.pointwise_conv, True),
        ("depthwise", lambda h, kernel: ops.depthwise_conv(h, kernel, layer.stride), True),
        ("project", ops.pointwise_conv, False),
    ):
        weights = chosen[name]
        h = batch_norm(convolve(h, weights["kernel"]), weights["scale"], weights["bias"], relu6=relu6)
    if layer.keeps_shape:
        h = x + h
    skips = [index for index, operation in enumerate(layer.operations) if operation.is_skip]
    if not skips:
        return h
    skipped = x
    if not layer.keeps_shape:
        weights = params[layer.operations[skips[0]].name]
        strided = x[:, :: layer.stride, :: layer.stride]
        skipped = batch_norm(ops.pointwise_conv(strided, weights["kernel"]), weights["scale"], weights["bias"])
    return jnp.where(choice == skips[0], skipped, h)


def _pad(params: dict[str, Any], layer: Layer, operation: Operation, convolutions: list[Operation]) -> dict[str, Any]:
    """Weights of one MBConv in the shape of the largest."""
    inner = layer.in_channels * (max(op.expansion for op in convolutions) - operation.expansion)
    border = (max(op.kernel for op in convolutions) - operation.kernel) // 2

    def pad(weights: dict[str, jax.Array], *kernel_widths: tuple[int, int]) -> dict[str, jax.Array]:
        channels = kernel_widths[-1:]
        return {
            "kernel": jnp.pad(weights["kernel"], kernel_widths),
            "scale": jnp.pad(weights["scale"], channels),
            "bias": jnp.pad(weights["bias"], channels),
        }

    return {
        "expand": pad(params["expand"], (0, 0), (0, inner)),
        "depthwise": pad(params["depthwise"], (border, border), (border, border), (0, inner)),
        "project": pad(params["project"], (0, inner), (0, 0)),
    }
