"""Networks for any budget from kept evaluations: exact minima, budgets kept, losses and intervals that hold."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnas import knapsack
from jaxnas.cost import AdditiveCost, InteractionCost
from jaxnas.results.evaluations import Evaluations
from jaxnas.selection import loss_model, main_effects, picking
from jaxnas.spaces import Decision, SearchSpace

COUNTS = (3, 2, 4)
ARCHS = np.array(list(itertools.product(*map(range, COUNTS))))
MACS = AdditiveCost("macs", "multiply-adds", 10, ((0, 4, 9), (0, 7), (1, 2, 3, 11)))
SECONDS = InteractionCost("latency", "seconds", 0.5, ((0, 1, 0), (0, 2), (0, 0, 0, 0)), (((0, 2), tuple(range(12))),))
SPACE = SearchSpace("small", tuple(Decision(f"d{d}", tuple("abcd"[:n])) for d, n in enumerate(COUNTS)), (MACS, SECONDS))


def observe(space, truth, steps=60, samples=8, noise=0.01, offset=0.0, seed=0):
    """Evaluations of random architectures: `truth` is float [N] over the enumerated space."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(space.size, size=(steps, samples))
    losses = truth[rows] + offset * rng.normal(size=(steps, 1)) + noise * rng.normal(size=rows.shape)
    return Evaluations.of(space.enumerate()[rows], losses)


def truth_of(space, seed, pairs=0.3):
    """Losses [N] of singles and pairs."""
    rng = np.random.default_rng(seed)
    archs, counts = space.enumerate(), space.num_choices
    total = sum(rng.normal(size=n)[archs[:, d]] for d, n in enumerate(counts))
    for d, e in itertools.combinations(range(len(counts)), 2):
        total = total + pairs * rng.normal(size=(counts[d], counts[e]))[archs[:, d], archs[:, e]]
    return 1 + 0.1 * total


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), row=st.integers(0, len(ARCHS) - 1), left_out=st.integers(0, 3))
def test_largest_sum_with_pairs_equals_enumeration(seed, row, left_out):
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(3, 4))
    pairs = [((d, e), rng.normal(size=(COUNTS[d], COUNTS[e]))) for d, e in ((0, 1), (0, 2), (1, 2))]
    value = gain[np.arange(3), ARCHS].sum(1) + sum(table[ARCHS[:, d], ARCHS[:, e]] for (d, e), table in pairs)
    masked = np.where(np.arange(4) < np.array(COUNTS)[:, None], gain, -np.inf)
    costs, limits = (MACS, SECONDS), (MACS.total(ARCHS[row]), SECONDS.total(ARCHS[row]))
    fits = knapsack.within(ARCHS, costs, limits)
    ranked = np.flatnonzero(fits)[np.argsort(-value[fits])]
    excluded = ARCHS[ranked[:left_out]]
    if len(ranked) <= left_out:
        with pytest.raises(ValueError, match="cannot be met"):
            knapsack.largest_sum(masked, costs, limits, pairs=pairs, excluded=excluded)
        return
    found = knapsack.largest_sum(masked, costs, limits, pairs=pairs, excluded=excluded)
    np.testing.assert_array_equal(found, ARCHS[ranked[left_out]])


def test_tables_sum_to_the_mean():
    model = loss_model.fit(SPACE, observe(SPACE, truth_of(SPACE, 1)))
    single, pairs = model.tables()
    total = single[np.arange(3), ARCHS].sum(1) + sum(table[ARCHS[:, d], ARCHS[:, e]] for (d, e), table in pairs)
    np.testing.assert_allclose(total + model.level, model.mean(ARCHS), atol=1e-6)
    assert np.isinf(single[1, 2:]).all()


@pytest.mark.parametrize("seed", range(3))
def test_the_programme_and_the_enumeration_agree(monkeypatch, seed):
    kept = observe(SPACE, truth_of(SPACE, seed), seed=seed)
    budgets = [{"macs": 18}, {"macs": 25, "latency": 6.0}, {"latency": 9.5}, {}]
    enumerated = picking.pick(SPACE, kept, budgets)
    monkeypatch.setattr(picking, "LARGEST_ENUMERATED", 0)
    assert picking.pick(SPACE, kept, budgets) == enumerated
    model = loss_model.fit(SPACE, kept)
    losses = model.mean(ARCHS)
    for found, budget in zip(enumerated, budgets):
        fits = knapsack.within(ARCHS, [SPACE.cost(name) for name in budget], list(budget.values())) if budget else True
        assert model.mean([found.encoding])[0] == pytest.approx(np.where(fits, losses, np.inf).min())


