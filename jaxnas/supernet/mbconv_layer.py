"""One layer of the MBConv supernet: the chosen operation, or a weighted sum of all."""

import functools
from collections.abc import Callable

import jax

from jaxnas.spaces.mbconv import Layer, Operation
from jaxnas.supernet import batched_layer, layer_weights, mbconv_block, mixture, ops, switched_layer
from jaxnas.supernet.backend import resolve_backend
from jaxnas.supernet.cpu import layer as cpu_layer
from jaxnas.supernet.switch import Branches, Params, switch_with_recompute

# (weights of all choices, x, choice, layer) -> the chosen operation of x; of a mixture, the choice is weights [C]
LayerFunction = Callable[[Params, jax.Array, jax.Array, Layer], jax.Array]


def norm_act(params: Params, x: jax.Array, relu6: bool, axis_name: str | None) -> jax.Array:
    """Batch norm over `axis_name`, and ReLU6 where wanted."""
    return ops.batch_norm(x, params["scale"], params["bias"], relu6=relu6, axis_name=axis_name)


def apply_operation(
    params: Params,
    x: jax.Array,
    layer: Layer,
    operation: Operation,
    axis_name: str | None = None,
    backend: str | None = None,
) -> jax.Array:
    """One choice of a layer: [B, H, W, in_channels] -> [B, H', W', out_channels]; batch norm over `axis_name`."""
    params = layer_weights.unpack(params, layer, operation)
    normalise = functools.partial(norm_act, axis_name=axis_name)
    if operation.is_skip:
        if layer.keeps_shape:
            return x
        x = x[:, :: layer.stride, :: layer.stride]
        return normalise(params, ops.pointwise_conv(x, params["kernel"]), relu6=False)
    if operation.expansion > 1:
        h = mbconv_block.inside(params, x, layer.stride, axis_name, backend)
    else:
        h = ops.depthwise_conv(x, params["depthwise"]["kernel"], layer.stride, backend)
        h = normalise(params["depthwise"], h, relu6=True)
        h = ops.pointwise_conv(h, params["project"]["kernel"])
    h = normalise(params["project"], h, relu6=False)
    return x + h if layer.keeps_shape else h


@functools.cache
def _branches(layer: Layer, axis_name: str | None, backend: str | None) -> Branches:
    return tuple(
        functools.partial(apply_operation, layer=layer, operation=operation, axis_name=axis_name, backend=backend)
        for operation in layer.operations
    )


def apply_layer(
    params: Params,
    x: jax.Array,
    choice: jax.Array,
    layer: Layer,
    axis_name: str | None = None,
    backend: str | None = None,
) -> jax.Array:
    """The chosen operation of a layer.

    Args:
      params: weights of all choices, see `mbconv.declare`.
      x: float [B, H, W, in_channels].
      choice: int32 [], index of the operation.
      layer: the layer.
      axis_name: mapped axis over which batch norm takes its statistics, see `ops.batch_norm`.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, H', W', out_channels].
    """
    return switch_with_recompute(_branches(layer, axis_name, backend), choice, params, x)


def mix_layer(
    params: Params,
    x: jax.Array,
    weights: jax.Array,
    layer: Layer,
    axis_name: str | None = None,
    backend: str | None = None,
) -> jax.Array:
    """As `apply_layer`, but the sum of all operations by float [C] weights, see `mixture.apply_branches`."""
    return mixture.apply_branches(_branches(layer, axis_name, backend), weights, params, x)


def layer_function(
    layer: Layer, gather: bool, backend: str | None = None, axis_name: str | None = None
) -> LayerFunction:
    """How a layer is computed.

    Args:
      layer: the layer.
      gather: whether chosen operations are gathered, see `mbconv.forward`.
      backend: "cpu", "gpu" or "tpu"; None for JAX's default.
      axis_name: mapped axis over which batch norm takes its statistics.

    Returns:
      `batched_layer.apply_layer`, `cpu_layer.apply_layer` or `apply_layer`, for this backend; the numbers are the same.
    """
    settings = {"axis_name": axis_name, "backend": resolve_backend(backend)}
    if gather and batched_layer.supports(layer):
        return functools.partial(batched_layer.apply_layer, **settings)
    # Blocks of channels are for a processor's caches; an accelerator wants few large operations. They find the
    # statistics of the expansion from those of its input, and know nothing of other devices.
    if settings["backend"] == "cpu" and not gather and axis_name is None and cpu_layer.supports(layer):
        return cpu_layer.apply_layer
    if settings["backend"] != "cpu" and switched_layer.supports(layer):
        return functools.partial(switched_layer.apply_layer, axis_name=axis_name)
    return functools.partial(apply_layer, **settings)
