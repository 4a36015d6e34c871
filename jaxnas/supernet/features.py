"""Which of a supernet's features end a stage.

`apply_with_features` of a supernet gives the outputs of the stem, of every layer or cell, and of the head. A stage is a
run of layers or cells whose outputs have the same height and width.
"""

import functools

from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace


@functools.singledispatch
def stage_ends(space: SearchSpace) -> tuple[int, ...]:
    """The features that end a stage, as indices into what `apply_with_features` gives.

    Raises:
      ValueError: for a space without supernets.

    >>> from jaxnas.spaces import nasbench_macro
    >>> stage_ends(nasbench_macro())  # stages of 2, 3 and 3 layers after the stem
    (2, 5, 8)
    """
    raise ValueError(f"space {space.name!r} has no supernet whose stages are known")


@stage_ends.register
def _of_layers(space: MBConvSpace) -> tuple[int, ...]:
    sizes = [layer.out_resolution for layer in (*space.fixed_layers, *space.layers)]
    last = len(sizes)
    return tuple(index for index in range(1, last + 1) if index == last or sizes[index] != sizes[index - 1])


@stage_ends.register
def _of_cells(space: CellSpace) -> tuple[int, ...]:
    return tuple(space.cells * stage for stage in range(1, len(space.stage_channels) + 1))
