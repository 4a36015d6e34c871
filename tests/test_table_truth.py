"""The comparison with a table, worked by hand on three networks."""

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
    dear, cheap = table_truth.look_up(result((2,), (0,)), TABLE)
    # f = error + 0.01 * (0, 1/2, 1) is least for the second network, f = error + (0, 1/2, 1) for the first.
    assert (dear.error, dear.best_within_cost, dear.best_for_penalty, dear.rank_within_cost) == (0.12, 0.10, 0.10, 1)
    assert (cheap.error, cheap.best_within_cost, cheap.best_for_penalty, cheap.rank_within_cost) == (0.3, 0.3, 0.3, 0)


def test_network_of_another_space():
    with pytest.raises(ValueError, match="arch must have one choice"):
        table_truth.look_up(result((2, 1), (0, 0)), TABLE)


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
