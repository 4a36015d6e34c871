"""Gathered operations, all architectures in one batch, against the switch, one architecture after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, supernet
from jaxnas.spaces.mbconv import SKIP, Layer, Operation
from jaxnas.supernet import batched_layer, init, mbconv
from tests.test_layer_weights import noisy


@pytest.fixture(scope="module")
def problem():
    """Two shapes of layer, both kinds of skip, kernels and expansions that need padding; every choice occurs."""
    space = spaces.mbconv_space(
        "gathered",
        image_size=6,
        stem_channels=4,
        stages=((6, 3, 2),),
        operations=(SKIP, Operation(3, 2), Operation(5, 3)),
        project_skip=True,
        first_channels=4,
        head_channels=8,
    )
    generator = np.random.default_rng(0)
    archs = jnp.asarray([[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 2, 2]])
    images = jnp.asarray(generator.normal(size=(5, 6, 6, 3)), jnp.float32)
    params = init.draw(jax.random.key(0), noisy(mbconv.declare(space)))
    return space, params, images, jnp.arange(5) % 10, archs


def test_logits_and_gradients_equal_the_switch(problem):
    space, params, images, labels, archs = problem

    def run(batching):
        module = supernet.build(space, gather=batching == "vmap")
        apply = lambda params, images, arch: module.apply({"params": params}, images, arch)  # noqa: E731
        program = jax.jit(lambda params: supernet.gradient(apply, params, images, labels, archs, batching=batching))
        return program(params)

    (gradient, evaluation), (expected_gradient, expected) = run("vmap"), run("map")
    np.testing.assert_allclose(evaluation.loss, expected.loss, rtol=1e-4)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient, expected_gradient)


@pytest.mark.parametrize(
    ("batching", "backend", "sharing"),
    [
        ("vmap", "gpu", "separate"),
        ("map", "gpu", "separate"),
        *(pytest.param(*form, "slices", marks=pytest.mark.long) for form in (("vmap", "gpu"), ("map", "tpu"))),
        pytest.param("vmap", "tpu", "separate", marks=pytest.mark.long),
    ],
)
def test_forms_for_accelerators_equal_that_for_processors(problem, batching, backend, sharing):
    space, _, images, labels, archs = problem
    params = init.draw(jax.random.key(0), noisy(mbconv.declare(space, sharing)))

    def run(batching, backend):
        module = supernet.build(space, gather=batching == "vmap", backend=backend)
        apply = lambda params, images, arch: module.apply({"params": params}, images, arch)  # noqa: E731
        program = jax.jit(lambda params: supernet.gradient(apply, params, images, labels, archs, batching=batching))
        return program(params)

    (gradient, evaluation), (expected_gradient, expected) = run(batching, backend), run("map", "cpu")
    np.testing.assert_allclose(evaluation.loss, expected.loss, rtol=1e-4)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * largest), gradient, expected_gradient)


def test_layers_that_cannot_be_padded_to_one():
    without_expansion = Layer(4, 4, 1, 6, (Operation(3, 1), Operation(3, 3)))
    assert not batched_layer.supports(without_expansion)
    assert not batched_layer.supports(Layer(4, 4, 1, 6, (Operation(3, 3),)))
    assert batched_layer.supports(Layer(4, 4, 1, 6, (Operation(3, 3), SKIP)))


@pytest.mark.parametrize("chunk_size", [2, 3])
def test_chunks_of_architectures_change_nothing(problem, chunk_size):
    _, _, images, labels, archs = problem
    params = {"kernel": jnp.linspace(-1, 1, 18).reshape(6, 3)}

    def apply(params, images, arch):
        return jnp.tanh(images.mean((1, 2)) * arch) @ params["kernel"].T[:, :10].repeat(2, 1)

    for batching in (supernet.gradient, supernet.evaluate):
        expected = batching(apply, params, images, labels % 6, archs, batching="vmap")
        chunked = batching(apply, params, images, labels % 6, archs, batching="vmap", chunk_size=chunk_size)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), chunked, expected)
