"""One architecture of an MBConv space as a network of its own (MobileNetV2, arXiv 1801.04381)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxnas.networks.blocks import ConvNorm, Convolve, classifier, drop_path, fast_convolution
from jaxnas.spaces.mbconv import Layer, MBConvSpace, Operation


class MBConvLayer(nn.Module):
    """One operation of a layer: [B, H, W, in_channels] -> [B, H', W', out_channels].

    Attributes:
      layer: its shapes.
      operation: the chosen one.
      drop_path: share of images whose residual branch a training step drops.
      convolve: what computes convolutions.
      dtype: of the computation; None for that of the parameters.
      axis_name: as of `ConvNorm`.
    """

    layer: Layer
    operation: Operation
    drop_path: float = 0.0
    convolve: Convolve = fast_convolution
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The operation of x."""
        layer, operation = self.layer, self.operation
        common = {"convolve": self.convolve, "dtype": self.dtype, "axis_name": self.axis_name}
        if operation.is_skip:
            if layer.keeps_shape:
                return x
            return ConvNorm(layer.out_channels, stride=layer.stride, name="shortcut", **common)(x, train)
        inner = layer.in_channels * operation.expansion
        h = x
        if operation.expansion > 1:
            h = nn.relu6(ConvNorm(inner, name="expand", **common)(h, train))
        h = ConvNorm(inner, operation.kernel, layer.stride, inner, name="depthwise", **common)(h, train)
        h = ConvNorm(layer.out_channels, name="project", **common)(nn.relu6(h), train)
        return x + drop_path(h, self.drop_path, train) if layer.keeps_shape else h


class MBConvNetwork(nn.Module):
    """The network of one architecture.

    Attributes:
      space: the search space, at the width, image size and number of classes wanted.
      arch: D choices.
      drop_path: rate in the last layer; it grows linearly with depth.
      convolve: what computes convolutions, as `jax.lax.conv_general_dilated`, which exports want.
      dtype: of the computation; None for that of the parameters.
      axis_name: as of `ConvNorm`.
    """

    space: MBConvSpace
    arch: tuple[int, ...]
    drop_path: float = 0.0
    convolve: Convolve = fast_convolution
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits: float [B, H, W, 3] -> float32 [B, classes]."""
        space = self.space
        common = {"convolve": self.convolve, "dtype": self.dtype, "axis_name": self.axis_name}
        x = nn.relu6(ConvNorm(space.stem_channels, 3, space.stem_stride, name="stem", **common)(images, train))
        for index, layer in enumerate(space.fixed_layers):
            x = MBConvLayer(layer, layer.operations[0], name=f"fixed_{index + 1}", **common)(x, train)
        for index, (layer, choice) in enumerate(zip(space.layers, self.arch)):
            rate = self.drop_path * (index + 1) / len(space.layers)
            x = MBConvLayer(layer, layer.operations[choice], rate, name=f"layer_{index + 1}", **common)(x, train)
        x = nn.relu6(ConvNorm(space.head_channels, name="head", **common)(x, train))
        return classifier(space.num_classes, self.dtype)(x.mean((1, 2))).astype(jnp.float32)
