"""The cell space of NAS-Bench-201 (arXiv 2001.00326): one small cell, repeated, with five operations for each edge.

A network is a 3x3 stem with batch norm, three stages of N equal cells, a residual block that halves the resolution
and doubles the channels between stages, batch norm with ReLU, global average pooling and a linear classifier. A cell
has four nodes; a node is the sum over its incoming edges of the chosen operation of the edge's source. Convolutions
are ReLU, convolution without bias, batch norm with scale and shift. The costs reproduce the published parameters and
multiply-adds exactly; they count an edge whether or not it reaches the cell's output, and so they are additive.
"""

import dataclasses
from dataclasses import dataclass

from jaxnas.cost import AdditiveCost
from jaxnas.spaces.base import Decision, SearchSpace, scaled_channels
from jaxnas.spaces.description import described

EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(source, target) nodes of the D = 6 edges, in the order of the decisions."""

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""The choices of an edge, in the order of their indices; the names are those of the published table."""

KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
"""Kernel sizes of the operations that have weights."""

STAGES = 3


@dataclass(frozen=True)
class CellSpace(SearchSpace):
    """A search space of cell networks; every cell of a network is the same.

    Attributes:
      image_size: height and width of the images that multiply-adds are counted for.
      channels: output channels of the stem and of the first stage; later stages double them.
      cells: N, cells in each of the three stages.
      num_classes: outputs of the classifier.
    """

    image_size: int = 32
    channels: int = 16
    cells: int = 5
    num_classes: int = 10

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.channels * 2**stage for stage in range(STAGES))

    @property
    def stage_resolutions(self) -> tuple[int, ...]:
        """Height and width of each stage."""
        return tuple(self.image_size // 2**stage for stage in range(STAGES))


def _edge_params(space: CellSpace, operation: str) -> int:
    if operation not in KERNELS:
        return 0
    return space.cells * sum(KERNELS[operation] ** 2 * c**2 + 2 * c for c in space.stage_channels)


def _edge_macs(space: CellSpace, operation: str) -> int:
    if operation not in KERNELS:
        return 0
    resolutions = space.stage_resolutions
    return space.cells * sum((KERNELS[operation] * c * r) ** 2 for c, r in zip(space.stage_channels, resolutions))


def _fixed_params(space: CellSpace) -> int:
    stem = 3 * 9 * space.channels + 2 * space.channels
    # A residual block: two 3x3 convolutions with batch norm, and a 1x1 convolution without it on the shortcut.
    reductions = sum(9 * (c // 2) * c + 9 * c * c + (c // 2) * c + 4 * c for c in space.stage_channels[1:])
    last = space.stage_channels[-1]
    return stem + reductions + 2 * last + (last + 1) * space.num_classes


def _fixed_macs(space: CellSpace) -> int:
    stem = 3 * 9 * space.channels * space.image_size**2
    reductions = sum(
        (9 * (c // 2) * c + 9 * c * c + (c // 2) * c) * r**2
        for c, r in zip(space.stage_channels[1:], space.stage_resolutions[1:])
    )
    # The published counts add the classifier's bias, so it is added here.
    return stem + reductions + (space.stage_channels[-1] + 1) * space.num_classes


@described
def nasbench201(
    width: float = 1.0, image_size: int = 32, num_classes: int = 10, *, channels: int = 16, cells: int = 5
) -> CellSpace:
    """NAS-Bench-201 (arXiv 2001.00326): 6 edges, 5 choices, 15,625 cells whose CIFAR-10 accuracy is published.

    Args:
      width: factor on `channels`, for cheaper proxies.
      image_size: height and width of the images, a multiple of 4.
      num_classes: number of classes.
      channels: channels of the first stage at width 1.
      cells: N, cells in each stage.

    Returns:
      The space, with costs "macs" and "params".

    Raises:
      ValueError: if `image_size` is not a positive multiple of 4, or `width`, `channels` or `cells` is not positive.
    """
    if image_size < 4 or image_size % 4:
        raise ValueError(f"image_size must be a positive multiple of 4 (it is halved twice), got {image_size}")
    if not width > 0:
        raise ValueError(f"width must be positive, got {width}; 0.5 halves the channels")
    for name, value in (("channels", channels), ("cells", cells)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    space = CellSpace(
        name="nasbench201",
        decisions=tuple(Decision(f"edge {source}-{target}", OPERATIONS) for source, target in EDGES),
        image_size=image_size,
        channels=scaled_channels(channels, width),
        cells=cells,
        num_classes=num_classes,
    )
    macs = tuple(_edge_macs(space, operation) for operation in OPERATIONS)
    params = tuple(_edge_params(space, operation) for operation in OPERATIONS)
    costs = (
        AdditiveCost("macs", "multiply-adds", _fixed_macs(space), (macs,) * len(EDGES)),
        AdditiveCost("params", "parameters", _fixed_params(space), (params,) * len(EDGES)),
    )
    return dataclasses.replace(space, costs=costs)
