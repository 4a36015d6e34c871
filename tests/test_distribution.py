import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas import distribution
from tests import oracles

NUM_CHOICES = (2, 3, 2)
ALL = oracles.enumerate_space(NUM_CHOICES)


def random_thetas(seed, k=3, num_choices=NUM_CHOICES):
    rng = np.random.default_rng(seed)
    theta = np.zeros((k, len(num_choices), max(num_choices)), np.float32)
    for d, n in enumerate(num_choices):
        theta[:, d, :n] = rng.dirichlet(np.full(n, 2.0), size=k)
    return jnp.asarray(theta)


def test_valid_choices_by_hand():
    np.testing.assert_array_equal(distribution.valid_choices((2, 3)), [[True, True, False], [True, True, True]])


@pytest.mark.parametrize("bad", [(), (2, 0), (-1,)])
def test_a_decision_without_choices_is_an_error(bad):
    with pytest.raises(ValueError, match="num_choices"):
        distribution.valid_choices(bad)


def test_uniform_by_hand():
    np.testing.assert_allclose(distribution.uniform((1, 2, 4)), [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4])


def test_samples_are_grouped_by_distribution_and_never_padding():
    theta = jnp.asarray([[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]], jnp.float32)
    archs = distribution.sample(jax.random.key(0), theta, 2)
    assert archs.dtype == jnp.int32
    np.testing.assert_array_equal(archs, [[0, 2], [0, 2], [1, 0], [1, 0]])


def test_sample_frequencies_are_theta():
    theta = random_thetas(0)
    draws = 20_000
    archs = distribution.sample(jax.random.key(1), theta, draws).reshape(3, draws, 3)
    frequency = jax.nn.one_hot(archs, 3).mean(1)
    standard_error = np.sqrt(theta * (1 - theta) / draws)
    assert np.all(np.abs(frequency - theta) <= 4 * standard_error + 1e-7)


def test_log_prob_is_the_product_and_sums_to_one():
    theta = random_thetas(1)
    log_p = distribution.log_prob(theta, jnp.asarray(ALL))
    expected = [[oracles.probability(row, arch) for arch in ALL] for row in np.asarray(theta)]
    np.testing.assert_allclose(jnp.exp(log_p), expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(log_p).sum(-1), 1.0, rtol=1e-5)


def test_log_prob_of_an_impossible_choice_is_minus_infinity():
    theta = jnp.asarray([[[1.0, 0.0], [0.5, 0.5]]])
    np.testing.assert_array_equal(distribution.log_prob(theta, jnp.asarray([[1, 0]])), [[-np.inf]])


def test_mode_entropy_convergence_by_hand():
    theta = jnp.asarray([[[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    np.testing.assert_array_equal(distribution.mode(theta), [[0, 2], [0, 1]])
    entropy = [np.log(2) - 0.2 * np.log(0.1) - 0.8 * np.log(0.8), 0.0]
    np.testing.assert_allclose(distribution.entropy(theta), entropy, rtol=1e-5)
    np.testing.assert_allclose(distribution.convergence(theta), [0.65, 1.0])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_natural_gradient_equals_loops_rows_sum_to_zero_padding_is_zero(seed):
    rng = np.random.default_rng(seed)
    theta = random_thetas(seed)
    archs = ALL[rng.integers(len(ALL), size=6)]
    weights = rng.normal(size=(3, 6)).astype(np.float32)
    gradient = np.asarray(distribution.natural_gradient(theta, jnp.asarray(archs), jnp.asarray(weights)))
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=2e-6)
    assert np.all(gradient[:, ~distribution.valid_choices(NUM_CHOICES)] == 0)
    for k in range(3):
        ragged = [np.asarray(theta[k, d, :n], np.float64) for d, n in enumerate(NUM_CHOICES)]
        for d, row in enumerate(oracles.natural_gradient(ragged, archs, weights[k])):
            np.testing.assert_allclose(gradient[k, d, : len(row)], row, atol=2e-6)


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        distribution.log_prob(random_thetas(0)[0], jnp.asarray(ALL))
    with pytest.raises(AssertionError):
        distribution.natural_gradient(random_thetas(0), jnp.asarray(ALL), jnp.zeros((2, len(ALL))))
    chex.assert_shape(distribution.one_hot(jnp.asarray(ALL), 3), (12, 3, 3))
