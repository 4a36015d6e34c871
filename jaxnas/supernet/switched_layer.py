"""The chosen operation of a layer by a switch, for one architecture after the other on accelerators.

As `mbconv_layer.apply_layer`, but the branches share what they leave for the derivative: the output in front of the
last batch norm and the statistics, padded to the widest expansion. The backward pass then computes the wide activations
again and no statistics, and a branch takes and returns the weights of one MBConv and not of all.
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnas.spaces.mbconv import Layer, Operation
from jaxnas.supernet import layer_weights, mbconv_block, ops
from jaxnas.supernet.mbconv_block import Statistics
from jaxnas.supernet.switch import Params, switch


@flax.struct.dataclass
class Kept:
    """What a branch leaves for the derivative; of a skip it is 0.

    Attributes:
      y: [B, H', W', Cout], in front of the last batch norm.
      statistics: of the MBConv, padded to the widest expansion.
    """

    y: jax.Array
    statistics: Statistics


def supports(layer: Layer) -> bool:
    """Whether a layer has MBConvs, and all of them an expansion."""
    operations = layer_weights.mbconvs(layer)
    return bool(operations) and all(operation.expansion > 1 for operation in operations)


def apply_layer(
    params: Params, x: jax.Array, choice: jax.Array, layer: Layer, *, axis_name: str | None = None
) -> jax.Array:
    """The chosen operation of a layer; takes and returns what `mbconv_layer.apply_layer` does.

    The layer is one that `supports`.
    """
    chosen = layer_weights.take(params, layer, choice, mask=False)  # the branches have no use for padding
    weights = jax.tree.map(lambda array: array[None], chosen)
    if layer_weights.SHORTCUT in params:
        weights[layer_weights.SHORTCUT] = params[layer_weights.SHORTCUT]
    return _chosen(weights, x, choice, layer, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _chosen(weights: Params, x: jax.Array, choice: jax.Array, layer: Layer, axis_name: str | None) -> jax.Array:
    return _forward(weights, x, choice, layer, axis_name)[0]


def _forward(weights: Params, x: jax.Array, choice: jax.Array, layer: Layer, axis_name: str | None):
    branches = [functools.partial(_forward_branch, layer, operation, axis_name) for operation in layer.operations]
    output, kept = switch(choice, branches, weights, x)
    return output, (weights, x, choice, kept)


def _backward(layer: Layer, axis_name: str | None, residuals: Any, gradient: jax.Array):
    weights, x, choice, kept = residuals
    branches = [functools.partial(_backward_branch, layer, operation, axis_name) for operation in layer.operations]
    return *switch(choice, branches, weights, x, kept, gradient), None


_chosen.defvjp(_forward, _backward)


def _forward_branch(
    layer: Layer, operation: Operation, axis_name: str | None, weights: Params, x: jax.Array
) -> tuple[jax.Array, Kept]:
    if operation.is_skip:
        return _skip(layer, axis_name, weights, x), _nothing_kept(layer, axis_name, weights, x)
    own = layer_weights.unpack(weights, layer, operation)
    inside = {**own, "project": {"kernel": own["project"]["kernel"]}}
    y, statistics = mbconv_block.forward(inside, x, layer.stride, axis_name)
    widest = max(layer_weights.inner_channels(layer, other) for other in layer_weights.mbconvs(layer))
    output = _normalise(axis_name, own["project"], y)
    return x + output if layer.keeps_shape else output, Kept(y, _resized(statistics, widest))


def _backward_branch(
    layer: Layer,
    operation: Operation,
    axis_name: str | None,
    weights: Params,
    x: jax.Array,
    kept: Kept,
    gradient: jax.Array,
) -> tuple[Params, jax.Array]:
    if operation.is_skip:
        _, pull = jax.vjp(functools.partial(_skip, layer, axis_name), weights, x)
        return pull(gradient)
    own, pull = jax.vjp(functools.partial(layer_weights.unpack, layer=layer, operation=operation), weights)
    norm = {name: own["project"][name] for name in ("scale", "bias")}
    _, pull_norm = jax.vjp(functools.partial(_normalise, axis_name), norm, kept.y)
    by_norm, y_gradient = pull_norm(gradient)
    statistics = _resized(kept.statistics, layer_weights.inner_channels(layer, operation))
    inside = {**own, "project": {"kernel": own["project"]["kernel"]}}
    by_weight, x_gradient = mbconv_block.backward(inside, x, statistics, y_gradient, layer.stride, axis_name)
    (by_weights,) = pull({**by_weight, "project": {**by_weight["project"], **by_norm}})
    return by_weights, x_gradient + gradient if layer.keeps_shape else x_gradient


def _normalise(axis_name: str | None, norm: Params, y: jax.Array) -> jax.Array:
    return ops.batch_norm(y, norm["scale"], norm["bias"], axis_name=axis_name)


def _skip(layer: Layer, axis_name: str | None, weights: Params, x: jax.Array) -> jax.Array:
    if layer.keeps_shape:
        return x
    weights, x = weights[layer_weights.SHORTCUT], x[:, :: layer.stride, :: layer.stride]
    return _normalise(axis_name, weights, ops.pointwise_conv(x, weights["kernel"]))


def _nothing_kept(layer: Layer, axis_name: str | None, weights: Params, x: jax.Array) -> Kept:
    branch = functools.partial(_forward_branch, layer, layer_weights.mbconvs(layer)[0], axis_name)
    _, shapes = jax.eval_shape(branch, weights, x)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _resized(statistics: Statistics, inner: int) -> Statistics:
    """Those of E channels cut or padded to another number."""

    def resize(leaf: jax.Array) -> jax.Array:
        return jnp.pad(leaf[..., :inner], (0, max(0, inner - leaf.shape[-1])))

    resized = {name: resize(getattr(statistics, name)) for name in ("rate1", "mean2", "rate2")}
    return statistics.replace(**resized)
