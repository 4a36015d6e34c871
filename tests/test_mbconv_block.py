"""The inside of an MBConv on accelerators against one operation after the other."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxnas.supernet import mbconv_block

SAMPLES, CHANNELS, INNER, OUTPUTS, KERNEL = 3, 4, 12, 6, 5


@pytest.fixture(scope="module")
def problem():
    """Weights and inputs of three samples; the inputs are far from 0, and two inner channels are padding."""
    rng = np.random.default_rng(0)

    def draw(*shape, scale=1.0, shift=0.0):
        return jnp.asarray(shift + scale * rng.normal(size=(SAMPLES, *shape)), jnp.float32)

    used = jnp.arange(INNER) < INNER - 2
    weights = {
        "expand": {"kernel": draw(CHANNELS, INNER), "scale": draw(INNER, scale=0.2, shift=1.0), "bias": draw(INNER)},
        "depthwise": {
            "kernel": draw(KERNEL, KERNEL, INNER, scale=0.3),
            "scale": draw(INNER, scale=0.2, shift=2.0),
            "bias": draw(INNER),
        },
        "project": {"kernel": draw(INNER, OUTPUTS)},
    }
    for name in ("expand", "depthwise"):
        weights[name] = jax.tree.map(lambda leaf: leaf * used, weights[name])
    return weights, draw(5, 6, 6, CHANNELS, scale=1.5, shift=4.0)


def value_and_gradients(backend, stride, weights, x, mapped=True):
    function = functools.partial(mbconv_block.inside, stride=stride, backend=backend)
    y, pull = jax.vjp(jax.vmap(function) if mapped else function, weights, x)
    return y, pull(jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape).astype(y.dtype))


def assert_close(actual, expected, tolerance):
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * float(np.abs(other).max()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("mapped", [True, False])
def test_equals_one_operation_after_the_other(problem, stride, mapped):
    problem = problem if mapped else jax.tree.map(lambda leaf: leaf[0], problem)
    run = jax.jit(lambda backend: value_and_gradients(backend, stride, *problem, mapped=mapped), static_argnums=0)
    assert_close(run("gpu"), run("cpu"), 1e-4)


def test_rounding_to_bfloat16_is_no_worse_than_one_operation_after_the_other(problem):
    def rounded(tree):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if leaf.ndim > 2 else leaf, tree)

    run = jax.jit(lambda backend, *problem: value_and_gradients(backend, 1, *problem), static_argnums=0)
    exact = run("cpu", *jax.tree.map(jnp.float32, rounded(problem)))
    errors = {}
    for backend in ("gpu", "cpu"):
        y, gradients = run(backend, *rounded(problem))
        assert y.dtype == jnp.bfloat16
        assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
        errors[backend] = [
            float(np.linalg.norm(np.float32(one) - other) / np.linalg.norm(other))
            for one, other in zip(jax.tree.leaves((y, gradients)), jax.tree.leaves(exact))
        ]
    assert errors["gpu"][0] < 0.02
    assert np.mean(errors["gpu"]) < 1.2 * np.mean(errors["cpu"])


def test_statistics_over_an_axis_are_those_of_the_whole_minibatch(problem):
    weights, x = jax.tree.map(lambda leaf: leaf[0], problem)
    x = x[:4]

    split = x.reshape(2, 2, *x.shape[1:])
    direction = jnp.sin(jnp.arange(2 * 2 * 9 * OUTPUTS, dtype=jnp.float32)).reshape(2, 2, 3, 3, OUTPUTS)
    static = {"stride": 2, "axis_name": "parts"}

    def whole(weights, x):
        return mbconv_block.inside(weights, x, 2, backend="cpu")

    def of_part(x, direction):  # of one sample; `jax.vmap` of the public function would be over samples
        weights_of_one = jax.tree.map(lambda leaf: leaf[None], weights)
        y, statistics = mbconv_block._forward_all(weights_of_one, x[None], **static)
        return y[0], *mbconv_block._backward_all(weights_of_one, x[None], statistics, direction[None], **static)

    y, by_weight, by_x = jax.jit(jax.vmap(of_part, axis_name="parts"))(split, direction)
    expected, pull = jax.vjp(whole, weights, x)
    expected_by_weight, expected_by_x = pull(direction.reshape(expected.shape))
    assert_close(y.reshape(expected.shape), expected, 1e-5)
    assert_close(by_x.reshape(x.shape), expected_by_x, 1e-5)
    assert_close(jax.tree.map(lambda leaf: leaf[:, 0].sum(0), by_weight), expected_by_weight, 1e-5)


def primitives(jaxpr, name):
    """Equations of a kind in a program, also in those that it calls."""
    found = [equation for equation in jaxpr.eqns if equation.primitive.name == name]
    for equation in jaxpr.eqns:
        found += [inner for each in jaxprs_in_params(equation.params) for inner in primitives(each, name)]
    return found


def test_samples_are_one_grouped_convolution_and_wide_arrays_keep_their_order(problem):
    jaxpr = jax.make_jaxpr(lambda *problem: value_and_gradients("gpu", 1, *problem))(*problem).jaxpr
    groups = [each.params["feature_group_count"] for each in primitives(jaxpr, "conv_general_dilated")]
    # Forward, once more in the backward pass, and for the gradient of the input; that of the kernel groups the images.
    assert sorted(groups) == [1, *[SAMPLES * INNER] * 3]
    wide = [each for each in primitives(jaxpr, "transpose") if each.invars[0].aval.size >= SAMPLES * 5 * 36 * INNER]
    # Each is of a matrix product's result, part of the same kernel.
    assert len(wide) <= 4


@pytest.mark.long
def test_all_forms_agree_on_two_devices_with_synchronised_batch_norm():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    run = subprocess.run(
        [sys.executable, "-m", "tests.synchronised_forms"],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    forms = [line.split() for line in run.stdout.splitlines()]
    assert [form[:2] for form in forms] == [[name, way] for name in ("cpu", "gpu", "tpu") for way in ("map", "vmap")]
    assert all(float(difference) < 1e-5 for _, _, difference in forms)
