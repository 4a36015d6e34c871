"""The inside of an MBConv on accelerators, where memory traffic is the time.

Everything between the input and the last convolution is one function with a derivative written out:

- The batch norm behind the expansion takes its statistics from the input, which has a sixth of the channels. With
  centred input x~ (mean 0 over N rows) and covariance V = x~' x~ / N, the expansion W has mean 0 and variance
  diag(W' V W), so that normalisation and ReLU6 follow the matrix product at once. Its derivative likewise needs only
  G = x~' g, where g is the gradient behind the normalisation.
- The wide activations are computed again in the backward pass; only the input and the statistics are kept.
- For S architectures (`jax.vmap`) the samples lie in front of the channels, [B, H, W, S, C], where one grouped
  convolution wants them; only the narrow input and output change their order.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
from jax import lax

from jaxnas.supernet import ops
from jaxnas.supernet.backend import resolve_backend
from jaxnas.supernet.switch import Params

EPSILON = 1e-5
# Columns of ones behind the input, whose rows in a kernel are constants: a multiple of what memory is read in.
ONES = 8


@flax.struct.dataclass
class Statistics:
    """What the derivative needs beside the input, over the minibatch; with a leading axis of S for S architectures.

    Attributes:
      mean: float32 [Cin], of the input.
      rest: float32 [Cin], mean of this device's centred input; 0 if the statistics are its own.
      covariance: float32 [Cin, Cin], of the input.
      rate1: float32 [E], one over the standard deviation behind the expansion.
      mean2: float32 [E], of the depthwise convolution.
      rate2: float32 [E], one over its standard deviation.
    """

    mean: jax.Array
    rest: jax.Array
    covariance: jax.Array
    rate1: jax.Array
    mean2: jax.Array
    rate2: jax.Array


# Where it is one operation after the other: for one architecture, and for several at once. A TPU keeps channels in rows
# of 128, so that samples in front of them are moved between convolutions and matrix products.
_PLAIN = {False: ("cpu",), True: ("cpu", "tpu")}


def inside(
    weights: Params,
    x: jax.Array,
    stride: int = 1,
    axis_name: str | None = None,
    backend: str | None = None,
    batched: bool = False,
) -> jax.Array:
    """An MBConv up to its last convolution, in front of the last batch norm.

    Args:
      weights: `expand` (kernel [Cin, E]; scale, bias [E]), `depthwise` (kernel [k, k, E]; scale, bias [E]) and
        `project` (kernel [E, Cout]).
      x: float [B, H, W, Cin].
      stride: of the depthwise convolution.
      axis_name: mapped axis over which batch norm takes its statistics, see `ops.batch_norm`.
      backend: that the program is for; None for JAX's default.
      batched: whether it is to be mapped over architectures by `jax.vmap`.

    Returns:
      float [B, ceil(H / stride), ceil(W / stride), Cout], in the dtype of x.
    """
    expand, depthwise, project = (weights[name] for name in ("expand", "depthwise", "project"))
    if resolve_backend(backend) in _PLAIN[batched]:
        norm = functools.partial(ops.batch_norm, relu6=True, axis_name=axis_name)
        h = norm(ops.pointwise_conv(x, expand["kernel"]), expand["scale"], expand["bias"])
        h = ops.depthwise_conv(h, depthwise["kernel"], stride, backend)
        return ops.pointwise_conv(norm(h, depthwise["scale"], depthwise["bias"]), project["kernel"])
    arrays = {"expand": expand, "depthwise": depthwise, "project": {"kernel": project["kernel"]}}
    return _inside_block(arrays, x, stride, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _inside_block(weights: Params, x: jax.Array, stride: int, axis_name: str | None) -> jax.Array:
    return forward(weights, x, stride, axis_name)[0]


def _forward(weights: Params, x: jax.Array, stride: int, axis_name: str | None):
    y, statistics = forward(weights, x, stride, axis_name)
    return y, (weights, x, statistics)


def _backward(stride: int, axis_name: str | None, residuals: Any, gradient: jax.Array):
    return backward(*residuals, gradient, stride, axis_name)


_inside_block.defvjp(_forward, _backward)


def forward(weights: Params, x: jax.Array, stride: int, axis_name: str | None) -> tuple[jax.Array, Statistics]:
    """What `inside` gives on accelerators, and what its derivative needs; takes what it takes."""
    chex.assert_rank(x, 4)
    return _samples_in_front_of_channels(_forward_all, stride, axis_name)(weights, x)


def backward(
    weights: Params, x: jax.Array, statistics: Statistics, gradient: jax.Array, stride: int, axis_name: str | None
) -> tuple[Params, jax.Array]:
    """Gradients of the weights and of x from that of the result, with what `forward` took and gave."""
    return _samples_in_front_of_channels(_backward_all, stride, axis_name)(weights, x, statistics, gradient)


@functools.cache
def _samples_in_front_of_channels(function: Callable, stride: int, axis_name: str | None) -> Callable:
    """Of a function of S architectures, that of one; `jax.vmap` of it is the function itself."""
    function = functools.partial(function, stride=stride, axis_name=axis_name)

    @jax.custom_batching.custom_vmap
    def of_one(*args: Any) -> Any:
        one = jax.tree.map(lambda leaf: leaf[None], args)
        return jax.tree.map(lambda leaf: leaf[0], function(*one))

    @of_one.def_vmap
    def of_all(size: int, batched: Any, *args: Any) -> tuple[Any, Any]:
        def repeat(leaf: jax.Array, is_batched: bool) -> jax.Array:
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        results = function(*jax.tree.map(repeat, args, tuple(batched)))
        return results, jax.tree.map(lambda _: True, results)

    return of_one


def _forward_all(weights: Params, x: jax.Array, *, stride: int, axis_name: str | None):
    """Of S architectures: x [S, B, H, W, Cin] -> [S, B, H', W', Cout], Statistics."""
    samples, *_, channels = x.shape
    x = jnp.moveaxis(x, 0, 3)
    mean = local = x.astype(jnp.float32).mean((0, 1, 2))
    if axis_name is not None:
        mean = lax.pmean(local, axis_name)
    centred = _centred(x, mean)
    covariance = _outer(centred, centred, samples)[:, :channels, :channels] / _rows(x)
    kernel = weights["expand"]["kernel"].astype(jnp.float32)
    variance = (kernel * _exact("scd,sde->sce", covariance, kernel)).sum(1)
    if axis_name is not None:
        variance = lax.pmean(variance, axis_name)
    rate1 = lax.rsqrt(jnp.maximum(variance, 0) + EPSILON)
    h = _expand(weights["expand"], centred, rate1)
    d = ops.grouped_conv(h, _merge(weights["depthwise"]["kernel"]), stride)
    mean2, variance2 = ops.moments(d, axis_name)
    mean2, rate2 = (leaf.reshape(samples, -1) for leaf in (mean2, lax.rsqrt(variance2 + EPSILON)))
    statistics = Statistics(mean, local - mean, covariance, rate1, mean2, rate2)
    _, normalised = _normalise(weights["depthwise"], d, statistics)
    y = _product(jnp.clip(normalised, 0, 6).astype(x.dtype), weights["project"]["kernel"])
    return _split(y, samples), statistics


def _backward_all(
    weights: Params, x: jax.Array, statistics: Statistics, gradient: jax.Array, *, stride: int, axis_name: str | None
):
    """Of S architectures: gradients of the weights and of x, from that of the result [S, B, H', W', Cout]."""
    samples, *_, channels = x.shape
    x = jnp.moveaxis(x, 0, 3)
    gradient = jnp.moveaxis(gradient, 0, 3).reshape(*gradient.shape[1:4], -1)
    dtype, expand, depthwise = x.dtype, weights["expand"], weights["depthwise"]
    # The wide activations once more; without the barrier the compiler would keep them instead.
    statistics = lax.optimization_barrier(statistics)
    centred = _centred(x, statistics.mean)
    h = _expand(expand, centred, statistics.rate1)
    convolve = lambda h, kernel: ops.grouped_conv(h, _merge(kernel), stride)  # noqa: E731
    d, transpose = jax.vjp(convolve, h, depthwise["kernel"])
    # Projection, ReLU6 and batch norm, backwards.
    dz = _product(gradient, weights["project"]["kernel"].swapaxes(1, 2))
    standard, normalised = _normalise(depthwise, d, statistics)
    project_gradient = _outer(jnp.clip(normalised, 0, 6).astype(dtype), gradient, samples)
    inside = _inside(normalised, dz)
    sums = ops.channel_sums(inside, inside * standard)
    by_bias, by_scale = _shares(sums, _rows(d), axis_name)
    bias2, scale2 = (leaf.reshape(depthwise["bias"].shape) for leaf in sums)
    # Behind the barrier they are computed once more, which is cheaper than to store them.
    standard, normalised = _normalise(depthwise, d, lax.optimization_barrier(statistics))
    slope2 = (statistics.rate2 * depthwise["scale"]).ravel()
    dd = ((_inside(normalised, dz) - by_bias - standard * by_scale) * slope2).astype(dtype)
    # The convolution and the ReLU6 in front of it.
    dh, depthwise_gradient = transpose(dd)
    g = jnp.where((h > 0) & (h < 6), dh, 0)
    # Batch norm and expansion: see the top of the file.
    kernel = expand["kernel"].astype(jnp.float32)
    gram = _outer(centred, g, samples)
    gram, bias1 = gram[:, :channels], gram[:, channels]
    scale1 = statistics.rate1 * (kernel * gram).sum(1)
    by_bias, by_scale = _shares((bias1, scale1), _rows(x), axis_name)
    slope1 = statistics.rate1 * expand["scale"]
    by_input = statistics.rate1 * by_scale
    products = _exact("scd,sde->sce", statistics.covariance, kernel) * by_input[:, None]
    means = statistics.rest[:, :, None] * by_bias[:, None]
    expand_gradient = slope1[:, None] * (gram - _rows(x) * (products + means))
    scaled = kernel * slope1[:, None]
    through = _exact("sce,sde->scd", scaled * by_input[:, None], kernel)
    constant = _exact("sce,se->sc", scaled, by_bias)
    through = _with_constants(through.swapaxes(1, 2), constant, dtype)
    dx = _product(g, scaled.swapaxes(1, 2).astype(dtype)) - _product(centred, through)
    by_weight = {
        "expand": {"kernel": expand_gradient, "scale": scale1, "bias": bias1},
        "depthwise": {"kernel": depthwise_gradient, "scale": scale2, "bias": bias2},
        "project": {"kernel": project_gradient},
    }
    by_weight = jax.tree.map(lambda leaf, weight: leaf.astype(weight.dtype), by_weight, weights)
    return by_weight, _split(dx, samples)


def _centred(x: jax.Array, mean: jax.Array) -> jax.Array:
    """Centred input with columns of ones behind it: [B, H, W, S, Cin] -> [B, H, W, S * (Cin + ONES)]."""
    ones = jnp.ones((*x.shape[:-1], ONES), x.dtype)
    centred = jnp.concatenate([(x.astype(jnp.float32) - mean).astype(x.dtype), ones], -1)
    return centred.reshape(*x.shape[:3], -1)


def _split(x: jax.Array, samples: int) -> jax.Array:
    """[B, H, W, S * C] -> [S, B, H, W, C]."""
    return jnp.moveaxis(x.reshape(*x.shape[:3], samples, -1), 3, 0)


def _with_constants(kernel: jax.Array, constant: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A kernel [S, Cin, E] with rows for the columns of ones that add a constant [S, E], in full precision."""
    rounded = lax.reduce_precision(constant, exponent_bits=8, mantissa_bits=7)  # of bfloat16
    rows = jnp.stack([rounded, constant - rounded], 1)
    return jnp.concatenate([kernel, jnp.pad(rows, ((0, 0), (0, ONES - 2), (0, 0)))], 1).astype(dtype)


