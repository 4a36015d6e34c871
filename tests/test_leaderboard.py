"""The leaderboard: judged by hand-made cases, and its real entry points on small problems."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import cli, leaderboard, methods_page
from jaxnas import method_docs, metrics
from jaxnas.leaderboard import arena, on_supernets, standings
from jaxnas.leaderboard import methods_page as page
from jaxnas.leaderboard.standings import Found
from jaxnas.tasks import Table, TabularTask, synthetic_table
from tests.test_strategies import task

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"


def by_hand():
    """Four networks: costs 0, 0.5, 0.5, 1 and errors 0.4, 0.2, 0.3, 0.1."""
    table = Table.from_arrays(
        np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.4, 0.2, 0.3, 0.1]), np.array([10.0, 15.0, 15.0, 20.0])
    )
    return TabularTask.from_table(table)


def found(archs, seeds=8):
    return Found(np.broadcast_to(np.asarray(archs), (seeds, *np.shape(archs))), 100.0, 1.0)


def test_measures_by_hand():
    methods = {"best": found([[1, 1], [0, 1]]), "random": found([[1, 0], [0, 0]])}
    standing = standings.judge(by_hand(), (0.0, 0.4), methods)
    assert list(standing) == ["best", "random"]  # least regret first
    # eps = 0.4: f = 0.4, 0.4, 0.5, 0.5 (so "0 1" is an optimum); eps = 0: 0.4, 0.2, 0.3, 0.1, mean 0.25.
    np.testing.assert_allclose(standing["best"].regret, 0, atol=1e-12)
    np.testing.assert_allclose(standing["random"].regret, (0.2 / 0.15 + 0) / 2)
    # (1.1 - 0.2) * (1.1 - 0.5) + the strip between errors 0.1 and 0.2 right of cost 1.
    np.testing.assert_allclose(standing["best"].hypervolume, 0.9 * 0.6 + 0.1 * 0.1)
    np.testing.assert_allclose(standings.budgets(by_hand()), [0.375, 0.5, 0.625, 1])
    np.testing.assert_array_equal(standing["best"].attainment[0], [np.inf, 0.2, 0.2, 0.1])
    np.testing.assert_array_equal(standing["random"].attainment[0], [0.4, 0.3, 0.3, 0.3])
    # Eight seeds, all differences of one sign: 2 / 2^8, doubled by Holm for the smaller of two equal p-values.
    assert standing["best"].p_regret == pytest.approx(2 * 2 / 2**8)
    assert standings.beats_random(standing["best"], standing["random"], "regret")
    assert standing["random"].p_regret is None
    few = standings.judge(by_hand(), (0.0, 0.4), {name: found(each.archs[0], 2) for name, each in methods.items()})
    assert not standings.beats_random(few["best"], few["random"], "regret")


def test_json_keeps_everything():
    standing = standings.judge(by_hand(), (0.0, 0.4), {"a": found([[1, 1], [0, 1]]), "random": found([[1, 0], [0, 0]])})
    again = standings.from_json(json.loads(json.dumps(leaderboard.to_plain(standings.as_json(standing)))))
    for name in standing:
        for field in dataclasses.fields(standings.Standing):
            np.testing.assert_array_equal(getattr(again[name], field.name), getattr(standing[name], field.name))


@pytest.fixture
def table_file(tmp_path):
    table = synthetic_table((3, 3, 2), seed=0)
    choices = arena.all_architectures((3, 3, 2))
    np.savez(tmp_path / "small.npz", choices=choices, error=table.error, flops=table.cost)
    return tmp_path / "small.npz"


def test_tables_from_the_command_line(table_file, tmp_path, capsys):
    arguments = [f"--table={table_file}", "--evaluations=60", "--seeds=6", f"--out={tmp_path / 'out'}"]
    cli.run(leaderboard.main, leaderboard.Config, [*arguments, "--methods", "random", "importance_plain"])
    assert "importance_plain" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    part = content["problems"]["small"]
    assert (part["evaluations"], part["seeds"]) == (60, 6)
    assert part["methods"].keys() == {"random", "importance_plain"}
    assert np.shape(part["methods"]["random"]["encodings"]) == (6, 5, 3)
    assert (tmp_path / "out" / "leaderboard.png").stat().st_size > 5000
    cli.run(
        methods_page.main,
        methods_page.Config,
        [f"--result={tmp_path / 'out' / 'result.json'}", f"--out={tmp_path / 'methods.md'}"],
    )
    written = (tmp_path / "methods.md").read_text()
    assert "### small" in written
    assert "experiments.leaderboard" in written
    assert (tmp_path / "leaderboard.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to compare on"),
        (["--supernet=imagenet"], "supernet must be one of"),
        (["--supernet=digits", "--methods=magic"], "method 'magic' is not known"),
        (["--supernet=digits", "--seeds=0"], "seeds must be at least 1"),
        (["--table=absent.npz"], "absent.npz"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.run(leaderboard.main, leaderboard.Config, [*arguments, f"--out={tmp_path / 'out'}"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_result_is_one_line(tmp_path, capsys):
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(SystemExit):
        cli.run(methods_page.main, methods_page.Config, [f"--result={tmp_path / 'result.json'}"])
    assert "is not the result.json of a leaderboard" in capsys.readouterr().err


def test_all_architectures_are_in_the_table_s_order_and_not_too_many():
    archs = arena.all_architectures(task().space.num_choices)
    np.testing.assert_array_equal(task().rows(archs), np.arange(len(archs)))
    with pytest.raises(ValueError, match="at most"):
        arena.all_architectures((10,) * 6)


def test_every_method_is_documented_and_the_page_says_the_same():
    docs = page.documented()
    assert set(on_supernets.methods()) <= set(docs)
    text = PAGE.read_text(encoding="utf-8")
    for name, doc in docs.items():
        assert re.search(r"arXiv|IEEE|Biometrika", doc.paper), name
        for part in (f"`{name}`", doc.idea, doc.faithful, doc.deviations, doc.location):
            assert part.replace("|", r"\|") in text, f"docs/methods.md is not up to date on {name}; make it again"


def test_a_docstring_without_a_paragraph_is_named():
    with pytest.raises(ValueError, match=r"jaxnas\.metrics needs a paragraph.*Paper"):
        method_docs.read(metrics.hypervolume)
