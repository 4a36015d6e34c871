"""The stages of networks: runs of layers or cells whose outputs have the same channels, height and width.

These are the rows of MobileNetV2's table of layers (arXiv 1801.04381) and the stages of NAS-Bench-201's networks.
"""

import functools
import itertools

from jaxnas.spaces.base import SearchSpace
from jaxnas.spaces.mbconv import MBConvSpace
from jaxnas.spaces.nasbench201 import CellSpace


@functools.singledispatch
def stages(space: SearchSpace) -> tuple[range, ...]:
    """The places of each stage's layers or cells, counted from 0 after the stem; fixed layers come first.

    Raises:
      ValueError: for a space without built-in networks.

    >>> from jaxnas.spaces import nasbench_macro
    >>> [list(stage) for stage in stages(nasbench_macro())]
    [[0, 1], [2, 3, 4], [5, 6, 7]]
    """
    raise ValueError(f"space {space.name!r} has no supernet whose stages are known")


@stages.register
def _of_layers(space: MBConvSpace) -> tuple[range, ...]:
    shapes = [(layer.out_channels, layer.out_resolution) for layer in (*space.fixed_layers, *space.layers)]
    starts = [place for place in range(len(shapes)) if place == 0 or shapes[place] != shapes[place - 1]]
    return tuple(range(*bounds) for bounds in itertools.pairwise([*starts, len(shapes)]))


@stages.register
def _of_cells(space: CellSpace) -> tuple[range, ...]:
    return tuple(range(space.cells * stage, space.cells * (stage + 1)) for stage in range(len(space.stage_channels)))


def stage_ends(space: SearchSpace) -> tuple[int, ...]:
    """The features that end a stage, as indices into what a supernet's `apply_with_features` gives.

    That is the outputs of the stem, of every layer or cell, and of the head.

    Raises:
      ValueError: for a space without built-in networks.

    >>> from jaxnas.spaces import nasbench_macro
    >>> stage_ends(nasbench_macro())
    (2, 5, 8)
    """
    return tuple(stage[-1] + 1 for stage in stages(space))


def searched_stages(space: MBConvSpace) -> tuple[tuple[int, ...], ...]:
    """The decisions of each stage; stages of fixed layers alone are left out.

    >>> from jaxnas.spaces import mbconv_digits
    >>> searched_stages(mbconv_digits())
    ((0, 1, 2, 3, 4, 5),)
    """
    fixed = len(space.fixed_layers)
    decisions = (tuple(place - fixed for place in stage if place >= fixed) for stage in stages(space))
    return tuple(stage for stage in decisions if stage)
