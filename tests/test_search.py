"""One search, whatever its minibatches hold, from memory and from streams, on one device and on two."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.results.result import read_result
from jaxnas.runtime.loop import NonFiniteLossError, RunInterruptedError
from jaxnas.search.answer import summarise
from jaxnas.search.sources import InMemory, Streamed
from jaxnas.tasks.supernet import FrozenSupernet
from tests import regression_search

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def memory():
    search = regression_search.in_memory()
    return search, regression_search.trajectory(search, search.init(0))


@pytest.fixture(scope="module")
def plain():
    """In memory, with nothing random in the preparation."""
    search = regression_search.in_memory(prepare=lambda batch, key: {"x": batch["x"]})
    return regression_search.trajectory(search, search.init(0))


@pytest.fixture(scope="module")
def two_devices(tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "found.npz"
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    command = [sys.executable, "-m", "tests.regression_search", str(path)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, check=True, timeout=300)
    return dict(np.load(path))


def assert_same(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, err_msg=name, **tolerance)


def test_the_loss_and_other_measures_are_recorded(memory):
    _, found = memory
    assert found["train_loss"].shape == found["train_absolute_error"].shape == (7,)
    assert found["loss"].shape == found["absolute_error"].shape == (7, 2)
    assert np.all(
        found["absolute_error"] ** 2 <= found["loss"] + 1e-6
    )  # the mean's square is at most the square's mean
    assert found["train_loss"][-1] < found["train_loss"][0]


def test_evaluation_by_hand(memory):
    """Squared errors in numpy, one minibatch of the validation split after the other."""
    search, found = memory
    examples = regression_search.examples(30, 1)
    hidden = examples["x"] @ found["in/kernel"] + found["in/bias"]
    outputs = {
        (0, 0): (hidden[:, :2] @ found["out/kernel"][:2])[:, 0],
        (1, 1): (np.tanh(hidden) @ found["out/kernel"])[:, 0],
    }
    errors = [np.mean((output - examples["y"]) ** 2) for output in outputs.values()]
    np.testing.assert_allclose(found["evaluation"], errors, rtol=1e-4)
    params = {"in": {name: found[f"in/{name}"] for name in ("kernel", "bias")}, "out": {"kernel": found["out/kernel"]}}
    indices = jnp.array([3, 1, 4, 1, 5, 9])
    one = search.evaluate_batch(params, search.valid.take(indices), jnp.array([*outputs]))
    errors = [np.abs(output - examples["y"])[indices].mean() for output in outputs.values()]
    np.testing.assert_allclose(one.metrics["absolute_error"], errors, rtol=1e-4)


@pytest.mark.parametrize("source", ["memory", "stream"])
def test_groups_are_evaluated_on_the_next_minibatch_each(source, memory):
    search = memory[0] if source == "memory" else regression_search.streamed()[0]
    params = search.init(0).params
    groups = np.random.default_rng(0).integers(0, 2, (9, 2, 2))
    found = search.evaluate_in_turn(params, groups).loss
    assert found.shape == (9, 2)
    for number, group in enumerate(groups):
        losses = search.evaluate_minibatches(params, group).loss
        assert 1 < len(losses) < 9
        np.testing.assert_allclose(found[number], losses[number % len(losses)], rtol=1e-5)


def test_a_stream_of_the_same_minibatches_is_the_same_search(plain):
    assert_same(
        {**regression_search.trajectory(*regression_search.streamed()), "evaluation": plain["evaluation"]},
        plain,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.long
def test_two_devices_do_the_steps_of_one(memory, plain, two_devices):
    assert two_devices.pop("devices") == 2
    of = {
        source: {
            name.removeprefix(f"{source} "): value for name, value in two_devices.items() if name.startswith(source)
        }
        for source in ("memory", "stream", "taught", "own")
    }
    # What is random in the preparation of a minibatch from memory does not depend on the number of devices.
    assert_same(of["memory"], memory[1], rtol=1e-4, atol=1e-5)
    assert_same({**of["stream"], "evaluation": plain["evaluation"]}, plain, rtol=1e-4, atol=1e-5)
    for name, own in (("taught", False), ("own", True)):
        search = regression_search.taught(own=own)
        expected = regression_search.trajectory(search, search.init(0))
        assert not np.allclose(expected["train_loss"], memory[1]["train_loss"])
        assert_same(of[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("source", ["memory", "stream", "taught"])
def test_a_stopped_search_goes_on_where_it_was(source, memory):
    """Cut after each program, and continued from a copy of the last state."""
    if source == "stream":
        search, start = regression_search.streamed()
    else:
        search = memory[0] if source == "memory" else regression_search.taught()
        start = search.init(0)
    state, cuts = jax.tree.map(jnp.copy, start), 0
    expected = regression_search.trajectory(search, start)
    while int(state.step) < search.total_steps:
        try:
            for reached, _, _ in search.run(state, stop=lambda: True):
                state = jax.tree.map(jnp.copy, reached)
        except RunInterruptedError:
            cuts += 1
    assert cuts >= 3
    np.testing.assert_array_equal(state.strategy.theta, expected["theta"])
    np.testing.assert_array_equal(state.params["in"]["kernel"], expected["in/kernel"])


def test_a_frozen_supernet_takes_minibatches_from_either_source(memory):
    search, _ = memory
    params, archs = search.init(0).params, jnp.array([[0, 0], [1, 1]])
    for task in (FrozenSupernet(search, params), FrozenSupernet(regression_search.streamed()[0], params)):
        losses = [task.losses(jax.random.key(seed), archs) for seed in (0, 0, 1)]
        np.testing.assert_array_equal(losses[0], losses[1])
        assert not np.array_equal(losses[0], losses[2])


def test_losses_that_are_not_finite_are_named_by_their_step(memory):
    search, _ = memory
    state = search.init(0)
    with pytest.raises(NonFiniteLossError, match=r"step 1 \(phase weights\)"):
        next(search.run(state.replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))))


class Diverging(regression_search.Perceptron):
    """Without activation the outputs are NaN; where `always`, with one too."""

    def __init__(self, always):
        self.always = always

    def apply(self, variables, inputs, arch):
        diverges = jnp.bool_(True) if self.always else arch[1] == 0
        return jax.tree.map(lambda y: jnp.where(diverges, jnp.nan, y), super().apply(variables, inputs, arch))


def diverging(always):
    settings = dataclasses.replace(
        regression_search.SETTINGS, weight_steps=0, joint_steps=0, distribution_steps=20, accumulate=1
    )
    return dataclasses.replace(regression_search.in_memory(), supernet=Diverging(always), settings=settings)


def test_a_few_losses_that_are_not_finite_are_counted_and_the_search_goes_on():
    search = diverging(always=False)
    records, state = [], search.init(0)
    for reached, phase, metrics in search.run(state):
        records += search.records(len(records), reached, phase, metrics)
        state = reached
    assert len(records) == 20
    assert 0 < sum(record["ignored"] for record in records) < 80
    assert all(np.isfinite(record[name]).all() for record in records for name in ("loss", "absolute_error", "ess"))
    assert np.isfinite(state.strategy.theta).all()
    assert state.strategy.theta[0, 0, 1] != 0.5  # of what could be measured it has learnt


def test_a_search_whose_losses_are_mostly_not_finite_stops_with_one_line():
    search = diverging(always=True)
    with pytest.raises(
        NonFiniteLossError, match="^most losses are not finite at step 7 .*lower the learning rate"
    ) as stopped:
        for _ in search.run(search.init(0)):
            pass
    assert "\n" not in str(stopped.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"valid": "stream"}, "train and valid must both be in memory"),
        ({"batch_size": 42}, "batch_size must be at most the 41 examples"),
        ({"loss": lambda outputs, batch: ((outputs["y"] - batch["y"]) ** 2, {})}, "take the mean over the examples"),
        ({"loss": lambda outputs, batch: (outputs["y"].mean(), {"ess": 1.0})}, "other names than 'ess'"),
    ],
)
def test_what_no_search_can_be_made_of(memory, changes, message):
    search, _ = memory
    if changes.get("valid"):
        changes = {"valid": regression_search.streamed()[0].valid}
    if "batch_size" in changes:
        changes = {"settings": dataclasses.replace(search.settings, **changes)}

    def run():
        changed = dataclasses.replace(search, **changes)
        return regression_search.trajectory(changed, changed.init(0))

    with pytest.raises(ValueError, match=message):
        run()


def test_examples_must_have_one_length():
    with pytest.raises(ValueError, match=r"one length, at least 1, got lengths \[2, 3\]"):
        InMemory({"x": np.zeros(2), "y": np.zeros(3)})


def test_a_stream_that_ends_is_named(memory):
    class Short(regression_search.SameOrder):
        def batches(self, start):
            return iter([next(super().batches(0))] * 3)

    search, start = regression_search.streamed()
    search = dataclasses.replace(search, train=Streamed(Short(**vars(search.train.stream))))
    with pytest.raises(ValueError, match="minibatches without end"):
        list(search.run(start))


def test_the_best_by_main_effects_compete(memory):
    """Of the four architectures two for each penalty, which are those of least additive loss and cost."""
    search, _ = memory
    *_, (state, _, _) = search.run(search.init(0))
    settings = {"method": "m", "seed": 0, "config": {}, "seconds": 1.0, "dataset": "sines"}
    archs = search.strategy.space.enumerate()
    losses = np.asarray(search.evaluate(state.params, archs).loss, np.float64)
    square = losses.reshape(2, 2)
    additive = (square.mean(1, keepdims=True) + square.mean(0) - square.mean()).ravel()
    costs = np.asarray(search.strategy.cost(archs))
    kept = []
    found = summarise(search, state, candidates=2, uniform=4096, keep_uniform=kept.append, **settings).architectures
    pool = {n for penalty in search.strategy.penalties for n in np.argsort(additive + penalty * costs)[:2]}
    for penalty, each in zip(search.strategy.penalties, found, strict=True):
        best = min(pool, key=lambda n: losses[n] + penalty * costs[n])
        assert each.encoding == tuple(archs[best].tolist())
    (evaluations,) = kept
    assert evaluations.archs.shape == (256, 16, 2)
    for arch, loss in zip(archs, losses):
        of_arch = (evaluations.archs == arch).all(-1)
        assert of_arch.mean() == pytest.approx(1 / 4, abs=0.05)
        assert evaluations.losses[of_arch].mean() == pytest.approx(loss, rel=0.05)


def test_a_search_on_a_space_with_costs_of_its_own_has_a_result(memory, tmp_path):
    search, _ = memory
    *_, (state, _, _) = search.run(search.init(0))
    result = summarise(search, state, method="m", candidates=0, seed=0, config={}, seconds=1.0, dataset="sines")
    result.write(tmp_path / "result.json")
    found = read_result(tmp_path / "result.json").architectures
    assert [each.costs["units"] for each in found] == [(2.0, 6.0)[each.encoding[0]] for each in found]
    assert {(each.params, each.macs, each.valid_accuracy) for each in found} == {(None, None, None)}
