"""Operations of the supernets, with derivatives written out where XLA's own are slow on CPUs.

XLA's depthwise convolution runs at half a GFLOP/s on CPUs. Here it is a sum of shifted products, which fuses into one
loop, over blocks of images that stay in the cache; its kernel gradient reduces all taps in one pass. On accelerators
XLA's own convolution is used. Batch norm reads its input once for the statistics and once to normalise, and keeps for
its derivative only the input and the statistics. All of them can be vmapped and differentiated in either order.
"""

import functools
from collections.abc import Iterator

import chex
import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.supernet.backend import resolve_backend

# Numbers of a block of images that are worked on together: 256 KiB of float32, within a core's second-level cache.
BLOCK_SIZE = 65_536


def depthwise_conv(x: jax.Array, kernel: jax.Array, stride: int = 1, backend: str | None = None) -> jax.Array:
    """Depthwise convolution with symmetric zero padding of (k - 1) // 2.

    Args:
      x: float [B, H, W, C].
      kernel: float [k, k, C], k odd.
      stride: distance between outputs.
      backend: that the program is for; None for JAX's default.

    Returns:
      float [B, ceil(H / stride), ceil(W / stride), C].
    """
    chex.assert_rank([x, kernel], [4, 3])
    chex.assert_equal(x.shape[-1], kernel.shape[-1])
    if resolve_backend(backend) == "cpu":
        return _shifted_products(x, kernel, stride)
    return grouped_conv(x, kernel, stride)


def grouped_conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """As `depthwise_conv`, by the compiler's own convolution whatever the backend."""
    padding = (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def pointwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """1x1 convolution: float [..., in_channels], float [in_channels, out_channels] -> float [..., out_channels]."""
    return x @ kernel


def batch_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    relu6: bool = False,
    epsilon: float = 1e-5,
    axis_name: str | None = None,
) -> jax.Array:
    """Batch norm by the statistics of the minibatch, followed by ReLU6 if asked for.

    Args:
      x: float [B, H, W, C].
      scale: float [C].
      bias: float [C].
      relu6: whether to clip the result to [0, 6].
      epsilon: added to the variance.
      axis_name: a mapped axis (of `jax.pmap`) over which the minibatch is spread in equal parts: the statistics are
        those of all parts. None for the statistics of x alone. Gradients of scale and bias are those of x's part.

    Returns:
      [B, H, W, C] in the dtype of `x`; statistics are float32.
    """
    chex.assert_rank([x, scale, bias], [4, 1, 1])
    return _batch_norm(x, scale, bias, relu6, epsilon, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_products(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    def convolve(block: jax.Array) -> jax.Array:
        taps = _taps(block, kernel.shape[0], stride)
        return sum(tap * kernel[row, column] for row, column, tap in taps)

    size = _images_in_block(x)
    if size == len(x):
        return convolve(x)
    blocks = lax.map(convolve, x.reshape(-1, size, *x.shape[1:]))
    return blocks.reshape(len(x), *blocks.shape[2:])


def _shifted_products_forward(x: jax.Array, kernel: jax.Array, stride: int):
    return _shifted_products(x, kernel, stride), (x, kernel)


def _shifted_products_backward(stride: int, residuals, gradient: jax.Array):
    x, kernel = residuals
    _, height, width, _ = x.shape
    spread = gradient
    if stride > 1:  # the input's gradient is the convolution of the outputs' gradient, put back where it came from
        rows, columns = (height - 1) % stride, (width - 1) % stride
        edges = ((0, 0, 0), (0, rows, stride - 1), (0, columns, stride - 1), (0, 0, 0))
        spread = lax.pad(gradient, jnp.zeros((), gradient.dtype), edges)
    x_gradient = _shifted_products(spread, kernel[::-1, ::-1], 1)
    return x_gradient, _kernel_gradient(x, gradient, kernel, stride)


_shifted_products.defvjp(_shifted_products_forward, _shifted_products_backward)


def _kernel_gradient(x: jax.Array, gradient: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """All taps in one variadic reduction over a block of images, which is read from memory once."""

    def add_block(total: jax.Array, block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        images, gradients = block
        products = [(tap * gradients).astype(jnp.float32) for _, _, tap in _taps(images, kernel.shape[0], stride)]
        return total + jnp.stack(channel_sums(*products)).reshape(kernel.shape), None

    zero = jnp.zeros(kernel.shape, jnp.float32)
    size = _images_in_block(x)
    if size == len(x):
        total, _ = add_block(zero, (x, gradient))
    else:
        blocks = tuple(array.reshape(-1, size, *array.shape[1:]) for array in (x, gradient))
        total, _ = lax.scan(add_block, zero, blocks)
    return total.astype(kernel.dtype)


def _taps(x: jax.Array, size: int, stride: int) -> Iterator[tuple[int, int, jax.Array]]:
    """For each entry of the kernel the part of the padded input that it meets: (row, column, [B, H', W', C])."""
    padding = (size - 1) // 2
    _, height, width, _ = x.shape
    last_row, last_column = (height - 1) // stride * stride, (width - 1) // stride * stride
    # Without the barrier the padding is computed again for every tap.
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))))
    for row in range(size):
        for column in range(size):
            stop = (row + last_row + 1, column + last_column + 1)
            yield row, column, padded[:, row : stop[0] : stride, column : stop[1] : stride]