@pytest.mark.parametrize("seed", range(3))
def test_main_effects_of_uniform_networks_have_half_a_say(monkeypatch, seed):
    kept = observe(SPACE, truth_of(SPACE, seed), seed=seed)
    uniform = observe(SPACE, truth_of(SPACE, seed + 10), seed=seed)  # which disagrees
    budgets = [{"macs": 18}, {"macs": 25, "latency": 6.0}, {"latency": 9.5}, {}]
    model = loss_model.fit(SPACE, kept)
    effects = main_effects.fit(COUNTS, uniform.archs, uniform.losses)
    both = model.mean(ARCHS) + effects(ARCHS)
    enumerated = picking.pick(SPACE, kept, budgets, uniform=uniform)
    for found, budget in zip(enumerated, budgets):
        fits = knapsack.within(ARCHS, [SPACE.cost(name) for name in budget], list(budget.values())) if budget else True
        assert found.encoding == tuple(ARCHS[np.where(fits, both, np.inf).argmin()])
        assert found.expected_loss == pytest.approx(model.estimate([found.encoding])[0][0])  # of the loss alone
    front = picking.front(SPACE, kept, "macs", uniform=uniform)
    assert [found.encoding for found in front] == [
        tuple(ARCHS[n])
        for n in np.argsort(MACS.total(ARCHS), kind="stable")
        if not ((MACS.total(ARCHS) <= MACS.total(ARCHS[n])) & (both < both[n])).any()
    ]
    monkeypatch.setattr(picking, "LARGEST_ENUMERATED", 0)
    assert picking.pick(SPACE, kept, budgets, uniform=uniform) == enumerated


KEPT = observe(SPACE, truth_of(SPACE, 5))


@settings(deadline=None, max_examples=30)
@given(macs=st.floats(11, 40), seconds=st.floats(0.5, 15))
def test_never_over_budget(macs, seconds):
    fits = (MACS.total(ARCHS) <= macs) & (SECONDS.total(ARCHS) <= seconds)
    if not fits.any():
        with pytest.raises(ValueError, match="cannot be met by one architecture together"):
            picking.pick(SPACE, KEPT, [{"macs": macs, "latency": seconds}])
        return
    (found,) = picking.pick(SPACE, KEPT, [{"macs": macs, "latency": seconds}])
    assert MACS.total(found.encoding) == found.costs["macs"] <= macs
    assert SECONDS.total(found.encoding) == found.costs["latency"] <= seconds


def test_another_device_has_a_cost_of_its_own():
    other = dataclasses.replace(MACS, name="latency", table=((9, 4, 0), (0, 7), (11, 3, 2, 1)))
    first = picking.pick(SPACE, KEPT, [{"latency": 14}], [other])[0]
    losses = loss_model.fit(SPACE, KEPT).mean(ARCHS)
    fits = other.total(ARCHS) <= 14
    assert first.encoding == tuple(ARCHS[np.where(fits, losses, np.inf).argmin()])
    assert first.costs == {"latency": other.total(first.encoding)}


def test_offsets_of_minibatches_are_told_from_networks():
    truth = truth_of(SPACE, 2)
    kept = observe(SPACE, truth, noise=0.01, offset=1.0)
    (found,) = picking.pick(SPACE, kept, [{}])
    assert found.encoding == tuple(ARCHS[truth.argmin()])
    differences = loss_model.fit(SPACE, kept).mean(ARCHS)
    np.testing.assert_allclose(differences - differences.mean(), truth - truth.mean(), atol=0.02)


def test_the_level_is_that_of_the_weights_at_the_end():
    truth = truth_of(SPACE, 2)
    kept = observe(SPACE, truth, steps=80, noise=0.01)
    drift = np.where(np.arange(80) < 60, 2 - np.arange(80) / 30, 0.0)[:, None].astype(np.float32)
    drifting = dataclasses.replace(kept, losses=kept.losses + drift, joint=np.arange(80) < 60)
    np.testing.assert_allclose(loss_model.fit(SPACE, drifting).mean(ARCHS), truth, atol=0.03)


