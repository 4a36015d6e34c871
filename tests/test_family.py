"""A whole search as one call: budgets kept, members that are what the search evaluated, data of both kinds, resume."""

import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas.elastic import elastic
from jaxnas.family.finding import search
from jaxnas.family.members import CALIBRATION
from jaxnas.family.storing import load
from jaxnas.report.runs import read_folders
from jaxnas.selection import picking
from jaxnas.spaces.mbconv import Operation
from tests import family_search

RNG = np.random.default_rng(0)
X = RNG.standard_normal((64, 6)).astype(np.float32)
Y = (np.abs(X[:, :2]).sum(1, keepdims=True) > 1.5).astype(np.float32)
TRAIN, VALID = (X[:40], Y[:40]), (X[40:], Y[40:])


class Net(nn.Module):
    first: int
    second: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(self.first)(x)))
        x = nn.relu(nn.Dense(self.second)(nn.Dropout(0.1, deterministic=not train)(x)))
        return nn.Dense(1)(x)


@pytest.fixture(scope="module")
def space():
    return elastic(Net, X[:4], first=(2, 4, 8), second=(2, 8))


def loss(outputs, batch):
    error = ((outputs - batch[1]) ** 2).mean()
    return error, {"rmse": jnp.sqrt(error)}


def run(space, **settings):
    settings = {"loss": loss, "train": TRAIN, "valid": VALID, "steps": 40, "batch_size": 8, **settings}
    return search(space, **settings)


@pytest.fixture(scope="module")
def family(space):
    return run(space, budgets={"params": (50, 90, 200), "macs": (1e3, 70, 1e3)})


def test_budgets_of_two_costs_are_kept(family, space):
    assert len(family) == 3
    for member in family:
        for name, budget in member.budgets.items():
            assert member.costs[name] <= budget
            assert member.costs[name] == space.count(name, member.arch)
    assert family[1].budgets == {"params": 90.0, "macs": 70.0}


def test_members_are_models_with_their_own_parameters(family):
    for member in family:
        assert member.model == Net(**member.hyperparameters)
        outputs = member.model.apply({"params": member.params, **member.state}, VALID[0], train=False)
        assert outputs.shape == VALID[1].shape
        # Batch norm calibrated on training minibatches: near the loss with the minibatch's own statistics.
        assert float(((outputs - VALID[1]) ** 2).mean()) == pytest.approx(member.loss, rel=0.5)
        assert set(member.metrics) == {"rmse"}


def test_a_family_is_printed_saved_and_loaded(family, space, tmp_path):
    assert "first=" in str(family)
    assert str(family).count("\n") == 4
    loaded = load(family.save(tmp_path / "family"), space=space)
    for ours, theirs in zip(family, loaded):
        jax.tree.map(np.testing.assert_array_equal, (ours.params, ours.state), (theirs.params, theirs.state))
        assert (ours.arch, ours.costs, ours.loss) == (theirs.arch, theirs.costs, theirs.loss)
        assert ours.hyperparameters == theirs.hyperparameters
    other = elastic(Net, X[:4], name="another", first=(2, 4, 8), second=(2, 8))
    with pytest.raises(ValueError, match="is of space 'elastic Net', not of 'another'"):
        load(tmp_path / "family", space=other)
    with pytest.raises(ValueError, match=r"folder must hold a family\.json"):
        load(tmp_path, space=space)


@pytest.mark.long
def test_batches_from_an_iterable_with_penalties(space):
    batches = [{"inputs": X[i : i + 8], "y": Y[i : i + 8]} for i in range(0, 60, 8)]  # the last is smaller

    def of(outputs, batch):
        return ((outputs - batch["y"]) ** 2).mean()

    found = run(space, loss=of, train=batches, valid=batches, penalties=(0.01, 10.0), method="importance_sampling")
    assert found[1].costs["macs"] == space.cost("macs").lowest  # nothing is worth that
    assert found[0].budgets is None
    with pytest.raises(ValueError, match="train must be arrays or batches that can be iterated again"):
        run(space, train=iter(batches), valid=batches, penalties=(0.1,))


