"""PNAG: the labels of pairs, what evaluator and generator learn, and budgets that are never exceeded."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import metrics, strategies, tasks
from jaxnas.strategies.related import archive as archives
from jaxnas.strategies.related import budget_evaluator, neural
from jaxnas.strategies.related.pnag import PNAG
from jaxnas.tasks import TabularTask, synthetic_table
from tests import oracles
from tests.test_constrained import of_span

PENALTIES = (0.02, 0.1, 0.5)


def test_labels_of_pairs_in_all_cases_of_feasibility():
    #                    within, good; within, bad; beyond, best; far beyond
    losses = jnp.array([0.3, 0.5, 0.1, 0.2])
    costs = jnp.array([0.4, 0.2, 0.6, 0.9])
    labels = np.asarray(budget_evaluator.preferred(losses, costs, jnp.float32(0.5)))
    assert labels[0, 1] == 1  # both within: the smaller loss
    assert labels[0, 2] == 1  # one within: the cheaper, whatever its loss
    assert labels[1, 3] == 1
    assert labels[2, 3] == 1  # none within: the cheaper
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_array_equal(labels[off], -labels.T[off])
    np.testing.assert_array_equal(np.diag(labels), -1)  # equals count as -1 both ways
    # At a budget that holds all of them the losses alone decide.
    np.testing.assert_array_equal(
        budget_evaluator.preferred(losses, costs, jnp.float32(1.0)) > 0, losses[:, None] < losses
    )


def test_generator_probabilities_sum_to_one_and_are_those_it_samples_with():
    generator = neural.Generator.of_choices([("a", "b"), ("x", "y", "z"), ("a", "b")], conditions=2, hidden=4)
    assert generator.kinds == (0, 1, 0)
    params = jax.tree.map(lambda leaf: 20 * leaf, generator.init(jax.random.key(0)))  # far from uniform
    size = 4000
    archs, log_probs, _ = jax.jit(generator.sample)(
        params, generator.noise(jax.random.key(1), (size,)), jnp.ones(size, int)
    )
    archs, log_probs = np.asarray(archs), np.asarray(log_probs)
    total = 0.0
    for arch in oracles.enumerate_space((2, 3, 2)):
        drawn = (archs == arch).all(-1)
        probability = float(np.exp(log_probs[drawn].mean())) if drawn.any() else 0.0
        assert abs(drawn.mean() - probability) < 5 * np.sqrt(0.25 / size)
        total += probability
    assert abs(total - 1) < 0.03


def filled(task, capacity, rows, errors=None):
    """An archive of rows of a table."""
    archs = np.stack(np.unravel_index(rows, task.space.num_choices), axis=1)
    archive = archives.empty(capacity, archs.shape[1])
    errors = (task.error if errors is None else errors)[rows]
    place = np.arange(len(rows))
    return archive.replace(
        archs=archive.archs.at[place].set(archs),
        losses=archive.losses.at[place].set(errors),
        costs=archive.costs.at[place].set(task.cost.scaled[rows]),
        counts=archive.counts.at[place].set(1),
        added=jnp.int32(len(rows)),
    )


@functools.cache
def small():
    return TabularTask.from_table(synthetic_table((3, 4, 3, 3), seed=5))


@pytest.mark.slow
def test_a_fit_learns_to_prefer_what_is_better_and_within_the_budget():
    task = small()
    method = PNAG(
        task.space, PENALTIES, cost=task.cost, budgets=of_span(task.cost, (0.3, 0.6, 1.0)), capacity=108, width=32
    )
    archive = filled(task, 108, np.arange(0, 108, 2))  # every other architecture
    state = method.init(jax.random.key(0)).replace(archive=archive)
    fit = jax.jit(method.fit)
    for step in range(3):
        estimates, generator, generated, _, costs = fit(state.replace(step=jnp.int32(step)))
        state = state.replace(generator=generator)
    costs = np.asarray(costs).reshape(-1, 3)
    assert np.all(np.diff(costs.mean(0)) > 0)  # the larger the budget, the more is spent
    assert np.mean(costs <= np.array([0.3, 0.6, 1.0])) > 0.8
    errors = task.error[task.rows(np.asarray(generated))].reshape(-1, 3)
    assert errors[:, 2].mean() < task.error.mean() - 0.5 * task.error.std()  # and not by chance
    assert metrics.kendall_tau(np.asarray(estimates)[:54], task.error[::2]) > 0.5
    assert np.all(np.isinf(np.asarray(estimates)[54:]))


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
    seed=st.integers(0, 1000),
    budgets=st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    known=st.integers(0, 36),
)
def test_what_is_returned_is_always_within_its_budget(seed, budgets, known):
    task = TabularTask.from_table(synthetic_table((3, 4, 3), seed=seed))
    method = PNAG(task.space, PENALTIES, cost=task.cost, budgets=of_span(task.cost, budgets), capacity=100)
    rng = np.random.default_rng(seed)
    archive = filled(task, 100, rng.permutation(36)[:known])
    generated = rng.integers((3, 4, 3), size=(24, 3))
    state = method.init(jax.random.key(seed)).replace(archive=archive)
    for told in (state, state.replace(generated=jnp.asarray(generated, jnp.int32))):
        if told is not state:
            rows = task.rows(generated)
            losses, costs = jnp.asarray(rng.normal(size=24)), jnp.asarray(task.cost.scaled[rows])
            told = told.replace(generated_losses=losses, generated_costs=costs)
        answers = task.rows(np.asarray(method.within_budgets(told)))
        assert np.all(task.cost.scaled[answers] <= np.asarray(budgets) + 1e-6)


def test_repeats_are_averaged_and_the_oldest_makes_room():
    archive = archives.empty(2, 1)
    archs = jnp.array([[0], [1], [0]])
    archive = archives.add(archive, archs, jnp.array([0.2, 0.5, 0.4]), jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(archive.losses, [0.3, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(archive.counts, [2, 1])
    archive = archive.replace(estimates=jnp.array([0.1, 0.2]))
    archive = archives.add(archive, jnp.array([[2]]), jnp.array([0.9]), jnp.array([0.5]))
    np.testing.assert_array_equal(archive.archs, [[2], [1]])
    np.testing.assert_array_equal(archive.counts, [1, 1])
    assert np.isinf(archive.estimates[0])  # it was another architecture's
    np.testing.assert_array_equal(archive.costs, [0.5, 1.0])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"budgets": (0.5,)}, "budgets"),
        ({"budgets": (9.0, -2.0, 9.0)}, "-2"),
        ({"founders": 1}, "founders"),
        ({"growth": 0.5}, "growth"),
        ({"capacity": 50}, "capacity"),
        ({"width": 0}, "width"),
        ({"tries": 0}, "tries"),
    ],
)
def test_bad_settings_are_errors_that_name_them(settings, named):
    with pytest.raises(ValueError, match=named):
        strategies.make("pnag", small().space, PENALTIES, cost=small().cost, **settings)


@pytest.mark.slow
def test_on_nasbench_macro_the_evaluator_ranks_and_the_generator_keeps_budgets(macro_path):
    task = TabularTask.from_table(tasks.read_table(macro_path, "flops"))
    budgets = tuple(np.quantile(task.cost.scaled, (0.1, 0.3, 0.5, 0.7, 0.9)).tolist())
    method = PNAG(task.space, (0.3, 0.15, 0.08, 0.04, 0.02), cost=task.cost, budgets=of_span(task.cost, budgets))
    fit, best = jax.jit(method.fit), [task.error[task.cost.scaled <= budget].min() for budget in budgets]
    regret, spent = {"true": [], "shuffled": []}, []
    for name, seed in (("true", 0), ("true", 1), ("true", 2), ("shuffled", 0)):
        rng = np.random.default_rng(seed)
        rows = rng.permutation(len(task.error))
        archive = filled(task, 4096, rows[:500], task.error if name == "true" else rng.permutation(task.error))
        state = method.init(jax.random.key(seed)).replace(archive=archive)
        for step in range(8):
            _, generator, generated, losses, costs = fit(state.replace(step=jnp.int32(step)))
            state = state.replace(generator=generator)
        proposed = state.replace(
            archive=archives.empty(4096, 8), generated=generated, generated_losses=losses, generated_costs=costs
        )
        answers = task.rows(np.asarray(method.within_budgets(proposed)))
        regret[name].append(np.mean(task.error[answers] - best))
        if name == "shuffled":
            continue
        held = rows[500:1500]
        archs = jnp.asarray(np.stack(np.unravel_index(held, task.space.num_choices), axis=1))
        evaluator = budget_evaluator.train(jax.random.key(seed + 1), archive, budgets, task.space.num_choices, 128)
        within = task.cost.scaled[held] <= budgets[4]
        score = budget_evaluator.scores(evaluator, archs, jnp.full(1000, 4), task.space.num_choices, 5)
        assert metrics.kendall_tau(-np.asarray(score)[within], task.error[held][within]) >= 0.7
        many = jnp.tile(jnp.arange(5), 200)
        noise = method.generator.noise(jax.random.key(seed + 2), many.shape)
        sampled, _, _ = method.generator.sample(generator, noise, many)
        spent.append(task.cost.scaled[task.rows(np.asarray(sampled))].reshape(200, 5))
    # One generator alone may miss the tightest budget, or answer two budgets alike.
    assert np.mean(np.array(spent) <= np.array(budgets) + 1e-6) >= 0.9
    assert np.all(np.diff(np.mean(spent, axis=(0, 1))) > 0)
    assert np.mean(regret["true"]) < np.mean(regret["shuffled"])
