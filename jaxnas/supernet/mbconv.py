"""The MBConv supernet: an architecture picks one choice in every layer.

Every choice has weights of its own, or all choices of a layer are slices of one (`layer_weights`).

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

from jaxnas.spaces.mbconv import Layer, MBConvSpace
from jaxnas.supernet import init, layer_weights, ops
from jaxnas.supernet.conv import full_conv
from jaxnas.supernet.mbconv_layer import LayerFunction, layer_function, mix_layer, norm_act
from jaxnas.supernet.switch import Params


def declare(space: MBConvSpace, sharing: str = "separate") -> Params:
    """The arrays of the supernet, by layer and then as in `layer_weights`: a tree of `init.Array` and `init.Stack`."""
    arrays = {"stem": init.conv(3, 3, space.stem_channels)}
    for prefix, layers in (("fixed", space.fixed_layers), ("layer", space.layers)):
        for index, layer in enumerate(layers):
            arrays[f"{prefix}_{index + 1}"] = layer_weights.declare(layer, sharing)
    arrays["head"] = init.conv(1, space.layers[-1].out_channels, space.head_channels)
    arrays["classifier"] = init.classifier(space.head_channels, space.num_classes)
    return arrays


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
        outputs = [norm_act(params["stem"], x, relu6=True, axis_name=axis_name)]
    for index, layer in enumerate(space.fixed_layers):
        apply = layer_function(layer, False, backend, axis_name)
        with jax.named_scope(f"fixed_{index + 1}"):
            outputs.append(apply(params[f"fixed_{index + 1}"], outputs[-1], jnp.int32(0), layer))
    return outputs


def apply_head(params: Params, x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """From the last layer's output: logits [B, classes], and the head's output in front of them."""
    with jax.named_scope("head"):
        x = ops.pointwise_conv(x, params["head"]["kernel"])
        x = norm_act(params["head"], x, relu6=True, axis_name=axis_name)
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
      sharing: of the weights that `init` and `init_params` give, one of `layer_weights.SHARINGS`; `apply` takes both.
    """

    space: MBConvSpace
    gather: bool = False
    axis_name: str | None = None
    backend: str | None = None
    sharing: str = "separate"

    @nn.compact
    def parameters(self) -> Params:
        """The arrays of `declare`, as Flax parameters."""
        return init.as_params(self, declare(self.space, self.sharing))

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
        return init.draw(key, declare(self.space, self.sharing))
