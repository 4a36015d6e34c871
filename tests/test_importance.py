import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas import distribution, importance
from tests import oracles
from tests.test_distribution import ALL, random_thetas

seeds = st.integers(0, 2**31 - 1)


def test_weights_by_hand():
    # p_1 = (3/4, 1/4), p_2 = (1/4, 3/4): q = (1/2, 1/2).
    theta = jnp.asarray([[[0.75, 0.25]], [[0.25, 0.75]]])
    weights = jnp.exp(importance.mixture_log_weights(theta, jnp.asarray([[0], [1]])))
    np.testing.assert_allclose(weights, [[1.5, 0.5], [0.5, 1.5]], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_weights_are_at_most_k_and_one_on_average(seed):
    theta = random_thetas(seed)
    log_weights = importance.mixture_log_weights(theta, jnp.asarray(ALL))
    weights = np.asarray(jnp.exp(log_weights))
    mixture = np.asarray(jnp.exp(distribution.log_prob(theta, jnp.asarray(ALL))).mean(0))
    assert np.all(weights >= 0)
    assert np.all(weights <= 3 * (1 + 1e-5))
    np.testing.assert_allclose(weights @ mixture, 1.0, rtol=1e-5)  # under the mixture, for each k
    np.testing.assert_allclose(weights.mean(0), 1.0, rtol=1e-5)  # over k, for each architecture


def test_weights_stay_finite_where_distributions_have_parted():
    certain, other = [[1.0, 0.0]] * 60, [[0.02, 0.98]] * 60
    theta = jnp.asarray([certain, other])
    weights = jnp.exp(importance.mixture_log_weights(theta, jnp.asarray([[0] * 60, [1] * 60])))
    np.testing.assert_allclose(weights, [[2, 0], [0, 2]], atol=1e-6)


def test_one_distribution_has_weights_one():
    weights = jnp.exp(importance.mixture_log_weights(random_thetas(3, k=1), jnp.asarray(ALL)))
    np.testing.assert_allclose(weights, 1.0, rtol=1e-6)


def test_estimates_from_the_mixture_are_unbiased():
    """E_{p_k}[f] and the natural gradient with raw advantages, K = 3, 99,999 draws, within 4 standard errors."""
    theta = random_thetas(7)
    table = jnp.asarray(np.random.default_rng(8).uniform(size=(2, 3, 2)), jnp.float32)

    @jax.jit
    def draw(key):
        archs = distribution.sample(key, theta, 33_333)
        values = table[tuple(archs.T)]
        weights = jnp.exp(importance.mixture_log_weights(theta, archs))
        mean = weights * values  # [K, S]
        gradient = distribution.natural_gradient(theta, archs, weights * values)
        deviation = distribution.one_hot(archs, 3) - theta[:, None]  # [K, S, D, C]
        terms = (weights * values)[..., None, None] * deviation
        return mean.mean(1), mean.std(1), gradient, terms.std(1)

    mean, mean_spread, gradient, gradient_spread = map(np.asarray, draw(jax.random.key(9)))

    probability = np.asarray(jnp.exp(distribution.log_prob(theta, jnp.asarray(ALL))), np.float64)
    values = np.asarray(table, np.float64)[tuple(ALL.T)]
    indicators = np.asarray(distribution.one_hot(jnp.asarray(ALL), 3), np.float64)
    exact_mean = probability @ values
    centred = indicators[None] - np.asarray(theta, np.float64)[:, None]
    exact_gradient = np.einsum("kn,n,kndc->kdc", probability, values, centred)

    root = np.sqrt(99_999)
    assert np.all(np.abs(mean - exact_mean) <= 4 * mean_spread / root)
    assert np.all(np.abs(gradient - exact_gradient) <= 4 * gradient_spread / root + 1e-7)


def test_effective_sample_size_by_hand():
    with np.errstate(divide="ignore"):
        log_weights = jnp.log(jnp.asarray([[1.0, 1, 1, 1], [2, 2, 0, 0], [3, 1, 0, 0]]))
    np.testing.assert_allclose(importance.effective_sample_size(log_weights), [4, 2, 1.6], rtol=1e-5)


def utility(objective, weights):
    log_weights = jnp.log(jnp.asarray(weights, jnp.float32))
    return np.asarray(importance.weighted_quantile_utility(jnp.asarray(objective, jnp.float32), log_weights))


def test_equal_weights_give_the_quarters_of_asng():
    ones = np.ones((1, 8))
    np.testing.assert_allclose(utility([[3, 1, 4, 2, 8, 6, 7, 5]], ones), [[0, 1, 0, 1, -1, 0, -1, 0]], atol=1e-6)
    np.testing.assert_allclose(utility([[0.2, 0.1, 0.4, 0.3]], ones[:, :4]), [[0, 1, -1, 0]], atol=1e-6)
    np.testing.assert_allclose(utility([[0.2, 0.1]], ones[:, :2]), [[-0.5, 0.5]], atol=1e-6)


def test_ties_share():
    # The best two of eight are worth +1 each; three tied for them share 2/3.
    objective = [[1, 1, 1, 2, 3, 4, 5, 5]]
    expected = [[2 / 3, 2 / 3, 2 / 3, 0, 0, 0, -1, -1]]
    np.testing.assert_allclose(utility(objective, np.ones((1, 8))), expected, atol=1e-6)


def test_only_ties_are_worth_exactly_nothing():
    np.testing.assert_array_equal(utility([[0.3] * 4, [0.3, 0.3, 0.3, 0.4]], [[1, 2, 3, 4]] * 2)[0], [0, 0, 0, 0])


def test_a_sample_without_weight_takes_the_value_of_its_quantile():
    np.testing.assert_allclose(utility([[1, 2, 3, 0]], [[1, 1, 1, 0]])[0, 3], 1)
    np.testing.assert_allclose(utility([[1, 2, 3, 4]], [[1, 1, 1, 0]])[0, 3], -1)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, distinct=st.integers(2, 8))
