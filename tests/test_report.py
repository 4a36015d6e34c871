import dataclasses
import io
import json
import re
import zlib

import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from jaxnas import report, results
from jaxnas.report import SearchDisplay, wording
from jaxnas.report.page import write_report
from jaxnas.report.runs import read_folders
from jaxnas.report.wording import quantity
from jaxnas.results import FoundArchitecture, MetricsLog, SearchResult, metrics_log
from jaxnas.results.files import to_plain


def make_result(accuracies=(0.91, 0.90, 0.89), macs=(50_000_000, 52_000_000, 20_000_000), **changes):
    architectures = [
        FoundArchitecture(k, 0.1 * k, (k, 1, 2), f"k3e3 [skip] {k}", 1000 + k, cost, 0.5, 0.7, accuracy)
        for k, (accuracy, cost) in enumerate(zip(accuracies, macs))
    ]
    fields = {
        "method": "importance_sampling",
        "space": "nasbench_macro",
        "dataset": "digits",
        "seed": 3,
        "config": {"penalties": (0.0, 0.1, 0.2)},
        "versions": results.versions(),
        "evaluations": 4000,
        "wall_seconds": 1.5,
        "architectures": architectures,
    }
    return SearchResult(**(fields | changes))


def test_result_round_trip_and_schema(tmp_path):
    result = make_result()
    result.write(tmp_path / "new" / "result.json")
    document = json.loads((tmp_path / "new" / "result.json").read_text())
    assert list(document) == [
        "method", "space", "dataset", "seed", "config", "versions", "evaluations", "wall_seconds", "architectures",
        "classes", "images", "space_description", "test_images", "sha256",
    ]  # fmt: skip
    assert list(document["architectures"][0]) == [
        "k", "penalty", "encoding", "description", "params", "macs", "probability", "valid_loss", "valid_accuracy",
        "budgets", "latency", "costs", "test_accuracy", "latencies",
    ]  # fmt: skip
    assert set(document["versions"]) == {"python", "jaxnas", "jax", "jaxlib", "flax", "optax", "numpy"}
    read = results.read_result(tmp_path / "new" / "result.json")
    assert read == dataclasses.replace(result, config={"penalties": [0.0, 0.1, 0.2]})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.json"]


def test_result_takes_arrays_and_has_no_nan(tmp_path):
    found = FoundArchitecture(
        np.int64(0), jnp.float32(0.5), jnp.array([1, 2]), "a", np.int32(5), 6, jnp.bfloat16(0.5), np.nan, jnp.inf
    )  # fmt: skip
    make_result(architectures=[found], config={"path": tmp_path, "nan": float("nan")}).write(tmp_path / "r.json")
    assert "NaN" not in (tmp_path / "r.json").read_text()
    read = results.read_result(tmp_path / "r.json")
    assert read.architectures == (FoundArchitecture(0, 0.5, (1, 2), "a", 5, 6, 0.5, None, None),)
    assert read.config == {"path": str(tmp_path), "nan": None}


def test_failed_write_leaves_the_old_file(tmp_path):
    make_result().write(tmp_path / "result.json")
    with pytest.raises(ValueError, match="must be made of numbers"):
        make_result(config={"x": object()}).write(tmp_path / "result.json")
    assert results.read_result(tmp_path / "result.json").seed == 3
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"method": "a"', "is not valid JSON"),
        ("\x00\xff", "is not valid JSON"),
        ("[]", "the file must be an object, is list"),
        ('{"table": "t"}', "the file has no 'method'"),
    ],
)
def test_foreign_files(tmp_path, text, match):
    path = tmp_path / "result.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=match) as caught:
        results.read_result(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seed": "3"}, "'seed' of the file must be int, is '3'"),
        ({"seed": True}, "'seed' of the file must be int"),
        ({"architectures": [3]}, r"architectures\[0\] must be an object"),
    ],
)
def test_wrong_fields(tmp_path, change, match):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(to_plain(make_result()) | change))
    with pytest.raises(ValueError, match=match):
        results.read_result(path)
    with pytest.raises(ValueError, match="no search result at"):
        results.read_result(tmp_path / "absent.json")


