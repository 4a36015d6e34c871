"""The fast operations against XLA's plain ones: values, gradients, and vmap in either order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas.supernet import ops


def plain_depthwise(x, kernel, stride):
    padding = (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def plain_batch_norm(x, scale, bias, relu6, epsilon=1e-5):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    y = (x - mean) / jnp.sqrt(variance + epsilon) * scale + bias
    return jnp.clip(y, 0, 6) if relu6 else y


def assert_close(actual, expected, tolerance=1e-4):
    def one(a, b):
        scale = np.abs(b).max() + 1e-6
        np.testing.assert_allclose(np.asarray(a) / scale, np.asarray(b) / scale, atol=tolerance)

    jax.tree.map(one, actual, expected)


def with_gradients(function, *arguments):
    """Value, and gradients of a generic functional of it."""

    def functional(*arguments):
        value = function(*arguments)
        return (value * jnp.cos(jnp.arange(value.size).reshape(value.shape))).sum()

    gradient = jax.grad(functional, argnums=tuple(range(len(arguments))))
    return jax.jit(lambda *arguments: (function(*arguments), gradient(*arguments)))(*arguments)


@settings(max_examples=8, deadline=None)
@given(
    size=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2, 3]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5)),
    seed=st.integers(0, 1000),
)
def test_depthwise_equals_the_plain_convolution(size, stride, shape, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=shape).astype(np.float32)
    kernel = generator.normal(size=(size, size, shape[-1])).astype(np.float32)
    fast = with_gradients(lambda x, k: ops.depthwise_conv(x, k, stride), x, kernel)
    plain = with_gradients(lambda x, k: plain_depthwise(x, k, stride), x, kernel)
    assert_close(fast, plain)


@pytest.mark.parametrize("block_size", [1, 200, 10**6])
def test_blocks_do_not_change_the_result(monkeypatch, block_size):
    monkeypatch.setattr(ops, "BLOCK_SIZE", block_size)
    x = jax.random.normal(jax.random.key(0), (6, 5, 5, 4))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4))
    fast = with_gradients(lambda x, k: ops.depthwise_conv(x, k, 2), x, kernel)
    assert_close(fast, with_gradients(lambda x, k: plain_depthwise(x, k, 2), x, kernel))


@settings(max_examples=6, deadline=None)
@given(
    relu6=st.booleans(),
    shape=st.tuples(st.integers(2, 4), st.integers(2, 5), st.integers(2, 5), st.integers(1, 4)),
    mean=st.sampled_from([0.0, 3.0, 100.0]),
    seed=st.integers(0, 1000),
)
def test_batch_norm_equals_the_formula(relu6, shape, mean, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(mean, 2, size=shape).astype(np.float32)
    scale, bias = generator.normal(1, 1, size=(2, shape[-1])).astype(np.float32)
    with jax.enable_x64(True):
        exact = with_gradients(
            lambda *a: plain_batch_norm(*a, relu6), *(np.asarray(a, np.float64) for a in (x, scale, bias))
        )
    assert_close(with_gradients(lambda *a: ops.batch_norm(*a, relu6=relu6), x, scale, bias), exact, 1e-3)


@pytest.mark.slow
def test_vmap_and_grad_commute():
    x = jax.random.normal(jax.random.key(0), (3, 2, 5, 5, 4))
    kernels = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    scale, bias = jnp.linspace(0.5, 2, 4), jnp.linspace(-1, 1, 4)

    def loss(x, kernel):
        return jnp.square(ops.batch_norm(ops.depthwise_conv(x, kernel, 2), scale, bias, relu6=True)).sum()

    one_by_one = [jax.grad(loss, (0, 1))(a, k) for a, k in zip(x, kernels)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    assert_close(jax.vmap(jax.grad(loss, (0, 1)))(x, kernels), expected)
    assert_close(jax.grad(lambda x, k: jax.vmap(loss)(x, k).sum(), (0, 1))(x, kernels), expected)
    shared = jax.vmap(jax.grad(loss, 1), (None, 0))(x[0], kernels)
    assert_close(shared, jnp.stack([jax.grad(loss, 1)(x[0], kernel) for kernel in kernels]))


def test_bfloat16_keeps_float32_statistics():
    x = (100 + jax.random.normal(jax.random.key(0), (8, 6, 6, 4))).astype(jnp.bfloat16)
    scale, bias = jnp.ones(4), jnp.zeros(4)
    normalised = ops.batch_norm(x, scale, bias)
    assert normalised.dtype == jnp.bfloat16
    exact = plain_batch_norm(x.astype(jnp.float32), scale, bias, relu6=False)
    np.testing.assert_allclose(normalised.astype(jnp.float32), exact, atol=0.02)
    kernel = jnp.ones((3, 3, 4), jnp.bfloat16)
    assert jax.grad(lambda k: ops.depthwise_conv(x, k).astype(jnp.float32).sum())(kernel).dtype == jnp.bfloat16


@pytest.mark.parametrize("relu6", [False, True])
def test_batch_norm_over_an_axis_is_that_of_the_whole_minibatch(relu6):
    keys = jax.random.split(jax.random.key(0), 4)
    # Parts with far means: the variance of the whole is mostly that between them.
    x = jax.random.normal(keys[0], (4, 2, 3, 3, 5)) + 10 * jnp.arange(4.0)[:, None, None, None, None]
    scale, bias = jax.random.normal(keys[1], (5,)), jax.random.normal(keys[2], (5,))
    direction = jax.random.normal(keys[3], x.shape)

    def whole(x, scale, bias):
        y = ops.batch_norm(x.reshape(8, 3, 3, 5), scale, bias, relu6=relu6)
        return (y.reshape(x.shape) * direction).sum(), y.reshape(x.shape)

    def of_part(x, scale, bias, direction):
        y = ops.batch_norm(x, scale, bias, relu6=relu6, axis_name="parts")
        return (y * direction).sum(), y

    part_gradient = jax.grad(of_part, argnums=(0, 1, 2), has_aux=True)
    in_axes = (0, None, None, 0)
    gradients, outputs = jax.vmap(part_gradient, in_axes, axis_name="parts")(x, scale, bias, direction)
    (x_gradient, *expected), expected_outputs = jax.grad(whole, argnums=(0, 1, 2), has_aux=True)(x, scale, bias)
    np.testing.assert_allclose(outputs, expected_outputs, atol=1e-5)
    np.testing.assert_allclose(gradients[0], x_gradient, atol=1e-5)
    for parts, one in zip(gradients[1:], expected):
        np.testing.assert_allclose(parts.sum(0), one, rtol=1e-4, atol=1e-4)
