"""What limits searches on recorded supernets: hand-worked main effects, and scores that are right by construction."""

import numpy as np
import pytest

from experiments import cli, recorded_truth
from jaxnas.tasks import TabularTask
from jaxnas.tasks import recorded_truth as truth
from jaxnas.tasks.recorded import Recording
from jaxnas.tasks.tables import Table

ARCHS = np.stack(np.unravel_index(np.arange(12), (3, 4)), axis=1).astype(np.int32)
A, B = np.array([0.0, 0.05, 0.2]), np.array([0.0, 0.02, 0.01, 0.13])
ERRORS = 0.1 + A[ARCHS[:, 0]] + B[ARCHS[:, 1]]
COSTS = 20.0 - 5 * ARCHS[:, 0] - ARCHS[:, 1]
TABLE = Table.from_arrays(ARCHS, ERRORS, COSTS)


def recorded(bent=0.0, minibatch=0.5, own=0.0):
    """Losses that are the errors, bent by a product of centred effects that no main effect knows."""
    rng = np.random.default_rng(0)
    product = np.multiply.outer([1.0, -2.0, 1.0], [1.0, -1.0, -1.0, 1.0]).ravel()
    losses = ERRORS + bent * product + minibatch * rng.normal(size=(6, 1)) + own * rng.normal(size=(6, 12))
    return Recording(losses.astype(np.float32), np.zeros((6, 12), np.float32), 100)


def test_main_effects_are_row_and_column_means():
    losses = np.random.default_rng(1).normal(size=12)
    square = losses.reshape(3, 4)
    expected = square.mean(1, keepdims=True) + square.mean(0) - square.mean()
    np.testing.assert_allclose(truth.main_effects(losses, TabularTask.from_table(TABLE)), expected.ravel(), atol=1e-6)


def test_losses_that_are_the_errors_lead_to_the_best_networks():
    found = truth.measure(recorded(), TABLE, (0.0, 0.05, 1.0))
    assert all(tau["overall"] == pytest.approx(1) for tau in found.rank_correlation.values())
    assert all(distance == 0 for distance in found.distance.values())
    assert found.spread == pytest.approx(ERRORS.std(), rel=1e-4)
    assert found.common_minibatch == pytest.approx(0, abs=1e-6)
    assert 0.2 < found.minibatch < 1


def test_main_effects_see_through_what_only_goes_together():
    found = truth.measure(recorded(bent=0.3), TABLE, (0.0,))
    assert found.rank_correlation["main effects"]["overall"] == pytest.approx(1)
    assert found.rank_correlation["all minibatches"]["overall"] < 0.8
    assert found.distance["main effects"] == 0


def test_the_noise_that_minibatches_have_in_common_is_told_from_that_of_networks():
    found = truth.measure(recorded(minibatch=0.0, own=0.1), TABLE, (0.0,))
    assert found.common_minibatch == pytest.approx(found.minibatch, rel=0.1)


def test_a_table_of_another_space_is_refused():
    other = Recording(np.zeros((2, 5), np.float32), np.zeros((2, 5), np.float32), 10)
    with pytest.raises(ValueError, match="recording has 5 networks, the table 12"):
        truth.measure(other, TABLE, (0.0,))


def test_the_command_prints_a_column_for_each_supernet_and_their_mean(tmp_path, capsys):
    np.savez(tmp_path / "table.npz", choices=ARCHS, error=ERRORS, flops=COSTS)
    recorded().write(tmp_path / "first.npz")
    recorded(bent=0.1).write(tmp_path / "second.npz")
    paths = [str(tmp_path / "first.npz"), str(tmp_path / "second.npz")]
    options = ["--table", str(tmp_path / "table.npz"), "--losses", *paths, "--penalties", "0", "1"]
    cli.run(recorded_truth.main, recorded_truth.Config, options)
    printed = capsys.readouterr().out
    for words in ("first", "second", "mean", "main effects", "1.000 / 1.000 / 1.000", "one minibatch adds"):
        assert words in printed
