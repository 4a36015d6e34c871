"""Weight-sharing supernets: `apply(params, inputs, arch) -> outputs`, written for one architecture."""

import functools

import flax.linen as nn

from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.supernet.batching import BATCHINGS, cross_entropy, evaluate, gradient, resolve_batching
from jaxnas.supernet.cell import CellSupernet
from jaxnas.supernet.layer_weights import SHARINGS, check_sharing
from jaxnas.supernet.mbconv import MBConvSupernet


@functools.singledispatch
def build(
    space: SearchSpace,
    gather: bool = False,
    axis_name: str | None = None,
    backend: str | None = None,
    sharing: str = "separate",
) -> nn.Module:
    """The supernet for a space, chosen by the type of the space.

    A new kind of space needs one line: `build.register(MySpace, MySupernet)`.

    Args:
      space: the search space.
      gather: make it for `vmap` over architectures, gathering the chosen operations where it can, not for `map`.
      axis_name: mapped axis over which batch norm takes its statistics, where the supernet can.
      backend: that programs are for, "cpu", "gpu" or "tpu"; None for JAX's default.
      sharing: "separate" weights for each choice, or "slices" of the largest one of a layer; see `layer_weights`.

    Returns:
      A module with `space`, `__call__(images, arch)` and `init_params(key)`.

    Raises:
      ValueError: if no supernet is registered for this type of space, or it does not share by slices.
    """
    known = ", ".join(kind.__name__ for kind in build.registry if kind is not object)
    raise ValueError(
        f"space must be of a type that has a supernet ({known}), got {type(space).__name__}; "
        "add one with build.register(TypeOfSpace, Supernet)"
    )


@build.register
def _build_mbconvs(
    space: MBConvSpace,
    gather: bool = False,
    axis_name: str | None = None,
    backend: str | None = None,
    sharing: str = "separate",
) -> MBConvSupernet:
    check_sharing(sharing)
    return MBConvSupernet(space, gather, axis_name, backend, sharing)


@build.register
def _build_cells(
    space: CellSpace,
    gather: bool = False,
    axis_name: str | None = None,
    backend: str | None = None,
    sharing: str = "separate",
) -> CellSupernet:
    del gather  # its operations differ too much to be one
    if sharing != "separate":
        raise ValueError(
            f"sharing must be separate for {space.name}, got {sharing!r}; slices are for MBConv spaces, not for cells"
        )
    if axis_name is not None:
        raise ValueError("synchronised batch norm is for MBConv spaces, not for cells; leave axis_name None")
    return CellSupernet(space, backend)


__all__ = [
    "BATCHINGS",
    "CellSupernet",
    "MBConvSupernet",
    "SHARINGS",
    "build",
    "cross_entropy",
    "evaluate",
    "gradient",
    "resolve_batching",
]
