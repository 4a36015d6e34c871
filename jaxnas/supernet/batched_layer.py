"""The chosen operation of a layer by gathering its weights, for batches of architectures on accelerators.

Under `jax.vmap` a `lax.switch` computes every choice. Here the weights of the chosen MBConvs, padded to the largest
kernel and expansion (`layer_weights`), are gathered, so that S architectures are one batched matrix product and one
grouped convolution, whatever they chose.
"""

import functools

import jax
import jax.numpy as jnp

from jaxnas.spaces.mbconv import Layer
from jaxnas.supernet import layer_weights, mbconv_block, ops
from jaxnas.supernet.switch import Params


def supports(layer: Layer) -> bool:
    """Whether the choices of a layer can be padded to one: an MBConv without an expansion has another structure."""
    return len(layer.operations) > 1 and all(op.is_skip or op.expansion > 1 for op in layer.operations)


def apply_layer(
    params: Params,
    x: jax.Array,
    choice: jax.Array,
    layer: Layer,
    *,
    backend: str | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """The chosen operation of a layer; takes and returns what `mbconv_layer.apply_layer` does.

    The layer is one that `supports`.
    """
    batch_norm = functools.partial(ops.batch_norm, axis_name=axis_name)
    chosen = layer_weights.take(params, layer, choice, mask=True)  # of a skip unused
    h = mbconv_block.inside(chosen, x, layer.stride, axis_name, backend, batched=True)
    h = batch_norm(h, chosen["project"]["scale"], chosen["project"]["bias"])
    if layer.keeps_shape:
        h = x + h
    skips = [index for index, operation in enumerate(layer.operations) if operation.is_skip]
    if not skips:
        return h
    skipped = x
    if not layer.keeps_shape:
        weights = params[layer_weights.SHORTCUT]
        strided = x[:, :: layer.stride, :: layer.stride]
        skipped = batch_norm(ops.pointwise_conv(strided, weights["kernel"]), weights["scale"], weights["bias"])
    return jnp.where(choice == skips[0], skipped, h)
