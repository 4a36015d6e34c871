"""Discrete networks compute what the supernet computes, and cost what the space says."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import networks, spaces, supernet
from jaxnas.networks import blocks
from jaxnas.spaces.base import SearchSpace
from jaxnas.spaces.mbconv import SKIP, Operation
from tests.tiny_search import tiny

SPACES = {
    "mbconv": spaces.mbconv_space(
        "mbconv",
        image_size=8,
        stem_channels=8,
        stem_stride=2,
        first_channels=4,
        stages=((8, 2, 2), (12, 1, 1)),
        operations=(Operation(3, 2), Operation(5, 3), SKIP),
        project_skip=True,
        head_channels=16,
    ),
    "tiny": tiny(),
    "nasbench201": spaces.nasbench201(channels=4, cells=1, image_size=8),
}
DEEP = ("mbconv_cifar10", "mbconv_imagenet")  # whose programs take long to make
CONVOLUTIONS = {"fast": networks.fast_convolution, "plain": jax.lax.conv_general_dilated}


def archs(space, seed=0):
    return space.sample_uniform(np.random.default_rng(seed), 1)[0]


def images(space, batch=4):
    return jax.random.normal(jax.random.key(1), (batch, space.image_size, space.image_size, 3))


@functools.cache
def trained_like(name):
    """A supernet's weights with scales and biases that are not 1 and 0."""
    space = SPACES[name]
    params = supernet.build(space).init_params(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    noisy = [leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


@pytest.mark.parametrize(
    ("name", "arch", "convolution"),
    [
        ("mbconv", (1, 0, 2), "fast"),
        ("nasbench201", (3, 1, 4, 2, 0, 3), "plain"),
        pytest.param("mbconv", (1, 0, 2), "plain", marks=pytest.mark.slow),
        pytest.param("nasbench201", (3, 1, 4, 2, 0, 3), "fast", marks=pytest.mark.slow),
    ],
)
def test_inherited_weights_compute_what_the_supernet_computes(name, arch, convolution):
    space = SPACES[name]
    network = networks.build(space, arch, convolve=CONVOLUTIONS[convolution])
    params = networks.inherit(space, arch, trained_like(name))
    shapes = jax.eval_shape(network.init, jax.random.key(0), images(space))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes["params"])
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes["batch_stats"])
    train = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    logits, _ = train({"params": params, "batch_stats": stats}, images(space))
    expected = jax.jit(supernet.build(space).apply)({"params": trained_like(name)}, images(space), jnp.asarray(arch))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in DEEP)) for name in spaces.SPACES]
)
def test_parameters_are_those_that_the_cost_counts(name):
    space = spaces.SPACES[name]()
    for seed in range(3):
        arch = archs(space, seed)
        shapes = jax.eval_shape(networks.build(space, arch).init, jax.random.key(0), images(space, 1))
        count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes["params"]))
        assert count == space.cost("params").total(arch)


def test_inference_uses_running_averages():
    space = SPACES["tiny"]
    network = networks.build(space, [0, 0])
    variables = jax.jit(network.init)(jax.random.key(0), images(space))
    batch = 3.0 + images(space, 64)
    train = jax.jit(functools.partial(network.apply, train=True, mutable=["batch_stats"]))
    for _ in range(100):
        logits, updates = train(variables, batch)
        variables = {**variables, **updates}
    alone = network.apply(variables, batch[:1])
    np.testing.assert_allclose(alone, logits[:1], atol=2e-3)  # variances of n and of n - 1


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x):
            return blocks.drop_path(x, 0.25, train=True)

    x = 1 + jnp.arange(400 * 2 * 2 * 3.0).reshape(400, 2, 2, 3)
    kept = np.asarray(Branch().apply({}, x, rngs={"dropout": jax.random.key(0)}) / x).round(5)
    assert set(kept.ravel()) == {0.0, np.float32(4 / 3).round(5)}
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1, :1, :1], kept.shape))
    assert abs(kept.mean() - 1) < 4 * np.sqrt(1 / 3 / 400)


def test_bfloat16_is_close_and_returns_float32():
    space = SPACES["tiny"]
    exact_network, network = (networks.build(space, [0, 0], dtype=dtype) for dtype in (None, jnp.bfloat16))
    variables = jax.jit(exact_network.init)(jax.random.key(0), images(space))
    exact, rounded = (jax.jit(module.apply)(variables, images(space)) for module in (exact_network, network))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, exact, atol=0.02)


def test_bad_input():
    with pytest.raises(ValueError, match="arch must have one choice"):
        networks.build(spaces.nasbench_macro(), [0, 1])
    with pytest.raises(ValueError, match="type that has networks"):
        networks.build(SearchSpace("other", ()), [])
