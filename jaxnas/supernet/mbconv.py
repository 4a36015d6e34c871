"""The MBConv supernet: every choice of every layer has its own weights, an architecture picks one path.

Batch norm uses the statistics of the minibatch, for each architecture its own: running averages of a supernet mean
nothing (METHOD, traps). The network is a pure function of a dictionary of arrays; the Flax module only declares it.
"""

import functools
import itertools
from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.spaces.mbconv import Layer, MBConvSpace, Operation
from jaxnas.supernet import batched_layer, init, layer_weights, mixture, ops
from jaxnas.supernet.backend import resolve_backend
from jaxnas.supernet.conv import full_conv
from jaxnas.supernet.cpu import layer as cpu_layer
from jaxnas.supernet.switch import Branches, Params, switch_with_recompute

# (weights of all choices, x, choice, layer) -> the chosen operation of x; of a mixture, the choice is weights [C]
LayerFunction = Callable[[Params, jax.Array, jax.Array, Layer], jax.Array]


def declare(space: MBConvSpace) -> Params:
    """The arrays of the supernet, by layer and then as in `layer_weights`: a tree of `init.Array` and `init.Stack`."""
    arrays = {"stem": init.conv(3, 3, space.stem_channels)}
    for prefix, layers in (("fixed", space.fixed_layers), ("layer", space.layers)):
        for index, layer in enumerate(layers):
            arrays[f"{prefix}_{index + 1}"] = layer_weights.declare(layer)
    arrays["head"] = init.conv(1, space.layers[-1].out_channels, space.head_channels)
    arrays["classifier"] = init.classifier(space.head_channels, space.num_classes)
    return arrays


def _norm_act(params: Params, x: jax.Array, relu6: bool, axis_name: str | None) -> jax.Array:
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
    norm_act = functools.partial(_norm_act, axis_name=axis_name)
    if operation.is_skip:
        if layer.keeps_shape:
            return x
        x = x[:, :: layer.stride, :: layer.stride]
        return norm_act(params, ops.pointwise_conv(x, params["kernel"]), relu6=False)
    h = x
    if operation.expansion > 1:
        h = norm_act(params["expand"], ops.pointwise_conv(h, params["expand"]["kernel"]), relu6=True)
    h = ops.depthwise_conv(h, params["depthwise"]["kernel"], layer.stride, backend)
    h = norm_act(params["depthwise"], h, relu6=True)
    h = norm_act(params["project"], ops.pointwise_conv(h, params["project"]["kernel"]), relu6=False)
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
      params: weights of all choices, see `declare`.
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
      gather: whether chosen operations are gathered, see `forward`.
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
    return functools.partial(apply_layer, **settings)


def _scan_step(
    apply: LayerFunction, layer: Layer, keep: bool, x: jax.Array, params_and_choice: tuple[Params, jax.Array]
) -> tuple[jax.Array, jax.Array | None]:
    params, choice = params_and_choice
    x = apply(params, x, choice, layer)
    return x, x if keep else None


def forward(
    params: Params,
    images: jax.Array,
    arch: jax.Array,
    space: MBConvSpace,
    gather: bool = False,
    axis_name: str | None = None,
    backend: str | None = None,
) -> jax.Array:
    """Logits of one architecture.

    Args:
      params: weights, see `MBConvSupernet`.
      images: float [B, H, W, 3].
      arch: int32 [D].
      space: the search space.
      gather: whether chosen operations are gathered, which suits `vmap` over architectures, or switched between.
      axis_name: mapped axis over which batch norm takes its statistics, see `ops.batch_norm`.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, classes].
    """
    chex.assert_rank([images, arch], [4, 1])
    chex.assert_shape(arch, (len(space.layers),))
    apply_searched = functools.partial(layer_function, gather=gather, backend=backend, axis_name=axis_name)
    return _network(params, images, arch, space, apply_searched, axis_name, backend)[0]


