"""EG-DAS-style: the enhanced gradient, libraries of blocks, and their assembly by evolution."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import metrics, spaces, tasks
from jaxnas.relaxation import EGDAS, Assembly, Darts, Library, Settings, eg_das, library, of_networks
from jaxnas.strategies import NSGA2
from tests.conftest import table_path
from tests.test_relaxation import COST, TASK, loss, one, simulate, stepped

SETTINGS = Settings(steps=60, alpha_learning_rate=0.02)


# Stage one


def test_enhanced_gradient_by_hand():
    gradient = eg_das.enhanced_gradient(
        jnp.asarray([[3.0, 4.0], [3e-4, 4e-4]]), jnp.asarray([[0.0, -2.0], [0.0, 0.0]]), jnp.float32(0.3)
    )
    np.testing.assert_allclose(gradient, [[0.6, 0.8 - 0.3], [0.3, 0.4]], rtol=1e-6)  # the floor is 1e-3


def test_without_strength_it_is_darts_up_to_the_scale_of_each_row():
    darts, ours = Darts(TASK.space, SETTINGS, (COST,)), EGDAS(TASK.space, SETTINGS, (COST,))
    state = darts.init(jax.random.key(0), {}, 0.0)
    seen = []
    for method in (darts, ours):
        # Plain descent shows the direction that Adam would scale: read it from Adam's first moment after one step.
        after, _ = stepped(method, method.init(jax.random.key(0), {}, 0.0), loss(), None, None)
        moments = after.alpha_optimizer[1][0].mu - 0.5 * 1e-3 * state.alpha  # less the weight decay
        seen.append(np.asarray(moments, np.float64))
    norms = [np.linalg.norm(direction, axis=1) for direction in seen]
    np.testing.assert_array_equal(seen[0][1], 0)  # a decision with one choice
    for d in (0, 2, 3):
        np.testing.assert_allclose(seen[0][d] / norms[0][d], seen[1][d] / norms[1][d], atol=1e-4)
        np.testing.assert_allclose(norms[1][d], 0.5, rtol=1e-3)  # Adam's first moment is half a unit row
    assert np.ptp(norms[0][[0, 2, 3]]) > 1e-3


def test_the_mean_cost_does_not_rise_with_the_strength():
    method, costs = EGDAS(TASK.space, SETTINGS, (COST,)), []
    for strength in eg_das.STRENGTHS:
        states = simulate(method, strength, seeds=5)
        archs = np.stack([method.derive(one(states, seed), strength) for seed in range(5)])
        costs.append(float(COST(archs).mean()))
    assert np.all(np.diff(costs) <= 1e-6)
    assert costs[-1] < costs[0]


# Libraries


def test_a_library_of_operations_for_each_stage():
    space = spaces.nasbench_macro(width=0.25, image_size=8)  # stages of 2, 3 and 3 layers
    found = np.asarray([[0, 1, 2, 2, 2, 0, 0, 1], [0, 0, 2, 2, 2, 0, 0, 0]])
    blocks = of_networks(space, found)
    assert blocks.choices == ((0, 1), (0, 1), (2,), (2,), (2,), (0, 1), (0, 1), (0, 1))
    assert blocks.space.num_choices == (2, 2, 1, 1, 1, 2, 2, 2)
    np.testing.assert_array_equal(blocks.decode(jnp.asarray([[1, 0, 0, 0, 0, 1, 0, 1]])), [[1, 0, 2, 2, 2, 1, 0, 1]])


def test_operations_are_matched_by_name_where_a_layer_has_fewer():
    space = spaces.mbconv_digits(width=0.25)  # its first layer has no skip
    skip = space.num_choices[1] - 1
    blocks = of_networks(space, np.asarray([[3, skip, skip, skip, skip, skip]]))
    assert blocks.choices == ((3,), *[(3, skip)] * 5)


def test_a_library_of_cells():
    space = spaces.nasbench201(channels=4, cells=1, image_size=8)
    cells = np.asarray([[4, 3, 2, 1, 0, 1], [0, 1, 2, 3, 4, 0], [4, 3, 2, 1, 0, 1]])
    blocks = of_networks(space, cells)
    assert blocks.space.num_choices == (2,)
    np.testing.assert_array_equal(blocks.decode(jnp.asarray([[1], [0]])), cells[:2])


def test_other_spaces_have_every_choice():
    archs = np.stack(np.unravel_index(np.arange(24), TASK.space.num_choices), axis=1)
    blocks = of_networks(TASK.space, archs[:1])
    assert blocks == library.every_choice(TASK.space)
    np.testing.assert_array_equal(blocks.decode(archs), archs)


# Stage two


def test_assembly_asks_for_networks_of_the_library_and_finds_the_best_of_them():
    blocks = Library(group=(0, 1, 2, 2), choices=((0, 2), (0,), (1, 3, 0), (0, 1, 1)))
    method = Assembly(TASK.space, (0.0, 100.0), samples=6, cost=COST, library=blocks)
    possible = np.asarray(blocks.decode(np.stack(np.unravel_index(np.arange(6), (2, 1, 3)), axis=1)))
    state = method.init(jax.random.key(0))
    for step in range(3):
        archs, state = method.ask(jax.random.key(step), state)
        assert {tuple(arch) for arch in archs.tolist()} <= {tuple(arch) for arch in possible.tolist()}
        state, info = method.tell(state, archs, TASK.lookup(archs))
    np.testing.assert_allclose(info.objective[0], TASK.lookup(archs), rtol=1e-6)
    best = possible[TASK.error[TASK.rows(possible)].argmin()], possible[np.asarray(COST(possible)).argmin()]
    np.testing.assert_array_equal(method.modes(state), best)


def test_without_a_library_it_is_nsga2_with_uniform_crossover():
    ours = Assembly(TASK.space, (0.0, 0.3), samples=4, cost=COST)
    plain = NSGA2(TASK.space, (0.0, 0.3), samples=4, cost=COST, crossover="uniform")
    kinds = {"ours": ours, "plain": plain}
    asked = {}
    for name, method in kinds.items():
        found = tasks.search_seeds(TASK, method, [40], seeds=2)
        asked[name] = found
        assert found.shape == (2, 1, 2, 4)
    np.testing.assert_array_equal(asked["ours"], asked["plain"])
    with pytest.raises(ValueError, match="crossover must be one of two_point, uniform, got 'one'"):
        NSGA2(TASK.space, (0.0,), samples=4, cost=COST, crossover="one")


@pytest.mark.slow
def test_stage_two_beats_random_on_nas_bench_macro():
    """Hypervolume of all that 500 queries evaluated, 20 seeds, without noise."""
    task = tasks.TabularTask.from_table(tasks.read_table(table_path("nasbench_macro.npz"), "flops"))
    method = Assembly(task.space, (0.02, 0.3), cost=task.cost)
    volume = functools.partial(_hypervolume, task)
    ours, random = [], []
    for seed in range(20):
        state, asked = method.init(jax.random.key(seed)), []
        for step in range(-(-500 // 40)):
            archs, state = method.ask(jax.random.fold_in(jax.random.key(seed), step), state)
            state, _ = method.tell(state, archs, task.lookup(archs))
            asked.append(np.asarray(archs))
        ours.append(volume(np.concatenate(asked)[:500]))
        random.append(volume(task.space.sample_uniform(np.random.default_rng(seed), 500)))
    assert np.median(ours) > np.median(random)
    assert metrics.paired_wilcoxon(np.asarray(ours), np.asarray(random)) < 0.01


def _hypervolume(task, archs):
    rows = task.rows(archs)
    return float(metrics.hypervolume(task.error[rows], task.cost.scaled[rows]))
