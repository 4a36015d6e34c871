"""Losses that are not finite, far too large, or drowned by penalties: every strategy of the registry survives them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import cost, metrics, strategies
from tests import oracles
from tests import test_strategies as contract

PENALTIES = contract.PENALTIES
STEPS = 45  # of S = 6 to 42 samples, on a table of 216 networks
SHARE = 0.05  # of the losses are bad
# What counts steps, and what schedules by that count, goes on in a step of which nothing is usable.
ADVANCES = {"step", "next_fit"}

all_strategies = pytest.mark.parametrize("name", list(strategies.STRATEGIES))


@functools.cache
def built(name):
    """The strategies of the contract tests, whose programs are compiled once for both; and one within budgets."""
    if name != "within_budgets":
        return contract.built(name)
    macs = cost.AdditiveCost("macs", "multiply-adds", 0, tuple(tuple(range(c)) for c in SPACE.num_choices))
    budgets = [[3.0], [5.0], [10.0]]
    return strategies.within_budgets(strategies.ImportanceSampling, SPACE, [macs], budgets)


SPACE = contract.task().space


def searched(method, spoil):
    """A search, losses passed through `spoil`(losses, rng, step): relative regret [K], last state, losses ignored."""
    task, rng = contract.task(), np.random.default_rng(0)
    state, ignored = method.init(jax.random.key(0)), 0
    lookup = jax.jit(task.lookup)
    for step in range(STEPS):
        archs, state = method.ask(jax.random.key(step), state)
        losses = np.asarray(lookup(archs)) + 0.005 * rng.normal(size=len(archs))
        losses = spoil(losses.astype(np.float32), np.random.default_rng(step), step)
        state, info = method.tell(state, archs, losses)
        assert np.isfinite(info.objective).sum() == np.isfinite(losses).sum() * len(PENALTIES)
        assert int(info.ignored) == (~np.isfinite(losses)).sum()
        ignored += int(info.ignored)
    regret = metrics.relative_regret(task.objective(method.penalties), task.rows(np.asarray(method.modes(state))))
    return regret, state, ignored


@functools.cache
def undisturbed(name):
    return searched(built(name), plain)[0]


def plain(losses, rng, step):
    return losses


def not_finite(losses, rng, step):
    """NaN and both infinities here and there, and steps of nothing else, the first among them."""
    bad = rng.choice([np.nan, np.inf, -np.inf], size=len(losses)).astype(np.float32)
    return np.where((rng.random(len(losses)) < SHARE) | (step % 7 == 0), bad, losses)


def far_too_large(losses, rng, step):
    """A loss of 1e6 every tenth step."""
    return np.where((np.arange(len(losses)) == rng.integers(len(losses))) & (step % 10 == 1), np.float32(1e6), losses)


@pytest.mark.long
@pytest.mark.parametrize("spoil", [not_finite, far_too_large])
@contract.whole_searches
def test_a_search_finds_what_it_finds_without(name, spoil):
    regret, state, ignored = searched(built(name), spoil)
    assert (ignored > 0) == (spoil is not_finite)
    assert regret.mean() <= undisturbed(name).mean() + 0.15
    for leaf in jax.tree.leaves(state):
        assert not np.isnan(np.asarray(leaf, np.float64)).any()


@pytest.mark.parametrize("name", [*strategies.STRATEGIES, "within_budgets"])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_without_any_finite_loss_changes_nothing_but_counts_of_steps(name, first):
    method = built(name)
    state = method.init(jax.random.key(0))
    for step in range(0 if first else 3):
        archs, state = method.ask(jax.random.key(step), state)
        state, _ = method.tell(state, archs, contract.task().lookup(archs))
    archs, state = method.ask(jax.random.key(9), state)
    after, info = method.tell(state, archs, jnp.full(len(archs), jnp.nan))
    assert int(info.ignored) == len(archs)
    assert (np.asarray(info.objective) == np.inf).all()
    changed = set()

    def compare(path, before, after):
        if not np.array_equal(before, after):
            changed.add(path[-1].name)

    jax.tree_util.tree_map_with_path(compare, state, after)
    # The shared model remembers the step as one in which nothing was usable, and may take it into its counts.
    remembers = {"archs", "costs", "counted"} if name == "shared_model" else set()
    assert changed <= ADVANCES | remembers
    np.testing.assert_array_equal(method.modes(after), method.modes(state))


@all_strategies
def test_ignored_samples_are_as_if_they_had_not_been(name):
    """Which bad number it is, and what was evaluated there, plays no part."""
    method, state, archs = contract.stepped(name)
    losses = np.asarray(contract.task().lookup(archs)).copy()
    states = []
    for bad in (np.nan, np.inf, -np.inf):
        losses[[1, 4]] = bad
        after, info = method.tell(state, archs, losses)
        assert int(info.ignored) == 2
        states.append((after, info))
    jax.tree.map(np.testing.assert_array_equal, states[0], states[1])
    jax.tree.map(np.testing.assert_array_equal, states[0], states[2])


@contract.whole_searches
def test_huge_penalties_beside_0(name):
    method = strategies.make(name, SPACE, (0.0, 1e12, 1e30), cost=contract.task().cost)
    regret, _, _ = searched(method, plain)
    usual = undisturbed(name)
    assert regret[0] <= usual[0] + 0.1  # of the least loss
    assert regret[1:].max() <= usual[2] + 0.01  # of the least cost, for which a penalty of 100 looks too


def test_a_penalty_that_no_float32_holds_is_refused():
    with pytest.raises(ValueError, match="penalties must be at most 1e\\+30"):
        strategies.make("random", SPACE, (0.0, 1e39), cost=contract.task().cost)


def test_one_distribution_stays_plain_asng_beside_losses_that_are_not_finite():
    """Four usable samples and one that is not: a step of ASNG on the four."""
    table = contract.task()
    method = strategies.make("importance_sampling", SPACE, (0.2,), samples=5, cost=table.cost)
    state, reference = method.init(jax.random.key(0)), oracles.State(SPACE.num_choices)
    for step in range(30):
        archs, state = method.ask(jax.random.key(step), state)
        losses, ignored = np.array(table.lookup(archs)), step % 5
        losses[ignored] = (np.nan, np.inf, -np.inf)[step % 3]
        state, info = method.tell(state, archs, losses)
        usable = np.arange(5) != ignored
        oracles.asng_step(reference, np.asarray(archs)[usable], np.asarray(info.objective)[0, usable])
        for d, row in enumerate(reference.theta):
            np.testing.assert_allclose(state.theta[0, d, : len(row)], row, atol=1e-4)