def _images_in_block(x: jax.Array) -> int:
    """The largest divisor of B whose images are no more than a block."""
    batch, *image = x.shape
    most = max(1, BLOCK_SIZE // (image[0] * image[1] * image[2]))
    return max(size for size in range(1, batch + 1) if batch % size == 0 and size <= most)


def channel_sums(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sums of several float32 [B, H, W, ...] arrays over the first three axes, in one pass: [...] each."""
    zeros = (jnp.float32(0),) * len(arrays)
    return lax.reduce(arrays, zeros, lambda first, second: tuple(a + b for a, b in zip(first, second)), (0, 1, 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu6: bool, epsilon: float, axis_name: str | None
) -> jax.Array:
    return _batch_norm_forward(x, scale, bias, relu6, epsilon, axis_name)[0]


def _batch_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, relu6: bool, epsilon: float, axis_name: str | None
):
    values = x.astype(jnp.float32)
    mean, variance = moments(x, axis_name)
    inverse = lax.rsqrt(variance + epsilon)
    normalised = (values - mean) * (inverse * scale) + bias
    output = jnp.clip(normalised, 0, 6) if relu6 else normalised
    return output.astype(x.dtype), (x, scale, bias, mean, inverse)


def moments(x: jax.Array, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of [B, H, W, C] for each channel, float32 [C] each, in one pass; see `batch_norm`."""
    count = x.size // x.shape[-1]
    values = x.astype(jnp.float32)
    # Moments about one of the values, not about 0: a mean far from 0 then costs no digits of the variance.
    origin = lax.stop_gradient(x[0, 0, 0]).astype(jnp.float32)
    centred = values - origin
    total, squares = channel_sums(centred, jnp.square(centred))
    offset = total / count
    variance = jnp.maximum(squares / count - jnp.square(offset), 0)
    mean = origin + offset
    return (mean, variance) if axis_name is None else _statistics_of_all(mean, variance, axis_name)


def _statistics_of_all(mean: jax.Array, variance: jax.Array, axis_name: str) -> tuple[jax.Array, jax.Array]:
    """Mean and variance [C] of equal parts together; one exchange, and no difference of large squares."""
    means, variances = jnp.moveaxis(lax.all_gather(jnp.stack([mean, variance]), axis_name), 1, 0)  # [parts, C] each
    mean = means.mean(0)
    return mean, variances.mean(0) + jnp.square(means - mean).mean(0)


def _batch_norm_backward(relu6: bool, epsilon: float, axis_name: str | None, residuals, gradient: jax.Array):
    del epsilon
    x, scale, bias, mean, inverse = residuals
    count = x.size // x.shape[-1]
    standard = (x.astype(jnp.float32) - mean) * inverse
    gradient = gradient.astype(jnp.float32)
    if relu6:
        normalised = standard * scale + bias
        gradient = jnp.where((normalised > 0) & (normalised < 6), gradient, 0)
    bias_gradient, scale_gradient = channel_sums(gradient, gradient * standard)
    shares = bias_gradient / count, scale_gradient / count
    if axis_name is not None:  # every part's output depends on this part through the statistics
        shares = lax.pmean(shares, axis_name)
    x_gradient = (gradient - shares[0] - standard * shares[1]) * (scale * inverse)
    return x_gradient.astype(x.dtype), scale_gradient.astype(scale.dtype), bias_gradient.astype(bias.dtype)


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)
