"""A whole search as one call: budgets kept, members that are what the search evaluated, data of both kinds, resume."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.elastic import elastic
from jaxnas.search.family import load, search

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
    loaded = load(family.save(tmp_path / "family"), space)
    for ours, theirs in zip(family, loaded):
        jax.tree.map(np.testing.assert_array_equal, (ours.params, ours.state), (theirs.params, theirs.state))
        assert (ours.arch, ours.costs, ours.loss) == (theirs.arch, theirs.costs, theirs.loss)
        assert ours.hyperparameters == theirs.hyperparameters
    other = elastic(Net, X[:4], name="another", first=(2, 4, 8), second=(2, 8))
    with pytest.raises(ValueError, match="is of space 'elastic Net', not of 'another'"):
        load(tmp_path / "family", other)
    with pytest.raises(ValueError, match=r"folder must hold a family\.json"):
        load(tmp_path, space)


def test_batches_from_an_iterable_with_penalties(space):
    batches = [{"inputs": X[i : i + 8], "y": Y[i : i + 8]} for i in range(0, 60, 8)]  # the last is smaller

    def of(outputs, batch):
        return ((outputs - batch["y"]) ** 2).mean()

    found = run(space, loss=of, train=batches, valid=batches, penalties=(0.01, 10.0), method="importance_sampling")
    assert found[1].costs["macs"] == space.cost("macs").lowest  # nothing is worth that
    assert found[0].budgets is None
    with pytest.raises(ValueError, match="train must be arrays or batches that can be iterated again"):
        run(space, train=iter(batches), valid=batches, penalties=(0.1,))


def test_a_search_that_was_cut_goes_on_in_its_folder(space, tmp_path):
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
