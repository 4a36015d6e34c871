"""Latency tables: what is timed, what is read and refused, and latency as a cost of a search."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import cli, measure_latency
from jaxnas import networks, spaces
from jaxnas.networks import latency, timing
from jaxnas.networks.latency import LatencyTable
from jaxnas.results import settings_tree
from jaxnas.search import build, presets
from tests.tiny_search import tiny

TABLE = LatencyTable("tiny", "a device", 4, 1e-3, ((5e-4, 1e-4), (3e-4, 0.0)))


@pytest.fixture
def exact_clock(monkeypatch):
    """Programs are their modules; an operation takes a thousandth of its kernel's size, the rest of a network 1 ms."""

    def seconds(module):
        if hasattr(module, "operation"):
            return module.operation.kernel / 1000
        choices = zip(module.space.layers, module.arch)
        return 0.001 + sum(layer.operations[choice].kernel / 1000 for layer, choice in choices)

    monkeypatch.setattr(latency, "_program", lambda module, shape: module)
    monkeypatch.setattr(timing, "seconds_of_call", seconds)


def test_additive_latencies_are_found_exactly(exact_clock):
    space = spaces.nasbench_macro()
    table = latency.measure(space, 4, rounds=3, check_networks=20)
    np.testing.assert_allclose(table.table, [[0, 0.003, 0.005]] * 8)
    assert table.fixed == pytest.approx(0.001)
    assert table.check["networks"] == 20
    assert table.check["spearman"] == pytest.approx(1)
    assert table.check["largest_absolute_error"] == pytest.approx(0, abs=1e-9)
    assert table.cost.total([[1] * 8]) == pytest.approx(0.025)


def test_networks_of_equal_latency_are_tied_whatever_the_order_of_their_sums():
    measured = np.array([0.015, 0.3, 0.6, 0.7])
    predicted = np.array([0.015, 0.1 + 0.2, 0.3 + 0.1 + 0.2, 0.7])
    tied = timing.compare(np.append(predicted, 0.3), np.append(measured, 0.1 + 0.2))
    assert tied["spearman"] == pytest.approx(1, abs=1e-12)
    assert tied["largest_absolute_error"] == pytest.approx(0, abs=1e-12)


def test_cells_are_timed_by_edge_and_stage():
    space = spaces.nasbench201(cells=2)
    timed = latency.operations(space)
    none, skip, conv1, conv3, pool = timed[0]
    assert none == skip == []
    assert [shape for _, shape in conv3] == [(32, 32, 16)] * 2 + [(16, 16, 32)] * 2 + [(8, 8, 64)] * 2
    assert len({module for module, _ in (*conv1, *conv3, *pool)}) == 3
    assert timed == [timed[0]] * 6


def test_the_entry_point_on_real_programs(tmp_path, capsys):
    measure_latency.SPACES["tiny"] = tiny
    arguments = [
        "--space",
        "tiny",
        "--batch",
        "2",
        "--rounds",
        "2",
        "--networks",
        "4",
        "--out",
        str(tmp_path / "l.json"),
    ]
    cli.run(measure_latency.main, measure_latency.Config, arguments)
    assert "4 whole networks: Spearman" in capsys.readouterr().out
    table = latency.read(tmp_path / "l.json")
    assert (table.space, table.batch_size, table.image_size) == ("tiny", 2, 8)
    assert 0 < table.cost.lowest < table.cost.highest < 1
    assert table.table[1][1] == 0  # an identity takes no time
    assert table.device


def test_a_table_comes_back_as_it_was_written(tmp_path):
    TABLE.write(tmp_path / "l.json")
    assert latency.read(tmp_path / "l.json") == TABLE
    assert TABLE.digest == latency.read(tmp_path / "l.json").digest != dataclasses.replace(TABLE, fixed=0.0).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "its format is 'other'"),
        ({"table": [[1, -1], [1, 1]]}, "must hold seconds, 0 or more"),
        ({"table": [["fast", 1], [1, 1]]}, "is no latency table"),
        ({"table": 3}, "is no latency table"),
        ({"fixed": None}, "is no latency table"),
        ({"table": [[]]}, "must hold seconds"),
    ],
)
def test_foreign_tables_are_refused_in_one_line(tmp_path, change, message):
    TABLE.write(tmp_path / "l.json")
    document = json.loads((tmp_path / "l.json").read_text())
    (tmp_path / "l.json").write_text(json.dumps(document | change))
    with pytest.raises(ValueError, match=message) as raised:
        latency.read(tmp_path / "l.json")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"[]", b"{}"])
def test_damaged_tables_are_refused(tmp_path, content):
    (tmp_path / "l.json").write_bytes(content)
    with pytest.raises(ValueError, match="is no latency table"):
        latency.read(tmp_path / "l.json")
    with pytest.raises(ValueError, match="cannot be read"):
        latency.read(tmp_path / "absent.json")


def test_a_table_of_another_space_is_refused():
    with pytest.raises(ValueError, match="measure it: python -m experiments.measure_latency --space mbconv_digits"):
        TABLE.added_to(spaces.mbconv_digits())
    with pytest.raises(ValueError, match="to be timed"):
        latency.operations(spaces.SearchSpace("other", ()))


def test_latency_is_a_cost_and_a_budget_of_searches(tmp_path):
    TABLE.write(tmp_path / "l.json")
    space = latency.read(tmp_path / "l.json").added_to(tiny())
    config = presets.MEMORY(
        preset="quickstart", space="tiny", latency=tmp_path / "l.json", budgets=("latency=1.5e-3,macs=3e4",)
    )
    strategy = build.choose_strategy(config, space)
    assert strategy.budgets == ((1.5e-3, 3e4),)
    assert build.inputs(config)["latency"] == {"device": "a device", "batch_size": 4, "digest": TABLE.digest}
    with pytest.raises(ValueError, match="budget"):
        build.choose_strategy(settings_tree.replace(config, budgets=("latency=1e-4",)), space)
    assert space.cost("latency").total([0, 1]) == pytest.approx(1.5e-3)
    assert networks.build(space, [0, 1]).arch == (0, 1)
