"""SMEM-NAS-style: the comparison and its ranking, the two populations, and what is asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import metrics, strategies, tasks
from jaxnas.strategies.related import archive as archives
from jaxnas.strategies.related import comparator, pareto
from jaxnas.strategies.related.populations import Population, merged
from jaxnas.strategies.related.smem_nas import SMEMNAS
from jaxnas.tasks import TabularTask, search_seeds, synthetic_table
from tests import oracles

COUNTS = (3, 4, 3, 3)


@functools.cache
def small():
    return TabularTask.from_table(synthetic_table(COUNTS, seed=5))


@functools.cache
def learned():
    """A machine that saw half of a table without noise, and all architectures."""
    task = small()
    archs = jnp.asarray(oracles.enumerate_space(COUNTS), jnp.int32)
    half = archives.add(archives.empty(60, 4), archs[::2], task.lookup(archs[::2]), task.cost(archs[::2]))
    machine, estimates = jax.jit(comparator.fit, static_argnums=(2, 3))(jax.random.key(0), half, COUNTS, 300)
    return machine, np.asarray(estimates), np.asarray(archs)


def test_one_of_two_architectures_is_better():
    machine, _, archs = learned()
    p = np.asarray(comparator.probabilities(machine, jnp.asarray(archs), jnp.asarray(archs), COUNTS))
    np.testing.assert_allclose(p + p.T, 1, atol=1e-5)
    assert p.max() > 0.9
    on_host = comparator.probabilities(jax.tree.map(np.asarray, machine), archs, archs, COUNTS)
    np.testing.assert_allclose(p, on_host, atol=1e-4)


def test_margins_are_those_of_a_machine_on_pairs_side_by_side_in_both_orders():
    machine, _, archs = learned()
    machine = jax.tree.map(np.asarray, machine)

    def pair(first, second):
        return np.concatenate([np.eye(4)[first].reshape(len(first), -1), np.eye(4)[second].reshape(len(first), -1)], 1)

    x, y = archs[:5], archs[50:55]
    support = np.concatenate([pair(machine.first, machine.second), pair(machine.second, machine.first)])
    weights = np.concatenate([machine.weights, -machine.weights])
    gamma = 1 / (2 * sum(1 - 1 / count for count in COUNTS))
    distance = ((pair(x, y)[:, None] - support) ** 2).sum(-1)
    # A distance of one-hot rows is twice the number of decisions that differ.
    margin = np.exp(-gamma * distance) @ weights
    p = np.diag(comparator.probabilities(machine, x, y, COUNTS))
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-margin)), atol=1e-4)


def test_the_ranking_does_not_depend_on_the_order_of_the_pool():
    machine, _, archs = learned()
    archs = jnp.asarray(archs)
    everyone = jnp.ones(len(archs), bool)
    order = np.random.default_rng(0).permutation(len(archs))
    scores = comparator.scores(machine, archs, archs, everyone, COUNTS)
    shuffled = comparator.scores(machine, archs[order], archs[order], everyone, COUNTS)
    np.testing.assert_allclose(np.asarray(scores)[order], shuffled, atol=1e-5)


def test_it_ranks_what_it_has_not_seen_and_reads_losses_off_the_ranking():
    machine, estimates, archs = learned()
    held = jnp.asarray(archs[1::2])
    scores = comparator.scores(machine, held, held, jnp.ones(len(held), bool), COUNTS)
    assert metrics.kendall_tau(-np.asarray(scores), small().error[1::2]) > 0.6
    assert np.all(np.isinf(estimates[54:]))
    assert metrics.kendall_tau(estimates[:54], small().error[::2]) > 0.7
    assert abs(estimates[:54].mean() - small().error[::2].mean()) < 0.02  # and on the scale of losses


def test_the_main_population_is_the_first_front_exactly():
    machine, _, archs = learned()
    rng = np.random.default_rng(1)
    method = SMEMNAS(small().space, (0.1, 0.3), cost=small().cost, population=20, vice=10, pairs=300)
    groups = [
        Population(jnp.asarray(archs[rng.integers(108, size=size)]), jnp.asarray(rng.random(size) < 0.8))
        for size in (20, 10, 20)
    ]
    main, vice = jax.jit(method.survive)(machine, *groups)
    union = merged(*groups)
    rows = small().rows(union.archs)[np.asarray(union.members)]
    assert len(set(rows)) == len(rows)
    scores = np.asarray(comparator.scores(machine, union.archs, union.archs, union.members, COUNTS))
    points = np.stack([-scores[np.asarray(union.members)], small().cost.scaled[rows]], axis=1)
    dominated = [np.any(np.all(points <= p, 1) & np.any(points < p, 1)) for p in points]
    found = small().rows(main.archs)[np.asarray(main.members)]
    assert sorted(found) == sorted(rows[~np.array(dominated)])
    others = small().rows(vice.archs)[np.asarray(vice.members)]
    assert set(others) <= set(rows[np.array(dominated)])
    assert len(others) == min(10, sum(dominated))


def test_nothing_is_asked_twice_while_there_is_something_new():
    task = small()  # of 108 architectures, 12 in a step
    method = SMEMNAS(task.space, (0.1, 0.2, 0.3), cost=task.cost, founders=36, population=12, vice=12, capacity=108)
    state, asked = method.init(jax.random.key(0)), []
    for step in range(10):
        archs, state = method.ask(jax.random.key(step), state)
        asked.append(task.rows(archs))
        state, _ = method.tell(state, archs, task.lookup(archs))
    assert sorted(np.concatenate(asked[:9])) == list(range(108))
    assert np.all(state.archive.counts >= 1)  # and then again
    assert state.archive.counts.sum() == 120


def test_crowding_and_fronts_ignore_what_is_no_member():
    points = jnp.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.1], [0.0, 0.0]])
    members = jnp.array([True, True, True, False])
    assert pareto.non_dominated(points, members).tolist() == [True, True, True, False]
    np.testing.assert_allclose(pareto.crowding(points, members), [np.inf, 2, np.inf, -1], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"vice": 41}, "vice"), ({"population": 0}, "population"), ({"pairs": 0}, "pairs"), ({"founders": 0}, "founders")],
)
def test_bad_settings_are_errors_that_name_them(settings, named):
    with pytest.raises(ValueError, match=named):
        strategies.make("smem_nas", small().space, (0.1, 0.2), cost=small().cost, **settings)


def evaluated(state):
    """All architectures of the archive, int [N, D]; free places repeat the first."""
    return jnp.where(state.archive.counts[:, None] > 0, state.archive.archs, state.archive.archs[:1])


@pytest.mark.slow
def test_hypervolume_on_nasbench201_of_all_evaluated_and_without_the_vice_population(nasbench201_path):
    """At 340 evaluations without noise, against as many uniform ones and the population of NSGA-II; reference 1.1."""
    task = TabularTask.from_table(tasks.read_table(nasbench201_path, "flops", "error_valid"))
    penalties, rng = (0.02, 0.039, 0.077, 0.152, 0.3), np.random.default_rng(0)
    rows = {"random": np.stack([rng.permutation(len(task.error))[:340] for _ in range(10)])}
    for name, method, read, settings in (
        ("both", "smem_nas", evaluated, {"capacity": 400}),
        ("main alone", "smem_nas", evaluated, {"capacity": 400, "vice": 0}),
        ("nsga2", "nsga2", lambda state: state.archs, {}),
    ):
        built = strategies.make(method, task.space, penalties, cost=task.cost, **settings)
        rows[name] = task.rows(search_seeds(task, built, (340,), seeds=10, read=read)[:, 0])
    found = {name: metrics.hypervolume(task.error[r], task.cost.scaled[r]).mean() for name, r in rows.items()}
    assert found["both"] > found["random"]
    assert found["both"] > found["nsga2"]
    assert found["main alone"] > found["random"]  # the ablation is a search of its own
