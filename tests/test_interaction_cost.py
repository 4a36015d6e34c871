"""Costs with products of decisions: totals, bounds and budgets against brute force over all architectures."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.devices import Reachable
from benchmarks.picking import cost_of
from jaxnas import distribution, knapsack, strategies, tasks
from jaxnas.cost import AdditiveCost, InteractionCost, JointCost
from jaxnas.spaces import Decision, SearchSpace

# A chain of widths; a shared width with two others, one of them with its kernel; tables of no pattern at all.
WIDTHS = ((2, 4, 8), (3, 6), (1, 5, 7))


def chain():
    table = tuple(tuple(0 for _ in row) for row in WIDTHS)
    pairs = tuple(
        ((a, b), tuple(m * n for m, n in itertools.product(WIDTHS[a], WIDTHS[b]))) for a, b in ((0, 1), (1, 2))
    )
    return InteractionCost("macs", "multiply-adds", 10, table, pairs)


def star():
    triple = tuple(m * n * k for m, n, k in itertools.product(WIDTHS[0], WIDTHS[1], (1, 9, 25)))
    pair = tuple(-m * n for m, n in itertools.product(WIDTHS[0], (1, 2)))
    return InteractionCost(
        "macs", "multiply-adds", 0, ((1, 2, 3), (4, 0), (0, 1, 0), (7, 2)), (((0, 1, 2), triple), ((0, 3), pair))
    )


def arbitrary():
    rng = np.random.default_rng(3)
    counts = (3, 2, 4, 3)
    table = tuple(tuple(rng.integers(-50, 50, n).tolist()) for n in counts)
    pairs = tuple(
        (pair, tuple(rng.integers(-50, 50, counts[pair[0]] * counts[pair[1]]).tolist()))
        for pair in itertools.combinations(range(4), 2)
    )
    return InteractionCost("latency", "microseconds", 5, table, pairs)


SPACES = {"chain": chain, "star": star, "arbitrary": arbitrary}


@pytest.fixture(params=SPACES, scope="module")
def cost(request):
    return SPACES[request.param]()


@pytest.fixture(scope="module")
def archs(cost):
    return np.asarray(list(itertools.product(*(range(len(row)) for row in cost.table))), np.int32)


def brute_force(cost, archs):
    """Totals by the definition, one architecture after the other."""
    totals = []
    for arch in archs.tolist():
        total = cost.fixed + sum(row[c] for row, c in zip(cost.table, arch))
        for decisions, flat in cost.interactions:
            place = 0
            for d in decisions:
                place = place * len(cost.table[d]) + arch[d]
            total += flat[place]
        totals.append(total)
    return np.asarray(totals)


def test_a_product_by_hand():
    assert chain().total([2, 1, 0]) == 10 + 8 * 6 + 6 * 1
    assert chain().lowest == 10 + 2 * 3 + 3 * 1
    assert chain().highest == 10 + 8 * 6 + 6 * 7


def test_totals_bounds_and_scaled_costs(cost, archs):
    totals = brute_force(cost, archs)
    assert cost.total(archs).tolist() == totals.tolist()
    assert (cost.lowest, cost.highest) == (totals.min(), totals.max())
    assert (cost.total(cost.cheapest), cost.total(cost.dearest)) == (totals.min(), totals.max())
    assert isinstance(cost.lowest, int)
    scaled = (totals - totals.min()) / (totals.max() - totals.min())
    np.testing.assert_allclose(jax.jit(cost)(archs), scaled, atol=1e-6)
    np.testing.assert_allclose([cost.scale(total) for total in totals], scaled, atol=1e-12)


def test_the_expected_cost_is_exact(cost, archs):
    theta = np.asarray(distribution.uniform([len(row) for row in cost.table]))
    theta = np.stack([theta, np.random.default_rng(0).random(theta.shape) * (theta > 0)])
    theta = theta / theta.sum(-1, keepdims=True)
    probabilities = np.prod(theta[:, np.arange(archs.shape[1]), archs], axis=-1)
    expected = probabilities @ np.asarray(cost(archs), np.float64)
    np.testing.assert_allclose(JointCost((cost,)).expected(jnp.asarray(theta))[:, 0], expected, atol=1e-5)


def test_the_most_probable_within_a_budget_is_that_of_brute_force(cost, archs):
    rng = np.random.default_rng(1)
    totals = brute_force(cost, archs)
    widest = max(len(row) for row in cost.table)
    for _ in range(100):
        theta = np.zeros((len(cost.table), widest))
        for row, choices in zip(theta, cost.table):
            row[: len(choices)] = rng.dirichlet(np.full(len(choices), 0.5)) + 1e-6
        theta /= theta.sum(-1, keepdims=True)
        budget = int(rng.choice(totals))  # a total of some architecture: the solver meets it with equality
        found = knapsack.most_probable(theta, [cost], [budget])
        log_probs = np.log(theta[np.arange(len(theta)), archs]).sum(-1)
        best = log_probs[totals <= budget].max()
        assert cost.total(found) <= budget
        assert np.log(theta[np.arange(len(theta)), found]).sum() == pytest.approx(best, abs=1e-6)


def test_two_costs_and_a_lower_bound_together(cost, archs):
    other = AdditiveCost("params", "parameters", 1, tuple(tuple(range(len(row))) for row in cost.table))
    rng = np.random.default_rng(2)
    totals, others = brute_force(cost, archs), other.total(archs)
    gain = rng.standard_normal((len(cost.table), max(len(row) for row in cost.table)))
    for row, choices in zip(gain, cost.table):
        row[len(choices) :] = -np.inf
    sums = gain[np.arange(len(gain)), archs].sum(-1)
    low, high = np.quantile(totals, [0.2, 0.7])
    allowed = (totals <= high) & (totals >= low) & (others <= 4)
    found = knapsack.largest_sum(gain, [cost, other], [high, 4], [low, 0])
    assert gain[np.arange(len(gain)), found].sum() == pytest.approx(sums[allowed].max(), abs=1e-6)


def test_budgets_out_of_reach_name_the_range():
    with pytest.raises(ValueError, match="budget of 5 multiply-adds .* have 19 to 100"):
        knapsack.most_probable(np.full((3, 3), 1 / 3), [chain()], [5])


def test_too_many_decisions_that_all_interact_are_refused():
    rng = np.random.default_rng(0)
    pairs = tuple((pair, tuple(rng.integers(-9, 9, 16).tolist())) for pair in itertools.combinations(range(14), 2))
    cost = InteractionCost("latency", "microseconds", 0, ((0, 0, 0, 0),) * 14, pairs)
    with pytest.raises(ValueError, match="interactions must be sparse"):
        _ = cost.lowest


def test_a_search_with_budgets_on_a_cost_with_products():
    cost = chain()
    decisions = tuple(Decision(f"width {d}", tuple(map(str, row))) for d, row in enumerate(WIDTHS))
    space = SearchSpace("chain", decisions, (cost,))
    search = strategies.within_budgets(strategies.ImportanceSampling, space, [cost], [[40], [100]], samples=8)
    state = search.init(jax.random.key(0))

    @jax.jit
    def run(state):
        def step(state, key):  # the loss falls with every width
            archs, state = search.ask(key, state)
            return search.tell(state, archs, -archs.sum(-1).astype(jnp.float32))[0], None

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(0), 200))[0]

    found = search.modes(run(state))
    assert cost.total(found[0]) <= 40
    assert cost.total(found[1]) == 100


def test_the_mean_in_the_program_of_a_search_is_that_of_all_architectures():
    """jaxlib 0.10 miscompiled a mean with one axis for each decision of a table, in a loop of search steps alone."""
    archs = np.asarray(list(itertools.product(range(5), repeat=6)), np.int32)
    totals = np.random.default_rng(0).uniform(1, 2, len(archs))
    table = tasks.Table.from_arrays(archs, archs.sum(1) / 30, totals)
    cost, task = cost_of(table, "latency"), tasks.TabularTask.from_table(table)
    inner = strategies.ImportanceSampling(task.space, (0.1, 0.2), cost=JointCost((cost,)), samples=8)
    search = Reachable(inner, ((1.4,), (1.6,)))

    def step(state, key):
        ask_key, noise_key = jax.random.split(key)
        sampled, state = search.ask.__wrapped__(search, ask_key, state)
        state, _ = search.tell.__wrapped__(search, state, sampled, task.evaluate(noise_key, sampled))
        return state, (state.theta, search.cost.expected(state.theta), inner.cost(sampled))

    def run(key):
        return jax.lax.scan(step, search.init(key), jax.random.split(key, 3))[1]

    theta, mean, _ = jax.jit(jax.vmap(run))(jax.vmap(jax.random.key)(np.arange(1)))
    probabilities = np.asarray(theta[0], np.float64)[:, :, np.arange(6), archs].prod(-1)  # [T, K, N]
    np.testing.assert_allclose(mean[0, ..., 0], probabilities @ cost.scale(totals), rtol=1e-4)
