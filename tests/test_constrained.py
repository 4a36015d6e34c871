"""Evolution under hard constraints: the budgets hold, and the constrained optima of small tables are found."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import strategies
from jaxnas.cost import AdditiveCost
from jaxnas.spaces import Decision, SearchSpace
from jaxnas.strategies.constrained import ConstrainedEvolution
from jaxnas.tasks import Table, TabularTask, synthetic_table

PENALTIES = (0.02, 0.1, 0.5, 2.0)


@functools.cache
def task(seed=3):
    return TabularTask.from_table(synthetic_table((3, 2, 4, 3, 2), seed=seed))


def build(task, penalties=PENALTIES, shares=None, **settings):
    """`shares` of the span of costs as budgets, in the table's unit."""
    if shares is not None:
        settings["budgets"] = of_span(task.cost, shares)
    return ConstrainedEvolution(task.space, penalties, cost=task.cost, **settings)


def of_span(cost, shares):
    return tuple(cost.lowest + share * (cost.highest - cost.lowest) for share in shares)


@functools.cache
def evaluated(task, method, steps, seed=0):
    """The last state of a search on a table without noise, and everything it evaluated, int [steps, K, lambda, D]."""

    @jax.jit
    def step(state, key):
        archs, state = method.ask(key, state)
        state, _ = method.tell(state, archs, task.lookup(archs))
        return state, archs

    keys = jax.random.split(jax.random.key(seed), steps)
    state, archs = jax.lax.scan(step, method.init(jax.random.key(0)), keys)
    return state, np.asarray(archs).reshape(steps, len(method.penalties), method.samples, -1)


def test_budgets_are_evenly_spaced_and_the_smallest_penalty_has_the_largest():
    assert build(task()).scaled_budgets == (1.0, 0.75, 0.5, 0.25)
    assert build(task(), (2.0, 0.1)).scaled_budgets == (0.5, 1.0)
    assert build(task(), (0.3,)).scaled_budgets == (1.0,)


def test_budgets_are_in_the_unit_of_the_cost():
    cost = AdditiveCost("macs", "multiply-adds", 100, ((0, 30), (0, 10), (0, 60)))
    space = SearchSpace("small", tuple(Decision(name, ("a", "b")) for name in "xyz"), (cost,))
    method = ConstrainedEvolution(space, (0.1, 0.2), budgets=(150, 1000))
    assert method.scaled_budgets == (0.5, 1.0)
    state, _ = method.ask(jax.random.key(0), method.init(jax.random.key(0)))
    assert (cost.total(np.asarray(state)[: method.samples]) <= 150).all()


@pytest.mark.long
@pytest.mark.parametrize("shares", [None, (0.0, 1.0, 0.4, 0.4)])
def test_everything_that_is_evaluated_keeps_its_budget(shares):
    method = build(task(), shares=shares, tries=2000)  # enough that founders never fail
    _, archs = evaluated(task(), method, 60)
    cost = task().cost.scaled[task().rows(archs)]  # [steps, K, lambda]
    assert np.all(cost <= np.asarray(method.scaled_budgets)[:, None] + 1e-6)
    # And the constraint is no formality: uniform samples break it.
    assert np.mean(task().cost.scaled > min(method.scaled_budgets)) > 0.5


@pytest.mark.parametrize("seed", [3, 4])
def test_the_constrained_optimum_of_every_budget_is_found(seed):
    small = task(seed)
    method = build(small)
    state, _ = evaluated(small, method, 80)
    rows = small.rows(method.within_budgets(state))
    for budget, row in zip(method.scaled_budgets, rows):
        assert small.error[row] == small.error[small.cost.scaled <= budget + 1e-6].min()


def test_a_budget_of_zero_leaves_the_cheapest_architecture():
    small = task()
    method = build(small, shares=(0.0, 1.0, 0.4, 0.4), tries=2000)
    state, _ = evaluated(small, method, 60)
    assert small.cost.scaled[small.rows(method.within_budgets(state))[0]] == 0