class Cut(Exception):
    pass


class AfterTheWeights:
    def on_start(self, start):
        self.start = start

    def on_steps(self, records):
        if records[-1]["phase"] == "distributions":
            raise Cut

    def on_end(self):
        pass


@pytest.mark.long
def test_a_search_that_was_cut_goes_on_in_its_folder(space, tmp_path):
    settings = {"budgets": {"params": (60,)}, "workdir": tmp_path, "checkpoint_seconds": 0.0, "steps": 30}
    with pytest.raises(Cut):
        run(space, **settings, listeners=[AfterTheWeights()])
    whole = run(space, **{**settings, "workdir": None})
    resumed = run(space, **settings)
    assert resumed[0].arch == whole[0].arch
    jax.tree.map(np.testing.assert_array_equal, resumed[0].params, whole[0].params)
    with pytest.raises(ValueError, match="another search|differ"):
        run(space, **{**settings, "steps": 60})


def test_bad_settings_are_named(space):
    with pytest.raises(ValueError, match="either budgets.*or penalties"):
        run(space)
    with pytest.raises(ValueError, match="as many totals for each cost"):
        run(space, budgets={"params": (50, 60), "macs": (70,)})
    with pytest.raises(ValueError, match="budget of 5 parameters .* is out of reach"):
        run(space, budgets={"params": (5,)})
    with pytest.raises(ValueError, match="inputs must say which part of a batch"):
        run(space, train={"x": X, "y": Y}, valid={"x": X, "y": Y}, penalties=(0.1,))
    with pytest.raises(ValueError, match="steps must be at least 3"):
        run(space, penalties=(0.1,), steps=1)
    with pytest.raises(ValueError, match=r"penalties must ascend, got \(0.2, 0.1\); sort them"):
        run(space, penalties=(0.2, 0.1))
    with pytest.raises(ValueError, match="devices must be 1, or all of the"):
        run(space, penalties=(0.1,), devices=77)
    with pytest.raises(ValueError, match=r"loss must return one number.*shape \(8, 1\).*\.mean\(\)"):
        run(space, penalties=(0.1,), loss=lambda outputs, batch: (outputs - batch[1]) ** 2)
    with pytest.raises(ValueError, match="train must be arrays or an iterable of batches, got int"):
        run(space, penalties=(0.1,), train=3)
    with pytest.raises(ValueError, match=r"space must be of jaxnas\.elastic, or one of the built-in spaces"):
        run(jaxnas.spaces.SearchSpace("mine", space.decisions, space.costs), penalties=(0.1,))


@pytest.mark.long
def test_a_search_that_was_cut_while_its_networks_were_trained_goes_on(space, tmp_path, monkeypatch):
    settings = {"budgets": {"params": (60, 200)}, "checkpoint_seconds": 0.0, "steps": 200, "batch_size": 4}
    whole = run(space, **settings)
    from jaxnas.family import running

    class Later:  # 60 steps of the networks found: the first program ends after 50, and is saved
        def on_start(self, start):
            starts.append(start.step)

        def on_steps(self, records):
            if len(starts) == 1 and records[-1]["step"] > 50:
                raise Cut

        def on_end(self):
            pass

    starts = []
    monkeypatch.setattr(running, "TrainingDisplay", lambda name, console: Later())
    with pytest.raises(Cut):
        run(space, **settings, workdir=tmp_path, progress=True)
    resumed = run(space, **settings, workdir=tmp_path, progress=True)
    assert starts == [0, 50]
    for ours, theirs in zip(whole, resumed):
        assert ours.arch == theirs.arch
        jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def test_networks_for_other_budgets_come_from_the_kept_evaluations(family, space):
    wanted = {"params": (40, 120, 300), "macs": (60, 100, 1e3)}
    picks = family.at(wanted)
    for pick, params, macs in zip(picks, *wanted.values()):
        assert pick.costs["params"] <= params
        assert pick.costs["macs"] <= macs
        assert pick.costs["macs"] == space.count("macs", pick.encoding)
    rows = [dict(zip(wanted, row)) for row in zip(*wanted.values())]
    assert picks == picking.pick(space, family.evaluations, rows)
    own = space.extract(family.params, picks[0].encoding)
    assert sum(leaf.size for leaf in jax.tree.leaves(own)) == picks[0].costs["params"]
    front = family.front("params")
    assert front[0].costs["params"] == space.cost("params").lowest
    assert all(a.expected_loss > b.expected_loss for a, b in zip(front, front[1:]))
    with pytest.raises(ValueError, match="out of reach"):
        family.at({"params": (1,)})
    with pytest.raises(ValueError, match="'latency' is not known"):
        family.at({"latency": (1.0,)})
    slow = jaxnas.cost.AdditiveCost("latency", "seconds", 0, ((1, 2, 3), (1, 2)))
    assert family.at({"latency": (2,)}, costs=[slow])[0].encoding == (0, 0)


