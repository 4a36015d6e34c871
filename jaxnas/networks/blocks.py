"""What the discrete networks are made of: convolution with batch norm by running averages, and drop path."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxnas.supernet import ops
from jaxnas.supernet.conv import full_conv

# As `jax.lax.conv_general_dilated`.
Convolve = Callable[..., jax.Array]

# Batch norm keeps this share of its running averages in a step: settled after some 50 steps, as short trainings need.
STATISTICS_MOMENTUM = 0.9

he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")  # arXiv 1502.01852


def fast_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **unused: Any,
) -> jax.Array:
    """The supernet's convolutions behind the signature of `jax.lax.conv_general_dilated`.

    On CPUs they train several times faster than XLA's own; elsewhere they are XLA's own. They cover what the networks
    here use: equal strides, symmetric zero padding that keeps the size, and one or all groups.
    """
    del padding, unused
    stride, groups = window_strides[0], feature_group_count
    if groups > 1:
        return ops.depthwise_conv(lhs, rhs[:, :, 0], stride)
    if rhs.shape[0] == 1:
        return ops.pointwise_conv(lhs[:, ::stride, ::stride], rhs[0, 0])
    return full_conv(lhs, rhs, stride)


def batch_norm(train: bool, dtype: Any, axis_name: str | None, name: str) -> nn.Module:
    """Batch norm by the minibatch in training, whose statistics it averages, and by these averages otherwise.

    With the name of a mapped axis the minibatch is that of all devices together.
    """
    momentum = STATISTICS_MOMENTUM
    return nn.BatchNorm(not train, momentum=momentum, epsilon=1e-5, dtype=dtype, axis_name=axis_name, name=name)


def drop_path(x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Drops whole images of a residual branch [B, H, W, C] (stochastic depth, arXiv 1603.09382).

    Call it inside a module that was given the random stream "dropout".
    """
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3))(x, deterministic=not train) if rate else x


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm: [B, H, W, in] -> [B, H', W', features].

    Attributes:
      features: output channels.
      kernel: its size, odd.
      stride: distance between outputs.
      groups: 1, or the number of channels for a depthwise convolution.
      convolve: what computes the convolution.
      dtype: of the computation; None for that of the parameters.
      axis_name: of the devices whose minibatches give statistics together; None for each its own.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    convolve: Convolve = jax.lax.conv_general_dilated
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Convolution and batch norm of x."""
        padding = (self.kernel - 1) // 2
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            self.stride,
            padding=[(padding, padding)] * 2,
            feature_group_count=self.groups,
            use_bias=False,
            kernel_init=he_normal,
            conv_general_dilated=self.convolve,
            dtype=self.dtype,
            name="conv",
        )(x)
        return batch_norm(train, self.dtype, self.axis_name, "norm")(x)


def classifier(num_classes: int, dtype: Any) -> nn.Module:
    """The linear layer after global average pooling, as the supernet's: first logits are small."""
    return nn.Dense(num_classes, kernel_init=nn.initializers.normal(0.01), dtype=dtype, name="classifier")