def _expand(weights: Params, centred: jax.Array, rate: jax.Array) -> jax.Array:
    """Expansion, batch norm and ReLU6: [B, H, W, S * (Cin + ONES)] -> [B, H, W, S * E]."""
    scaled = weights["kernel"].astype(jnp.float32) * (rate * weights["scale"])[:, None]
    kernel = _with_constants(scaled, weights["bias"], centred.dtype)
    return _product(centred, kernel, lambda h: jnp.clip(h, 0, 6))


def _merge(kernel: jax.Array) -> jax.Array:
    """Kernels of all samples as one of their channels together: [S, k, k, E] -> [k, k, S * E]."""
    return jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1)


def _normalise(weights: Params, d: jax.Array, statistics: Statistics) -> tuple[jax.Array, jax.Array]:
    """Standardised values, and those scaled and shifted, float32."""
    standard = (d.astype(jnp.float32) - statistics.mean2.ravel()) * statistics.rate2.ravel()
    return standard, standard * weights["scale"].ravel() + weights["bias"].ravel()


def _inside(normalised: jax.Array, gradient: jax.Array) -> jax.Array:
    """The gradient in front of a ReLU6, float32."""
    return jnp.where((normalised > 0) & (normalised < 6), gradient.astype(jnp.float32), 0)


