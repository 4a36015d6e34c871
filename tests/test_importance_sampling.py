"""The method on a table of three decisions, every step of METHOD worked by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import asng, distribution, importance
from jaxnas.cost import AdditiveCost
from jaxnas.spaces import Decision, SearchSpace
from jaxnas.strategies import ImportanceSampling, base

# Decisions x {0, 1}, y {0, 1}, z {0, 1, 2}; R = (x + y + z) / 4.
COST = AdditiveCost("size", "units", 10, ((0, 1), (0, 1), (0, 1, 2)))
SPACE = SearchSpace(
    "hand", (Decision("x", ("0", "1")), Decision("y", ("0", "1")), Decision("z", ("0", "1", "2"))), (COST,)
)
METHOD = ImportanceSampling(SPACE, penalties=(0.0, 0.5), samples=2)

# p_1 is uniform: 1/12 everywhere. p_2 prefers z = 0: 1/8 there, 1/16 elsewhere.
THETA = jnp.asarray(
    [
        [[1 / 2, 1 / 2, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]],
        [[1 / 2, 1 / 2, 0], [1 / 2, 1 / 2, 0], [1 / 2, 1 / 4, 1 / 4]],
    ],
    jnp.float32,
)
# The S = 4 samples a, b, c, d and their losses.
ARCHS = jnp.asarray([[0, 0, 0], [1, 0, 1], [0, 1, 2], [1, 1, 0]], jnp.int32)
LOSSES = jnp.asarray([5 / 8, 1 / 2, 1 / 4, 3 / 4], jnp.float32)

# Step 3. q = (1/12 + 1/8) / 2 = 5/48 where z = 0 (a, d), (1/12 + 1/16) / 2 = 7/96 elsewhere (b, c).
WEIGHTS = [[4 / 5, 8 / 7, 8 / 7, 4 / 5], [6 / 5, 6 / 7, 6 / 7, 6 / 5]]
# Step 4. R = 0, 1/2, 3/4, 1/2; f_2 = L + R / 2: a and c tie.
OBJECTIVE = [[5 / 8, 1 / 2, 1 / 4, 3 / 4], [5 / 8, 3 / 4, 5 / 8, 1]]
# k = 1: the normalised weights are 7, 10, 10, 7 of 34; in the order c b a d the quantiles run 0, 10, 20, 27, 34; the
#   quarters are 8.5 and 25.5. c is worth 8.5/10; b nothing; a -(27 - 25.5)/7; d -1.
# k = 2: 7, 5, 5, 7 of 24; {a, c} b d: 0, 12, 17, 24; quarters 6 and 18. a and c share 6/12; b nothing; d -6/7.
UTILITY = [[-3 / 14, 0, 17 / 20, -1], [1 / 2, 0, 1 / 2, -6 / 7]]
# Step 5. w u, in 35ths: (-6, 0, 34, -28) and (21, 0, 15, -36); both sum to 0, so theta drops out of the gradient.
GRADIENT = [
    [[1 / 5, -1 / 5, 0], [-3 / 70, 3 / 70, 0], [-17 / 70, 0, 17 / 70]],
    [[9 / 35, -9 / 35, 0], [3 / 20, -3 / 20, 0], [-3 / 28, 0, 3 / 28]],
]
# Step 6. ||s||^2 = sum G^2 / theta.
# k = 1: 2 * 2/25 + 2 * 2 * 9/4900 + 3 * 2 * 289/4900 = 2554/4900.
# k = 2: 2 * 2 * 81/1225 + 2 * 2 * 9/400 + 2 * 9/784 + 4 * 9/784 = 324/1225 + 9/100 + 54/784.
NORM = [math.sqrt(2554 / 4900), math.sqrt(324 / 1225 + 9 / 100 + 54 / 784)]


def first_state():
    return METHOD.init(jax.random.key(0)).replace(theta=THETA)


def test_step_3_weights():
    np.testing.assert_allclose(jnp.exp(importance.mixture_log_weights(THETA, ARCHS)), WEIGHTS, rtol=1e-5)


def test_step_4_objective_and_utility():
    np.testing.assert_allclose(COST(ARCHS), [0, 1 / 2, 3 / 4, 1 / 2])
    _, info = METHOD.tell(first_state(), ARCHS, LOSSES)
    np.testing.assert_array_equal(info.objective, OBJECTIVE)
    np.testing.assert_allclose(info.weights, WEIGHTS, rtol=1e-5)
    np.testing.assert_allclose(info.utility, UTILITY, atol=1e-5)


def test_step_4_effective_sample_size():
    _, info = METHOD.tell(first_state(), ARCHS, LOSSES)
    # (sum w)^2 / sum w^2: (136/35)^2 / (2 (28/35)^2 + 2 (40/35)^2) and (144/35)^2 / (2 (42/35)^2 + 2 (30/35)^2).
    np.testing.assert_allclose(
        info.ess, [136**2 / (2 * 28**2 + 2 * 40**2), 144**2 / (2 * 42**2 + 2 * 30**2)], rtol=1e-5
    )


def test_step_5_natural_gradient():
    products = jnp.asarray(WEIGHTS) * jnp.asarray(UTILITY)
    np.testing.assert_allclose(products, np.array([[-6, 0, 34, -28], [21, 0, 15, -36]]) / 35, atol=1e-6)
    np.testing.assert_allclose(distribution.natural_gradient(THETA, ARCHS, products), GRADIENT, atol=1e-6)


def test_step_6_whitened_gradient():
    whitened = [asng.whiten(THETA[k], jnp.asarray(GRADIENT[k], jnp.float32), (2, 2, 3)) for k in range(2)]
    np.testing.assert_allclose([jnp.sqrt(jnp.square(s).sum()) for s in whitened], NORM, rtol=1e-5)
    # k = 1, x: s_0 = 0.2 / sqrt(1/2) + sqrt(1/2) 0.2 / (1/2 + sqrt(1/2)) = 0.282843 + 0.117157.
    # z: the first two share sqrt(1/3) (-17/70) / (1/3 + sqrt(1/3)) = -0.153965; -17/70 / sqrt(1/3) = -0.420641.
    expected = [[0.4, 0, 0], [-0.6 / 7, 0, 0], [-0.574606, -0.153965, 0]]
    np.testing.assert_allclose(whitened[0], expected, atol=1e-5)


def test_step_6_theta():
    state, _ = METHOD.tell(first_state(), ARCHS, LOSSES)
    # k = 1, delta = 1, ||s|| = 0.721959. x: 1/2 +- 0.2 / 0.721959 = 0.777, 0.223; the margin is 1 / (3 * 1) = 1/3.
    np.testing.assert_allclose(state.theta[0, 0], [2 / 3, 1 / 3, 0], atol=1e-5)
    # y: 1/2 -+ 0.0428571 / 0.721959 stays above the margin.
    np.testing.assert_allclose(state.theta[0, 1], [0.440638, 0.559362, 0], atol=1e-5)
    # z: 1/3 -+ 0.242857 / 0.721959 = -0.003053, 0.333333, 0.669719; the margin is 1 / (3 * 2) = 1/6; the excess
    # 0, 0.166667, 0.503053 has 1/2 to share: times 0.5 / 0.669719 = 0.746582.
    np.testing.assert_allclose(state.theta[0, 2], [0.166667, 0.291097, 0.542236], atol=1e-5)
    # k = 2, ||s|| = 0.650696. x: 1/2 +- 0.395180; y: 1/2 +- 0.230522: both beyond the margin.
    np.testing.assert_allclose(state.theta[1, :2], [[2 / 3, 1 / 3, 0]] * 2, atol=1e-5)
    # z: 1/2 - 0.164658 = 0.335342, 1/4, 1/4 + 0.164658 = 0.414658: all above 1/6.
    np.testing.assert_allclose(state.theta[1, 2], [0.335342, 0.25, 0.414658], atol=1e-5)


def test_step_6_step_size():
    state, _ = METHOD.tell(first_state(), ARCHS, LOSSES)
    # N = 1 + 1 + 2 = 4, beta = 1 / sqrt(4) = 1/2, beta (2 - beta) = 3/4: gamma = 3/4 and, the path being
    # sqrt(3/4) s / ||s||, ||path||^2 = 3/4. Delta = exp((3/4 - 3/4 / 1.5) / 2) = exp(1/8).
    np.testing.assert_allclose(state.asng.gamma, [0.75, 0.75], rtol=1e-6)
    np.testing.assert_allclose(jnp.square(state.asng.path).sum((1, 2)), [0.75, 0.75], rtol=1e-5)
    np.testing.assert_allclose(state.asng.path[0, 0], [math.sqrt(0.75) * 0.4 / NORM[0], 0, 0], rtol=1e-4)
    np.testing.assert_allclose(state.asng.trust, [math.exp(1 / 8)] * 2, rtol=1e-5)


def test_equal_losses_without_penalty_leave_the_state_of_that_distribution():
    before = first_state()
    after, _ = METHOD.tell(before, ARCHS, jnp.full(4, 0.25))
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new[0], old[0]), after, before)
    assert np.any(after.theta[1] != before.theta[1])  # the penalty still tells them apart


def test_modes_are_the_most_probable_architectures():
    state = first_state().replace(theta=THETA.at[0, 0].set(jnp.asarray([0.4, 0.6, 0])))
    np.testing.assert_array_equal(METHOD.modes(state), [[1, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"penalties": ()}, "penalties"),
        ({"penalties": (0.1, -0.1)}, "-0.1"),
        ({"penalties": (float("nan"),)}, "nan"),
        ({"samples": 0}, "samples"),
        ({"penalties": (0.1,), "samples": 1}, "samples"),
    ],
)
def test_settings_that_make_no_search_are_errors(settings, named):
    with pytest.raises(ValueError, match=named):
        ImportanceSampling(SPACE, **{"penalties": (0.0, 0.5), "samples": 2, **settings})


def test_a_space_without_cost_needs_one():
    with pytest.raises(ValueError, match="cost"):
        ImportanceSampling(SearchSpace("bare", SPACE.decisions), penalties=(0.1, 0.2))
    with pytest.raises(ValueError, match="no decision"):
        ImportanceSampling(SearchSpace("empty", ()), penalties=(0.1, 0.2))


def test_a_step_of_a_thousand_distributions_fits_into_little_memory():
    """K = 1000 and lambda = 4 on a table's space; all pairs of samples would be 64 GB for each array of them."""
    space = SearchSpace("table", tuple(Decision(f"d{d}", ("a", "b", "c")) for d in range(8)))
    cost = AdditiveCost("cost", "", 0.0, ((0.0, 1.0, 2.0),) * 8)
    method = ImportanceSampling(space, tuple(np.geomspace(0.01, 1, 1000).tolist()), samples=4, cost=cost)
    state = jax.eval_shape(method.init, jax.random.key(0))
    archs, losses = jax.ShapeDtypeStruct((4000, 8), jnp.int32), jax.ShapeDtypeStruct((4000,), jnp.float32)
    told = jax.eval_shape(functools.partial(base.evaluations, method.cost), archs, losses)
    programs = [
        jax.jit(method.ask).lower(jax.eval_shape(jax.random.key, 0), state),
        jax.jit(method._learn).lower(state, told),
    ]
    for program in programs:
        memory = program.compile().memory_analysis()
        assert memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes < 1e9