def test_losses_that_are_not_finite_or_heavy_do_little():
    truth = truth_of(SPACE, 3)
    kept = observe(SPACE, truth)
    losses = kept.losses.copy()
    losses[::7, 0], losses[3, 3], losses[5, 5] = np.nan, np.inf, 1e6
    model = loss_model.fit(SPACE, dataclasses.replace(kept, losses=losses))
    assert np.abs(model.mean(ARCHS) - truth).max() < 0.08
    assert np.isfinite(model.estimate(ARCHS)).all()


@pytest.mark.long
def test_intervals_hold_where_pairs_do_not_explain_all():
    held = []
    space = SearchSpace("binary", tuple(Decision(f"d{d}", ("a", "b", "c")) for d in range(5)))
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth = truth_of(space, seed) + 0.03 * rng.normal(size=space.size)
        model = loss_model.fit(space, observe(space, truth, steps=40, noise=0.03, seed=seed))
        archs = space.enumerate()
        expected, deviation = model.estimate(archs)
        z = np.abs(truth - expected) / deviation
        held.append((z < 1.2816).mean())
    assert 0.7 < np.mean(held) < 0.9


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        ([{"joules": 3}], "cost 'joules' is not known here; choose one of macs, latency"),
        ([{"macs": 1}], "out of reach"),
    ],
)
def test_bad_budgets_are_named(budgets, words):
    with pytest.raises(ValueError, match=words):
        picking.pick(SPACE, KEPT, budgets)


def test_evaluations_of_another_space_or_too_few_are_refused():
    with pytest.raises(ValueError, match="evaluations must be of space 'small'"):
        picking.pick(SPACE, Evaluations.of(np.zeros((9, 4, 5), int), np.zeros((9, 4))), [{}])
    with pytest.raises(ValueError, match="at least 8 finite losses, got 2"):
        picking.pick(SPACE, Evaluations.of(np.zeros((1, 2, 3), int), np.zeros((1, 2))), [{}])


def test_the_front_ascends_in_cost_and_descends_in_loss(monkeypatch):
    whole = picking.front(SPACE, KEPT, "macs")
    losses, totals = loss_model.fit(SPACE, KEPT).mean(ARCHS), MACS.total(ARCHS)
    better = [(losses[(totals <= total)].min() == loss) for total, loss in zip(totals, losses)]
    least = [min(losses[i] for i in np.flatnonzero(better) if totals[i] == t) for t in sorted(set(totals[better]))]
    expected = [loss for i, loss in enumerate(least) if loss < min(least[:i], default=np.inf)]
    modelled = loss_model.fit(SPACE, KEPT).mean([found.encoding for found in whole])
    np.testing.assert_allclose(modelled, expected)
    assert whole[0].costs["macs"] == MACS.lowest
    assert all(found.budgets == {"macs": found.costs["macs"]} for found in whole)
    monkeypatch.setattr(picking, "LARGEST_ENUMERATED", 0)
    some = picking.front(SPACE, KEPT, "macs")
    assert {found.encoding for found in some} <= {found.encoding for found in whole}


@pytest.mark.long
def test_a_space_too_large_to_enumerate_is_solved_in_seconds():
    space = SearchSpace(
        "large",
        tuple(Decision(f"d{d}", ("a", "b", "c")) for d in range(13)),
        (AdditiveCost("macs", "units", 1, tuple((0, d + 1, 2 * d + 2) for d in range(13))),),
    )
    assert space.size > picking.LARGEST_ENUMERATED
    rng = np.random.default_rng(0)
    archs = space.sample_uniform(rng, 1600).reshape(100, 16, 13)
    losses = 1 - 0.05 * archs.sum(-1) + 0.1 * (archs[..., 0] * archs[..., 12] == 4) + 0.02 * rng.normal(size=(100, 16))
    found = picking.pick(space, Evaluations.of(archs, losses), [{"macs": 60}, {"macs": 183}])
    assert found[0].costs["macs"] <= 60
    assert sum(found[0].encoding) > 12  # the cheap decisions first; a random network within the budget has 8
    assert (found[1].encoding[0], found[1].encoding[12]) != (2, 2)