def _product(x: jax.Array, kernel: jax.Array, behind: Callable[[jax.Array], jax.Array] = lambda y: y) -> jax.Array:
    """1x1 convolution, and an elementwise function of it: [B, H, W, S * a], [S, a, b] -> [B, H, W, S * b].

    The function and the change of order are part of the same kernel on GPUs, as long as it needs no other array and
    stands in front of any change of shape.
    """
    y = behind(lax.dot_general(_rows_of(x, len(kernel)), kernel, (((2,), (1,)), ((1,), (0,)))))
    return jnp.moveaxis(y, 0, 1).reshape(*x.shape[:3], -1)


def _outer(x: jax.Array, y: jax.Array, samples: int) -> jax.Array:
    """Sums over rows of outer products: [B, H, W, S * a], [B, H, W, S * b] -> float32 [S, a, b]."""
    return _exact("nsc,nsd->scd", _rows_of(x, samples), _rows_of(y, samples))


def _rows_of(x: jax.Array, samples: int) -> jax.Array:
    """[B, H, W, S * C] -> [B * H * W, S, C]."""
    return x.reshape(_rows(x), samples, -1)


def _exact(subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """`jnp.einsum` added up in float32, and without rounding of float32 to what an accelerator multiplies fastest."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32, precision=precision)


def _shares(sums: tuple[jax.Array, ...], rows: int, axis_name: str | None) -> tuple[jax.Array, ...]:
    """Means over the rows, of all devices: every output depends on every row through the statistics."""
    means = tuple(leaf / rows for leaf in sums)
    return means if axis_name is None else lax.pmean(means, axis_name)


def _rows(x: jax.Array) -> int:
    return x.shape[0] * x.shape[1] * x.shape[2]
