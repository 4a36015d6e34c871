"""Recorded supernets: all networks of a space at once, files, and searches on what was recorded."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import cli, tabular_search
from jaxnas import spaces, strategies, supernet
from jaxnas.spaces import Decision
from jaxnas.supernet import enumeration
from jaxnas.tasks import Table, tabular
from jaxnas.tasks.judge import distance_to_front
from jaxnas.tasks.recorded import RecordedTask, Recording
from tests.tiny_search import tiny

ARCHS = np.stack(np.unravel_index(np.arange(4), (2, 2)), axis=1).astype(np.int32)
TABLE = Table.from_arrays(ARCHS, np.array([0.1, 0.2, 0.3, 0.4]), np.array([4.0, 3.0, 2.0, 1.0]))


@pytest.fixture
def recording():
    rng = np.random.default_rng(0)
    return Recording(
        losses=(1.5 + np.array([0.0, 0.1, 0.2, 0.3]) + rng.normal(0, 0.5, (6, 1))).astype(np.float32),
        accuracy=rng.integers(0, 17, (6, 4)).astype(np.float32) / 16,
        images=16,
    )


def test_tree_of_networks_gives_the_logits_of_each_network():
    space = tiny()
    network = supernet.build(space)
    params = network.init_params(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    every = jax.jit(lambda: enumeration.map_networks(params, images, space, lambda logits: {"logits": logits}))()
    alone = jax.lax.map(lambda arch: network.apply({"params": params}, images, arch), jnp.asarray(ARCHS))
    np.testing.assert_allclose(every["logits"], alone, rtol=1e-5, atol=1e-5)
    assert np.ptp(np.asarray(alone), axis=0).max() > 0.01  # the networks differ


def test_networks_of_a_cell_give_the_logits_of_each_network():
    whole = spaces.nasbench201(channels=4, cells=1, image_size=8)
    fewer = tuple(Decision(decision.name, decision.choices[:3]) for decision in whole.decisions)
    space = dataclasses.replace(whole, decisions=fewer, costs=())  # none, skip, 1x1 convolution: 729 networks
    network = supernet.build(whole)
    params = network.init_params(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    every = np.asarray(jax.jit(lambda: enumeration.map_networks(params, images, space, lambda logits: logits))())
    assert every.shape == (729, 4, 10)
    for row in (0, 13, 400, 728):
        alone = network.apply({"params": params}, images, jnp.asarray(space.enumerate()[row]))
        np.testing.assert_allclose(every[row], alone, rtol=1e-4, atol=1e-5)
    assert np.ptp(every[[13, 400, 728]], axis=0).max() > 0.01


def test_file_holds_what_was_recorded(recording, tmp_path):
    path = tmp_path / "recorded.npz"
    recording.write(path)
    read = Recording.read(path)
    np.testing.assert_allclose(read.losses, recording.losses, atol=2e-4)  # float16 about the mean of a minibatch
    np.testing.assert_array_equal(read.accuracy, recording.accuracy)
    assert read.images == 16


@pytest.mark.parametrize("cut", [0, 100, -40])
def test_damaged_file_is_named(recording, tmp_path, cut):
    path = tmp_path / "recorded.npz"
    recording.write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is no recording"):
        Recording.read(path)


def test_table_of_a_recording_is_refused(tmp_path):
    np.savez(tmp_path / "table.npz", choices=ARCHS, error=TABLE.error)
    with pytest.raises(ValueError, match="is no recording"):
        Recording.read(tmp_path / "table.npz")


def test_searches_see_one_half_and_are_judged_by_the_other(recording):
    task = RecordedTask.of_recording(recording, TABLE)
    np.testing.assert_allclose(task.error, recording.losses[3:].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(task.true_error, TABLE.error)
    archs = jnp.asarray(ARCHS[[2, 0, 3]])
    seen = {tuple(np.asarray(task.evaluate(key, archs)).tolist()) for key in jax.random.split(jax.random.key(0), 40)}
    assert seen == {tuple(row[[2, 0, 3]].tolist()) for row in recording.losses[:3]}  # one common minibatch each time


def test_table_of_another_space_is_refused(recording):
    other = Table.from_arrays(np.arange(3)[:, None], np.full(3, 0.5), np.arange(3.0))
    with pytest.raises(ValueError, match="4 networks, the table 3"):
        RecordedTask.of_recording(recording, other)


def test_search_on_a_recording_finds_its_best_network(recording):
    task = RecordedTask.of_recording(recording, TABLE)
    method = strategies.make("importance_sampling", task.space, (0.0, 2.0), cost=task.cost)
    found = tabular.search(task, method, [400], jax.random.key(0))
    np.testing.assert_array_equal(found[-1], [[0, 0], [1, 1]])  # the least loss, and the cheapest


def test_distance_is_to_the_least_true_error_that_costs_no_more(recording):
    errors = np.array([0.3, 0.1, 0.2, 0.4])  # costs 4, 3, 2, 1
    task = RecordedTask.of_recording(recording, Table.from_arrays(ARCHS, errors, TABLE.cost))
    np.testing.assert_allclose(distance_to_front(task, np.array([[0, 1], [2, 3]])), [[0.2, 0.0], [0.0, 0.0]])


def run(folder, recording, *arguments):
    recording.write(folder / "recorded.npz")
    np.savez(folder / "table.npz", choices=ARCHS, error=TABLE.error, flops=TABLE.cost)
    options = [f"--table={folder / 'table.npz'}", f"--losses={folder / 'recorded.npz'}", "--cost=flops"]
    options += ["--methods", "importance_sampling", "--penalties", "0", "2", "--evaluations=400", "--seeds=2"]
    cli.run(tabular_search.main, tabular_search.Config, [*options, f"--out={folder / 'out'}", *arguments])


def test_command_searches_on_recorded_losses(recording, tmp_path, capsys):
    run(tmp_path, recording)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["losses"] == [str(tmp_path / "recorded.npz")]
    method = result["methods"]["importance_sampling"]
    assert method["encodings"] == [[[0, 0], [1, 1]]] * 2
    assert np.array(method["relative_regret"])[..., -1].tolist() == [[0.0, 0.0]] * 2
    assert method["distance"][0][-1] == 0.0
    assert "distance, points" in capsys.readouterr().out


def test_command_joins_the_searches_on_several_supernets(recording, tmp_path):
    """The seeds on each are those on it alone, one recording after the other."""
    paths = [tmp_path / "one.npz", tmp_path / "other.npz"]
    recording.write(paths[0])
    dataclasses.replace(recording, losses=recording.losses[:, ::-1].copy()).write(paths[1])
    methods = []
    for chosen in ([paths[0]], [paths[1]], paths):
        run(tmp_path, recording, "--losses", *map(str, chosen))
        methods.append(json.loads((tmp_path / "out" / "result.json").read_text())["methods"])
    first, second, both = (each["importance_sampling"] for each in methods)
    assert first["encodings"] != second["encodings"]
    for measure in ("relative_regret", "hypervolume", "distance", "encodings"):
        assert both[measure] == first[measure] + second[measure]


def test_command_refuses_noise_on_recorded_losses(recording, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, recording, "--noise=0.1")
    assert stopped.value.code == 2
    assert "noise must be 0 with recorded losses" in capsys.readouterr().err
