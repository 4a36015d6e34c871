"""MBConvs by blocks of channels against the plain ones: values, gradients, batching, and the choice between the two."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jaxnas.spaces.mbconv import SKIP, Layer, Operation
from jaxnas.supernet import batched_layer, init, layer_weights, mbconv_layer, switched_layer
from jaxnas.supernet.cpu import depthwise
from jaxnas.supernet.cpu import layer as cpu_layer
from tests.test_layer_weights import noisy

# Nothing here runs long: compile fast instead of well.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


def make_layer(in_channels=4, out_channels=4, stride=1, skip=True):
    operations = (Operation(3, 2), Operation(5, 3), Operation(7, 2)) + (SKIP,) * skip
    return Layer(in_channels, out_channels, stride, 8, operations)


def problem(layer, shape, seed):
    """Weights with scales and biases away from 1 and 0, an input away from 0, and a gradient of the output."""
    generator = np.random.default_rng(seed)
    params = init.draw(jax.random.key(seed), noisy(layer_weights.declare(layer)))
    x = generator.normal(2, 1, size=(*shape, layer.in_channels)).astype(np.float32)
    batch, height, width = shape
    outputs = (batch, -(-height // layer.stride), -(-width // layer.stride), layer.out_channels)
    return params, x, generator.normal(size=outputs).astype(np.float32)


def with_gradients(apply, layer):
    """(params, x, gradient, choice) -> output, gradient of params, gradient of x."""

    def run(params, x, gradient, choice):
        output, vjp = jax.vjp(lambda params, x: apply(params, x, choice, layer), params, x)
        return output, *vjp(gradient)

    return run


def assert_close(actual, expected, tolerance=1e-4):
    """Equal to a share of the largest entry of a tree: some gradients are 0 but for rounding."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * largest), actual, expected)


@pytest.mark.slow
# The same examples every time: with others, an activation within rounding of ReLU6's kink would have two gradients.
@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    stride=st.sampled_from([1, 2]),
    out_channels=st.sampled_from([4, 6]),
    skip=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_plain_layer(shape, stride, out_channels, skip, seed):
    batch, height, width = shape
    # Batch norm of fewer values is a division by almost nothing.
    assume(batch * -(-height // stride) * -(-width // stride) >= 8)
    layer = make_layer(4, out_channels, stride, skip)
    params, x, gradient = problem(layer, shape, seed)
    fast, plain = (
        jit(with_gradients(module.apply_layer, layer))(params, x, gradient, jnp.int32(seed % len(layer.operations)))
        for module in (cpu_layer, mbconv_layer)
    )
    for actual, expected in zip(fast, plain):
        assert_close(actual, expected)


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_many_blocks_many_images_and_every_choice(monkeypatch, stride):
    # Several blocks of channels, two sums side by side, several images in each, and runs shorter than a line.
    monkeypatch.setattr(cpu_layer, "BLOCK_SIZE", 1)
    monkeypatch.setattr(cpu_layer, "BLOCK_CHANNELS", (4, 4))
    monkeypatch.setattr(depthwise, "CACHED", 3000)
    monkeypatch.setattr(depthwise, "PRODUCTS", 28)
    layer = make_layer(8, 8, stride)
    params, x, gradient = problem(layer, (8, 10, 10), 1)
    fast = jit(with_gradients(cpu_layer.apply_layer, layer))
    plain = jit(with_gradients(mbconv_layer.apply_layer, layer))
    for choice in range(len(layer.operations)):
        for actual, expected in zip(*(run(params, x, gradient, jnp.int32(choice)) for run in (fast, plain))):
            assert_close(actual, expected)


@pytest.mark.slow
def test_vmap_and_scan_over_choices_equal_each_alone():
    layer = make_layer()
    params, x, gradient = problem(layer, (2, 4, 4), 2)
    run = with_gradients(cpu_layer.apply_layer, layer)
    choices = jnp.arange(len(layer.operations))
    one = jit(run)
    alone = [one(params, x, gradient, choice) for choice in choices]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    batched = jit(jax.vmap(run, (None, None, None, 0)))(params, x, gradient, choices)
    scanned = jit(lambda *args: jax.lax.map(lambda choice: run(*args, choice), choices))(params, x, gradient)
    for actual in (batched, scanned):
        for part, expected_part in zip(actual, expected):
            assert_close(part, expected_part)


def test_identity_skip_is_exact():
    layer = make_layer()
    params, x, gradient = problem(layer, (2, 4, 4), 3)
    output, params_gradient, x_gradient = with_gradients(cpu_layer.apply_layer, layer)(
        params, x, gradient, jnp.int32(layer.operations.index(SKIP))
    )
    np.testing.assert_array_equal(output, x)
    np.testing.assert_array_equal(x_gradient, gradient)
    assert not any(leaf.any() for leaf in jax.tree.leaves(params_gradient))


def test_bfloat16_input_keeps_its_dtype_and_float32_gradients_of_weights():
    layer = make_layer()
    params, x, gradient = problem(layer, (2, 4, 4), 4)
    run = jit(with_gradients(cpu_layer.apply_layer, layer))
    exact = run(params, x, gradient, jnp.int32(0))
    half = run(params, x.astype(jnp.bfloat16), gradient.astype(jnp.bfloat16), jnp.int32(0))
    assert half[0].dtype == half[2].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(half[1])} == {np.dtype(np.float32)}
    np.testing.assert_allclose(half[0].astype(np.float32), exact[0], atol=0.1)


def test_which_layers_go_by_blocks():
    layer = make_layer()
    assert mbconv_layer.layer_function(layer, False, "cpu") is cpu_layer.apply_layer
    for backend in ("gpu", "tpu"):
        assert mbconv_layer.layer_function(layer, False, backend).func is switched_layer.apply_layer
    for backend in ("cpu", "tpu"):
        assert mbconv_layer.layer_function(layer, True, backend).func is batched_layer.apply_layer
    without_expansion = Layer(4, 4, 1, 8, (Operation(3, 1), Operation(3, 3)))
    only_skip = Layer(4, 4, 1, 8, (SKIP,))
    for other in (without_expansion, only_skip):
        for backend in ("cpu", "gpu", "tpu"):
            assert mbconv_layer.layer_function(other, False, backend).func is mbconv_layer.apply_layer
