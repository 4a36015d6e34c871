"""The relaxed forward pass of both supernets: one-hot weights are an architecture, and its derivatives are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import distribution, spaces, supernet
from jaxnas.spaces.mbconv import SKIP, Operation
from jaxnas.supernet import mixture
from tests.test_supernet import assert_close, jit

BATCH, SIZE, CLASSES = 4, 8, 3


def _tiny_mbconv():
    # Two equal layers, which are a scan, then one without a skip: its row of weights has padding.
    return spaces.mbconv_space(
        "tiny",
        image_size=SIZE,
        stem_channels=4,
        first_channels=4,
        stages=((4, 2, 1), (8, 1, 2)),
        operations=(Operation(3, 3), Operation(5, 2), SKIP),
        head_channels=16,
        num_classes=CLASSES,
    )


SPACES = {
    "mbconv": _tiny_mbconv,
    "cell": functools.partial(spaces.nasbench201, channels=4, cells=1, image_size=SIZE, num_classes=CLASSES),
}


class Mixed:
    """A tiny supernet with its loss on fixed images; programs are compiled once."""

    def __init__(self, space):
        self.space, module = space, supernet.build(space)
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf + 0.2 * rng.standard_normal(leaf.shape), jnp.float32),
            module.init_params(jax.random.key(1)),
        )
        images = jax.random.normal(jax.random.key(2), (BATCH, SIZE, SIZE, 3))
        labels = jnp.arange(BATCH) % CLASSES

        def loss(logits):
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

        def mixture(params, weights):
            return loss(module.apply({"params": params}, images, weights, method="apply_mixture"))

        def single(params, arch):
            return loss(module.apply({"params": params}, images, arch))

        self.mixture = jit(jax.value_and_grad(mixture, (0, 1), has_aux=True))
        self.single = jit(jax.value_and_grad(single, has_aux=True))


@pytest.fixture(scope="module", params=SPACES)
def mixed(request):
    return Mixed(SPACES[request.param]())


def test_one_hot_weights_are_an_architecture_with_its_gradient(mixed):
    for seed in range(2):
        arch = mixed.space.sample_uniform(np.random.default_rng(seed), 1)[0]
        weights = distribution.one_hot(arch[None], mixed.space.max_choices)[0]
        (_, logits), (gradient, _) = mixed.mixture(mixed.params, weights)
        (_, expected), expected_gradient = mixed.single(mixed.params, arch)
        assert_close(logits, expected)
        assert_close(gradient, expected_gradient)


def test_weights_are_used_as_they_are_and_padding_is_ignored(mixed):
    weights = distribution.uniform(mixed.space.num_choices)
    (_, logits), _ = mixed.mixture(mixed.params, weights)
    (_, halved), _ = mixed.mixture(mixed.params, weights.at[0].multiply(0.5))
    assert float(jnp.abs(logits - halved).max()) > 1e-3  # renormalising would hide the factor
    padded = jnp.where(distribution.valid_choices(mixed.space.num_choices), weights, 7.0)
    (_, ignoring), (_, gradient) = mixed.mixture(mixed.params, padded)
    np.testing.assert_array_equal(ignoring, logits)
    np.testing.assert_array_equal(gradient[~distribution.valid_choices(mixed.space.num_choices)], 0)


def test_masking_none_leaves_the_logits_identical(mixed):
    if "none" not in mixed.space.decisions[0].choices:
        pytest.skip("only cells have the operation none")
    weights = distribution.uniform(mixed.space.num_choices)
    (_, logits), _ = mixed.mixture(mixed.params, weights)
    (_, masked), _ = mixed.mixture(mixed.params, weights.at[:, 0].set(0.0))
    np.testing.assert_array_equal(logits, masked)


def test_gradient_of_the_weights_against_finite_differences(mixed):
    rng = np.random.default_rng(3)
    valid = distribution.valid_choices(mixed.space.num_choices)
    weights = jnp.asarray(np.where(valid, rng.uniform(0.2, 1.0, valid.shape), 0.0), jnp.float32)
    _, (_, gradient) = mixed.mixture(mixed.params, weights)
    assert float(jnp.abs(gradient).max()) > 1e-3
    for _ in range(3):
        direction = jnp.asarray(np.where(valid, rng.normal(size=valid.shape), 0.0), jnp.float32)
        step = 1e-3
        (after, _), _ = mixed.mixture(mixed.params, weights + step * direction)
        (before, _), _ = mixed.mixture(mixed.params, weights - step * direction)
        expected = float(after - before) / (2 * step)
        np.testing.assert_allclose(float((gradient * direction).sum()), expected, rtol=0.03, atol=3e-3)


def test_too_few_weights_are_refused():
    with pytest.raises(ValueError, match="an entry for each of the 2 choices, got 1"):
        mixture.apply_branches((("a", None), ("b", None)), jnp.ones(1), {}, jnp.ones((1, 1, 1, 1)))