def forward_with_features(
    params: Params,
    images: jax.Array,
    arch: jax.Array,
    space: MBConvSpace,
    axis_name: str | None = None,
    backend: str | None = None,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """As `forward`, with what the network's layers put out.

    Returns:
      float [B, classes], and float [B, H, W, channels] of the stem, of each layer, fixed ones first, and of the head.
    """
    chex.assert_rank([images, arch], [4, 1])
    chex.assert_shape(arch, (len(space.layers),))
    apply_searched = functools.partial(layer_function, gather=False, backend=backend, axis_name=axis_name)
    return _network(params, images, arch, space, apply_searched, axis_name, backend, keep=True)


def forward_mixture(
    params: Params,
    images: jax.Array,
    weights: jax.Array,
    space: MBConvSpace,
    axis_name: str | None = None,
    backend: str | None = None,
) -> jax.Array:
    """Logits of the relaxed network, in which every layer is a weighted sum of its operations.

    Args:
      params: weights, see `MBConvSupernet`.
      images: float [B, H, W, 3].
      weights: float [D, C], of the operations; used as they are, see `mixture`.
      space: the search space.
      axis_name: mapped axis over which batch norm takes its statistics, see `ops.batch_norm`.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, classes].
    """
    chex.assert_rank([images, weights], [4, 2])
    chex.assert_shape(weights, (len(space.layers), space.max_choices))
    mix = functools.partial(mix_layer, axis_name=axis_name, backend=backend)
    return _network(params, images, weights, space, lambda layer: mix, axis_name, backend)[0]


def _network(
    params: Params,
    images: jax.Array,
    choices: jax.Array,
    space: MBConvSpace,
    apply_searched: Callable[[Layer], LayerFunction],
    axis_name: str | None,
    backend: str | None,
    keep: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Logits, and features if they are to be kept; choices are [D, ...], `apply_searched` is a layer's function."""
    features = apply_fixed(params, images, space, axis_name, backend)
    x = features[-1]
    # Consecutive layers of one shape are one scan: the program holds a single copy of them, which compiles faster.
    for layer, group in itertools.groupby(enumerate(space.layers), key=lambda item: item[1]):
        indices = [index for index, _ in group]
        layer_params = [params[f"layer_{index + 1}"] for index in indices]
        step = functools.partial(_scan_step, apply_searched(layer), layer, keep)
        first, last = indices[0] + 1, indices[-1] + 1
        with jax.named_scope(f"layers_{first}_to_{last}" if last > first else f"layer_{first}"):
            if len(indices) == 1:
                x, _ = step(x, (layer_params[0], choices[indices[0]]))
                features.append(x)
            else:
                stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layer_params)
                x, outputs = jax.lax.scan(step, x, (stacked, choices[indices[0] : last]))
                features.extend(outputs if keep else [])
    logits, x = apply_head(params, x, axis_name)
    return logits, (*features, x) if keep else ()


def apply_fixed(
    params: Params, images: jax.Array, space: MBConvSpace, axis_name: str | None = None, backend: str | None = None
) -> list[jax.Array]:
    """What all architectures have in common: outputs of the stem and of each fixed layer, float [B, H, W, channels]."""
    with jax.named_scope("stem"):
        x = full_conv(images, params["stem"]["kernel"], space.stem_stride, backend)
        outputs = [_norm_act(params["stem"], x, relu6=True, axis_name=axis_name)]
    for index, layer in enumerate(space.fixed_layers):
        apply = layer_function(layer, False, backend, axis_name)
        with jax.named_scope(f"fixed_{index + 1}"):
            outputs.append(apply(params[f"fixed_{index + 1}"], outputs[-1], jnp.int32(0), layer))
    return outputs


def apply_head(params: Params, x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """From the last layer's output: logits [B, classes], and the head's output in front of them."""
    with jax.named_scope("head"):
        x = ops.pointwise_conv(x, params["head"]["kernel"])
        x = _norm_act(params["head"], x, relu6=True, axis_name=axis_name)
        return x.mean((1, 2)) @ params["classifier"]["kernel"] + params["classifier"]["bias"], x


class MBConvSupernet(nn.Module):
    """Supernet of an MBConv space: `apply({"params": params}, images, arch) -> logits`.

    Parameters are `stem`, `fixed_1`.., `layer_1`.., `head` and `classifier`; a layer holds those of all its choices as
    `layer_weights` says, and `layer_weights.unpack` gives those of one.

    Attributes:
      space: the search space.
      gather: whether chosen operations are gathered (for `vmap` over architectures) or switched between.
      axis_name: mapped axis over which batch norm takes its statistics; None for those of one device's images.
      backend: that programs are for; None for JAX's default.
    """

    space: MBConvSpace
    gather: bool = False
    axis_name: str | None = None
    backend: str | None = None

    @nn.compact
    def parameters(self) -> Params:
        """The arrays of `declare`, as Flax parameters."""
        return init.as_params(self, declare(self.space))

    def __call__(self, images: jax.Array, arch: jax.Array) -> jax.Array:
        """Logits of one architecture: float [B, H, W, 3], int32 [D] -> float [B, classes]."""
        return forward(self.parameters(), images, arch, self.space, self.gather, self.axis_name, self.backend)

    def apply_with_features(self, images: jax.Array, arch: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Logits and features, for `apply(..., method="apply_with_features")`: see `forward_with_features`."""
        return forward_with_features(self.parameters(), images, arch, self.space, self.axis_name, self.backend)

    def apply_mixture(self, images: jax.Array, weights: jax.Array) -> jax.Array:
        """Logits of the relaxed network, for `apply(..., method="apply_mixture")`: see `forward_mixture`."""
        return forward_mixture(self.parameters(), images, weights, self.space, self.axis_name, self.backend)

    def init_params(self, key: jax.Array) -> Params:
        """He-initialised weights of all choices, without running the network."""
        return init.draw(key, declare(self.space))
