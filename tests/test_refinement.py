"""More evaluations decide among the most promising networks: exact where all are seen, and no more than asked."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxnas import knapsack
from jaxnas.selection import loss_model, picking, refinement
from jaxnas.spaces.base import rows_of
from tests.test_picking import ARCHS, COUNTS, MACS, SPACE, observe, truth_of

pytestmark = pytest.mark.long

BUDGETS = [{"macs": 18}, {"macs": 25, "latency": 6.0}, {}]


def rough_truth(seed):
    """Losses that pairs of choices do not describe."""
    return truth_of(SPACE, seed) + 0.2 * np.random.default_rng(seed).normal(size=len(ARCHS))


def evaluation(truth, calls, offset=0.5):
    """Exact losses but for what a minibatch adds to all."""

    def evaluate(minibatch, archs):
        calls.append((minibatch, len(archs)))
        assert len(np.unique(archs, axis=0)) == len(archs)
        return truth[rows_of(COUNTS, archs)] + offset * np.sin(minibatch)

    return evaluate


@pytest.mark.parametrize("seed", range(4))
def test_the_best_within_each_budget_where_every_network_is_a_candidate(seed):
    truth, calls = rough_truth(seed), []
    kept = observe(SPACE, truth, steps=6, noise=0.3, seed=seed)
    found, spent = refinement.refine(SPACE, kept, BUDGETS, evaluation(truth, calls), 1500)
    for pick, budget in zip(found, BUDGETS):
        fits = knapsack.within(ARCHS, [SPACE.cost(name) for name in budget], list(budget.values())) if budget else True
        best = ARCHS[np.where(fits, truth, np.inf).argmin()]
        assert pick.encoding == tuple(best.tolist())
        assert all(pick.costs[name] <= limit for name, limit in budget.items())
    assert spent == sum(size for _, size in calls) <= 1500
    assert [minibatch for minibatch, _ in calls] == list(range(len(calls)))
    sizes = [size for _, size in calls]
    assert sizes == sorted(sizes, reverse=True)  # halving
    assert sizes[0] == len(ARCHS)


@pytest.mark.parametrize("evaluations", [2, 7, 40])
def test_no_more_is_spent_than_was_given(evaluations):
    truth, calls = rough_truth(0), []
    kept = observe(SPACE, truth, steps=6)
    _, spent = refinement.refine(SPACE, kept, BUDGETS[:1], evaluation(truth, calls), evaluations)
    assert 0 < spent <= evaluations


def test_what_is_measured_decides_against_the_model():
    """Ten evaluations say that a network is much better than the kept ones said."""
    truth = truth_of(SPACE, 1)
    kept = observe(SPACE, truth, steps=60)
    (before,) = picking.pick(SPACE, kept, [{}])
    second = picking.Minimum(SPACE, loss_model.fit(SPACE, kept)).best_within([], [], 2)[1]
    measured = truth.copy()
    measured[rows_of(COUNTS, second)] -= 1
    (after,), _ = refinement.refine(SPACE, kept, [{}], evaluation(measured, []), 200)
    assert before.encoding != after.encoding == tuple(second.tolist())


def test_the_programme_and_the_enumeration_name_the_same_candidates(monkeypatch):
    kept = observe(SPACE, truth_of(SPACE, 2))
    model = loss_model.fit(SPACE, kept)
    limits = [float(np.sort(MACS.total(ARCHS))[6])]
    enumerated = picking.Minimum(SPACE, model).best_within([MACS], limits, 50)
    assert 6 < len(enumerated) < 20
    monkeypatch.setattr(picking, "LARGEST_ENUMERATED", 0)
    np.testing.assert_array_equal(picking.Minimum(SPACE, model).best_within([MACS], limits, 50), enumerated)


def test_too_few_evaluations_are_refused():
    kept = observe(SPACE, truth_of(SPACE, 1))
    with pytest.raises(ValueError, match="evaluations must be at least 2 for each of the 3 budgets.*got 5"):
        refinement.refine(SPACE, kept, BUDGETS, evaluation(truth_of(SPACE, 1), []), 5)


def test_kept_evaluations_stay_as_they_are():
    kept = observe(SPACE, truth_of(SPACE, 1), steps=4)
    before = dataclasses.replace(kept, archs=kept.archs.copy(), losses=kept.losses.copy())
    refinement.refine(SPACE, kept, BUDGETS, evaluation(truth_of(SPACE, 1), []), 60)
    np.testing.assert_array_equal(kept.archs, before.archs)
    np.testing.assert_array_equal(kept.losses, before.losses)


@pytest.mark.parametrize("enumerated", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_main_effects_find_the_best_where_choices_add_up(seed, enumerated, monkeypatch):
    if not enumerated:
        monkeypatch.setattr(picking, "LARGEST_ENUMERATED", 0)
    single = np.random.default_rng(seed).normal(size=(len(COUNTS), max(COUNTS)))
    truth, calls = single[np.arange(len(COUNTS)), ARCHS].sum(1), []

    def evaluate(minibatch, archs):
        calls.append((minibatch, len(archs)))
        return truth[rows_of(COUNTS, archs)] + 0.5 * np.sin(minibatch)

    found, spent = refinement.by_main_effects(SPACE, BUDGETS, evaluate, 400, jax.random.key(seed))
    offsets = 0.5 * np.sin(np.arange(25, 25 + refinement.VALIDATIONS))
    reach = 1.2816 * offsets.std(ddof=1) / np.sqrt(len(offsets))
    for pick, budget in zip(found, BUDGETS):
        fits = knapsack.within(ARCHS, [SPACE.cost(name) for name in budget], list(budget.values())) if budget else True
        best = np.where(fits, truth, np.inf).argmin()
        assert pick.encoding == tuple(ARCHS[best].tolist())
        assert pick.expected_loss == pytest.approx(truth[best] + offsets.mean())
        np.testing.assert_allclose(np.subtract(pick.interval, pick.expected_loss), [-reach, reach], rtol=1e-3)
    assert [minibatch for minibatch, _ in calls] == list(range(25 + refinement.VALIDATIONS))
    assert spent == sum(size for _, size in calls)


def test_what_is_measured_counts_as_much_as_main_effects():
    """Of networks that are good by main effects, one whose own loss is far better is taken, one far worse is not."""
    single = np.array([[0.0, 0.1, 9.0, np.nan], [0.0, 0.1, np.nan, np.nan], [0.0, 9.0, 9.0, 9.0]])
    truth = single[np.arange(len(COUNTS)), ARCHS].sum(1)
    truth[rows_of(COUNTS, np.array([[0, 0, 0]]))] += 1.0  # the best by its choices
    (pick,), _ = refinement.by_main_effects(
        SPACE, [{}], lambda minibatch, archs: truth[rows_of(COUNTS, archs)], 800, jax.random.key(0)
    )
    assert pick.encoding in ((1, 0, 0), (0, 1, 0))


def test_main_effects_need_evaluations_and_finite_losses():
    with pytest.raises(ValueError, match="evaluations must be at least 6.*got 5"):
        refinement.by_main_effects(SPACE, BUDGETS, None, 5, jax.random.key(0))

    def evaluate(minibatch, archs):
        return np.full(len(archs), np.nan if minibatch > 3 else 1.0)

    with pytest.raises(ValueError, match="must be finite"):
        refinement.by_main_effects(SPACE, BUDGETS, evaluate, 64, jax.random.key(0))
