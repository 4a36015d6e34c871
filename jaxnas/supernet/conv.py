"""Full convolution with a gradient that stays fast inside loops and branches on CPUs.

XLA runs a convolution of the plain layout on the CPU's matrix kernels, its derivatives too as long as they stand at the
top level of a program. Inside a `scan` or a `switch` it does not rewrite the derivatives to that layout and falls back
to a loop over scalars: a 3x3 convolution of 16 channels, 64 images of 32x32 then takes over a second instead of about
20 milliseconds. Here both derivatives are written as convolutions of the plain layout.
"""

import functools

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.supernet.backend import resolve_backend


def full_conv(x: jax.Array, kernel: jax.Array, stride: int = 1, backend: str | None = None) -> jax.Array:
    """Convolution over all channels with symmetric zero padding of (k - 1) // 2.

    Args:
      x: float [B, H, W, in_channels].
      kernel: float [k, k, in_channels, out_channels], k odd.
      stride: distance between outputs.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, ceil(H / stride), ceil(W / stride), out_channels].
    """
    chex.assert_rank([x, kernel], [4, 4])
    chex.assert_equal(x.shape[-1], kernel.shape[2])
    convolve = _conv_with_plain_gradient if resolve_backend(backend) == "cpu" else _conv
    return convolve(x, kernel, stride)


def _conv(x: jax.Array, kernel: jax.Array, stride: int, padding: int | None = None) -> jax.Array:
    padding = (kernel.shape[0] - 1) // 2 if padding is None else padding
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_with_plain_gradient(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _conv(x, kernel, stride)


def _forward(x: jax.Array, kernel: jax.Array, stride: int):
    return _conv(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals, gradient: jax.Array):
    x, kernel = residuals
    _, height, width, _ = x.shape
    if stride > 1:  # the gradient of a stride is that of stride 1 with zeros between the outputs
        rows, columns = (height - 1) % stride, (width - 1) % stride
        edges = ((0, 0, 0), (0, rows, stride - 1), (0, columns, stride - 1), (0, 0, 0))
        gradient = lax.pad(gradient, jnp.zeros((), gradient.dtype), edges)
    x_gradient = _conv(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1)
    # The input slides over the gradient: input channels are the images of this convolution, images are its channels.
    padding = (kernel.shape[0] - 1) // 2
    kernel_gradient = _conv(x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), 1, padding)
    return x_gradient, kernel_gradient.transpose(1, 2, 0, 3)


_conv_with_plain_gradient.defvjp(_forward, _backward)
