import functools
import io
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import strategies
from jaxnas.tasks import Table, TabularTask, read_table, search, search_seeds, synthetic_table
from tests import oracles

CHOICES = oracles.enumerate_space((2, 3))
ERROR = np.array([0.5, 0.4, 0.3, 0.45, 0.2, 0.1])
COST = np.array([10, 20, 30, 20, 50, 40])


def table(**changed):
    return Table.from_arrays(**{"choices": CHOICES, "error": ERROR, "cost": COST, **changed})


def test_rows_are_put_in_order():
    shuffled = np.random.default_rng(0).permutation(6)
    read = table(choices=CHOICES[shuffled].astype(np.uint8), error=ERROR[shuffled], cost=COST[shuffled])
    np.testing.assert_array_equal(read.error, ERROR)
    np.testing.assert_array_equal(read.cost, COST)
    assert [len(decision.choices) for decision in read.decisions] == [2, 3]


def test_choices_are_named_by_the_table():
    assert table().decisions[1].choices == ("0", "1", "2")
    assert table(choice_names=["skip", "k3", "k5"]).decisions[0].choices == ("skip", "k3")
    assert table(choice_names=[["a", "b", ""], ["x", "y", "z"]]).decisions[1].choices == ("x", "y", "z")
    assert table(choice_names=np.array([b"skip", b"k3", b"k5"])).decisions[1].choices == ("skip", "k3", "k5")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"choices": CHOICES[:, 0]}, r"choices must be an array \[N, D\]"),
        ({"choices": np.zeros((0, 2), int)}, r"choices must be an array \[N, D\]"),
        ({"choices": CHOICES.astype(float)}, "choices must hold integers"),
        ({"choices": CHOICES - 1}, "choices must not be negative, got -1"),
        ({"choices": CHOICES[[0, 1, 2, 3, 4, 4]]}, r"duplicate rows: 4 and 5 are both \[1, 1\]"),
        ({"choices": CHOICES + np.array([0, 2])}, "rows missing"),
        ({"choices": CHOICES * 1000}, "rows missing: choice 2000"),
        ({"error": ERROR[:5]}, "error must have one entry for each of the 6 rows"),
        ({"error": ERROR[:, None]}, r"error must .* got \(6, 1\)"),
        ({"error": ERROR * 100}, r"error must lie in \[0, 1\], got values from 10 to 50; divide percentages"),
        ({"error": ERROR - 0.2}, "error must lie in"),
        ({"error": np.where(ERROR == 0.3, np.nan, ERROR)}, "error must be finite everywhere, got nan in row 2"),
        ({"error": ERROR.astype(str)}, "error must hold real numbers"),
        ({"error": ERROR.astype(complex)}, "error must hold real numbers"),
        ({"cost": np.where(COST == 50, np.inf, COST)}, "cost must be finite everywhere, got inf in row 4"),
        ({"cost": COST[:4]}, "cost must have one entry"),
        ({"choice_names": ["a", "b"]}, "choice_names must name 3 choices for 2 decisions"),
        ({"choice_names": [["a", "b", "c"]] * 3}, "choice_names must name 3 choices for 2 decisions"),
        ({"choice_names": [1, 2, 3]}, "choice_names must be strings"),
    ],
)
def test_bad_tables_are_errors(changed, said):
    with pytest.raises(ValueError, match=said):
        table(**changed)


def test_a_missing_row_is_an_error():
    with pytest.raises(ValueError, match=r"\(2, 3\) choices make 6 architectures, got 5 rows"):
        table(choices=CHOICES[:5], error=ERROR[:5], cost=COST[:5])


def save(path, **changed):
    arrays = {"choices": CHOICES, "error": ERROR, "flops": COST, **changed}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_reads_named_arrays(tmp_path):
    path = save(tmp_path / "t.npz", error_valid=ERROR / 2, choice_names=np.array(["a", "b", "c"]))
    read = read_table(path, "flops", "error_valid")
    np.testing.assert_array_equal(read.error, ERROR / 2)
    assert read.decisions[0].choices == ("a", "b")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"flops": None}, "no array 'flops'; it has choices, error"),
        ({"error": None}, "no array 'error'"),
        ({"choices": None}, "no array 'choices'"),
        ({"error": ERROR[:3]}, "error must have one entry"),
        ({"flops": np.array([object()] * 6)}, "pickled objects are not read"),
    ],
)
def test_bad_files_are_errors(tmp_path, changed, said):
    path = save(tmp_path / "t.npz", **changed)
    with pytest.raises(ValueError, match=said) as raised:
        read_table(path, "flops")
    assert "t.npz" in str(raised.value)


