"""Discrete networks: plain Flax modules of only the chosen operations, for training from scratch and for use."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn

from jaxnas.networks.blocks import fast_convolution
from jaxnas.networks.cell import CellNetwork
from jaxnas.networks.mbconv import MBConvNetwork
from jaxnas.networks.sharing import Recipe, share, take
from jaxnas.networks.training import in_training
from jaxnas.networks.warm_start import inherit
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace


def build(space: SearchSpace, arch: Sequence[int], **options: Any) -> nn.Module:
    """The network of one architecture, chosen by the type of the space.

    A new kind of space needs one line: `network_type.register(MySpace, lambda space: MyNetwork)`.

    Args:
      space: the search space.
      arch: D choices.
      **options: of the network: `drop_path`, `convolve`, `dtype`, `axis_name`; see `MBConvNetwork`.

    Returns:
      A module with `__call__(images, train=False) -> logits` and the variables "params" and "batch_stats".

    Raises:
      ValueError: on a malformed architecture, or a space without networks.

    >>> from jaxnas import spaces
    >>> build(spaces.nasbench_macro(), [0, 1, 2, 0, 0, 0, 0, 0]).arch
    (0, 1, 2, 0, 0, 0, 0, 0)
    """
    return network_type(space)(space=space, arch=tuple(space.validate(arch).tolist()), **options)


@functools.singledispatch
def network_type(space: SearchSpace) -> type[nn.Module]:
    """The class of a space's networks."""
    known = ", ".join(kind.__name__ for kind in network_type.registry if kind is not object)
    raise ValueError(
        f"space must be of a type that has networks ({known}), got {type(space).__name__}; "
        "add one with network_type.register(TypeOfSpace, lambda space: Network)"
    )


network_type.register(MBConvSpace, lambda space: MBConvNetwork)
network_type.register(CellSpace, lambda space: CellNetwork)

__all__ = [
    "CellNetwork",
    "MBConvNetwork",
    "Recipe",
    "build",
    "fast_convolution",
    "in_training",
    "inherit",
    "network_type",
    "share",
    "take",
]
