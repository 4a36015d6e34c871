import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas import asng, distribution
from jaxnas.cost import AdditiveCost
from jaxnas.spaces import Decision, SearchSpace
from jaxnas.strategies import ImportanceSampling
from tests import oracles
from tests.test_distribution import random_thetas

NUM_CHOICES = (2, 1, 4, 3, 2)
seeds = st.integers(0, 2**31 - 1)


def ragged_space(num_choices=NUM_CHOICES):
    """A space with decisions of different sizes and an additive cost."""
    decisions = tuple(Decision(f"d{d}", tuple("abcdefgh"[:n])) for d, n in enumerate(num_choices))
    cost = AdditiveCost("size", "units", 1, tuple(tuple(float(c) for c in range(n)) for n in num_choices))
    return SearchSpace("ragged", decisions, (cost,))


def trajectory(method, table, steps, key):
    """theta [T + 1, K, D, C], archs [T, S, D], objective [T, K, S] and the last state of a noise-free search."""

    def step(state, step_key):
        archs, state = method.ask(step_key, state)
        next_state, info = method.tell(state, archs, table[tuple(archs.T)])
        return next_state, (state.theta, archs, info.objective)

    @jax.jit
    def search(key):
        return jax.lax.scan(step, method.init(key), jax.random.split(key, steps))

    last, (theta, archs, objective) = search(key)
    theta = jnp.concatenate([theta, last.theta[None]])
    return np.asarray(theta), np.asarray(archs), np.asarray(objective), last


def assert_same(theta, states, atol):
    for k, state in enumerate(states):
        for d, row in enumerate(state.theta):
            np.testing.assert_allclose(theta[k, d, : len(row)], row, atol=atol)


@pytest.mark.parametrize("samples", [2, 4, 8])
def test_one_distribution_is_plain_asng_step_for_step(samples):
    """200 steps on one table, both sides fed the same architectures and losses."""
    space = ragged_space()
    method = ImportanceSampling(space, penalties=(0.1,), samples=samples)
    # Eighths: ties occur, and are exact in either precision.
    table = jnp.asarray(np.random.default_rng(0).integers(8, size=space.num_choices) / 8, jnp.float32)
    theta, archs, objective, last = trajectory(method, table, 200, jax.random.key(samples))
    state = oracles.State(space.num_choices)
    for t in range(200):
        assert_same(theta[t], [state], atol=1e-5)
        oracles.asng_step(state, archs[t], objective[t, 0])
    assert_same(theta[200], [state], atol=1e-5)
    np.testing.assert_allclose(last.asng.trust[0], state.trust, rtol=1e-3)
    np.testing.assert_allclose(last.asng.gamma[0], state.gamma, rtol=1e-3)


def test_k_distributions_equal_the_loops():
    """60 steps with K = 3: weights, weighted quantiles and three ASNG states."""
    space = ragged_space()
    method = ImportanceSampling(space, penalties=(0.0, 0.2, 0.8), samples=3)
    table = jnp.asarray(np.random.default_rng(1).uniform(size=space.num_choices), jnp.float32)
    theta, archs, objective, _ = trajectory(method, table, 60, jax.random.key(5))
    states = [oracles.State(space.num_choices) for _ in range(3)]
    for t in range(60):
        assert_same(theta[t], states, atol=1e-4)
        oracles.importance_sampling_step(states, archs[t], objective[t])
    assert_same(theta[60], states, atol=1e-4)
    padding = ~distribution.valid_choices(space.num_choices)
    assert np.all(theta[:, :, padding] == 0)
    np.testing.assert_allclose(theta.sum(-1), 1.0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_whitened_norm_is_the_fisher_norm(seed):
    theta = random_thetas(seed, k=1, num_choices=NUM_CHOICES)[0] * 0.9 + 0.1 * distribution.uniform(NUM_CHOICES)
    direction = np.random.default_rng(seed).normal(size=theta.shape).astype(np.float32)
    gradient = theta * (direction - (theta * direction).sum(-1, keepdims=True))
    whitened = asng.whiten(theta, gradient, NUM_CHOICES)
    positive = np.asarray(theta) > 0
    fisher = (np.asarray(gradient)[positive] ** 2 / np.asarray(theta)[positive]).sum()
    np.testing.assert_allclose(jnp.square(whitened).sum(), fisher, rtol=1e-3)
    ragged = [[np.asarray(x[d, :n], np.float64) for d, n in enumerate(NUM_CHOICES)] for x in (theta, gradient)]
    for d, row in enumerate(oracles.whiten(*ragged)):
        np.testing.assert_allclose(whitened[d, : len(row)], row, atol=1e-4)
        assert np.all(np.asarray(whitened)[d, len(row) :] == 0)


def test_margin_by_hand():
    # Three decisions are free: 1 / (3 * 1) = 1/3, 1 / (3 * 2) = 1/6 and 1 / (3 * 3) = 1/9.
    expected = [[1 / 3, 1 / 3, 0, 0], [1, 0, 0, 0], [1 / 6] * 3 + [0], [1 / 9] * 4]
    np.testing.assert_allclose(asng.margin((2, 1, 3, 4)), expected, rtol=1e-6)


def test_margin_leaves_freedom_in_tiny_spaces():
    np.testing.assert_allclose(asng.margin((2,)), [[0.25, 0.25]])
    np.testing.assert_allclose(asng.margin((2, 2)), [[0.25, 0.25]] * 2)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, scale=st.floats(0.01, 3.0))
def test_after_the_margin_rows_are_distributions(seed, scale):
    rng = np.random.default_rng(seed)
    valid = distribution.valid_choices(NUM_CHOICES)
    step = rng.normal(size=valid.shape) * scale * valid
    step -= valid * step.sum(-1, keepdims=True) / valid.sum(-1, keepdims=True)
    theta = np.asarray(asng.apply_margin(distribution.uniform(NUM_CHOICES) + step.astype(np.float32), NUM_CHOICES))
    np.testing.assert_allclose(theta.sum(-1), 1.0, atol=1e-5)
    assert np.all(theta >= asng.margin(NUM_CHOICES) - 1e-6)
    assert np.all(theta[~valid] == 0)


def test_the_margin_leaves_what_is_above_it():
    theta = jnp.asarray([[0.4, 0.6], [0.5, 0.5], [0.35, 0.65]], jnp.float32)  # margin 1/3
    np.testing.assert_allclose(asng.apply_margin(theta, (2, 2, 2)), theta, rtol=1e-6)


def test_no_gradient_leaves_everything_as_it_was():
    theta = distribution.uniform(NUM_CHOICES)
    state = asng.ASNGState(jnp.float32(1.7), jnp.float32(0.4), jnp.full(theta.shape, 0.1))
    update = jax.jit(functools.partial(asng.update, num_choices=NUM_CHOICES))
    next_theta, next_state = update(theta, state, jnp.zeros_like(theta))
    jax.tree.map(np.testing.assert_array_equal, (next_theta, next_state), (theta, state))


def test_a_step_has_the_length_of_the_trust_region():
    num_choices = (3,) * 8
    theta = distribution.uniform(num_choices)
    state = asng.init(num_choices).replace(trust=jnp.float32(20.0))
    gradient = jnp.zeros_like(theta).at[2].set(jnp.asarray([0.1, -0.05, -0.05]))
    next_theta, _ = asng.update(theta, state, gradient, num_choices)
    # Fisher length at uniform: sqrt(sum change^2 / (1/3)) = delta = 1 / 20.
    np.testing.assert_allclose(jnp.sqrt(3 * jnp.square(next_theta - theta).sum()), 1 / 20, rtol=1e-4)