def test_files_that_are_no_npz_are_errors(tmp_path):
    whole = save(tmp_path / "whole.npz").read_bytes()
    single = io.BytesIO()
    np.save(single, ERROR)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("choices.npy", b"no array")
        archive.writestr("error.npy", b"no array")
        archive.writestr("flops", b"no array")
    broken = bytearray(whole)
    broken[150:400] = b"x" * 250
    contents = (
        b"",
        b"text",
        whole[: len(whole) // 2],
        pickle.dumps(ERROR),
        single.getvalue(),
        zipped.getvalue(),
        broken,
    )
    for number, content in enumerate(contents):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a readable npz|choices|error|flops"):
            read_table(path, "flops")
    with pytest.raises(OSError, match="absent"):
        read_table(tmp_path / "absent.npz", "flops")


def task(noise=0.0):
    return TabularTask.from_table(table(), noise)


def test_lookup_and_cost_are_gathers():
    np.testing.assert_allclose(jax.jit(task().lookup)(CHOICES), ERROR, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(task().cost)(CHOICES), [0, 0.25, 0.5, 0.25, 1, 0.75])
    np.testing.assert_array_equal(task().rows(CHOICES), np.arange(6))
    np.testing.assert_array_equal(task().rows([[[1, 2]], [[0, 1]]]), [[5], [1]])


def test_objective_by_hand():
    np.testing.assert_allclose(task().objective((0.0, 0.4)), [ERROR, [0.5, 0.5, 0.5, 0.55, 0.6, 0.4]])


def test_equal_costs_scale_to_0():
    flat = TabularTask.from_table(table(cost=np.full(6, 7)))
    np.testing.assert_array_equal(flat.cost(CHOICES), np.zeros(6))


def test_noise_has_its_standard_deviation():
    archs = jnp.zeros((20_000, 2), jnp.int32)
    losses = np.asarray(task(0.05).evaluate(jax.random.key(0), archs))
    assert abs(losses.mean() - 0.5) <= 4 * 0.05 / np.sqrt(20_000)
    assert abs(losses.std() / 0.05 - 1) <= 0.03
    np.testing.assert_allclose(task().evaluate(jax.random.key(0), archs), 0.5)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_bad_noise_is_an_error(noise):
    with pytest.raises(ValueError, match=f"noise.*{noise}"):
        task(noise)


@functools.cache
def small_search():
    problem = TabularTask.from_table(synthetic_table((3, 4, 3), seed=1), noise=0.02)
    return problem, strategies.make("importance_sampling", problem.space, (0.0, 0.2), samples=3, cost=problem.cost)


def test_a_search_equals_the_loop_over_ask_evaluate_tell():
    """Counts between steps belong to the last whole step: 6 architectures a step, 11 -> step 1, 12 -> 2, 40 -> 6."""
    problem, method = small_search()
    key = jax.random.key(3)
    modes = jax.jit(functools.partial(search, problem, method, (11, 12, 40)))(key)
    init_key, scan_key = jax.random.split(key)
    state, expected = method.init(init_key), []
    for step_key in jax.random.split(scan_key, 6):
        ask_key, noise_key = jax.random.split(step_key)
        archs, state = method.ask(ask_key, state)
        state, _ = method.tell(state, archs, problem.evaluate(noise_key, archs))
        expected.append(method.modes(state))
    np.testing.assert_array_equal(modes, np.stack(expected)[[0, 1, 5]])


def test_seeds_are_separate_searches():
    problem, method = small_search()
    both = search_seeds(problem, method, (11, 12, 40), seeds=3, first_seed=2)
    assert both.shape == (3, 3, 2, 3)
    one = jax.jit(functools.partial(search, problem, method, (11, 12, 40)))(jax.random.key(3))
    np.testing.assert_array_equal(both[1], one)


@pytest.mark.parametrize("recorded", [(), (5, 12), (12, 12), (24, 12)])
def test_bad_evaluation_counts_are_errors(recorded):
    problem, method = small_search()
    with pytest.raises(ValueError, match="recorded|evaluations"):
        search(problem, method, recorded, jax.random.key(0))


def test_no_seeds_is_an_error():
    problem, method = small_search()
    with pytest.raises(ValueError, match="seeds"):
        search_seeds(problem, method, (12,), seeds=0)


def test_a_step_has_samples_for_each_penalty():
    assert small_search()[1].step_samples == 6


def test_the_public_tables_are_complete(macro_path, nasbench201_path):
    macro = TabularTask.from_table(read_table(macro_path, "flops"))
    assert macro.space.num_choices == (3,) * 8
    assert macro.space.decisions[0].choices == ("Identity", "MB3_K3", "MB6_K5")
    cells = TabularTask.from_table(read_table(nasbench201_path, "gpu_latency", "error_valid"))
    assert cells.space.num_choices == (5,) * 6
    with np.load(nasbench201_path) as raw:
        np.testing.assert_allclose(cells.lookup(raw["choices"].astype(np.int32)), raw["error_valid"], rtol=1e-6)
