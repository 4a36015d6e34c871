"""An MBConv on CPUs, computed by blocks of inner channels.

Everything between the expansion and the projection concerns each inner channel apart: the expansion makes a few
channels for the whole minibatch, batch norm, ReLU6 and the depthwise convolution keep them apart, and the projection
adds what they contribute. A block of channels is therefore worked on from end to end while it is in the cache, the
full inner activation never exists, and a wider expansion is only more blocks: one compiled loop serves all of them.
The derivative recomputes the blocks one by one, from the input and the statistics alone.

The batch norm behind the expansion needs no pass over its input. With centred input x~ (mean 0 over N rows) and
covariance V = x~' x~ / N, the expansion W has mean 0 and variance diag(W' V W); its derivative likewise needs only
G = x~' g, where g [N, inner] is the gradient behind the normalisation.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.supernet.cpu import depthwise
from jaxnas.supernet.cpu.depthwise import Geometry, pad, per_kernel, window

EPSILON = 1e-5
# Rows of a matrix product over the minibatch that are summed at a time: beyond, XLA's product of two tall matrices
# goes through memory too often.
ROWS = 8192


@flax.struct.dataclass
class Weights:
    """Weights of one MBConv up to its last convolution, zero-padded to the largest kernel k and widest expansion E.

    Attributes:
      expand: float32 [Cin, E].
      scale1: float32 [E], of the batch norm behind it.
      bias1: float32 [E].
      depthwise: float32 [k, k, E], smaller kernels in the middle.
      scale2: float32 [E], of the batch norm behind it.
      bias2: float32 [E].
      project: float32 [E, Cout].
    """

    expand: jax.Array
    scale1: jax.Array
    bias1: jax.Array
    depthwise: jax.Array
    scale2: jax.Array
    bias2: jax.Array
    project: jax.Array


@flax.struct.dataclass
class Statistics:
    """What the derivative needs beside the input.

    Attributes:
      mean: float32 [Cin], of the input.
      covariance: float32 [Cin, Cin], of the input.
      mean2: float32 [E], of the depthwise convolution.
      rate2: float32 [E], one over its standard deviation.
    """

    mean: jax.Array
    covariance: jax.Array
    mean2: jax.Array
    rate2: jax.Array


def forward(
    weights: Weights, x: jax.Array, kernel_index: jax.Array, blocks: jax.Array, geometry: Geometry
) -> tuple[jax.Array, Statistics]:
    """An MBConv up to its last convolution.

    Args:
      weights: of the MBConv.
      x: float32 [B, H, W, Cin].
      kernel_index: int32 [], into the kernel sizes of `geometry`.
      blocks: int32 [], number of blocks in use: the expansion.
      geometry: static sizes.

    Returns:
      float32 [B, H', W', Cout], before the last batch norm, and statistics for `backward`.
    """
    batch, height, width, channels = x.shape
    shape = (-(-height // geometry.stride), -(-width // geometry.stride))
    mean = _mean(x.reshape(-1, channels))
    rows = lax.optimization_barrier((x - mean).reshape(-1, channels))
    covariance = _outer(rows, rows) / len(rows)
    _, expand = _expand_and_scale(weights, covariance)
    convolve = functools.partial(depthwise.convolve, geometry=geometry, shape=shape)

    def add_block(index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]):
        total, mean2, rate2 = carry
        take, put = _block_access(index, geometry.block)
        h = _expanded(rows, take(expand), take(weights.bias1), x.shape[:3], geometry)
        kernel = take(weights.depthwise)
        # The moments are taken about what one image suggests: their difference then loses no digits.
        origin = kernel.sum((0, 1)) * h[0].mean((0, 1))
        d = per_kernel(convolve, kernel_index, geometry, h, kernel, origin).reshape(-1, geometry.block)
        distance = d.mean(0)
        rate = lax.rsqrt(jnp.maximum(jnp.square(d).mean(0) - jnp.square(distance), 0) + EPSILON)
        z = jnp.clip((d - distance) * (rate * take(weights.scale2)) + take(weights.bias2), 0, 6)
        total = total + z @ take(weights.project, axis=0)
        return total, put(mean2, distance + origin), put(rate2, rate)

    inner, out = weights.project.shape
    sizes = ((batch * shape[0] * shape[1], out), (inner,), (inner,))
    start = tuple(jnp.zeros(size, x.dtype) for size in sizes)
    total, mean2, rate2 = lax.fori_loop(0, blocks, add_block, start)
    return total.reshape(batch, *shape, out), Statistics(mean, covariance, mean2, rate2)


def backward(
    weights: Weights,
    x: jax.Array,
    statistics: Statistics,
    gradient: jax.Array,
    kernel_index: jax.Array,
    blocks: jax.Array,
    geometry: Geometry,
) -> tuple[Weights, jax.Array]:
    """Derivative of `forward`.

    Args:
      weights: of the MBConv.
      x: float32 [B, H, W, Cin].
      statistics: from `forward`.
      gradient: float32 [B, H', W', Cout], of the result.
      kernel_index: int32 [], as for `forward`.
      blocks: int32 [], likewise.
      geometry: static sizes.

    Returns:
      Gradient of the weights, and of x.
    """
    batch, height, width, channels = x.shape
    shape = gradient.shape[1:3]
    gradient = gradient.reshape(-1, gradient.shape[-1])
    rows = lax.optimization_barrier((x - statistics.mean).reshape(-1, channels))
    rate1, expand = _expand_and_scale(weights, statistics.covariance)
    static = {"geometry": geometry, "shape": shape}
    convolve = functools.partial(depthwise.convolve, **static)
    kernel_gradient = functools.partial(depthwise.kernel_gradient, **static)
    input_gradient = functools.partial(_activation_gradient, geometry=geometry, shape=(height, width))

    def add_block(index: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array, Weights]):
        x_gradient, gram, sums, by_weight = carry
        take, put = _block_access(index, geometry.block)
        kernel, scale, rate = take(weights.depthwise), take(weights.scale2), take(statistics.rate2)
        # The forward pass of this block once more.
        h = _expanded(rows, take(expand), take(weights.bias1), x.shape[:3], geometry)
        d = per_kernel(convolve, kernel_index, geometry, h, kernel, take(statistics.mean2)).reshape(-1, geometry.block)
        z = jnp.clip(d * (rate * scale) + take(weights.bias2), 0, 6)
        # Projection, ReLU6 and batch norm, backwards.
        project_gradient = _outer(z, gradient)
        dz = jnp.where((z > 0) & (z < 6), gradient @ take(weights.project, axis=0).T, 0)
        bias_gradient, scale_gradient = dz.sum(0), (dz * d).sum(0) * rate
        dd = (dz - bias_gradient / len(d) - d * (rate * scale_gradient / len(d))) * (rate * scale)
        dd = pad(dd.reshape(batch, *shape, geometry.block), *geometry.margins)
        # The convolution and the ReLU6 in front of it.
        depthwise_gradient = per_kernel(kernel_gradient, kernel_index, geometry, h, dd)
        g = per_kernel(input_gradient, kernel_index, geometry, dd, kernel, h).reshape(-1, geometry.block)
        x_gradient = x_gradient + g @ take(expand).T
        gram, sums = put(gram, _outer(rows, g)), put(sums, g.sum(0))
        by_weight = by_weight.replace(
            depthwise=put(by_weight.depthwise, depthwise_gradient),
            scale2=put(by_weight.scale2, scale_gradient),
            bias2=put(by_weight.bias2, bias_gradient),
            project=put(by_weight.project, project_gradient, axis=0),
        )
        return x_gradient, gram, sums, by_weight

    zero = jax.tree.map(jnp.zeros_like, weights)
    start = (jnp.zeros_like(rows), zero.expand, zero.bias1, zero)
    x_gradient, gram, sums, by_weight = lax.fori_loop(0, blocks, add_block, start)
    # The first batch norm, for all channels at once: see the top of the file.
    rate_scale = rate1 * weights.scale1
    scale_gradient = rate1 * (weights.expand * gram).sum(0)
    slope = rate1 * scale_gradient / len(rows)
    expand_gradient = rate_scale * (gram - len(rows) * (statistics.covariance @ weights.expand) * slope)
    by_weight = by_weight.replace(expand=expand_gradient, scale1=scale_gradient, bias1=sums)
    matrix = (weights.expand * (rate_scale * slope)) @ weights.expand.T
    x_gradient = x_gradient - rows @ matrix - expand @ (sums / len(rows))
    return by_weight, x_gradient.reshape(x.shape)


def _expanded(
    rows: jax.Array, expand: jax.Array, bias: jax.Array, batch_shape: tuple[int, ...], geometry: Geometry
) -> jax.Array:
    """Padded output [B, H + 2 reach, W + 2 reach, c] of expansion, batch norm and ReLU6 for a block of channels."""
    h = jnp.clip(rows @ expand + bias, 0, 6).reshape(*batch_shape, geometry.block)
    return pad(h, geometry.reach, geometry.reach)


def _activation_gradient(
    gradient: jax.Array,
    kernel: jax.Array,
    activation: jax.Array,
    *,
    size: int,
    geometry: Geometry,
    shape: tuple[int, int],
) -> jax.Array:
    """Gradient in front of the ReLU6 [B, *shape, c], from that of the convolution and from its input, both padded."""
    gradient = depthwise.convolve_transposed(gradient, kernel, size=size, geometry=geometry, shape=shape)
    inside = window(activation, (geometry.reach, geometry.reach), shape)
    return jnp.where((inside > 0) & (inside < 6), gradient, 0)


def _expand_and_scale(weights: Weights, covariance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rate [E] of the first batch norm, and the expansion [Cin, E] with the rate and the scale folded in."""
    variance = (weights.expand * (covariance @ weights.expand)).sum(0)
    rate = lax.rsqrt(jnp.maximum(variance, 0) + EPSILON)
    return rate, weights.expand * (rate * weights.scale1)


def _block_access(index: jax.Array, size: int):
    """Functions that read and write block number `index` of an axis, by default the last."""
    start = index * size

    def take(array: jax.Array, axis: int = -1) -> jax.Array:
        return lax.dynamic_slice_in_dim(array, start, size, axis, allow_negative_indices=False)

    def put(array: jax.Array, block: jax.Array, axis: int = -1) -> jax.Array:
        return lax.dynamic_update_slice_in_dim(array, block, start, axis, allow_negative_indices=False)

    return take, put


def _outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over rows of outer products, [N, a], [N, b] -> [a, b]."""
    if x.shape[1] > y.shape[1]:  # measured: faster with the narrow matrix on the left
        return _outer(y, x).T
    if x.shape[0] % ROWS or x.shape[0] == ROWS:
        return x.T @ y
    x, y = (array.reshape(-1, ROWS, array.shape[1]) for array in (x, y))
    return jnp.einsum("kna,knb->kab", x, y).sum(0)


def _mean(rows: jax.Array) -> jax.Array:
    """Mean over rows of [N, C], about one of them: a mean far from 0 costs no digits."""
    return rows[0] + (rows - rows[0]).mean(0)
