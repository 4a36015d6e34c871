"""The experiment through its real entry point, on a small table."""

import json
import runpy
import sys

import numpy as np
import pytest

from experiments import cli, tabular_search
from jaxnas import metrics, strategies
from jaxnas.report import tabular as report
from jaxnas.tasks import TabularTask, comparison, read_table, synthetic_table
from jaxnas.tasks.judge import Result
from tests import oracles

NUM_CHOICES = (3, 2, 4, 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    table = synthetic_table(NUM_CHOICES, seed=5)
    path = tmp_path_factory.mktemp("tables") / "small.npz"
    choices = oracles.enumerate_space(NUM_CHOICES).astype(np.int8)
    np.savez(path, choices=choices, error=table.error.astype(np.float32), valid=table.error / 2, flops=table.cost)
    return path


def run(path, out, *arguments):
    cli.run(tabular_search.main, tabular_search.Config, ["--table", str(path), "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def finished(path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "new" / "folder"
    methods = ["shared_model", "independent", "random"]
    settings = [
        "--cost",
        "flops",
        "--noise",
        "0.05",
        "--evaluations",
        "300",
        "--seeds",
        "3",
        "--penalties",
        "0.05",
        "0.3",
    ]
    run(path, out, *settings, "--methods", *methods)
    return out, json.loads((out / "result.json").read_text())


def test_result_has_the_keys_and_shapes_of_the_contract(finished, path):
    _, result = finished
    assert result["table"] == str(path)
    assert (result["cost"], result["noise"], result["penalties"], result["seeds"]) == ("flops", 0.05, [0.05, 0.3], 3)
    recorded = result["evaluations"]
    assert recorded == sorted(set(recorded))
    assert {250, 300} <= set(recorded)
    assert set(result["methods"]) == {"shared_model", "independent", "random", *(f"independent@{n}" for n in (2, 4, 8))}
    for method in result["methods"].values():
        assert np.shape(method["relative_regret"]) == (3, 2, len(recorded))
        assert np.shape(method["hypervolume"]) == (3, len(recorded))
        assert np.shape(method["encodings"]) == (3, 2, len(NUM_CHOICES))
        assert isinstance(method["samples"], int)
        assert method["wall_seconds"] > 0


def test_regret_and_hypervolume_at_the_end_are_those_of_the_encodings(finished, path):
    _, result = finished
    with np.load(path) as raw:
        error, flops = raw["error"].astype(float), raw["flops"]
        index = {tuple(row): i for i, row in enumerate(raw["choices"].tolist())}
    scaled = (flops - flops.min()) / (flops.max() - flops.min())
    for method in result["methods"].values():
        for seed in range(3):
            rows = [index[tuple(arch)] for arch in method["encodings"][seed]]
            for k, penalty in enumerate(result["penalties"]):
                objective = error + penalty * scaled
                expected = (objective[rows[k]] - objective.min()) / (objective.mean() - objective.min())
                assert method["relative_regret"][seed][k][-1] == pytest.approx(expected, abs=1e-6)
            expected = metrics.hypervolume(error[rows], scaled[rows])
            assert method["hypervolume"][seed][-1] == pytest.approx(expected, abs=1e-6)


def test_independent_is_its_best_lambda_and_all_are_kept(finished):
    methods = finished[1]["methods"]
    ends = {n: np.mean(np.array(methods[f"independent@{n}"]["relative_regret"])[..., -1]) for n in (2, 4, 8)}
    assert methods["independent"]["samples"] == min(ends, key=ends.get)
    assert methods["independent"] == methods[f"independent@{methods['independent']['samples']}"]


def test_importance_is_tested_against_every_baseline(finished):
    tests = finished[1]["tests"]
    assert [(test["measure"], test["evaluations"], test["baseline"].split("@")[0]) for test in tests] == [
        (measure, 250, baseline)
        for measure in ("relative_regret", "hypervolume")
        for baseline in ("random", "independent")
    ]
    assert all(test["p_value"] <= test["p_holm"] <= 1 for test in tests)


def test_the_curves_are_a_picture(finished):
    out, _ = finished
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in out.iterdir()) == ["curves.png", "result.json"]


def test_the_module_runs_as_a_program(path, tmp_path, monkeypatch, capsys):
    arguments = ["--cost", "flops", "--error", "valid", "--distributions", "3", "--evaluations", "30", "--seeds", "2"]
    command = ["tabular_search", "--table", str(path), "--out", str(tmp_path), *arguments, "--methods", "random"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.delitem(sys.modules, "experiments.tabular_search")
    runpy.run_module("experiments.tabular_search", run_name="__main__")
    printed = capsys.readouterr().out
    assert "random" in printed
    assert "result.json" in printed
    result = json.loads((tmp_path / "result.json").read_text())
    np.testing.assert_allclose(result["penalties"], [0.02, np.sqrt(0.02 * 0.3), 0.3])
    assert result["evaluations"] == [25, 30]
    assert result["tests"] == result["evaluations_to_reach"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--table", "absent.npz"], "absent.npz"),
        (["--cost", "latency"], "no array 'latency'; it has choices, error, flops, valid"),
        (["--error", "test"], "no array 'test'"),
        (["--methods", "shared_model", "anealing"], "'anealing' is not known; choose from shared_model"),
        (["--methods", "random", "random"], "twice"),
        (["--methods", "independent", "independent"], "twice"),
        (["--methods", "importance"], "method 'importance' is now called 'shared_model'"),
        (["--methods", "importance_plain"], "method 'importance_plain' is now called 'importance_sampling'"),
        (["--methods"], "at least one of shared_model"),
        (["--noise", "-0.1"], "noise"),
        (["--noise", "nan"], "noise"),
        (["--noise", "loud"], "loud"),
        (["--evaluations", "7"], "at least one step of every method, which is 20 here"),
        (["--seeds", "0"], "seeds must be at least 1"),
        (["--penalties", "0.1", "-0.2"], "-0.2"),
        (["--penalties", "0.1", "--distributions", "3"], "not both"),
        (["--distributions", "0"], "distributions must be at least 1"),
        (["--seed", "1"], "--seed"),
    ],
)
def test_bad_input_is_one_line_and_overwrites_nothing(path, tmp_path, capsys, arguments, said):
    kept = tmp_path / "result.json"
    kept.write_text("kept")
    defaults = {"--cost": ["flops"], "--table": [str(path)]}
    given = [word for name, value in defaults.items() if name not in arguments for word in (name, *value)]
    with pytest.raises(SystemExit) as stopped:
        cli.run(tabular_search.main, tabular_search.Config, [*given, *arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert kept.read_text() == "kept"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_an_output_that_is_no_folder_is_refused_before_the_search(path, tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("kept")
    for out in (blocked, blocked / "below"):
        with pytest.raises(SystemExit) as stopped:
            run(path, out, "--cost", "flops")
        assert stopped.value.code == 2
        assert "file" in capsys.readouterr().err
    assert blocked.read_text() == "kept"


def test_a_failed_write_keeps_the_earlier_files(tmp_path):
    (tmp_path / "result.json").write_text("kept")
    with pytest.raises(ValueError, match="JSON"):
        report.write(tmp_path, {"value": float("nan")}, report.Figure())
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "kept"


def test_recorded_counts_hold_the_round_numbers():
    task = TabularTask.from_table(synthetic_table((2, 3)))
    planned = comparison.plan(["shared_model", "independent"], task, (0.02,) * 5, 4000)
    recorded = comparison.recorded_counts(4000, planned)
    assert recorded[0] == 50  # the first multiple of 25 that 8 samples for each of 5 can do
    assert {250, 1000, 2000, 4000} <= set(recorded)
    assert len(recorded) < 60
    assert comparison.recorded_counts(60, planned) == (50, 60)
    assert comparison.recorded_counts(40, planned) == (40,)
    assert comparison.recorded_counts(25_001, planned)[-3:] == (22_500, 25_000, 25_001)


def test_independent_searches_get_only_the_lambdas_that_fit():
    task = TabularTask.from_table(synthetic_table((2, 3)))
    assert list(comparison.plan(["independent"], task, (0.1, 0.2), 10)) == ["independent@2", "independent@4"]
    assert strategies.STRATEGIES.keys() >= {"shared_model", "importance_sampling", "independent", "random", "nsga2"}


def result(regret, recorded, samples=4):
    """A Result with mean regret [seeds, E] for its one penalty."""
    regret = np.asarray(regret, float)
    seeds = len(regret)
    attainment, encodings = np.zeros((seeds, 4)), np.zeros((seeds, 1, 2), int)
    return Result(recorded, regret[:, None], 1 - regret, attainment, encodings, recorded[-1], 1.0, samples)


def test_reach_by_hand():
    recorded = (500, 1000, 2000, 4000)
    results = {
        "independent@2": result([[0.9, 0.6, 0.4, 0.3]], recorded, samples=2),
        "independent@8": result([[0.9, 0.7, 0.5, 0.2]], recorded, samples=8),
        "shared_model": result([[0.45, 0.35, 0.25, 0.2]], recorded),
        "random": result([[0.9, 0.9, 0.9, 0.9]], recorded),
    }
    rows = [(r.method, r.at, r.level, r.samples, r.evaluations, r.ratio) for r in comparison.reaches(results)]
    assert rows == [
        ("shared_model", 2000, 0.4, 2, 1000, 0.5),
        ("random", 2000, 0.4, 2, None, None),
        ("shared_model", 4000, 0.2, 8, 4000, 1.0),
        ("random", 4000, 0.2, 8, None, None),
    ]


def test_levels_are_reached_at_the_first_count_and_independent_searches_by_any_lambda():
    recorded = (100, 200, 300)
    results = {
        "shared_model": result([[0.3, 0.24, 0.09]], recorded),
        "independent@2": result([[0.26, 0.26, 0.26]], recorded),
        "independent@4": result([[0.5, 0.2, 0.2]], recorded),
    }
    assert report.level_table(results).rows == [
        ("shared_model", "100", "200", "300", "300", "300"),
        ("independent", "100", "200", "200", "never", "never"),
    ]


def test_comparison_by_hand():
    steps = np.arange(1.0, 13) / 100
    results = {
        "shared_model": result((0.1 + 0 * steps)[:, None], (250,)),
        "random": result((0.1 + steps)[:, None], (250,)),
        "independent@2": result((0.1 - steps)[:, None], (250,)),
        "independent@4": result((0.1 - 2 * steps)[:, None], (250,)),
    }
    compared = comparison.compare("shared_model", results)
    assert [(each.baseline, each.better) for each in compared] == [("random", True), ("independent@4", False)] * 2
    # Twelve differences of one sign: p = 2 / 2^12, times four tests.
    np.testing.assert_allclose([each.p_holm for each in compared], 4 * 2 / 2**12)


def test_the_public_table_is_searched_as_published(macro_path):
    """Plain importance sampling on NAS-Bench-Macro, noise 0.03, K = 5: regret about 0.29, 0.22, 0.16."""
    task = TabularTask.from_table(read_table(macro_path, "flops"), noise=0.03)
    method = strategies.make("importance_sampling", task.space, tuple(np.geomspace(0.02, 0.3, 5)), cost=task.cost)
    regret = comparison.run(task, method, (250, 1000, 4000), seeds=16).mean_regret
    assert np.all(regret <= [0.34, 0.26, 0.20])