def test_wrong_encoding(tmp_path):
    document = to_plain(make_result())
    document["architectures"][1]["encoding"] = [0, "a"]
    (tmp_path / "result.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"'encoding' of architectures\[1\]"):
        results.read_result(tmp_path / "result.json")


def test_architectures_are_ordered():
    architectures = make_result().architectures
    with pytest.raises(ValueError, match="ordered by penalty"):
        make_result(architectures=architectures[::-1])
    with pytest.raises(ValueError, match="one for each k"):
        make_result(architectures=[architectures[0], architectures[0]])


def test_metrics_hold_exact_numbers_and_no_nan(tmp_path):
    with MetricsLog(tmp_path / "run" / "metrics.jsonl") as log:
        log.append(
            {"step": np.int32(1), "ess": jnp.array([0.1, jnp.nan]), "loss": np.float32(0.1), "inf": float("inf")}
        )
        log.append({"step": 2, "half": jnp.ones(2, jnp.bfloat16), "name": "joint"})
        first, second = results.read_metrics(tmp_path / "run" / "metrics.jsonl")  # Readable while open.
    assert first == {"step": 1, "ess": [float(np.float32(0.1)), None], "loss": float(np.float32(0.1)), "inf": None}
    assert second == {"step": 2, "half": [1.0, 1.0], "name": "joint"}
    with pytest.raises(ValueError, match="integer 'step'"):
        log.append({"loss": 1.0})


def test_metrics_are_cut_back_on_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        assert log.truncate_after(5) == 0
        for step in range(1, 6):
            log.append({"step": step})
        assert log.truncate_after(3) == 2
        log.append({"step": 4, "again": True})
        assert log.truncate_after(4) == 0
    assert [record["step"] for record in results.read_metrics(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("half", ['{"step": 3, "lo', '{"step": 3}', "\x00\x00\x00"])
def test_half_a_line(tmp_path, half):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + half)
    assert [record["step"] for record in results.read_metrics(path)] == [1, 2]
    with MetricsLog(path) as log:
        log.append({"step": 3, "whole": 1})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "whole": 1}\n'
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n' + half)
    with MetricsLog(path) as log:
        log.truncate_after(1)
    assert path.read_text() == '{"step": 1}\n'


@pytest.mark.parametrize(
    "result",
    [
        make_result(),
        make_result(accuracies=(None, None, None)),
        make_result(accuracies=(0.5, None, 0.5), macs=(0, 0, 0)),
        make_result(accuracies=np.linspace(0.9, 0.8, 16), macs=range(16_000, 0, -1000)),
        make_result(architectures=[]),
    ],
)
def test_pareto(tmp_path, result, recwarn):
    report.plot_pareto(result, tmp_path / "pareto.png")
    picture = matplotlib.image.imread(tmp_path / "pareto.png")
    assert picture.shape[0] > 300
    assert picture.std() > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["pareto.png"]
    assert not recwarn.list
    with pytest.raises(ValueError, match="cost must be one of macs, params, got 'flops'"):
        report.plot_pareto(result, tmp_path / "pareto.png", cost="flops")


def test_display_without_a_terminal():
    console = Console(file=io.StringIO(), width=40)
    with SearchDisplay((0.1, 0.3), 1000, console) as display:
        for step in range(1001):
            phase = "weights" if step < 500 else "joint"
            display.update(
                step, phase, seconds_per_step=0.5, loss=jnp.array([1.0, 2.0]), accuracy=[0.5, float("nan")],
                ess=[3.0, 4.0], convergence=[0.0, 0.5], train_loss=jnp.float32(1.25), note="[batch 64]",
            )  # fmt: skip
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3  # At the start, at the new phase, at the end.
    assert lines[0] == (
        "step 0/1000 | weights | 8 min 20 s left | train loss 1.250 | loss 1.000 2.000 | accuracy % 50.0 nan"
        " | effective samples 3.0 4.0 | settled % 0 50 | [batch 64]"
    )
    assert lines[1].startswith("step 500/1000 | joint")
    assert "\x1b" not in console.file.getvalue()


def test_display_on_a_terminal():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with SearchDisplay((0.1, 0.3), 10, console) as display:
        assert display.update(10, "joint", loss=[1.0, 2.0], convergence=[0.25, np.nan], note="resumed")
    lines = [line.split("\x1b[2K")[-1].rstrip() for line in console.file.getvalue().splitlines()]
    text = "\n".join(lines)
    assert "step 10/10  joint" in text
    assert "penalty   loss  settled %" in text
    assert "    0.3  2.000        nan" in text
    assert "resumed" in text
    with pytest.raises(ValueError, match="one number for each of 2 penalties"):
        SearchDisplay((0.1, 0.3), 10, Console(file=io.StringIO())).update(1, "joint", loss=[1.0])


def test_result_table():
    console = Console(file=io.StringIO(), width=150)
    result = make_result(accuracies=(0.91, None, 0.5))
    console.print(report.result_table(result))
    text = console.file.getvalue()
    assert "k3e3 [skip] 1" in text
    assert "52.00 M" in text
    assert "91.0%" in text
    assert "importance_sampling on nasbench_macro, digits, seed 3" in text


@pytest.mark.parametrize(
    "budgets", [{"macs": 3e7}, {"latency": 0.0041}, {"macs": 123e6, "params": 1.2e6, "latency": 4e-3}]
)
def test_result_table_holds_budgets_and_latency_in_80_columns(budgets):
    console = Console(file=io.StringIO(), width=80)
    found = [dataclasses.replace(each, budgets=budgets, latency=0.00397) for each in make_result().architectures]
    console.print(report.result_table(make_result(architectures=found)))
    lines = console.file.getvalue().splitlines()
    rows = [line for line in lines if line.split() and line.split()[0] in ("0", "1", "2")]
    assert [row.split()[0] for row in rows] == ["0", "1", "2"]
    words = {"macs": "macs ≤ ", "params": "params ≤ ", "latency": "latency ≤ "}
    for name, value in budgets.items():
        assert sum(f"{words[name]}{quantity(name, value)}" in line for line in lines) == 3
    assert all("3.97 ms" in row and "0.7000" in row and "0.500" in row for row in rows)
    assert "52.00 M" in rows[1]
    assert not any("…" in line or "penalty" in line for line in lines)


def test_pareto_names_budgets_and_every_cost(tmp_path):
    found = [
        dataclasses.replace(each, budgets={"latency": 1e-3 * (each.k + 1)}, latency=9e-4 * (each.k + 1))
        for each in make_result().architectures
    ]
    result = make_result(architectures=found, config={"method": {"cost": "latency"}})
    report.plot_pareto(result, tmp_path / "pareto.svg")
    text = (tmp_path / "pareto.svg").read_text()
    written = re.findall(r"<!-- (.*?) -->", text)  # what a text drawn as outlines is
    assert "Latency of one image" in written
    assert {"latency ≤ 1 ms", "latency ≤ 2 ms", "latency ≤ 3 ms"} <= set(written)
    assert any("labels: budget" in line for line in written)
    assert not any("penalty" in line for line in written)


def test_a_changed_digit_in_the_log_is_a_broken_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 4):
            log.append({"step": step, "loss": 0.25})
    first, second, third = path.read_text().splitlines(keepends=True)
    before, _, checksum = first.partition(', "crc32": ')
    assert json.loads(checksum.strip("}\n")) == f"{zlib.crc32(before.encode()):08x}"
    path.write_text(first + second.replace("0.25", "0.35") + third)
    records, damaged = metrics_log.read_whole_lines(path)
    assert (records, damaged) == ([{"step": 1, "loss": 0.25}, {"step": 3, "loss": 0.25}], 1)
    for changed in (second.replace("crc32", "crc31"), '{"step": 2, "loss": 0.25}\n', second.replace("crc", "loss")):
        path.write_text(first + changed + third)
        assert metrics_log.read_whole_lines(path) == (records, 1)
    path.write_text(second.replace("0.25", "0.35"))  # alone
    assert metrics_log.read_whole_lines(path) == ([], 1)
    # What has no checksums is of an earlier version, and goes on without.
    path.write_text('{"step": 1, "loss": 0.25}\n')
    with MetricsLog(path) as log:
        log.append({"step": 2, "loss": 0.5})
    assert path.read_text() == '{"step": 1, "loss": 0.25}\n{"step": 2, "loss": 0.5}\n'
    assert metrics_log.read_whole_lines(path) == ([{"step": 1, "loss": 0.25}, {"step": 2, "loss": 0.5}], 0)


def test_networks_of_a_space_with_other_costs_are_shown(tmp_path):
    energy = [(3.5, 0.9), (1.25, 0.8)]
    found = [
        FoundArchitecture(k, 0.1 * k, (k,), f"choice {k}", None, None, 0.5, 1.0, accuracy, costs={"energy": joules})
        for k, (joules, accuracy) in enumerate(energy)
    ]
    result = dataclasses.replace(make_result(architectures=found), config={"method": {"cost": "energy"}}, space="own")
    result.write(tmp_path / "result.json")
    read = results.read_result(tmp_path / "result.json")
    assert [each.costs for each in read.architectures] == [{"energy": 3.5}, {"energy": 1.25}]
    assert (wording.searched_cost(read), wording.costs_of(read.architectures)) == ("energy", ["energy"])
    report.plot_pareto(read, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 5000
    console = Console(file=io.StringIO(), width=80)
    console.print(report.result_table(read))
    assert "choice 1" in console.file.getvalue()
    write_report(tmp_path / "report.html", *read_folders([tmp_path]), None, {})
    assert "1.25 energy" in (tmp_path / "report.html").read_text()