def test_once_a_budget_is_met_nothing_that_exceeds_it_is_returned():
    """One draw for each founder often fails: the search begins above its budget, and must come down."""
    small = task()
    method = build(small, (0.1, 1.0), shares=(0.3, 0.1), tries=1, samples=1)
    for seed in range(3):
        state, met, began_above = method.init(jax.random.key(0)), np.zeros(2, bool), False
        for step in range(60):
            archs, state = method.ask(jax.random.fold_in(jax.random.key(seed), step), state)
            within = small.cost.scaled[small.rows(archs)] <= np.asarray(method.scaled_budgets) + 1e-6
            met |= within
            began_above |= not within.all()
            state, _ = method.tell(state, archs, small.lookup(archs))
            returned = small.cost.scaled[small.rows(method.within_budgets(state))]
            assert np.all((returned <= np.asarray(method.scaled_budgets) + 1e-6) | ~met)
        assert began_above
        assert np.all(met)


def test_parents_and_answers_by_hand():
    """Five networks of one decision, R = 0, 1/4 ... 1; the searches may spend 1 and 1/2."""
    table = Table.from_arrays(np.arange(5)[:, None], np.array([0.9, 0.5, 0.6, 0.1, 0.3]), np.arange(5.0))
    line = TabularTask.from_table(table)
    method = build(line, (0.0, 0.4), samples=3, founders=3, parents=2)
    assert method.scaled_budgets == (1.0, 0.5)
    archs = jnp.asarray([[4], [3], [0], [3], [2], [1]], jnp.int32)  # the second search broke its budget with 3
    state, info = method.tell(method.init(jax.random.key(0)), archs, line.lookup(archs))
    np.testing.assert_array_equal(state.archs[..., 0], [[3, 4], [1, 2]])
    np.testing.assert_allclose(state.losses, [[0.1, 0.3], [0.5, 0.6]], rtol=1e-6)
    np.testing.assert_array_equal(state.excess, 0)
    np.testing.assert_array_equal(method.within_budgets(state)[:, 0], [3, 1])
    # f = error + 0.4 R: 0.3 + 0.4, 0.1 + 0.3, 0.9, 0.1 + 0.3, 0.6 + 0.2, 0.5 + 0.1.
    np.testing.assert_allclose(info.objective[1], [0.7, 0.4, 0.9, 0.4, 0.8, 0.6], rtol=1e-6)
    np.testing.assert_array_equal(method.modes(state)[:, 0], [3, 3])


def test_searches_share_nothing():
    small = task()
    method = build(small)
    state, _ = evaluated(small, method, 80)
    archs, state = method.ask(jax.random.key(9), state)
    losses = small.lookup(archs)
    others = losses.at[method.samples :].add(jnp.linspace(-1, 1, len(losses) - method.samples))
    one, two = (method.tell(state, archs, told)[0] for told in (losses, others))
    np.testing.assert_array_equal(one.archs[0], two.archs[0])
    assert np.any(one.losses[1:] != two.losses[1:])


def test_children_are_new_while_there_are_new_ones():
    small = task()
    method = build(small)
    state, _ = evaluated(small, method, 80)
    archs, _ = method.ask(jax.random.key(1), state)
    for k, children in enumerate(np.asarray(archs).reshape(len(PENALTIES), method.samples, -1)):
        for child in children:
            assert not np.any(np.all(child == state.archs[k], axis=-1))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budgets": (1.0,)}, "budgets must be one for each of the 4"),
        ({"budgets": (3e8, 3e8, 3e8, -0.1)}, "-0.1"),
        ({"budgets": (3e8, 3e8, 3e8, float("nan"))}, "nan"),
        ({"budgets": (3e8, 3e8, 3e8, 3e8), "cost": lambda archs: archs[:, 0] / 2}, "cost must have"),
        ({"founders": 0}, "founders"),
        ({"founders": 4}, "founders must be at least the 5 parents"),
        ({"parents": 0}, "parents"),
        ({"tries": 0}, "tries"),
        ({"mutation": 0.0}, "mutation"),
        ({"crossover": 1.0}, "crossover"),
    ],
)
def test_bad_settings_are_errors_that_name_them(settings, named):
    with pytest.raises(ValueError, match=named):
        strategies.make("constrained", task().space, PENALTIES, **({"cost": task().cost} | settings))
