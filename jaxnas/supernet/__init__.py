"""Weight-sharing supernets: `apply(params, inputs, arch) -> outputs`, written for one architecture."""

import functools

import flax.linen as nn

from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.supernet.batching import BATCHINGS, cross_entropy, evaluate, gradient, resolve_batching
from jaxnas.supernet.cell import CellSupernet
from jaxnas.supernet.mbconv import MBConvSupernet


@functools.singledispatch
def build(
    space: SearchSpace, gather: bool = False, axis_name: str | None = None, backend: str | None = None
) -> nn.Module:
    """The supernet for a space, chosen by the type of the space.

    A new kind of space needs one line: `build.register(MySpace, MySupernet)`.

    Args:
      space: the search space.
      gather: make it for `vmap` over architectures, gathering the chosen operations where it can, not for `map`.
      axis_name: mapped axis over which batch norm takes its statistics, where the supernet can.
      backend: that programs are for, "cpu", "gpu" or "tpu"; None for JAX's default.

    Returns:
      A module with `space`, `__call__(images, arch)` and `init_params(key)`.

    Raises:
      ValueError: if no supernet is registered for this type of space.
    """
    known = ", ".join(kind.__name__ for kind in build.registry if kind is not object)
    raise ValueError(
        f"space must be of a type that has a supernet ({known}), got {type(space).__name__}; "
        "add one with build.register(TypeOfSpace, Supernet)"
    )


build.register(MBConvSpace, MBConvSupernet)


@build.register
def _build_cells(
    space: CellSpace, gather: bool = False, axis_name: str | None = None, backend: str | None = None
) -> CellSupernet:
    del gather  # its operations differ too much to be one
    if axis_name is not None:
        raise ValueError("synchronised batch norm is for MBConv spaces, not for cells; leave axis_name None")
    return CellSupernet(space, backend)


__all__ = [
    "BATCHINGS",
    "CellSupernet",
    "MBConvSupernet",
    "build",
    "cross_entropy",
    "evaluate",
    "gradient",
    "resolve_batching",
]
