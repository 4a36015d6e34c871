"""Relaxed searches: the shared steps, DARTS, and the protocol that every entry of the registry keeps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import relaxation, tasks
from jaxnas.cost import AdditiveCost
from jaxnas.relaxation import RELAXATIONS, Darts, Settings, base
from jaxnas.runtime.loop import NonFiniteLossError
from jaxnas.spaces import Decision, SearchSpace

TABLE = tasks.synthetic_table((3, 1, 4, 2), seed=3, interaction=0.1)
TASK = tasks.TabularTask.from_table(TABLE)
COST = tasks.additive_cost(TABLE, "cost")
SETTINGS = Settings(steps=120, alpha_learning_rate=0.02)
TARGETS = {"penalties": 0.2, "strengths": 0.3, "budgets": (COST.lowest + COST.highest) / 2}

all_relaxations = pytest.mark.parametrize("name", list(RELAXATIONS))


@functools.cache
def loss():
    return tasks.RelaxedTable(TASK)


def built(name, **settings):
    method = RELAXATIONS[name](TASK.space, SETTINGS, costs=(COST,), **settings)
    return method, TARGETS[method.TARGET]


@functools.partial(jax.jit, static_argnums=0)
def run(method, states):
    def one_seed(state):
        steps = method.settings.steps
        return jax.lax.scan(lambda s, _: (method.step(s, loss(), None, None)[0], None), state, length=steps)[0]

    return jax.vmap(one_seed)(states)


def simulate(method, target, seeds=1):
    """Runs on the table, one for each seed, all in one program: states with a leading axis of seeds."""
    states = [method.init(jax.random.key(seed), {}, target) for seed in range(seeds)]
    return run(method, jax.tree.map(lambda *leaves: np.stack(leaves), *states))


def stepped(method, state, of, train, valid):
    return jax.jit(method.step, static_argnums=1)(state, of, train, valid)


def one(states, index=0):
    return jax.tree.map(lambda leaf: leaf[index], states)


# The table's loss


def test_relaxed_table_is_the_expectation_by_enumeration():
    rng = np.random.default_rng(0)
    weights = np.zeros((4, 4))
    for d, count in enumerate(TASK.space.num_choices):
        weights[d, :count] = rng.dirichlet(np.ones(count))
    archs = np.stack(np.unravel_index(np.arange(24), TASK.space.num_choices), axis=1)
    probability = np.prod(weights[np.arange(4), archs], axis=1)
    assert np.isclose(probability.sum(), 1)
    padded = jnp.asarray(np.where(weights > 0, weights, 5.0), jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(loss(), 1))({}, padded)
    np.testing.assert_allclose(value, probability @ TASK.error, rtol=1e-5)
    # The derivative of a multilinear function is the expectation with that choice made.
    without = np.prod(weights[np.arange(4), archs][:, 1:], axis=1)
    for choice in range(3):
        np.testing.assert_allclose(gradient[0, choice], (without * TASK.error)[archs[:, 0] == choice].sum(), rtol=1e-5)
    np.testing.assert_array_equal(gradient[1, 1:], 0)


def test_one_hot_weights_look_the_table_up():
    weights = jax.nn.one_hot(jnp.asarray([2, 0, 3, 1]), 4)
    np.testing.assert_allclose(loss()({}, weights), TASK.lookup(jnp.asarray([[2, 0, 3, 1]]))[0], rtol=1e-6)


# Expected costs


def test_gradient_of_the_expected_cost_is_the_closed_form():
    """dE/dalpha_dc = p_dc (c_dc - p_d . c_d), and 0 where all choices of a decision cost the same."""
    cost = AdditiveCost("cost", "units", 1.0, ((0.0, 2.0, 5.0), (3.0, 3.0), (1.0, 4.0)))
    alpha = jax.random.normal(jax.random.key(0), (3, 3))
    p = np.asarray(base.probabilities(alpha, [3, 2, 2]), np.float64)
    table = cost.scaled_table()
    expected = p * (table - (p * table).sum(1, keepdims=True))
    gradient = jax.jit(jax.grad(lambda alpha: base.expected_costs(alpha, (cost,), [3, 2, 2])[0]))(alpha)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    np.testing.assert_allclose(gradient[1], 0, atol=1e-7)
    np.testing.assert_array_equal(gradient[:, 2][1:], 0)
    assert np.abs(gradient[0]).max() > 0.01


# The two steps


def two_by_two():
    return SearchSpace("two", (Decision("a", ("x", "y")), Decision("b", ("x", "y"))))


def test_first_step_by_hand():
    """Adam's first step is lr times the sign of the gradient; SGD's the clipped gradient times lr."""
    slope = jnp.asarray([[1.0, -1.0], [-2.0, 0.5]])

    def linear(params, weights, batch):
        return (weights * slope).sum() * batch + params["kernel"] * batch

    method = Darts(two_by_two(), Settings(steps=100, weight_decay=0.0))
    state = method.init(jax.random.key(0), {"kernel": jnp.float32(1.0)})
    after, losses = stepped(method, state, linear, jnp.float32(20.0), jnp.float32(1.0))
    np.testing.assert_allclose(after.alpha - state.alpha, 3e-4 * jnp.asarray([[-1, 1], [1, -1]]), rtol=1e-3)
    np.testing.assert_allclose(after.params["kernel"], 1 - 0.025 * 5, rtol=1e-6)  # a gradient of 20, clipped at 5
    weights = base.probabilities(state.alpha, [2, 2])
    np.testing.assert_allclose(losses.valid, (weights * slope).sum() + 1, rtol=1e-6)
    np.testing.assert_allclose(losses.train, 20 * losses.valid, rtol=1e-2)  # the weights' step sees the new alpha
    assert int(after.step) == 1


def test_alpha_learns_from_validation_and_weights_from_training():
    def product(params, weights, batch):
        return ((weights + params["kernel"]) * batch).sum()

    method = Darts(two_by_two(), Settings(steps=10))
    state = method.init(jax.random.key(0), {"kernel": jnp.ones((2, 2))})
    first, second = jnp.asarray([[1.0, 2.0], [3.0, 5.0]]), jnp.asarray([[-4.0, 1.0], [0.0, -2.0]])
    usual, _ = stepped(method, state, product, first, second)
    other_train, _ = stepped(method, state, product, second, second)
    other_valid, _ = stepped(method, state, product, first, first)
    np.testing.assert_array_equal(usual.alpha, other_train.alpha)
    np.testing.assert_array_equal(usual.params["kernel"], other_valid.params["kernel"])
    assert np.any(usual.alpha != other_valid.alpha)
    assert np.any(usual.params["kernel"] != other_train.params["kernel"])


def test_the_learning_rate_ends_where_it_should():
    method = Darts(two_by_two(), Settings(steps=4, momentum=0.0, weight_decay=0.0))
    state, steps = method.init(jax.random.key(0), {"kernel": jnp.float32(0.0)}), []
    step = jax.jit(lambda s: method.step(s, lambda params, weights, _: params["kernel"] + weights.sum(), None, None))
    for _ in range(5):
        before = float(state.params["kernel"])
        state, _ = step(state)
        steps.append(before - float(state.params["kernel"]))
    np.testing.assert_allclose([steps[0], steps[2], steps[4]], [0.025, 0.013, 0.001], rtol=1e-4)


def test_blank_leaves_alpha_and_trains_the_weights():
    def product(params, weights, batch):
        return ((weights + params["kernel"]) * batch).sum()

    method = Darts(two_by_two(), Settings(steps=10), learn_alpha=False)
    state = method.init(jax.random.key(0), {"kernel": jnp.ones((2, 2))})
    after, losses = stepped(method, state, product, jnp.ones((2, 2)), None)
    np.testing.assert_array_equal(after.alpha, state.alpha)
    assert np.isnan(losses.valid)
    assert np.all(after.params["kernel"] < 1)


# DARTS on a table


def test_finds_the_best_of_a_nearly_additive_table_and_pays_for_penalties():
    costs = []
    for penalty in (0.0, 0.5, 100.0):
        method = Darts(TASK.space, SETTINGS, costs=(COST,))
        states = simulate(method, penalty, seeds=3)
        archs = np.stack([method.derive(one(states, seed), penalty) for seed in range(3)])
        objective = TASK.objective([penalty])[0]
        np.testing.assert_allclose(objective[TASK.rows(archs)], objective.min(), rtol=0.02, atol=0.01)
        costs.append(COST(archs).mean())
    assert costs[0] > costs[1] > costs[2] == 0


# The protocol


@all_relaxations
def test_states_keep_their_shapes_and_networks_are_good(name):
    method, target = built(name)
    assert hash(method) == hash(built(name)[0])
    state = method.init(jax.random.key(1), {}, target)
    after, _ = jax.eval_shape(lambda state: method.step(state, loss(), None, None), state)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    end = one(simulate(method, target))
    assert np.isfinite(end.alpha).all()
    np.testing.assert_array_equal(end.alpha[1, 1:], 0)
    assert int(end.step) == SETTINGS.steps
    arch = method.derive(end, target)
    np.testing.assert_array_equal(TASK.space.validate(arch), arch)
    # Each finds a network that is better than most, be it under the table's error and a moderate cost.
    objective = TASK.objective([0.2])[0]
    assert objective[TASK.rows(arch)] < np.median(objective)


@all_relaxations
def test_costs_that_do_not_fit_are_refused(name):
    with pytest.raises(ValueError, match="must be AdditiveCost, got TableCost; a table's is tasks.additive_cost"):
        RELAXATIONS[name](TASK.space, SETTINGS, costs=(TASK.cost,))
    with pytest.raises(ValueError, match="cost 'cost' must have the choices of space 'two'"):
        RELAXATIONS[name](two_by_two(), SETTINGS, costs=(COST,))


@pytest.mark.parametrize("target", [-1.0, np.nan, np.inf, (0.1, 0.2)])
def test_bad_strengths_are_refused(target):
    for name in ("darts", "eg_das"):
        with pytest.raises(ValueError, match="target must be"):
            built(name)[0].init(jax.random.key(0), {}, target)


def test_a_penalty_needs_a_cost():
    with pytest.raises(ValueError, match="must be 0 without a cost"):
        Darts(two_by_two(), SETTINGS).init(jax.random.key(0), {}, 0.1)
    with pytest.raises(ValueError, match="costs must hold at least one"):
        RELAXATIONS["eg_das"](two_by_two(), SETTINGS)


@pytest.mark.parametrize("field", ["steps", "learning_rate", "alpha_learning_rate"])
def test_bad_settings_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} must be"):
        Settings(**{"steps": 5, field: 0})


# Running


def regression(params, weights, batch):
    """The mixture of two slopes, plus an intercept that is the weight to be trained."""
    x, y = batch
    slope = weights[0] @ jnp.asarray([1.0, 2.0]) + weights[1] @ jnp.asarray([0.0, 1.0])
    return jnp.square(slope * x + params["kernel"] - y).mean()


def points(seed, examples):
    x = np.random.default_rng(seed).normal(size=examples).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(1.0 * x + 3.0)  # slope 1: the first choice of both


def run_search(targets=(0.0,), steps=75, train=None, **settings):
    space = two_by_two()
    cost = AdditiveCost("cost", "units", 0.0, ((5.0, 0.0), (0.0, 1.0)))  # the first choice of the first is dear
    rates = {"learning_rate": 0.1, "alpha_learning_rate": 0.05}
    method = Darts(space, Settings(steps=steps, **rates), costs=(cost,))
    train = points(0, 50) if train is None else train
    key, settings = jax.random.key(0), {"batch_size": 8, "steps_per_dispatch": 20} | settings
    return relaxation.search(
        method, regression, {"kernel": jnp.float32(0.0)}, train, points(1, 40), targets, key, **settings
    )


def test_search_finds_one_network_for_each_penalty():
    found = run_search((0.0, 100.0))
    np.testing.assert_array_equal(found.archs, [[0, 0], [1, 0]])
    chex.assert_shape(found.alpha, (2, 2, 2))
    chex.assert_shape(found.losses.train, (2, 75))
    assert found.losses.train[0, -10:].mean() < 0.2 * found.losses.train[0, :10].mean()
    np.testing.assert_allclose(found.params[0]["kernel"], 3, atol=0.3)


def test_programs_of_any_length_make_the_same_search():
    whole, parts = run_search(steps_per_dispatch=75), run_search()
    np.testing.assert_allclose(whole.alpha, parts.alpha, rtol=1e-5)
    np.testing.assert_allclose(whole.losses.valid, parts.losses.valid, rtol=1e-4)


def test_search_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="targets must hold at least one"):
        run_search(())
    with pytest.raises(ValueError, match=r"batch_size must be between 1 and the examples of a split, \[50\], got 51"):
        run_search(batch_size=51)
    x, y = points(0, 50)
    with pytest.raises(
        NonFiniteLossError, match="loss is not finite at step 1 for target 0.0; lower the learning rate"
    ):
        run_search(train=(x, y * jnp.nan))
