"""RC-DARTS-style: the projection against what defines it, and networks that are always within their bounds."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import knapsack, tasks
from jaxnas.cost import AdditiveCost
from jaxnas.relaxation import Bounds, Darts, RCDarts, Settings, base, projection
from jaxnas.spaces import Decision, SearchSpace
from tests.conftest import table_path

D, C = 8, 3
VALID = np.arange(C) < np.asarray([3, 3, 2, 3, 1, 3, 2, 3])[:, None]
project = jax.jit(projection.project)
expected_of = jax.jit(projection.expected)


def instance(seed, costs=1):
    rng = np.random.default_rng(seed)
    alpha = np.where(VALID, rng.normal(size=(D, C)), 0.0)
    tables = np.where(VALID, rng.uniform(size=(costs, D, C)), 0.0) / D
    return jnp.asarray(alpha, jnp.float32), jnp.asarray(tables, jnp.float32)


def expected(alpha, tables):
    return np.asarray(expected_of(alpha, tables, VALID))


def bounds_of(lower, upper):
    return jnp.asarray([lower, upper], jnp.float32)


def probabilities(alpha):
    return np.asarray(base.probabilities(alpha, VALID.sum(1)), np.float64)


def divergence(p, q):
    return np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), 0).sum((-2, -1))


# The projection


@pytest.mark.parametrize("costs", [1, 2])
def test_what_is_within_stays_as_it_is(costs):
    alpha, tables = instance(0, costs)
    now = expected(alpha, tables)
    np.testing.assert_array_equal(project(alpha, tables, bounds_of(now - 0.1, now + 0.1), VALID), alpha)
    np.testing.assert_array_equal(project(alpha, tables, bounds_of(now - np.inf, now + np.inf), VALID), alpha)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("change", [-0.1, 0.1])
def test_an_active_bound_is_tight_and_a_second_projection_changes_nothing(seed, change):
    alpha, tables = instance(seed)
    wanted = expected(alpha, tables) + change
    low, high = (wanted, wanted + 1) if change > 0 else (wanted - 1, wanted)
    projected = project(alpha, tables, bounds_of(low, high), VALID)
    np.testing.assert_allclose(expected(projected, tables), wanted, atol=3e-6)
    np.testing.assert_array_equal(project(projected, tables, bounds_of(low, high), VALID), projected)
    np.testing.assert_array_equal(np.asarray(projected)[~VALID], 0)
    # alpha' = alpha - lambda c, one lambda for all choices
    multiplier = ((alpha - projected) / jnp.where(tables[0] > 0, tables[0], 1.0))[VALID]
    np.testing.assert_allclose(multiplier, multiplier.mean(), rtol=1e-3)
    assert np.sign(multiplier.mean()) == -np.sign(change)


def test_expected_cost_falls_in_the_multiplier_with_the_variance():
    """dE/dlambda = -sum_d Var_p(c_d)."""
    alpha, tables = instance(1)
    slope = jax.jit(jax.grad(lambda size: projection.expected(alpha - size * tables[0], tables, VALID)[0]))(0.0)
    p, c = probabilities(alpha), np.asarray(tables[0], np.float64)
    np.testing.assert_allclose(slope, -((p * c**2).sum(1) - (p * c).sum(1) ** 2).sum(), rtol=1e-4)


@pytest.mark.parametrize("costs", [1, 2, 3])
def test_no_mixture_within_the_bounds_is_closer(costs):
    alpha, tables = instance(2, costs)
    now = expected(alpha, tables)
    bounds = bounds_of(np.full(costs, -np.inf), now - 0.04)
    projected = project(alpha, tables, bounds, VALID)
    assert np.all(expected(projected, tables) <= bounds[1] + 2e-6)
    q = probabilities(alpha)
    least = divergence(probabilities(projected), q)
    rng = np.random.default_rng(0)
    # Mixtures around the projection and far from it; most of those near are not within the bounds.
    spread = rng.choice([0.02, 0.1, 0.5, 2.0], size=(20_000, 1, 1))
    others = np.asarray(projected) + spread * rng.normal(size=(20_000, D, C))
    others = np.exp(np.where(VALID, others, -np.inf))
    others /= others.sum(-1, keepdims=True)
    within = np.all(np.einsum("sdc,jdc->sj", others, np.asarray(tables, np.float64)) <= np.asarray(bounds[1]), axis=1)
    assert within.sum() > 500
    assert np.all(divergence(others[within], q) > least - 1e-6)


def test_several_bounds_hold_together_and_only_active_ones_push():
    alpha, tables = instance(3, 2)
    now = expected(alpha, tables)
    bounds = bounds_of([now[0] + 0.05, -np.inf], [np.inf, now[1] - 0.05])
    projected = project(alpha, tables, bounds, VALID)
    np.testing.assert_allclose(expected(projected, tables), [now[0] + 0.05, now[1] - 0.05], atol=5e-6)
    change = np.asarray(alpha - projected)[VALID]
    multipliers, residual, *_ = np.linalg.lstsq(np.asarray(tables)[:, VALID].T, change, rcond=None)
    assert residual.max() < 1e-4
    assert multipliers[0] < 0 < multipliers[1]
    slack = project(alpha, tables, bounds_of([-np.inf] * 2, [now[0] - 0.05, 10.0]), VALID)
    alone = project(alpha, tables[:1], bounds_of([-np.inf], [now[0] - 0.05]), VALID)
    np.testing.assert_allclose(slack, alone, atol=1e-5)


def test_the_cheapest_mixture_is_approached():
    alpha, tables = instance(4)
    cheapest = jnp.where(VALID, tables[0], jnp.inf).min(1).sum()
    projected = project(alpha, tables, bounds_of([-np.inf], [cheapest]), VALID)
    np.testing.assert_allclose(expected(projected, tables), cheapest, atol=1e-5)
    assert np.isfinite(projected).all()


# Networks within bounds


@st.composite
def problems(draw):
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    number = st.integers(0, 10**6) | st.floats(0, 10, allow_subnormal=False)
    rows = [
        tuple(tuple(draw(st.lists(number, min_size=count, max_size=count))) for count in counts)
        for _ in range(draw(st.integers(1, 2)))
    ]
    costs = tuple(AdditiveCost(f"cost {j}", "units", draw(number), table) for j, table in enumerate(rows))
    arch = np.asarray([draw(st.integers(0, count - 1)) for count in counts])
    alpha = np.asarray([draw(st.lists(st.floats(-9, 9), min_size=4, max_size=4)) for _ in counts])
    return counts, costs, arch, alpha[:, : max(counts)], draw(st.booleans())


ALL_COST_THE_SAME = AdditiveCost("cost 0", "units", 0, ((0, 0),))


@hypothesis.given(problems())
@hypothesis.example(
    ([2], (ALL_COST_THE_SAME, AdditiveCost("cost 1", "units", 0, ((1, 0),))), np.array([1]), np.zeros((1, 2)), False)
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_a_derived_network_is_within_its_bounds_always(problem):
    counts, costs, arch, alpha, two_sided = problem
    space = SearchSpace("any", tuple(Decision(str(d), tuple(map(str, range(n)))) for d, n in enumerate(counts)))
    totals = tuple(float(cost.total(arch)) for cost in costs)  # that of a network: bounds that can be met, just so
    bounds = Bounds(totals, totals if two_sided else None)
    method = RCDarts(space, Settings(steps=10), costs)
    valid = np.arange(max(counts)) < np.asarray(counts)[:, None]
    state = base.State(None, {}, np.where(valid, alpha, 0.0), None, None, None)  # alpha is all that matters here
    found = method.derive(state, bounds)
    assert knapsack.within(found, costs, bounds.upper, bounds.lower)
    # Nothing within the bounds has a larger sum of alpha.
    every = np.stack(np.unravel_index(np.arange(np.prod(counts)), counts), axis=1)
    kept = every[knapsack.within(every, costs, bounds.upper, bounds.lower)]
    rows = np.asarray(state.alpha, np.float64)
    sums = rows[np.arange(len(counts)), kept].sum(1)
    assert sums.max() <= rows[np.arange(len(counts)), found].sum() + 1e-4 * max(1, np.ptp(rows))


def test_bounds_that_no_network_keeps_are_refused():
    cost = AdditiveCost("macs", "multiply-adds", 10, ((0, 5), (1, 30)))
    space = SearchSpace("two", (Decision("a", ("x", "y")), Decision("b", ("x", "y"))))
    method = RCDarts(space, Settings(steps=10), (cost,))
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="budget of 10 multiply-adds .* is out of reach: .* have 11 to 45"):
        method.init(key, {}, 10.0)
    with pytest.raises(ValueError, match="lower bound of 46 multiply-adds .* is out of reach"):
        method.init(key, {}, Bounds((50.0,), (46.0,)))
    with pytest.raises(ValueError, match="macs <= 15, macs >= 12 cannot be met"):
        method.init(key, {}, Bounds((15.0,), (12.0,)))  # 11, 16, 40 or 45
    with pytest.raises(ValueError, match="upper bounds must be one for each of the 1 costs"):
        method.init(key, {}, (20.0, 30.0))
    with pytest.raises(ValueError, match="every at least 1"):
        RCDarts(space, Settings(steps=10), (cost,), every=0)


# Searches


TABLE = tasks.synthetic_table((3, 2, 4, 3), seed=5, interaction=0.1)
TASK, COST = tasks.TabularTask.from_table(TABLE), tasks.additive_cost(TABLE, "cost")


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(method, loss, state):
    steps = method.settings.steps
    return jax.lax.scan(lambda state, _: (method.step(state, loss, None, None)[0], None), state, length=steps)[0]


@pytest.mark.parametrize("reset_moments", [False, True])
def test_a_search_on_a_table_keeps_its_budget(reset_moments):
    loss = tasks.RelaxedTable(TASK)
    settings = Settings(steps=100, alpha_learning_rate=0.05)
    method = RCDarts(TASK.space, settings, (COST,), warmup=20, every=5, reset_moments=reset_moments)
    budget = COST.lowest + 0.4 * (COST.highest - COST.lowest)
    state = run(method, loss, method.init(jax.random.key(0), {}, budget))
    arch = method.derive(state, budget)
    assert COST.total(arch) <= budget
    within = TABLE.cost <= budget
    # Of the networks within the budget few are better.
    assert (TABLE.error[within] < TASK.error[TASK.rows(arch)]).mean() < 0.2
    free = Darts(TASK.space, settings, (COST,))
    unbound = run(free, loss, free.init(jax.random.key(0), {}, 0.0))
    assert COST.total(free.derive(unbound)) > budget  # the bound is what kept it


def test_projections_come_after_the_warm_up_every_so_often_and_at_the_end():
    loss = tasks.RelaxedTable(TASK)
    method = RCDarts(TASK.space, Settings(steps=23, alpha_learning_rate=1e-4), (COST,), warmup=5, every=10)
    budget = COST.lowest + 0.2 * (COST.highest - COST.lowest)
    state = method.init(jax.random.key(0), {}, budget)
    projected = []
    step = jax.jit(lambda state: method.step(state, loss, None, None)[0])
    for count in range(1, 24):
        before, state = state, step(state)
        if np.abs(np.asarray(state.alpha - before.alpha)).max() > 1e-3:  # more than ten steps of Adam
            projected.append(count)
    assert projected[0] == 15
    np.testing.assert_allclose(base.expected_costs(state.alpha, (COST,), TASK.space.num_choices), 0.2, atol=1e-4)


@pytest.mark.slow
def test_budgets_on_nas_bench_macro():
    """Bounds at the 25/50/75th percentile of flops: all within, and closer to the optimum than networks at random."""
    table = tasks.read_table(table_path("nasbench_macro.npz"), "flops")
    task, cost = tasks.TabularTask.from_table(table), tasks.additive_cost(table, "flops")
    loss, settings = tasks.RelaxedTable(task), Settings(steps=1000, alpha_learning_rate=3e-3)
    method = RCDarts(task.space, settings, (cost,))
    rng = np.random.default_rng(0)
    for percentile in (25, 50, 75):
        budget = float(np.percentile(table.cost, percentile))
        within = table.cost <= budget
        optimum = table.error[within].min()
        regrets = []
        for seed in range(5):
            arch = method.derive(run(method, loss, method.init(jax.random.key(seed), {}, budget)), budget)
            assert cost.total(arch) <= budget
            regrets.append(table.error[task.rows(arch)] - optimum)
        random = rng.choice(table.error[within], 1000) - optimum
        assert np.mean(regrets) < 0.25 * np.mean(random)
