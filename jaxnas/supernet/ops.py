import functools

import jax
import jax.numpy as jnp
from jax import lax


def _pad(x, pad):
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))))


def _taps(p, size, stride, h, w):
    for i in range(size):
        for j in range(size):
            yield (
                i,
                j,
                lax.slice(
                    p,
                    (0, i, j, 0),
                    (p.shape[0], i + (h - 1) * stride + 1, j + (w - 1) * stride + 1, p.shape[3]),
                    (1, stride, stride, 1),
                ),
            )


def _blocks(n, per):
    m = max(1, min(n, per))
    while n % m:
        m -= 1
    return m


def _block_of(x):
    # images whose floats fit about 256 KiB
    per = max(1, 65536 // (x.shape[1] * x.shape[2] * x.shape[3]))
    return _blocks(x.shape[0], per)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _dw(x, kernel, stride):
    size = kernel.shape[0]
    pad = size // 2
    h, w = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    m = _block_of(x)

    def one(z):
        p = _pad(z, pad)
        return sum(t * kernel[i, j] for i, j, t in _taps(p, size, stride, h, w))

    if m == x.shape[0]:
        return one(x)
    y = lax.map(one, x.reshape(-1, m, *x.shape[1:]))
    return y.reshape(x.shape[0], *y.shape[2:])


def _fwd(x, kernel, stride):
    return _dw(x, kernel, stride), (x, kernel)


def _bwd(stride, res, g):
    x, kernel = res
    size = kernel.shape[0]
    pad = size // 2
    h, w = g.shape[1:3]
    m = _block_of(x)

    def one(c, zd):
        z, d = zd
        p = _pad(z, pad)
        terms = [t * d for _, _, t in _taps(p, size, stride, h, w)]
        out = lax.reduce(
            tuple(terms), (jnp.float32(0),) * len(terms), lambda a, b: tuple(u + v for u, v in zip(a, b)), (0, 1, 2)
        )
        return c + jnp.stack(out).reshape(kernel.shape), None

    zero = jnp.zeros(kernel.shape)
    if m == x.shape[0]:
        dk = one(zero, (x, g))[0]
    else:
        dk = lax.scan(one, zero, (x.reshape(-1, m, *x.shape[1:]), g.reshape(-1, m, *g.shape[1:])))[0]
    if stride > 1:
        up = lax.pad(
            g,
            jnp.zeros((), g.dtype),
            (
                (0, 0, 0),
                (0, x.shape[1] - (h - 1) * stride - 1, stride - 1),
                (0, x.shape[2] - (w - 1) * stride - 1, stride - 1),
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
    return _bn(x, scale, bias, relu6, epsilon)


def _stats(x, epsilon):
    n = x.size // x.shape[-1]
    s, q = lax.reduce((x, x * x), (jnp.float32(0),) * 2, lambda a, b: (a[0] + b[0], a[1] + b[1]), (0, 1, 2))
    mean = s / n
    return mean, lax.rsqrt(jnp.maximum(q / n - mean * mean, 0) + epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _bn(x, scale, bias, relu6, epsilon):
    mean, inv = _stats(x, epsilon)
    y = x * (inv * scale) + (bias - mean * inv * scale)
    return jnp.clip(y, 0, 6) if relu6 else y


def _bnf(x, scale, bias, relu6, epsilon):
    mean, inv = _stats(x, epsilon)
    y = x * (inv * scale) + (bias - mean * inv * scale)
    return (jnp.clip(y, 0, 6) if relu6 else y), (x, scale, bias, mean, inv)


def _bnb(relu6, epsilon, res, g):
    x, scale, bias, mean, inv = res
    xh = (x - mean) * inv
    if relu6:
        y = xh * scale + bias
        g = jnp.where((y > 0) & (y < 6), g, 0)
    db, ds = lax.reduce((g, g * xh), (jnp.float32(0),) * 2, lambda a, b: (a[0] + b[0], a[1] + b[1]), (0, 1, 2))
    n = x.size // x.shape[-1]
    return (g - db / n - xh * (ds / n)) * (scale * inv), ds, db


_bn.defvjp(_bnf, _bnb)
