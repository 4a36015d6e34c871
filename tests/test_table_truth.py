"""The comparison with a table, worked by hand on three networks."""

import json
import re

import numpy as np
import pytest

from experiments import cli, table_truth
from jaxnas.results import FoundArchitecture, SearchResult
from jaxnas.tasks import Table

CHOICES = np.array([[0], [1], [2]])
ERROR = np.array([0.30, 0.10, 0.12])
COST = np.array([10, 20, 30])
TABLE = Table.from_arrays(CHOICES, ERROR, COST)


def result(*encodings):
    found = tuple(
        FoundArchitecture(k, penalty, encoding, "", 1, 1, 1.0, 0.5, 0.5)
        for k, (penalty, encoding) in enumerate(zip((0.01, 1.0), encodings))
    )
    return SearchResult("shared_model", "toy", "digits", 0, {}, {}, 1, 1.0, found)


def test_by_hand():
    dear, cheap = table_truth.look_up([(2,), (0,)], TABLE)
    assert (dear.cost, dear.error, dear.best_within_cost, dear.rank_within_cost) == (30, 0.12, 0.10, 1)
    assert (cheap.cost, cheap.error, cheap.best_within_cost, cheap.rank_within_cost) == (10, 0.3, 0.3, 0)
    # f = error + 0.01 * (0, 1/2, 1) is least for the second network, f = error + (0, 1/2, 1) for the first.
    np.testing.assert_array_equal(table_truth.best_for_penalties((0.01, 1.0), TABLE), [0.10, 0.3])


def test_network_of_another_space():
    with pytest.raises(ValueError, match="arch must have one choice"):
        table_truth.look_up([(2, 1), (0, 0)], TABLE)


def run(tmp_path, capsys, **arrays):
    result((2,), (0,)).write(tmp_path / "result.json")
    np.savez(tmp_path / "table.npz", **arrays)
    arguments = [f"--result={tmp_path / 'result.json'}", f"--table={tmp_path / 'table.npz'}"]
    cli.run(table_truth.main, table_truth.Config, arguments)
    return capsys.readouterr().out


def test_command(tmp_path, capsys):
    out = run(tmp_path, capsys, choices=CHOICES, error=ERROR, flops=COST)
    assert "12.00" in out
    assert "mean distance to the best network that costs no more: 1.00 points" in out


def test_command_without_the_cost(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, capsys, choices=CHOICES, error=ERROR)
    assert stopped.value.code == 2
    assert "flops" in capsys.readouterr().err


def test_command_with_picks(tmp_path, capsys):
    np.savez(tmp_path / "table.npz", choices=CHOICES, error=ERROR, flops=COST)
    picks = tmp_path / "picks.json"
    picks.write_text(json.dumps([{"encoding": [2], "budgets": {"flops": 35}}, {"encoding": [1], "budgets": {}}]))
    arguments = [f"--picks={picks}", f"--table={tmp_path / 'table.npz'}"]
    cli.run(table_truth.main, table_truth.Config, arguments)
    out = capsys.readouterr().out
    assert "flops <= 35" in out
    assert "mean distance to the best network that costs no more: 1.00 points" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "wrote"),
        ("[]", "has none"),
        ('[{"encoding": [1]}]', "wrote"),
        ("3", "wrote"),
        ('[{"encoding": [7], "budgets": {}}]', "layer|decision|choice"),
    ],
)
def test_picks_that_are_none(tmp_path, capsys, content, message):
    np.savez(tmp_path / "table.npz", choices=CHOICES, error=ERROR, flops=COST)
    if content is not None:
        (tmp_path / "picks.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        cli.run(
            table_truth.main,
            table_truth.Config,
            [f"--picks={tmp_path / 'picks.json'}", f"--table={tmp_path / 'table.npz'}"],
        )
    assert stopped.value.code == 2
    assert re.search(message, capsys.readouterr().err)
