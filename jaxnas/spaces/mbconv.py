"""MBConv search spaces: one description behind all of them, with exact parameters and multiply-adds.

A network is a 3x3 stem, fixed MBConv layers, D searched layers, a 1x1 head convolution, global average pooling and a
linear classifier. Convolutions have no bias and are followed by batch norm with scale and shift. Widths are those of
MobileNetV2 (arXiv 1801.04381) and ProxylessNAS (arXiv 1812.00332); `nasbench_macro` is NAS-Bench-Macro
(arXiv 2103.11922), whose published parameters and multiply-adds the costs reproduce exactly.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from jaxnas.cost import AdditiveCost
from jaxnas.spaces.base import Decision, SearchSpace, scaled_channels
from jaxnas.spaces.description import described


@dataclass(frozen=True)
class Operation:
    """A choice of a searched layer: an MBConv, or a skip.

    Attributes:
      kernel: size of the depthwise kernel; 0 for the skip.
      expansion: ratio of the inner to the input channels; 0 for the skip.
    """

    kernel: int = 0
    expansion: int = 0

    @property
    def is_skip(self) -> bool:
        """Whether this is the identity (a strided 1x1 convolution with batch norm where shapes differ)."""
        return self.kernel == 0

    @property
    def name(self) -> str:
        """Such as "mbconv_k3_e6" or "skip"."""
        return "skip" if self.is_skip else f"mbconv_k{self.kernel}_e{self.expansion}"


SKIP = Operation()


@dataclass(frozen=True)
class Layer:
    """One layer and its choices.

    Attributes:
      in_channels: channels of its input.
      out_channels: channels of its output.
      stride: 1 or 2.
      resolution: height and width of its input.
      operations: its choices, in the order of their indices.
    """

    in_channels: int
    out_channels: int
    stride: int
    resolution: int
    operations: tuple[Operation, ...]

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have one shape, so that a residual connection and an identity skip exist."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def out_resolution(self) -> int:
        """Height and width of the output."""
        return -(-self.resolution // self.stride)

    def params(self, operation: Operation) -> int:
        """Parameters of one choice, batch norm's scale and shift included."""
        if operation.is_skip:
            return 0 if self.keeps_shape else self.in_channels * self.out_channels + 2 * self.out_channels
        inner = self.in_channels * operation.expansion
        expand = self.in_channels * inner + 2 * inner if operation.expansion > 1 else 0
        depthwise = operation.kernel**2 * inner + 2 * inner
        project = inner * self.out_channels + 2 * self.out_channels
        return expand + depthwise + project

    def macs(self, operation: Operation) -> int:
        """Multiply-adds of the convolutions of one choice, for one image."""
        inputs, outputs = self.resolution**2, self.out_resolution**2
        if operation.is_skip:
            return 0 if self.keeps_shape else self.in_channels * self.out_channels * outputs
        inner = self.in_channels * operation.expansion
        expand = self.in_channels * inner * inputs if operation.expansion > 1 else 0
        return expand + operation.kernel**2 * inner * outputs + inner * self.out_channels * outputs


@dataclass(frozen=True)
class MBConvSpace(SearchSpace):
    """A search space of MBConv networks.

    Attributes:
      image_size: height and width of the images that multiply-adds are counted for.
      stem_channels: output channels of the 3x3 stem convolution.
      stem_stride: its stride.
      fixed_layers: layers before the searched ones, each with one operation.
      layers: the D searched layers.
      head_channels: output channels of the 1x1 convolution before pooling.
      num_classes: outputs of the classifier.
    """

    image_size: int = 32
    stem_channels: int = 32
    stem_stride: int = 1
    fixed_layers: tuple[Layer, ...] = ()
    layers: tuple[Layer, ...] = ()
    head_channels: int = 1280
    num_classes: int = 10


def _fixed_params(space: MBConvSpace) -> int:
    last = space.layers[-1].out_channels
    stem = 3 * 9 * space.stem_channels + 2 * space.stem_channels
    fixed = sum(layer.params(layer.operations[0]) for layer in space.fixed_layers)
    head = last * space.head_channels + 2 * space.head_channels
    return stem + fixed + head + (space.head_channels + 1) * space.num_classes


