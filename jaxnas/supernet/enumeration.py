"""Every network of a space on one minibatch, where what networks have in common is computed once.

The networks of a chain of layers are the leaves of a tree whose level d has one branch for each choice of layer d.
Walked depth first, a layer runs once for each distinct prefix: for `nasbench_macro` 9,840 layers in place of 52,488,
and only one activation for each level is held. Batch norm takes the statistics of the minibatch, which depend on the
prefix alone, so the losses are those of each network by itself. Networks of cells have little in common, and run one
after the other.
"""

from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp

from jaxnas.spaces.mbconv import MBConvSpace
from jaxnas.spaces.nasbench201 import CellSpace
from jaxnas.supernet import cell, mbconv, mbconv_layer

Read = TypeVar("Read")


def map_networks(
    params: chex.ArrayTree, images: jax.Array, space: MBConvSpace | CellSpace, read: Callable[[jax.Array], Read]
) -> Read:
    """Reads the logits of every network of a space.

    Args:
      params: weights of the supernet.
      images: float [B, H, W, 3], prepared.
      space: of N networks.
      read: logits [B, classes] -> a tree of arrays.

    Returns:
      What `read` returned, with a leading axis [N] over the networks in lexicographic order.
    """
    chex.assert_rank(images, 4)
    if isinstance(space, CellSpace):
        return jax.lax.map(lambda arch: read(cell.forward(params, images, arch, space)), space.enumerate())
    layers = space.layers

    def below(depth: int, x: jax.Array) -> Read:
        if depth == len(layers):
            return read(mbconv.apply_head(params, x)[0])
        layer = layers[depth]
        apply = mbconv_layer.layer_function(layer, False)

        def choose(choice: jax.Array) -> Read:
            return below(depth + 1, apply(params[f"layer_{depth + 1}"], x, choice, layer))

        return jax.lax.map(choose, jnp.arange(len(layer.operations), dtype=jnp.int32))

    tree = below(0, mbconv.apply_fixed(params, images, space)[-1])
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(layers) :]), tree)
