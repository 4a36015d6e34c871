"""The MBConv supernet: every choice of every layer has its own weights, an architecture picks one path.

Batch norm uses the statistics of the minibatch, for each architecture its own: running averages of a supernet mean
nothing (METHOD, traps). The network is a pure function of a dictionary of arrays; the Flax module only declares it.
"""

import functools
import itertools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.spaces.mbconv import Layer, MBConvSpace, Operation
from jaxnas.supernet import init, ops

Params = dict[str, Any]


def _norm(channels: int) -> Params:
    return {"scale": init.constant(1.0, channels), "bias": init.constant(0.0, channels)}


def _pointwise(in_channels: int, out_channels: int) -> Params:
    return {"kernel": init.he_normal(in_channels, out_channels, fan_in=in_channels), **_norm(out_channels)}


def _operation(layer: Layer, operation: Operation) -> Params:
    if operation.is_skip:
        return {} if layer.keeps_shape else _pointwise(layer.in_channels, layer.out_channels)
    inner, size = layer.in_channels * operation.expansion, operation.kernel
    arrays = {
        "depthwise": {"kernel": init.he_normal(size, size, inner, fan_in=size**2), **_norm(inner)},
        "project": _pointwise(inner, layer.out_channels),
    }
    if operation.expansion > 1:
        arrays["expand"] = _pointwise(layer.in_channels, inner)
    return arrays


def declare(space: MBConvSpace) -> Params:
    """The arrays of the supernet: a tree of `init.Array`, by layer and then by the operation's name."""
    stem = {"kernel": init.he_normal(3, 3, 3, space.stem_channels, fan_in=27), **_norm(space.stem_channels)}
    classifier = {
        "kernel": init.normal(space.head_channels, space.num_classes, deviation=0.01),
        "bias": init.constant(0.0, space.num_classes),
    }
    arrays = {"stem": stem}
    for prefix, layers in (("fixed", space.fixed_layers), ("layer", space.layers)):
        for index, layer in enumerate(layers):
            arrays[f"{prefix}_{index + 1}"] = {op.name: _operation(layer, op) for op in layer.operations}
    head = _pointwise(space.layers[-1].out_channels, space.head_channels)
    return {**arrays, "head": head, "classifier": classifier}


def _norm_act(params: Params, x: jax.Array, relu6: bool) -> jax.Array:
    return ops.batch_norm(x, params["scale"], params["bias"], relu6=relu6)


def apply_operation(params: Params, x: jax.Array, layer: Layer, operation: Operation) -> jax.Array:
    """One choice of a layer: [B, H, W, in_channels] -> [B, H', W', out_channels]."""
    if operation.is_skip:
        if layer.keeps_shape:
            return x
        x = x[:, :: layer.stride, :: layer.stride]
        return _norm_act(params, ops.pointwise_conv(x, params["kernel"]), relu6=False)
    h = x
    if operation.expansion > 1:
        h = _norm_act(params["expand"], ops.pointwise_conv(h, params["expand"]["kernel"]), relu6=True)
    h = ops.depthwise_conv(h, params["depthwise"]["kernel"], layer.stride)
    h = _norm_act(params["depthwise"], h, relu6=True)
    h = _norm_act(params["project"], ops.pointwise_conv(h, params["project"]["kernel"]), relu6=False)
    return x + h if layer.keeps_shape else h


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def apply_layer(params: Params, x: jax.Array, choice: jax.Array, layer: Layer) -> jax.Array:
    """The chosen operation of a layer.

    Differentiating a `switch` would store the residuals of every branch; here they are the inputs alone, and the
    backward pass computes the chosen branch again.

    Args:
      params: weights of all choices, see `init_layer`.
      x: float [B, H, W, in_channels].
      choice: int32 [], index of the operation.
      layer: the layer.

    Returns:
      float [B, H', W', out_channels].
    """
    branches = [
        functools.partial(lambda operation, p, h: apply_operation(p[operation.name], h, layer, operation), operation)
        for operation in layer.operations
    ]
    if len(branches) == 1:
        return branches[0](params, x)
    return jax.lax.switch(choice, branches, params, x)


