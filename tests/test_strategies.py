"""One contract for all strategies: every entry of the registry passes every test of this file."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import asng, strategies
from jaxnas.leaderboard import on_supernets
from jaxnas.spaces import Decision, SearchSpace
from jaxnas.tasks import TabularTask, search_seeds, synthetic_table
from tests import oracles

PENALTIES = (0.0, 0.3, 100.0)
K, D = 3, 6


@functools.cache
def task():
    return TabularTask.from_table(synthetic_table((3, 1, 4, 3, 2, 3), seed=3), noise=0.01)


@functools.cache
def built(name, penalties=PENALTIES):
    return strategies.make(name, task().space, penalties, cost=task().cost)


def stepped(name, steps=3):
    """The strategy, a state a few steps into a search, and the next samples."""
    method = built(name)
    state = method.init(jax.random.key(0))
    for step in range(steps):
        archs, state = method.ask(jax.random.key(step), state)
        state, _ = method.tell(state, archs, task().lookup(archs))
    archs, state = method.ask(jax.random.key(99), state)
    return method, state, archs


all_strategies = pytest.mark.parametrize("name", list(strategies.STRATEGIES))
# The same for whole searches; those that train networks or populations in a step compile for long.
LONG_TO_COMPILE = ("pnag", "smem_nas", "moarr")
whole_searches = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_TO_COMPILE)) for name in strategies.STRATEGIES],
)


@all_strategies
def test_asks_for_k_lambda_architectures_in_range(name):
    method, _, archs = stepped(name)
    assert method.penalties == PENALTIES
    chex.assert_shape(archs, (K * method.samples, D))
    assert archs.dtype == jnp.int32
    assert np.all((archs >= 0) & (archs < np.asarray(task().space.num_choices)))


@all_strategies
def test_states_keep_their_shapes_and_dtypes(name):
    method, state, _ = stepped(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, method.init(jax.random.key(0)))


@all_strategies
def test_ask_and_tell_are_pure(name):
    method, state, archs = stepped(name)
    again, _ = method.ask(jax.random.key(99), state)
    np.testing.assert_array_equal(archs, again)
    other, _ = method.ask(jax.random.key(100), state)
    assert np.any(archs != other)
    losses = task().lookup(archs)
    before = jax.tree.map(np.array, state)
    told = method.tell(state, archs, losses)
    jax.tree.map(np.testing.assert_array_equal, told, method.tell(state, archs, losses))
    jax.tree.map(np.testing.assert_array_equal, before, state)


@all_strategies
def test_modes_are_k_valid_architectures_from_the_start(name):
    method, state, _ = stepped(name)
    for moment in (method.init(jax.random.key(0)), state):
        modes = method.modes(moment)
        chex.assert_shape(modes, (K, D))
        assert modes.dtype == jnp.int32
        for mode in np.asarray(modes):
            task().space.validate(mode)


@all_strategies
def test_strategies_are_hashable_and_equal_settings_make_equal_strategies(name):
    method = built(name)
    twin = strategies.make(name, task().space, list(PENALTIES), cost=task().cost)
    assert method == twin
    assert hash(method) == hash(twin)


@functools.cache
def found(name):
    """Networks [seeds, E, K, D] of whole searches: one scan, seeds one vmap."""
    return search_seeds(task(), built(name), (60, 900), seeds=8)


@whole_searches
def test_a_search_is_one_scan_and_its_seeds_are_reproducible(name):
    archs = found(name)
    assert archs.shape == (8, 2, K, D)
    np.testing.assert_array_equal(archs, search_seeds(task(), built(name), (60, 900), seeds=8))
    assert np.any(archs[0, 0] != archs[1:, 0])


@whole_searches
def test_a_huge_penalty_finds_the_cheapest_architecture(name):
    cheapest = task().cost.scaled.argmin()
    rows = task().rows(found(name)[:, 1, 2])
    assert np.mean(rows == cheapest) > 0.5
    assert task().cost.scaled[rows].mean() <= 0.1


@whole_searches
def test_the_search_ends_far_below_the_regret_of_a_random_architecture(name):
    objective = task().objective(PENALTIES)
    rows = task().rows(found(name)[:, 1])  # [seeds, K]
    regret = np.stack([objective[k, rows[:, k]] - objective[k].min() for k in range(K)], axis=1)
    assert np.all(regret.mean(0) <= 0.1 * (objective.mean(1) - objective.min(1)))


@all_strategies
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"penalties": ()}, "penalties"),
        ({"penalties": (0.1, -1.0)}, "-1.0"),
        ({"penalties": (float("inf"),)}, "inf"),
        ({"samples": 0}, "samples"),
        ({"samples": -3}, "-3"),
        ({"cost": None}, "cost"),
        ({"space": SearchSpace("empty", ())}, "no decision"),
    ],
)
def test_bad_settings_are_errors_that_name_them(name, settings, named):
    good = {"space": task().space, "penalties": PENALTIES, "cost": task().cost}
    with pytest.raises(ValueError, match=named):
        strategies.make(name, **{**good, **settings})


@all_strategies
def test_wrong_shapes_are_caught(name):
    method, state, archs = stepped(name)
    with pytest.raises((AssertionError, TypeError, ValueError)):
        method.tell(state, archs, jnp.zeros(len(archs) + 1))


@whole_searches
def test_a_space_of_one_architecture_is_found(name):
    one = TabularTask.from_table(synthetic_table((1, 1)))
    method = strategies.make(name, one.space, (0.0, 0.1), cost=one.cost)
    archs = search_seeds(one, method, (100,), seeds=1)
    np.testing.assert_array_equal(archs, np.zeros((1, 1, 2, 2)))


def test_an_unknown_method_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="anealing.*importance_sampling.*nsga2"):
        strategies.make("anealing", task().space, PENALTIES)


@pytest.mark.parametrize("former", strategies.RENAMED)
def test_a_former_name_is_an_error_that_gives_the_new_one(former):
    new = strategies.RENAMED[former]
    assert new in strategies.STRATEGIES or new in on_supernets.methods()
    with pytest.raises(ValueError, match=f"method '{former}' is now called '{new}'"):
        strategies.make(former, task().space, PENALTIES)
    assert former not in strategies.STRATEGIES


def test_particular_settings_are_checked():
    for settings, named in (({"population": 5}, "population"), ({"tournament": 0}, "tournament")):
        with pytest.raises(ValueError, match=named):
            strategies.make("evolution", task().space, PENALTIES, cost=task().cost, **settings)
    with pytest.raises(ValueError, match="samples"):
        strategies.make("independent", task().space, PENALTIES, cost=task().cost, samples=1)


def test_independent_searches_are_k_plain_asng_searches():
    """Each distribution follows the numpy oracle on its own samples alone."""
    method, samples = built("independent"), 4
    assert method.samples == samples
    states = [oracles.State(task().space.num_choices) for _ in range(K)]
    state = method.init(jax.random.key(0))
    for step in range(40):
        archs, state = method.ask(jax.random.key(step), state)
        state, info = method.tell(state, archs, task().lookup(archs))
        for k in range(K):
            own = slice(k * samples, (k + 1) * samples)
            oracles.asng_step(states[k], np.asarray(archs[own]), np.asarray(info.objective[k, own]))
            for d, row in enumerate(states[k].theta):
                np.testing.assert_allclose(state.theta[k, d, : len(row)], row, atol=1e-4)


def test_with_one_penalty_importance_sampling_and_independent_searches_are_the_same():
    pair = [
        strategies.make(name, task().space, (0.2,), samples=4, cost=task().cost)
        for name in ("importance_sampling", "independent")
    ]
    first, second = (search_seeds(task(), method, (200, 400), seeds=4) for method in pair)
    np.testing.assert_array_equal(first, second)


def test_independent_searches_do_not_see_each_other():
    method, state, archs = stepped("independent")
    losses = task().lookup(archs)
    others = jnp.arange(2.0 * method.samples)
    (one, _), (two, _) = (
        method.tell(state, archs, losses.at[method.samples :].set(changed)) for changed in (others, -others)
    )
    np.testing.assert_array_equal(one.theta[0], two.theta[0])
    assert np.any(one.theta[1] != two.theta[1])


def test_random_keeps_the_best_measured_architecture_by_hand():
    method = built("random")
    archs = jnp.asarray([[0] * 6, [2, 0, 3, 2, 1, 2], [1, 0, 1, 1, 1, 1]] * method.samples, jnp.int32)[
        : K * method.samples
    ]
    losses = jnp.asarray([0.5, 0.3, 0.4] * method.samples)
    state, _ = method.tell(method.init(jax.random.key(0)), archs, losses)
    np.testing.assert_array_equal(method.modes(state)[0], [2, 0, 3, 2, 1, 2])
    np.testing.assert_array_equal(method.modes(state)[2], [0] * 6)
    worse, _ = method.tell(state, archs, losses + 1)
    jax.tree.map(np.testing.assert_array_equal, state, worse)


def test_evolution_changes_one_decision_of_a_winner():
    method = built("evolution")
    winner = jnp.asarray([1, 0, 2, 1, 0, 1], jnp.int32)
    state = method.init(jax.random.key(0)).replace(
        archs=jnp.tile(winner, (method.population, 1)),
        losses=jnp.zeros(method.population),
        evaluated=jnp.int32(method.population),
    )
    for seed in range(5):
        children, _ = method.ask(jax.random.key(seed), state)
        np.testing.assert_array_equal((children != winner).sum(-1), 1)
        assert np.all(children[:, 1] == 0)  # this decision has one choice


def test_evolution_forgets_the_oldest():
    method = strategies.make("evolution", task().space, PENALTIES, cost=task().cost, population=8)
    size = K * method.samples
    state = method.init(jax.random.key(0))
    for step in range(2):
        archs = jnp.full((size, D), step, jnp.int32) * jnp.asarray([1, 0, 1, 1, 1, 1])
        state, _ = method.tell(state, archs, jnp.full(size, float(step)))
    # 6 zeros, then 6 ones of which 4 replace the oldest.
    np.testing.assert_array_equal(state.losses, [1, 1, 1, 1, 0, 0, 1, 1])


def test_nsga2_keeps_the_non_dominated():
    decisions = (Decision("a", tuple("0123")), Decision("b", tuple("0123")))
    space = SearchSpace("grid", decisions)
    method = strategies.make("nsga2", space, (0.1,), samples=4, cost=_FirstDecision())
    front = jnp.asarray([[0, 3], [1, 2], [2, 1], [3, 0]], jnp.int32)  # loss falls as cost rises
    state, _ = method.tell(method.init(jax.random.key(0)), front, jnp.asarray([0.4, 0.3, 0.2, 0.1]))
    dominated = jnp.asarray([[0, 0], [1, 1], [2, 2], [3, 3]], jnp.int32)
    state, _ = method.tell(state, dominated, jnp.asarray([0.8, 0.7, 0.6, 0.5]))
    assert sorted(np.asarray(state.archs).tolist()) == front.tolist()


class _FirstDecision:
    def __call__(self, archs):
        return archs[:, 0] / 3


def test_asng_is_shared_by_importance_sampling_and_independent_searches():
    state = built("independent").init(jax.random.key(0))
    assert isinstance(state.asng, asng.ASNGState)
