"""The relaxed forward pass of both supernets: one-hot weights are an architecture, and its derivatives are right."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import distribution, spaces, supernet
from jaxnas.spaces.mbconv import SKIP, Operation
from jaxnas.supernet import cell, mixture
from tests.test_supernet import assert_close, jit

BATCH, SIZE, CLASSES = 4, 8, 3


def _tiny_mbconv():
    # Two equal layers, which are a scan, then one without a skip: its row of weights has padding.
    return spaces.mbconv_space(
        "tiny",
        image_size=SIZE,
        stem_channels=4,
        stages=((4, 2, 1), (8, 1, 2)),
        operations=(Operation(3, 2), SKIP),
        head_channels=8,
        num_classes=CLASSES,
    )


_tiny_cells = functools.partial(spaces.nasbench201, channels=4, cells=1, image_size=SIZE, num_classes=CLASSES)


class Mixed:
    """The mixture and the choice of one architecture with their loss on fixed images; programs are compiled once."""

    def __init__(self, space, params, mix, choose):
        self.space = space
        rng = np.random.default_rng(0)
        # Scales and biases away from 1 and 0, so that leaving them out would be noticed.
        self.params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf + 0.2 * rng.normal(size=leaf.shape), jnp.float32), params
        )

        def loss(outputs):
            labels = jnp.arange(BATCH) % CLASSES
            return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean(), outputs

        mixture = jit(jax.value_and_grad(lambda params, weights: loss(mix(params, weights)), (0, 1), has_aux=True))
        self.mixture = functools.partial(mixture, self.params)
        self.single = functools.partial(
            jit(jax.value_and_grad(lambda params, arch: loss(choose(params, arch)), has_aux=True)), self.params
        )


def _network(space):
    module = supernet.build(space)
    images = jax.random.normal(jax.random.key(2), (BATCH, SIZE, SIZE, 3))

    def mix(params, weights):
        return module.apply({"params": params}, images, weights, method="apply_mixture")

    def choose(params, arch):
        return module.apply({"params": params}, images, arch)

    return Mixed(space, module.init_params(jax.random.key(1)), mix, choose)


def _one_cell(space):
    params = jax.tree.map(lambda leaf: leaf[0], supernet.build(space).init_params(jax.random.key(1))["stage_1"])
    features = jax.random.normal(jax.random.key(2), (BATCH, 4, 4, 4))

    def mix(params, weights):
        return cell.apply_cell(params, features, weights, cell.mix_edge).mean((1, 2))

    def choose(params, arch):
        return cell.apply_cell(params, features, arch).mean((1, 2))

    return Mixed(space, params, mix, choose)


INSTANCES = {
    "mbconv": lambda: _network(_tiny_mbconv()),
    "one cell": lambda: _one_cell(_tiny_cells()),
    "cells": lambda: _network(_tiny_cells()),
}


@pytest.fixture(
    scope="module", params=["mbconv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("one cell", "cells"))]
)
def mixed(request):
    return INSTANCES[request.param]()


def test_one_hot_weights_are_an_architecture_with_its_gradient(mixed):
    for seed in range(2):
        arch = mixed.space.sample_uniform(np.random.default_rng(seed), 1)[0]
        weights = distribution.one_hot(arch[None], mixed.space.max_choices)[0]
        (_, logits), (gradient, _) = mixed.mixture(weights)
        (_, expected), expected_gradient = mixed.single(arch)
        assert_close(logits, expected)
        assert_close(gradient, expected_gradient)


def test_weights_are_used_as_they_are_and_padding_is_ignored(mixed):
    weights = distribution.uniform(mixed.space.num_choices)
    (_, logits), _ = mixed.mixture(weights)
    (_, halved), _ = mixed.mixture(weights.at[0].multiply(0.5))
    assert float(jnp.abs(logits - halved).max()) > 1e-3  # renormalising would hide the factor
    padded = jnp.where(distribution.valid_choices(mixed.space.num_choices), weights, 7.0)
    (_, ignoring), (_, gradient) = mixed.mixture(padded)
    np.testing.assert_array_equal(ignoring, logits)
    np.testing.assert_array_equal(gradient[~distribution.valid_choices(mixed.space.num_choices)], 0)


def test_masking_none_leaves_the_result_identical(mixed):
    # For a space without the operation there is nothing to mask, and the mask is of the padding.
    weights = distribution.uniform(mixed.space.num_choices)
    (_, result), _ = mixed.mixture(weights)
    none = np.asarray(
        [["none" in d.choices[c : c + 1] for c in range(weights.shape[1])] for d in mixed.space.decisions]
    )
    (_, masked), _ = mixed.mixture(jnp.where(none, 0.0, weights))
    np.testing.assert_array_equal(result, masked)


def test_cells_are_reachable_as_the_architecture_is():
    space = _tiny_cells()
    module = supernet.build(space)
    shapes = jax.eval_shape(
        lambda params, weights: module.apply(
            {"params": params}, jnp.zeros((BATCH, SIZE, SIZE, 3)), weights, method="apply_mixture"
        ),
        module.init_params(jax.random.key(0)),
        distribution.uniform(space.num_choices),
    )
    assert shapes.shape == (BATCH, CLASSES)


def test_gradient_of_the_weights_against_finite_differences(mixed):
    rng = np.random.default_rng(3)
    valid = distribution.valid_choices(mixed.space.num_choices)
    weights = jnp.asarray(np.where(valid, rng.uniform(0.2, 1.0, valid.shape), 0.0), jnp.float32)
    _, (_, gradient) = mixed.mixture(weights)
    largest = float(jnp.abs(gradient).max())
    assert largest > 0.01
    for _ in range(3):
        direction = jnp.asarray(np.where(valid, rng.normal(size=valid.shape), 0.0), jnp.float32)
        slopes = []
        for step in (1e-2, 1e-3, 1e-4):  # larger ones meet kinks of ReLU, smaller ones the rounding of float32
            (after, _), _ = mixed.mixture(weights + step * direction)
            (before, _), _ = mixed.mixture(weights - step * direction)
            slopes.append(float(after - before) / (2 * step))
        assert np.abs(np.asarray(slopes) - float((gradient * direction).sum())).min() < 0.03 * largest


def test_too_few_weights_are_refused():
    with pytest.raises(ValueError, match="an entry for each of the 2 choices, got 1"):
        mixture.apply_branches((None, None), jnp.ones(1), {}, jnp.ones((1, 1, 1, 1)))