def test_every_evaluation_is_kept(family):
    kept = family.evaluations
    assert kept.losses.shape == (4, 12)  # a tenth of 40 steps, 4 samples for each of 3 networks
    assert kept.steps.tolist() == [25, 26, 27, 28]
    assert [record["loss"] for record in family.records if "loss" in record] != []


def test_a_family_is_drawn(family, tmp_path):
    figure = family.plot(tmp_path / "family.png", cost="params")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Parameters", "Validation loss")
    drawn = np.concatenate([points.get_offsets() for points in axes.collections])
    expected = {(member.costs["params"], round(member.loss, 6)) for member in family}
    assert {(int(x), round(y, 6)) for x, y in drawn} == expected
    assert (tmp_path / "family.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="cost must be one of macs, params"):
        family.plot(cost="latency")


def test_a_family_has_a_report_and_its_folder_too(family, tmp_path):
    page = family.report(tmp_path / "report.html").read_text()
    assert "validation loss" in page
    assert "first=" in page
    assert "Theta over time" in page
    for member in family:
        assert f"{member.loss:.4g}" in page
    (read,), _ = read_folders([family.save(tmp_path / "family")])
    assert [found.encoding for found in read.found] == [member.arch for member in family]
    assert read.history.theta.shape[1:] == (3, 2, 3)


@pytest.mark.long
def test_progress_is_shown_on_demand(space, capsys):
    run(space, penalties=(0.1,), steps=10)
    assert capsys.readouterr().out == ""
    run(space, penalties=(0.1,), steps=10, progress=True)
    assert re.search(r"step 7/7 . distributions", capsys.readouterr().out)


@pytest.mark.long
def test_batch_norm_is_estimated_on_training_batches(space):
    whole = run(space, penalties=(0.01,), batch_size=len(TRAIN[0]))[0]
    dense = whole.params["Dense_0"]
    before = TRAIN[0] @ dense["kernel"] + dense["bias"]
    found = whole.state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], before.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["var"], before.var(0), rtol=1e-3)
    assert CALIBRATION == 8


@pytest.mark.long
def test_a_space_that_holds_parameters_serves_several_searches():
    def make(width):
        return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(1)])

    params = elastic(make, X[:4], width=(2, 8)).init_params(jax.random.key(5))
    space = elastic(make, X[:4], params=params, width=(2, 8))
    first, second = (run(space, penalties=(0.1,), steps=9) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first[0].params, second[0].params)


class Modern(nn.Module):
    """Dropout, half precision and rematerialisation, as users have them."""

    hidden: tuple

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, dtype=jnp.bfloat16)(x)
        for hidden in self.hidden:
            x = x + nn.remat(Part, static_argnums=(2,))(hidden)(x, train)
        return nn.Dense(1)(x).astype(jnp.float32)


