"""The outputs of a network in training whose running averages of batch norm nobody keeps.

On CPUs an MBConv network is then computed as a supernet of this one architecture, by blocks of inner channels
(`jaxnas.supernet.cpu`): its derivative keeps the input of each layer, where that of the Flax modules keeps every
activation, and computes the rest again while it is in the cache.
"""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.networks.blocks import fast_convolution
from jaxnas.networks.mbconv import MBConvNetwork
from jaxnas.supernet import layer_weights, mbconv
from jaxnas.supernet.backend import resolve_backend


def in_training(network: nn.Module, params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    """Logits by the statistics of the minibatch: float [B, H, W, 3] -> float32 [B, classes].

    Args:
      network: see `networks.build`.
      params: its "params".
      images: normalised.
    """
    chex.assert_rank(images, 4)
    if _has_blocks(network):
        return _by_blocks(network, params, images).astype(jnp.float32)
    return network.apply({"params": params}, images, train=True, mutable=["batch_stats"])[0]


def _has_blocks(network: nn.Module) -> bool:
    """Whether the supernet's functions compute all that this network does, and faster."""
    return (
        resolve_backend() == "cpu"
        and isinstance(network, MBConvNetwork)
        and network.convolve is fast_convolution
        and network.dtype is None
        and network.axis_name is None
        and not network.drop_path
    )


def _by_blocks(network: MBConvNetwork, params: chex.ArrayTree, images: jax.Array) -> jax.Array:
    space, weights = network.space, {"classifier": params["classifier"]}
    layers = [
        dataclasses.replace(layer, operations=(layer.operations[choice],))
        for layer, choice in zip(space.layers, network.arch)
    ]
    weights["stem"] = {**params["stem"]["norm"], **params["stem"]["conv"]}
    weights["head"] = _conv_norm("head", params["head"])
    for prefix, those in (("fixed", space.fixed_layers), ("layer", layers)):
        for index in range(len(those)):
            name = f"{prefix}_{index + 1}"  # an identity has no parameters
            weights[name] = {part: _conv_norm(part, arrays) for part, arrays in params.get(name, {}).items()}
    choices = jnp.zeros(len(layers), jnp.int32)
    return mbconv.forward(weights, images, choices, dataclasses.replace(space, layers=tuple(layers)))


def _conv_norm(part: str, arrays: dict[str, Any]) -> dict[str, jax.Array]:
    """The arrays of a `ConvNorm` as `layer_weights` has them; those of an MBConv are stacks of one."""
    kernel = arrays["conv"]["kernel"]
    kernel = kernel[:, :, 0] if part == "depthwise" else kernel[0, 0]
    own = {"kernel": kernel, **arrays["norm"]}
    return own if part in ("head", layer_weights.SHORTCUT) else {name: array[None] for name, array in own.items()}
