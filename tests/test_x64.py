"""Programs keep their types where the user's are wider, and make no NaN.

Run by `JAX_ENABLE_X64=1 make test-x64` and `JAX_DEBUG_NANS=1 make test-x64`, or both: JAX reads the variables when it
starts, and these tests are skipped without.
"""

import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import strategies
from jaxnas.cost import AdditiveCost
from jaxnas.tasks import search_seeds
from tests import test_retraining
from tests import test_strategies as contract

pytestmark = pytest.mark.skipif(
    not {"JAX_ENABLE_X64", "JAX_DEBUG_NANS"} & os.environ.keys(), reason="needs JAX_ENABLE_X64=1 or JAX_DEBUG_NANS=1"
)

PENALTIES = (0.0, 0.3)


def methods(name):
    """A strategy, early in its fits; for those with distributions also within budgets."""
    settings = {"founders": 8} if name in ("pnag", "smem_nas", "moarr") else {}
    yield strategies.make(name, contract.task().space, PENALTIES, cost=contract.task().cost, samples=4, **settings)
    if name in strategies.distribution_strategies():
        space = contract.task().space
        cost = AdditiveCost("macs", "multiply-adds", 0, tuple(tuple(range(c)) for c in space.num_choices))
        yield strategies.within_budgets(strategies.STRATEGIES[name], space, [cost], [[3.0], [5.0]], samples=4)


def dtypes(tree):
    return [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", strategies.STRATEGIES)
def test_states_keep_their_types_whatever_the_type_of_the_losses(name):
    for method in methods(name):
        state = method.init(jax.random.key(0))
        before = dtypes(state)
        assert not {np.dtype("float64"), np.dtype("int64")} & set(before)
        for step, dtype in enumerate((np.float32, np.float64, np.float16, list)):
            archs, state = method.ask(jax.random.key(step), state)
            assert archs.dtype == jnp.int32
            losses = np.asarray(contract.task().lookup(archs))
            losses = losses.tolist() if dtype is list else losses.astype(dtype)
            if step == 2:
                losses[1] = np.nan
            state, info = method.tell(state, archs, losses)
            assert dtypes(state) == before
            assert not {np.dtype("float64"), np.dtype("int64")} & set(dtypes(info))


@pytest.mark.parametrize("name", strategies.STRATEGIES)
def test_a_whole_search_is_one_scan(name):
    (method, *_) = methods(name)
    archs = search_seeds(contract.task(), method, (24, 48), seeds=2)
    assert archs.shape == (2, 2, 2, len(contract.task().space.decisions))


def test_the_example_of_the_readme():
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    (example, *_) = (code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "method.tell" in code)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("method", strategies.distribution_strategies())
def test_a_short_search_on_a_supernet(tmp_path, method):
    steps = [
        "--weight-steps=2",
        "--joint-steps=4",
        "--distribution-steps=2",
        "--finish-steps=2",
        "--steps-per-dispatch=2",
    ]
    settings = ["--dataset=digits", "--space=tiny", "--batch-size=8", "--candidates=1", f"--method={method}"]
    command = [sys.executable, "-m", "tests.tiny_search", f"--workdir={tmp_path}", *settings, *steps]
    done = subprocess.run(command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "result.json").exists()


def test_a_short_training():
    training = test_retraining.retraining(epochs=1)
    before = dtypes(training.init(0))
    assert not {np.dtype("float64"), np.dtype("int64")} & set(before)
    *_, (state, score) = training.run(training.init(0))
    assert int(state.step) == training.total_steps
    assert dtypes(state) == before
    assert np.isfinite(score.loss)