class Part(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x, train):
        y = nn.gelu(nn.Dense(self.hidden, dtype=jnp.bfloat16)(nn.LayerNorm()(x)))
        return nn.Dense(6, dtype=jnp.bfloat16)(nn.Dropout(0.3, deterministic=not train)(y))


@pytest.mark.long
def test_dropout_half_precision_and_rematerialisation_under_vmap():
    space = elastic(Modern, X[:4], hidden=[(4, 8)] * 2)
    settings = {"budgets": {"params": (200, 300)}, "steps": 12}
    many, one = (run(space, **settings, batching=batching) for batching in ("vmap", "map"))
    assert [member.arch for member in many] == [member.arch for member in one]
    for ours, theirs in zip(many, one):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.02)  # sums in half precision
    params, key = space.init_params(jax.random.key(0)), jax.random.key(1)
    gradient = jax.vmap(jax.grad(lambda p, a, k: space.apply(p, X, a, k).mean()), (None, 0, None))
    with_dropout, without = (gradient(params, jnp.asarray([[0, 0], [1, 1]]), k) for k in (key, None))
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(with_dropout), jax.tree.leaves(without)))


@pytest.mark.long
def test_batches_from_grain(space):
    grain = pytest.importorskip("grain")
    rows = [{"inputs": x, "y": y} for x, y in zip(*TRAIN)]
    source = grain.MapDataset.source(rows).seed(0).shuffle().batch(8)
    loader = grain.DataLoader(
        data_source=rows,
        sampler=grain.samplers.IndexSampler(len(rows), shard_options=grain.sharding.NoSharding(), num_epochs=1),
        operations=[grain.transforms.Batch(8)],
    )

    def of(outputs, batch):
        return ((outputs - batch["y"]) ** 2).mean()

    found = run(space, loss=of, train=source, valid=loader, budgets={"params": (60,)}, steps=12)
    assert found[0].costs["params"] <= 60
    assert np.isfinite(found[0].loss)


def test_a_built_in_space_is_searched_by_the_same_call(tmp_path):
    space = jaxnas.spaces.mbconv_space(
        "three layers",
        image_size=8,
        stem_channels=4,
        stages=[(4, 1, 1), (8, 2, 2)],
        operations=[Operation(3, 1), Operation(3, 2), Operation()],
        head_channels=16,
        num_classes=2,
    )
    images = np.random.default_rng(0).standard_normal((24, 8, 8, 3)).astype(np.float32)
    labels = (images.mean((1, 2, 3)) > 0).astype(np.int32)

    def cross_entropy(logits, batch):
        return -jax.nn.log_softmax(logits)[jnp.arange(len(logits)), batch[1]].mean()

    macs = space.cost("macs")
    budgets = {"macs": (macs.lowest, (macs.lowest + macs.highest) / 2)}
    data = {"train": (images, labels), "valid": (images, labels)}
    found = jaxnas.search(space, loss=cross_entropy, **data, budgets=budgets, steps=4, batch_size=8)
    assert found[0].costs["macs"] == macs.lowest
    own = found[0].model.apply({"params": found[0].params, **found[0].state}, images)
    np.testing.assert_allclose(found[0](images), own, rtol=1e-4, atol=1e-5)
    assert sum(leaf.size for leaf in jax.tree.leaves(found[1].params)) == found[1].costs["params"]


def assert_devices_agree(path, source, counts):
    flags = os.environ.get("XLA_FLAGS", "")
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.family_search", path / f"{count}.npz", source],
            env={**os.environ, "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"},
        )
        for count in counts
    ]
    one = family_search.find(source)
    assert [program.wait() for program in programs] == [0] * len(counts)
    for count in counts:
        other = dict(np.load(path / f"{count}.npz"))
        assert other.pop("devices") == count
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.long
def test_two_devices_find_what_one_does(tmp_path):
    assert_devices_agree(tmp_path, "memory", [2])


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", "stream"])
def test_four_devices_find_what_one_does(tmp_path, source):
    assert_devices_agree(tmp_path, source, [2, 4])