def _apply_layer_forward(params: Params, x: jax.Array, choice: jax.Array, layer: Layer):
    return apply_layer(params, x, choice, layer), (params, x, choice)


def _apply_layer_backward(layer: Layer, residuals, gradient: jax.Array):
    params, x, choice = residuals

    def branch(operation: Operation, params: Params, x: jax.Array, gradient: jax.Array):
        _, vjp = jax.vjp(lambda p, h: apply_operation(p, h, layer, operation), params[operation.name], x)
        params_gradient, x_gradient = vjp(gradient)
        return {**jax.tree.map(jnp.zeros_like, params), operation.name: params_gradient}, x_gradient

    branches = [functools.partial(branch, operation) for operation in layer.operations]
    if len(branches) == 1:
        return *branches[0](params, x, gradient), None
    return *jax.lax.switch(choice, branches, params, x, gradient), None


apply_layer.defvjp(_apply_layer_forward, _apply_layer_backward)


def _scan_step(layer: Layer, x: jax.Array, params_and_choice: tuple[Params, jax.Array]) -> tuple[jax.Array, None]:
    params, choice = params_and_choice
    return apply_layer(params, x, choice, layer), None


def forward(params: Params, images: jax.Array, arch: jax.Array, space: MBConvSpace) -> jax.Array:
    """Logits of one architecture.

    Args:
      params: weights, see `MBConvSupernet`.
      images: float [B, H, W, 3].
      arch: int32 [D].
      space: the search space.

    Returns:
      float [B, classes].
    """
    chex.assert_rank([images, arch], [4, 1])
    chex.assert_shape(arch, (len(space.layers),))
    x = jax.lax.conv_general_dilated(
        images,
        params["stem"]["kernel"],
        (space.stem_stride, space.stem_stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x = _norm_act(params["stem"], x, relu6=True)
    for index, layer in enumerate(space.fixed_layers):
        x = apply_layer(params[f"fixed_{index + 1}"], x, jnp.int32(0), layer)
    # Consecutive layers of one shape are one scan: the program holds a single copy of them, which compiles faster.
    for layer, group in itertools.groupby(enumerate(space.layers), key=lambda item: item[1]):
        indices = [index for index, _ in group]
        layer_params = [params[f"layer_{index + 1}"] for index in indices]
        if len(indices) == 1:
            x = apply_layer(layer_params[0], x, arch[indices[0]], layer)
        else:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layer_params)
            choices = arch[indices[0] : indices[-1] + 1]
            step = functools.partial(_scan_step, layer)
            x, _ = jax.lax.scan(step, x, (stacked, choices))
    x = _norm_act(params["head"], ops.pointwise_conv(x, params["head"]["kernel"]), relu6=True)
    return x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"]


class MBConvSupernet(nn.Module):
    """Supernet of an MBConv space: `apply({"params": params}, images, arch) -> logits`.

    Parameters are `stem`, `fixed_1`.., `layer_1`.., `head` and `classifier`; a layer holds one entry for each choice,
    by the operation's name.

    Attributes:
      space: the search space.
    """

    space: MBConvSpace

    @nn.compact
    def parameters(self) -> Params:
        """Declares the parameters; nothing else is computed, so that initialising compiles no network."""
        return {name: self.param(name, init.draw, arrays) for name, arrays in declare(self.space).items()}

    def __call__(self, images: jax.Array, arch: jax.Array) -> jax.Array:
        """Logits of one architecture: float [B, H, W, 3], int32 [D] -> float [B, classes]."""
        return forward(self.parameters(), images, arch, self.space)

    def init_params(self, key: jax.Array) -> Params:
        """He-initialised weights of all choices, without running the network."""
        return self.init(key, method=MBConvSupernet.parameters)["params"]
