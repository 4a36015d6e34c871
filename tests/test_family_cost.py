"""Families at equal cost: what each arm costs by hand, and that searches are run once."""

import json

import numpy as np
import pytest

from experiments import cli
from experiments import family_cost as command
from jaxnas import spaces, tasks
from jaxnas.leaderboard import family_cost
from jaxnas.results import settings_tree
from jaxnas.search import presets
from jaxnas.tasks import TabularTask
from tests import tiny_search  # noqa: F401 (registers a space)

STEPS = {"weight_steps": 80, "distribution_steps": 8, "batch_size": 32, "valid_batch_size": 64, "candidates": 4}


def configuration(**settings):
    return presets.MEMORY(preset="quickstart", space="tiny", penalties=(0.01, 0.5), **STEPS, **settings)


@pytest.fixture(scope="module")
def table():
    rows = spaces.SPACES["tiny"]().num_choices
    return tasks.synthetic_table(rows, seed=3)


@pytest.fixture
def study(table, tmp_path):
    return family_cost.Study(configuration(), TabularTask.from_table(table), tmp_path)


def test_the_cost_of_a_search_by_hand(study):
    # 80 gradients of 32 images and one network, three passes each; 8 steps of S = 16 networks on 64 images; 2 modes and
    # 8 candidates on the 719 images of the validation half.
    config = study.scaled("two_stage", 1.0, (0.01, 0.5))
    assert study.weights_cost(config) == 80 * 32 * 3
    assert study.step_cost(config) == 80 * 32 * 3 + 8 * 16 * 64
    valid = len(study._search.valid)
    assert study.cost(config) == study.step_cost(config) + 10 * valid


def test_shared_searches_cost_what_one_costs_and_separate_ones_k_times_it(study):
    whole = study.cost(configuration())
    part = study.scaled("two_stage", 0.5, (0.01,))
    assert (part.training.weight_steps, part.training.distribution_steps, part.method.candidates) == (40, 4, 4)
    assert 2 * study.cost(part) == whole
    assert study.cost(study.scaled("two_stage", 1.0, (0.01,))) == whole


def test_main_effects_are_counted_and_shared_out(table, tmp_path):
    # 128 networks on a minibatch of 64 images at the end, which choose 8 candidates; the modes do not compete.
    config = configuration(main_effects=128)
    study = family_cost.Study(config, TabularTask.from_table(table), tmp_path)
    valid = len(study._search.valid)
    assert study.cost(config) == study.step_cost(config) + 128 * 64 + 8 * valid
    part = study.scaled("two_stage", 0.25, (0.01,))
    assert (part.method.main_effects, part.method.candidates) == (32, 2)
    assert 4 * study.cost(part) == study.cost(config)
    # No fewer than one group, and none where the modes alone are the answer.
    assert study.scaled("two_stage", 0.01, (0.01,)).method.main_effects == 16
    modes = settings_tree.replace(config, candidates=0)
    assert study.cost(modes) == study.step_cost(modes) + 2 * valid


@pytest.mark.parametrize("penalties", [(0.01, 0.5), (0.01,)])
def test_joint_steps_cost_what_two_stages_cost(study, penalties):
    joint, stages = (study.scaled(phases, 1.0, penalties) for phases in ("joint", "two_stage"))
    assert joint.training.weight_steps == joint.training.distribution_steps == 0
    assert joint.method.samples * len(penalties) == family_cost.JOINT_SAMPLES
    one_step = 32 * 3 + 4 * 64
    assert abs(study.step_cost(joint) - study.step_cost(stages)) <= one_step / 2


def test_the_cheapest_come_first_and_names_are_checked():
    points = family_cost.points(family_cost.ARMS, ("two_stage", "joint"), (1.0, 0.125), range(2))
    assert len(points) == 2 * 2 * 7  # evolution on a trained supernet has no joint form
    assert [point.share for point in points[:6]] == [0.125] * 6
    assert points[-1] == family_cost.Point("separate", "joint", 1.0, 1)
    with pytest.raises(ValueError, match="arms must be of one, .*'both'"):
        family_cost.points(("both",), ("joint",), (1.0,), range(1))
    with pytest.raises(ValueError, match="shares must be positive, got 0"):
        family_cost.points(("one",), ("joint",), (0,), range(1))


def test_a_table_of_another_space_is_refused(tmp_path):
    task = TabularTask.from_table(tasks.synthetic_table((3, 3, 3), seed=0))
    with pytest.raises(ValueError, match="table must be of space 'tiny'"):
        family_cost.Study(configuration(), task, tmp_path)


@pytest.mark.slow
def test_every_arm_runs_once_and_is_judged_by_the_table(table, tmp_path, capsys, monkeypatch):
    path = tmp_path / "table.npz"
    np.savez(path, choices=table.archs, error=table.error, flops=table.cost)
    config = configuration()
    monkeypatch.setattr(command.presets, "MEMORY", lambda **settings: config)
    options = [
        "--table",
        str(path),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "1",
        "--shares",
        "1",
        "--phases",
        "two_stage",
    ]
    cli.run(command.main, command.Config, options)
    runs = json.loads((tmp_path / "out" / "family_cost.json").read_text())["runs"]
    assert [run["arm"] for run in runs] == ["one", "shared", "searched", "separate"]
    task = TabularTask.from_table(table)
    for run in runs:
        rows = task.rows(np.asarray(run["encodings"]))
        np.testing.assert_array_equal(run["errors"], table.error[rows])
        np.testing.assert_allclose(run["costs"], table.cost[rows])
    by_arm = {run["arm"]: run["cost"] for run in runs}
    assert by_arm["searched"] == pytest.approx(by_arm["one"], rel=0.1)
    assert (by_arm["shared"], by_arm["separate"]) == (by_arm["one"], 2 * by_arm["one"])
    results = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")}
    assert len(results) == 1 + 2 + 2
    cli.run(command.main, command.Config, options)
    assert json.loads((tmp_path / "out" / "family_cost.json").read_text())["runs"] == runs
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("result.json")} == results
    assert (tmp_path / "out" / "family_cost.png").exists()
