"""The weights that an architecture has in its supernet, as first weights of its discrete network."""

import functools
from collections.abc import Sequence
from typing import Any

import chex
import jax
import numpy as np

from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.spaces.nasbench201 import EDGES, KERNELS, OPERATIONS
from jaxnas.supernet import layer_weights


@functools.singledispatch
def inherit(space: SearchSpace, arch: Sequence[int], params: chex.ArrayTree) -> dict[str, Any]:
    """Weights of one architecture's network out of those of the supernet.

    Args:
      space: the search space at the supernet's width and number of classes.
      arch: D choices.
      params: of the supernet.

    Returns:
      "params" of `networks.build(space, arch)`. With batch norm by the minibatch the network computes what the
      supernet does; a supernet has no running averages to inherit (METHOD, traps).

    Raises:
      ValueError: if the space's type has no networks.
    """
    del arch, params
    raise ValueError(f"space must be an MBConvSpace or a CellSpace, got {type(space).__name__}")


@inherit.register(MBConvSpace)
def _(space: MBConvSpace, arch: Sequence[int], params: chex.ArrayTree) -> dict[str, Any]:
    chosen = {name: _conv_norm(params[name]) for name in ("stem", "head")}
    for prefix, layers, choices in (("fixed", space.fixed_layers, None), ("layer", space.layers, arch)):
        for index, layer in enumerate(layers):
            operation = layer.operations[0 if choices is None else choices[index]]
            of_layer = jax.tree.map(np.asarray, params[f"{prefix}_{index + 1}"])
            weights = _conv_norms(layer_weights.unpack(of_layer, layer, operation))
            if weights:
                chosen[f"{prefix}_{index + 1}"] = {"shortcut": weights} if operation.is_skip else weights
    return {**chosen, "classifier": dict(params["classifier"])}


@inherit.register(CellSpace)
def _(space: CellSpace, arch: Sequence[int], params: chex.ArrayTree) -> dict[str, Any]:
    chosen = {"stem": _conv_norm(params["stem"]), "head": dict(params["head"])}
    for stage in range(1, len(space.stage_channels) + 1):
        edges = {
            f"edge_{source}_{target}": params[f"stage_{stage}"][f"edge_{source}_{target}"][OPERATIONS[choice]]
            for (source, target), choice in zip(EDGES, arch)
            if OPERATIONS[choice] in KERNELS
        }
        for cell in range(space.cells if edges else 0):
            chosen[f"stage_{stage}_cell_{cell + 1}"] = {
                name: _conv_norm({key: array[cell] for key, array in edge.items()}) for name, edge in edges.items()
            }
    for reduction in range(1, len(space.stage_channels)):
        block = params[f"reduction_{reduction}"]
        chosen[f"reduction_{reduction}"] = {
            **{name: _conv_norm(block[name]) for name in ("conv_1", "conv_2")},
            "shortcut": {"kernel": _full(block["shortcut"]["kernel"])},
        }
    return {**chosen, "classifier": dict(params["classifier"])}


def _conv_norms(tree: dict[str, Any]) -> dict[str, Any]:
    """The same tree with every convolution as a `ConvNorm` holds it."""
    if "kernel" in tree:
        return _conv_norm(tree)
    return {name: _conv_norms(subtree) for name, subtree in tree.items()}


def _conv_norm(arrays: dict[str, Any]) -> dict[str, Any]:
    return {
        "conv": {"kernel": _full(arrays["kernel"])},
        "norm": {name: np.asarray(arrays[name]) for name in ("scale", "bias")},
    }


def _full(kernel: chex.Array) -> np.ndarray:
    """A supernet's kernel, pointwise [in, out], depthwise [k, k, C] or full [k, k, in, out], as [k, k, in, out]."""
    kernel = np.asarray(kernel)
    return {2: lambda: kernel[None, None], 3: lambda: kernel[:, :, None], 4: lambda: kernel}[kernel.ndim]()
