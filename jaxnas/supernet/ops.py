"""Operations of the supernet (plain forms)."""

import functools

import jax
import jax.numpy as jnp


def _taps(x, size, stride):
    pad = size // 2
    h, w = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    p = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for i in range(size):
        for j in range(size):
            yield (
                i,
                j,
                jax.lax.slice(
                    p,
                    (0, i, j, 0),
                    (x.shape[0], i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, x.shape[3]),
                    (1, stride, stride, 1),
                ),
            )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dw(x, kernel, stride):
    return sum(t * kernel[i, j] for i, j, t in _taps(x, kernel.shape[0], stride))


def _fwd(x, kernel, stride):
    return _dw(x, kernel, stride), (x, kernel)


def _bwd(stride, res, g):
    x, kernel = res
    size = kernel.shape[0]
    dk = jnp.stack([(t * g).sum((0, 1, 2)) for _, _, t in _taps(x, size, stride)]).reshape(kernel.shape)
    if stride > 1:
        up = jax.lax.pad(
            g,
            jnp.zeros((), g.dtype),
            (
                (0, 0, 0),
                (0, x.shape[1] - (g.shape[1] - 1) * stride - 1, stride - 1),
                (0, x.shape[2] - (g.shape[2] - 1) * stride - 1, stride - 1),
                (0, 0, 0),
            ),
        )
    else:
        up = g
    return _dw(up, kernel[::-1, ::-1], 1), dk


_dw.defvjp(_fwd, _bwd)


def depthwise_conv(x, kernel, stride=1, dilation=1):
    return _dw(x, kernel, stride)


def pointwise_conv(x, kernel):
    return x @ kernel


def batch_norm(x, scale, bias, relu6=False, epsilon=1e-5):
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean).mean((0, 1, 2))
    y = (x - mean) * jax.lax.rsqrt(var + epsilon) * scale + bias
    return jnp.clip(y, 0, 6) if relu6 else y
