"""The choice of a layer among MBConvs and a skip, computed by blocks of inner channels (see `block`).

The choice is a kernel size and a number of blocks, both values of the running program: one compiled loop serves every
MBConv of the layer. The derivative keeps the input, the convolution in front of the last batch norm, and statistics.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.spaces.mbconv import Layer
from jaxnas.supernet import layer_weights, ops
from jaxnas.supernet.cpu import block
from jaxnas.supernet.cpu.depthwise import Geometry, divisor
from jaxnas.supernet.switch import Params

# Numbers of a block of channels for the whole minibatch, and the least and most channels of a block: measured best
# among 24, 48 and 96 channels on layers of 32 channels at 32x32, 64 at 16x16 and 128 at 8x8, 64 images.
BLOCK_SIZE = 1_600_000
BLOCK_CHANNELS = (24, 96)


def supports(layer: Layer) -> bool:
    """Whether every choice of a layer is an MBConv with an expansion, or a skip."""
    mbconvs = layer_weights.mbconvs(layer)
    return bool(mbconvs) and all(operation.expansion > 1 for operation in mbconvs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def apply_layer(params: Params, x: jax.Array, choice: jax.Array, layer: Layer) -> jax.Array:
    """The chosen operation of a layer.

    Args:
      params: weights of all choices, see `layer_weights`.
      x: float [B, H, W, in_channels].
      choice: int32 [], index of the operation.
      layer: the layer; `supports(layer)` holds.

    Returns:
      float [B, H', W', out_channels], in the dtype of x; computed in float32.
    """
    return _forward(params, x, choice, layer)[0]


def _forward(params: Params, x: jax.Array, choice: jax.Array, layer: Layer):
    geometry = _geometry(layer, x)
    kernel_index, blocks, skipped = _decode(layer, geometry, choice)
    inputs, x = x, x.astype(jnp.float32)
    weights, norm = _gather(params, layer, choice, skipped)
    total, statistics = block.forward(weights, x, kernel_index, blocks, geometry)
    if layer_weights.SHORTCUT in params:
        strided = x[:, :: layer.stride, :: layer.stride]
        kernel = params[layer_weights.SHORTCUT]["kernel"].astype(jnp.float32)
        total = lax.cond(skipped, lambda: ops.pointwise_conv(strided, kernel), lambda: total)

    def finish() -> jax.Array:
        y = ops.batch_norm(total, norm["scale"], norm["bias"])
        return x + y if layer.keeps_shape else y

    y = lax.cond(skipped, lambda: x, finish) if layer_weights.has_skip(layer) and layer.keeps_shape else finish()
    return y.astype(inputs.dtype), (params, inputs, choice, total, statistics)


def _backward(layer: Layer, residuals, gradient: jax.Array):
    params, inputs, choice, total, statistics = residuals
    x, gradient = inputs.astype(jnp.float32), gradient.astype(jnp.float32)
    geometry = _geometry(layer, x)
    kernel_index, blocks, skipped = _decode(layer, geometry, choice)
    (weights, norm), scatter = jax.vjp(lambda params: _gather(params, layer, choice, skipped), params)

    def through_mbconv():
        _, vjp = jax.vjp(ops.batch_norm, total, norm["scale"], norm["bias"])
        total_gradient, scale, bias = vjp(gradient)
        by_weight, by_x = block.backward(weights, x, statistics, total_gradient, kernel_index, blocks, geometry)
        by_params = scatter((by_weight, {"scale": scale, "bias": bias}))[0]
        return by_params, by_x + gradient if layer.keeps_shape else by_x

    def through_identity():
        return jax.tree.map(jnp.zeros_like, params), gradient

    def through_projection():
        def project(params: Params, x: jax.Array) -> jax.Array:
            strided = x[:, :: layer.stride, :: layer.stride]
            return ops.batch_norm(ops.pointwise_conv(strided, params["kernel"]), params["scale"], params["bias"])

        _, vjp = jax.vjp(project, params[layer_weights.SHORTCUT], x)
        by_params, by_x = vjp(gradient)
        return {**jax.tree.map(jnp.zeros_like, params), layer_weights.SHORTCUT: by_params}, by_x

    if not layer_weights.has_skip(layer):
        by_params, by_x = through_mbconv()
    else:
        through_skip = through_identity if layer.keeps_shape else through_projection
        by_params, by_x = lax.cond(skipped, through_skip, through_mbconv)
    return by_params, by_x.astype(inputs.dtype), None


apply_layer.defvjp(_forward, _backward)


def _geometry(layer: Layer, x: jax.Array) -> Geometry:
    """The block divides the inner channels of every choice and suits the size of the minibatch."""
    mbconvs = layer_weights.mbconvs(layer)
    inner = math.gcd(*(layer_weights.inner_channels(layer, operation) for operation in mbconvs))
    least, most = BLOCK_CHANNELS
    channels = min(most, max(least, BLOCK_SIZE // math.prod(x.shape[:3])))
    kernels = tuple(sorted({operation.kernel for operation in mbconvs}))
    return Geometry(kernels, layer.stride, divisor(inner, channels))


def _decode(layer: Layer, geometry: Geometry, choice: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of a choice: the index of its kernel size, the number of its blocks (0 for a skip), whether it is a skip."""
    rows = [
        (
            0 if operation.is_skip else geometry.kernels.index(operation.kernel),
            layer_weights.inner_channels(layer, operation) // geometry.block,
            operation.is_skip,
        )
        for operation in layer.operations
    ]
    kernel_index, blocks, skipped = layer_weights.at(jnp.asarray(rows, jnp.int32), choice)
    return kernel_index, blocks, skipped == 1


def _gather(params: Params, layer: Layer, choice: jax.Array, skipped: jax.Array) -> tuple[block.Weights, Params]:
    """Weights of the chosen MBConv (of any for a skip), and scale and bias of the last batch norm."""
    chosen = layer_weights.take(params, layer, choice, mask=False)
    chosen = jax.tree.map(lambda array: array.astype(jnp.float32), chosen)
    expand, depthwise, project = (chosen[name] for name in ("expand", "depthwise", "project"))
    weights = block.Weights(
        expand=expand["kernel"],
        scale1=expand["scale"],
        bias1=expand["bias"],
        depthwise=depthwise["kernel"],
        scale2=depthwise["scale"],
        bias2=depthwise["bias"],
        project=project["kernel"],
    )
    norm = {name: project[name] for name in ("scale", "bias")}
    if layer_weights.SHORTCUT in params:
        shortcut = params[layer_weights.SHORTCUT]
        norm = {name: jnp.where(skipped, shortcut[name].astype(jnp.float32), norm[name]) for name in norm}
    return weights, norm
