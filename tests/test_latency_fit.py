"""Latency tables from measured networks: exact models are found again, files are read and refused, tables transfer."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import cli, measure_latency
from jaxnas import spaces, tasks
from jaxnas.networks import latency, latency_fit
from jaxnas.networks.latency import LatencyTable
from jaxnas.spaces.base import SearchSpace

SPACE = spaces.nasbench_macro()
COUNTS = SPACE.num_choices
TABLE_201 = Path(__file__).parents[2] / "shared" / "tabular" / "nasbench201_cifar10.npz"


def drawn(number, seed=0):
    return SPACE.sample_uniform(np.random.default_rng(seed), number)


def table_of(seed, fixed=0.002):
    rows = np.random.default_rng(seed).uniform(0, 0.01, (len(COUNTS), COUNTS[0]))
    return LatencyTable(SPACE.name, "a device", 1, fixed, tuple(map(tuple, rows - rows.min(1, keepdims=True))))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), unit=st.sampled_from([1e-6, 1.0, 100.0]))
def test_additive_latencies_are_found_again_in_any_unit(seed, unit):
    archs, true = drawn(120, seed), table_of(seed)
    found = latency_fit.fit(SPACE, archs, unit * true.cost.total(archs), device="phone")
    others = drawn(50, seed + 1)
    np.testing.assert_allclose(found.cost.total(others), unit * true.cost.total(others), rtol=2e-3)
    assert found.check["networks"] == 120
    assert found.check["median_absolute_error"] < 1e-2
    assert min(found.fixed, *(min(row) for row in found.table)) >= 0
    found.added_to(SPACE)


def test_the_check_is_of_networks_that_were_not_fitted():
    archs = drawn(40)
    noise = np.exp(np.random.default_rng(1).normal(0, 0.5, 40))  # no network explains another
    found = latency_fit.fit(SPACE, archs, 0.01 * noise, device="phone")
    assert abs(found.check["spearman"]) < 0.5
    assert found.check["median_absolute_error"] > 0.2


def test_a_device_that_is_a_multiple_of_a_known_one_needs_few_measurements():
    known, archs, others = table_of(3), drawn(10), drawn(200, 1)
    new = latency_fit.fit(SPACE, archs, 5 * known.cost.total(archs) + 0.003, device="phone", known=known)
    np.testing.assert_allclose(new.cost.total(others), 5 * known.cost.total(others) + 0.003, rtol=0.01)


@pytest.mark.parametrize(("number", "words"), [(7, "8 networks or more, got 7"), (0, "got 0")])
def test_too_few_measurements_are_refused(number, words):
    with pytest.raises(ValueError, match=words):
        latency_fit.fit(SPACE, drawn(8)[:number], np.ones(number), device="phone")
    with pytest.raises(ValueError, match="8 different"):
        latency_fit.fit(SPACE, drawn(1).repeat(30, 0), np.ones(30), device="phone")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0 1 2 0 1 2 0,3", "line 2: an encoding must be 8 choices below"),
        ("0 1 2 0 1 2 0 3,3", "line 2: an encoding"),
        ("0 1 2 0 1 2 0 x,3", "line 2: an encoding"),
        ("0 1 2 0 1 2 0 1,fast", "line 2: milliseconds must be positive, got 'fast'"),
        ("0 1 2 0 1 2 0 1,-3", "line 2: milliseconds"),
        ("0 1 2 0 1 2 0 1,nan", "line 2: milliseconds"),
    ],
)
def test_files_of_something_else_are_refused_in_one_line(tmp_path, line, words):
    (tmp_path / "m.csv").write_text(f"encoding,milliseconds\n{line}\n")
    with pytest.raises(ValueError, match=words):
        latency_fit.read_csv(tmp_path / "m.csv", SPACE)
    with pytest.raises(ValueError, match="cannot be read"):
        latency_fit.read_csv(tmp_path / "absent.csv", SPACE)


def test_encodings_in_one_cell_or_in_many(tmp_path):
    (tmp_path / "m.csv").write_text('0 1 2 0 1 2 0 1,1.5\n"[0, 0, 0, 0, 0, 0, 0, 2]",2\n\n1,1,1,1,1,1,1,1,0.5\n')
    archs, seconds = latency_fit.read_csv(tmp_path / "m.csv", SPACE)
    assert archs.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1], [0] * 7 + [2], [1] * 8]
    np.testing.assert_allclose(seconds, [1.5e-3, 2e-3, 5e-4])


def test_the_command_fits_a_file(tmp_path, capsys):
    archs, true = drawn(60), table_of(4)
    lines = [f"{' '.join(map(str, arch))},{1000 * true.cost.total(arch):.6f}" for arch in archs]
    (tmp_path / "phone.csv").write_text("\n".join(["encoding,milliseconds", *lines]))
    shared = ["--space=nasbench_macro", f"--out={tmp_path / 'phone.json'}"]
    cli.run(measure_latency.main, measure_latency.Config, [*shared, f"--csv={tmp_path / 'phone.csv'}", "--device=Q1"])
    printed = capsys.readouterr().out
    assert "60 networks, each held out of the fit: Spearman" in printed
    table = latency.read(tmp_path / "phone.json")
    assert table.device == "Q1"
    np.testing.assert_allclose(table.added_to(SPACE).cost("latency").total(archs), true.cost.total(archs), rtol=0.01)
    known = ["--known", str(tmp_path / "phone.json")]
    cli.run(measure_latency.main, measure_latency.Config, [*shared, f"--csv={tmp_path / 'phone.csv'}", *known])
    assert latency.read(tmp_path / "phone.json").device == "phone"
    with pytest.raises(SystemExit) as stopped:
        cli.run(measure_latency.main, measure_latency.Config, [*shared, *known])
    assert stopped.value.code == 2
    assert "give --csv FILE" in capsys.readouterr().err


@pytest.mark.skipif(not TABLE_201.exists(), reason="needs ../shared/tabular")
def test_twenty_measurements_bring_flops_to_gpu_latency():
    flops, seconds = (tasks.read_table(TABLE_201, name) for name in ("flops", "gpu_latency"))
    space = SearchSpace("cells", flops.decisions)
    cost = tasks.additive_cost(flops, "flops")
    known = LatencyTable("cells", "multiply-adds", 1, cost.fixed, cost.table)
    found, expected = [], []
    for seed in range(8):
        rows = np.random.default_rng(seed).choice(len(seconds.cost), 20, replace=False)
        table = latency_fit.fit(space, seconds.archs[rows], seconds.cost[rows], device="GPU", known=known)
        predicted = table.cost.total(seconds.archs)
        found.append(scipy.stats.spearmanr(predicted, seconds.cost).statistic)
        expected.append((table.check["median_absolute_error"], np.median(np.abs(predicted / seconds.cost - 1))))
    assert min(found) >= 0.8
    said, true = np.mean(expected, axis=0)
    assert true < said < 2 * true  # the error to expect is no promise too good