def _fixed_macs(space: MBConvSpace) -> int:
    last = space.layers[-1]
    stem_resolution = -(-space.image_size // space.stem_stride)
    stem = 3 * 9 * space.stem_channels * stem_resolution**2
    fixed = sum(layer.macs(layer.operations[0]) for layer in space.fixed_layers)
    head = last.out_channels * space.head_channels * last.out_resolution**2
    return stem + fixed + head + space.head_channels * space.num_classes


def mbconv_space(
    name: str,
    *,
    image_size: int,
    stem_channels: int,
    stages: Sequence[tuple[int, int, int]],
    operations: Sequence[Operation],
    stem_stride: int = 1,
    first_channels: int | None = None,
    project_skip: bool = False,
    head_channels: int = 1280,
    num_classes: int = 10,
) -> MBConvSpace:
    """Builds an MBConv space and its cost tables.

    Args:
      name: name of the space.
      image_size: height and width of the images.
      stem_channels: output channels of the stem.
      stages: (channels, layers, stride of the first layer) for each stage.
      operations: the choices, including the skip, in the order of their indices.
      stem_stride: stride of the stem.
      first_channels: output channels of a fixed MBConv (kernel 3, expansion 1) after the stem; None for none.
      project_skip: whether, where shapes differ, the skip is a strided 1x1 convolution with batch norm; if not, such
        layers have no skip.
      head_channels: output channels of the head convolution.
      num_classes: number of classes.

    Returns:
      The space, with costs "macs" and "params".
    """
    resolution, channels = -(-image_size // stem_stride), stem_channels
    fixed_layers = ()
    if first_channels is not None:
        fixed_layers = (Layer(channels, first_channels, 1, resolution, (Operation(3, 1),)),)
        channels = first_channels
    layers = []
    for stage_channels, count, stage_stride in stages:
        for index in range(count):
            layer = Layer(channels, stage_channels, stage_stride if index == 0 else 1, resolution, tuple(operations))
            if not (layer.keeps_shape or project_skip):
                layer = dataclasses.replace(layer, operations=tuple(op for op in operations if not op.is_skip))
            layers.append(layer)
            resolution, channels = layer.out_resolution, stage_channels
    space = MBConvSpace(
        name=name,
        decisions=tuple(
            Decision(f"layer {index + 1}", tuple(operation.name for operation in layer.operations))
            for index, layer in enumerate(layers)
        ),
        image_size=image_size,
        stem_channels=stem_channels,
        stem_stride=stem_stride,
        fixed_layers=fixed_layers,
        layers=tuple(layers),
        head_channels=head_channels,
        num_classes=num_classes,
    )
    macs = tuple(tuple(layer.macs(operation) for operation in layer.operations) for layer in layers)
    params = tuple(tuple(layer.params(operation) for operation in layer.operations) for layer in layers)
    costs = (
        AdditiveCost("macs", "multiply-adds", _fixed_macs(space), macs),
        AdditiveCost("params", "parameters", _fixed_params(space), params),
    )
    return dataclasses.replace(space, costs=costs)


def _six_and_skip(kernels: Sequence[int] = (3, 5, 7)) -> tuple[Operation, ...]:
    return tuple(Operation(kernel, expansion) for kernel in kernels for expansion in (3, 6)) + (SKIP,)


@described
def mbconv_cifar10(width: float = 1.0, image_size: int = 32, num_classes: int = 10) -> MBConvSpace:
    """16 searched layers for 32x32 images, as in ASNG-NAS's MBConv experiments; stride 2 at the sixth layer.

    Args:
      width: factor on the channels, for cheaper proxies.
      image_size: height and width of the images.
      num_classes: number of classes.

    Returns:
      The space, with costs "macs" and "params".

    Raises:
      ValueError: if an argument is not a positive number, or not an integer where one is needed.
    """
    stages = ((24, 2, 1), (32, 3, 1), (64, 4, 2), (96, 3, 1), (160, 3, 1), (320, 1, 1))
    return mbconv_space(
        "mbconv_cifar10",
        image_size=image_size,
        stem_channels=scaled_channels(32, width),
        first_channels=scaled_channels(16, width),
        stages=tuple((scaled_channels(channels, width), count, stride) for channels, count, stride in stages),
        operations=_six_and_skip(),
        head_channels=scaled_channels(1280, width),
        num_classes=num_classes,
    )


@described
def mbconv_imagenet(width: float = 1.0, image_size: int = 224, num_classes: int = 1000) -> MBConvSpace:
    """21 searched layers for ImageNet with ProxylessNAS's widths (arXiv 1812.00332).

    Takes the arguments of `mbconv_cifar10`, and has its costs and errors.
    """
    stages = ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
    return mbconv_space(
        "mbconv_imagenet",
        image_size=image_size,
        stem_channels=scaled_channels(32, width),
        stem_stride=2,
        first_channels=scaled_channels(16, width),
        stages=tuple((scaled_channels(channels, width), count, stride) for channels, count, stride in stages),
        operations=_six_and_skip(),
        head_channels=scaled_channels(1280, width),
        num_classes=num_classes,
    )


@described
def nasbench_macro(width: float = 1.0, image_size: int = 32, num_classes: int = 10) -> MBConvSpace:
    """NAS-Bench-Macro (arXiv 2103.11922): 8 layers, 3 choices, 6,561 networks whose CIFAR-10 accuracy is published.

    Takes the arguments of `mbconv_cifar10`, and has its costs and errors.
    """
    return mbconv_space(
        "nasbench_macro",
        image_size=image_size,
        stem_channels=scaled_channels(32, width),
        stages=tuple((scaled_channels(channels, width), count, 2) for channels, count in ((64, 2), (128, 3), (256, 3))),
        operations=(SKIP, Operation(3, 3), Operation(5, 6)),
        project_skip=True,
        head_channels=scaled_channels(1280, width),
        num_classes=num_classes,
    )


@described
def mbconv_digits(width: float = 1.0, image_size: int = 8, num_classes: int = 10) -> MBConvSpace:
    """6 layers for 8x8 images: the quickstart's space, searched in a minute on two CPU cores.

    Takes the arguments of `mbconv_cifar10`, and has its costs and errors.
    """
    return mbconv_space(
        "mbconv_digits",
        image_size=image_size,
        stem_channels=scaled_channels(16, width),
        stages=((scaled_channels(32, width), 6, 2),),
        operations=_six_and_skip(kernels=(3, 5)),
        head_channels=scaled_channels(128, width),
        num_classes=num_classes,
    )
