"""MoARR-style: the models and their error, the choice by hypervolume, the batches and the share of exploration."""

import functools

import jax
import numpy as np
import pytest

from jaxnas import metrics, strategies, tasks
from jaxnas.strategies.related import linear_ensemble, pareto
from jaxnas.strategies.related.moarr import EXPLORATION, MoARR
from jaxnas.strategies.shared_model import design as designs
from jaxnas.tasks import TabularTask, search_seeds, synthetic_table
from tests import oracles

COUNTS = (3, 4, 3, 3)


@functools.cache
def small():
    return TabularTask.from_table(synthetic_table(COUNTS, seed=5))


def test_with_an_oracle_and_a_full_pool_the_whole_true_front_is_chosen():
    error, cost = small().error, small().cost.scaled
    dominated = [np.any((error <= e) & (cost <= c) & ((error < e) | (cost < c))) for e, c in zip(error, cost)]
    nothing = np.zeros(0)
    chosen = pareto.greedy(error, cost, nothing, nothing, picks=108)
    assert sorted(chosen) == sorted(np.flatnonzero(~np.array(dominated)))
    # In batches too: what is known already is neither chosen again nor in the way.
    first = pareto.greedy(error, cost, nothing, nothing, picks=3)
    rest = pareto.greedy(error, cost, error[first], cost[first], picks=108)
    assert sorted([*first, *rest]) == sorted(chosen)


def test_improvement_is_the_difference_of_hypervolumes():
    rng = np.random.default_rng(0)
    for _ in range(5):
        known, new = rng.random((6, 2)), rng.random((20, 2)) * 1.2
        front = pareto.front(*known.T)
        gain = pareto.improvement(*new.T, *known[front].T, 1.1)
        before = metrics.hypervolume(*known.T)
        for point, expected in zip(new, gain):
            both = np.concatenate([known, point[None]])
            np.testing.assert_allclose(metrics.hypervolume(*both.T) - before, expected, atol=1e-9)


def test_models_recover_interactions_and_know_where_they_err():
    design = designs.build(COUNTS)
    archs, rng = oracles.enumerate_space(COUNTS), np.random.default_rng(0)
    seen = rng.permutation(108)[:80]
    coefficients = linear_ensemble.fit(design, archs[seen], small().error[seen], np.ones(80))
    mean, error = linear_ensemble.predict(design, coefficients, archs)
    others = np.setdiff1d(np.arange(108), seen)
    assert np.abs(mean - small().error)[others].mean() < 0.25 * small().error.std()
    assert error[others].mean() > error[seen].mean()
    noisy = small().error[seen] + 0.3 * rng.normal(size=80)
    _, error_of_noisy = linear_ensemble.predict(
        design, linear_ensemble.fit(design, archs[seen], noisy, np.ones(80)), archs
    )
    assert error_of_noisy.mean() > error.mean()


def test_a_repeated_measurement_counts_as_often_as_it_was_made():
    design = designs.build((2, 2))
    archs, losses = oracles.enumerate_space((2, 2)).repeat(5, 0), np.linspace(0, 1, 20)
    one = linear_ensemble.fit(design, archs, losses, np.full(20, 2.0))
    features = linear_ensemble.features(design, archs)
    # With weights of 2 the sums are those of the data given twice.
    pull = np.append(np.where(design.order == 1, linear_ensemble.PAIRS, 1.0), 1e-6)
    held = np.arange(20) % linear_ensemble.MODELS == 0
    solutions = []
    for ridge in linear_ensemble.RIDGES:
        rows, targets = np.repeat(features[~held], 2, 0), np.repeat(losses[~held] - losses.mean(), 2)
        solution = np.linalg.solve(rows.T @ rows + np.diag(ridge * pull), rows.T @ targets)
        solution[-1] += losses.mean()
        solutions.append(solution)
    assert min(np.abs(one[0] - solution).max() for solution in solutions) < 1e-8


def test_batches_are_free_of_duplicates_and_of_the_archive_and_exploration_adapts():
    task = small()
    method = MoARR(task.space, (0.1, 0.3), samples=6, cost=task.cost, founders=24, pool=60, capacity=108)
    state, known, shares = method.init(jax.random.key(0)), set(), []
    for step in range(9):
        archs, state = method.ask(jax.random.key(step), state)
        rows = task.rows(archs).tolist()
        assert len(set(rows)) == 12
        assert not known & set(rows)
        known |= set(rows)
        before = state
        state, _ = method.tell(state, archs, task.lookup(archs))
        if step > 1:
            new = pareto.front(*(np.asarray(v)[: step * 12 + 12] for v in (state.archive.losses, state.archive.costs)))
            factor = 0.9 if np.any(new >= step * 12) else 1.1
            expected = np.clip(float(before.exploration) * factor, *EXPLORATION)
            np.testing.assert_allclose(state.exploration, expected, rtol=1e-6)
            shares.append(expected)
    assert known == set(range(108))
    assert min(shares) < EXPLORATION[1]


def test_recommendations_are_better_than_chance():
    task = small()
    method = MoARR(task.space, (0.1, 0.3), samples=6, cost=task.cost, founders=48, pool=200, capacity=108)
    state = method.init(jax.random.key(1))
    for step in range(4):
        archs, state = method.ask(jax.random.key(10 + step), state)
        state, _ = method.tell(state, archs, task.lookup(archs))
    known = set(task.rows(np.asarray(state.archive.archs[:48])).tolist())
    unseen = set(pareto.front(task.error, task.cost.scaled).tolist()) - known
    recommended, _ = method.ask(jax.random.key(20), state)
    hits = unseen & set(task.rows(np.asarray(recommended)[:6]).tolist())  # half of the step explores
    assert len(unseen) > 4
    assert len(hits) >= 3  # of six uniform ones not one would be expected


@pytest.mark.parametrize(
    ("settings", "named"), [({"pool": 3}, "pool"), ({"optimism": -1.0}, "optimism"), ({"growth": 0.0}, "growth")]
)
def test_bad_settings_are_errors_that_name_them(settings, named):
    with pytest.raises(ValueError, match=named):
        strategies.make("moarr", small().space, (0.1, 0.2), cost=small().cost, **settings)


@pytest.mark.slow
def test_hypervolume_on_nasbench201_of_all_that_200_evaluations_saw(nasbench201_path):
    """Without noise, against as many uniform ones and the population of NSGA-II; reference point 1.1."""
    task = TabularTask.from_table(tasks.read_table(nasbench201_path, "params", "error_valid"))
    penalties, rng = (0.02, 0.039, 0.077, 0.152, 0.3), np.random.default_rng(0)
    rows = {"random": np.stack([rng.permutation(len(task.error))[:200] for _ in range(20)])}
    for name, read, settings in (
        ("moarr", lambda state: state.archive.archs, {"capacity": 200}),
        ("nsga2", lambda state: state.archs, {}),
    ):
        method = strategies.make(name, task.space, penalties, cost=task.cost, **settings)
        rows[name] = task.rows(search_seeds(task, method, (200,), seeds=20, read=read)[:, 0])
    found = {name: metrics.hypervolume(task.error[r], task.cost.scaled[r]).mean() for name, r in rows.items()}
    assert found["moarr"] > found["random"]
    assert found["moarr"] > found["nsga2"]