def test_utility_equals_loops_has_weighted_mean_zero_and_sees_only_order(seed, distinct):
    rng = np.random.default_rng(seed)
    objective = rng.integers(distinct, size=(1, 8)) / 8
    weights = rng.gamma(0.5, size=(1, 8)) + 1e-3
    utilities = utility(objective, weights)
    assert np.all(np.abs(utilities) <= 1 + 1e-5)
    np.testing.assert_allclose((weights * utilities).sum() / weights.sum(), 0, atol=1e-5)
    # Quotients of quantiles: a sample of weight 1e-3 of the total carries rounding of about 1e-4.
    if objective.min() < objective.max():
        np.testing.assert_allclose(utilities[0], oracles.quantile_utilities(objective[0], weights[0]), atol=2e-3)
    np.testing.assert_array_equal(utilities, utility(4 * objective - 1, weights))


@given(seed=st.integers(0, 2**32 - 1), distinct=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_dense_ranks_are_those_of_numpy(seed, distinct):
    objective = np.random.default_rng(seed).integers(distinct, size=(3, 7)).astype(np.float32) / 7 - 0.5
    wanted = [np.unique(row, return_inverse=True)[1] for row in objective]
    np.testing.assert_array_equal(importance.dense_ranks(jnp.asarray(objective)), wanted)


def test_dense_ranks_know_one_zero():
    np.testing.assert_array_equal(importance.dense_ranks(jnp.asarray([[0.0, -0.0, -1.0]])), [[1, 1, 0]])


@settings(max_examples=40, deadline=None)
@given(seed=seeds, shape=st.sampled_from([(1, 1), (2, 7), (4, 40)]), levels=st.integers(1, 12))
def test_utilities_are_those_of_the_oracle(seed, shape, levels):
    """With ties, with weights over many orders of magnitude, and with samples that take no part."""
    rng = np.random.default_rng(seed)
    objective = rng.integers(levels, size=shape) / 8
    weights = np.exp(4 * rng.normal(size=shape)) * (rng.random(shape) < 0.8)
    weights[:, 0] += 0.01
    ours = utility(objective, weights)
    for own, values, weight in zip(ours, objective, weights):
        counts = weight > 0
        wanted = np.asarray(oracles.quantile_utilities(values[counts].tolist(), weight[counts].tolist()))
        normalised = weight[counts] / weight[counts].sum()
        # A sample of next to no weight has the value at a point, and a rounding may put it on either side of a bound.
        np.testing.assert_allclose(own[counts] * normalised, wanted * normalised, atol=3e-6)


def test_samples_that_take_no_part_may_have_any_objective():
    weights = np.asarray([[1, 0, 2, 1, 1, 0]])
    counts = weights[0] > 0
    alone = utility([[0.3, 0.1, 0.2, 0.4]], weights[:, counts])
    for bad in (np.inf, 1e30, 0.0):
        np.testing.assert_array_equal(utility([[0.3, bad, 0.1, 0.2, 0.4, bad]], weights)[:, counts], alone)
    np.testing.assert_array_equal(utility([[np.inf, 0.1, 0.1]], [[0, 1, 1]])[:, 1:], 0)  # ties beside an ignored one
    np.testing.assert_array_equal(utility([[np.inf, np.inf]], [[0, 0]]), 0)


def test_memory_of_utilities_does_not_grow_with_the_square_of_the_samples():
    """K = 1000 and lambda = 4: all pairs of samples would be 64 GB."""
    rows = jax.ShapeDtypeStruct((1000, 4000), jnp.float32)
    compiled = jax.jit(importance.weighted_quantile_utility).lower(rows, rows).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 30 * rows.size * rows.dtype.itemsize
