"""The leaderboard: judged by hand-made cases, and its real entry points on small problems."""

import dataclasses
import io
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments import cli, leaderboard, methods_page
from jaxnas import metrics
from jaxnas.data import Examples, load
from jaxnas.leaderboard import method_docs, on_supernets, standings, supernet_problem
from jaxnas.leaderboard.standings import Standings
from jaxnas.report import methods_page as page
from jaxnas.report.leaderboard import standings_table
from jaxnas.results import settings_tree
from jaxnas.search import presets
from jaxnas.search.build import build
from jaxnas.search.sources import InMemory
from jaxnas.spaces.base import architectures
from jaxnas.tasks import Table, TabularTask, judge, synthetic_table
from jaxnas.tasks.supernet import FrozenSupernet
from tests import tiny_search

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "methods.md"


def by_hand():
    """Four networks: costs 0, 0.5, 0.5, 1 and errors 0.4, 0.2, 0.3, 0.1."""
    table = Table.from_arrays(
        np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.4, 0.2, 0.3, 0.1]), np.array([10.0, 15.0, 15.0, 20.0])
    )
    return TabularTask.from_table(table)


def judged(archs, seeds=8):
    """The result of equal searches, penalties 0 and 0.4."""
    archs = np.broadcast_to(np.asarray(archs), (seeds, 1, *np.shape(archs)))
    return judge.judge(by_hand(), (0.0, 0.4), archs, (100,), spent=100.0, wall_seconds=1.0)


METHODS = {"random": [[1, 0], [0, 0]], "best": [[1, 1], [0, 1]]}


def test_measures_by_hand():
    standing = Standings.of({name: judged(archs) for name, archs in METHODS.items()})
    assert list(standing.results) == ["best", "random"]  # least regret first
    best, random = standing.results.values()
    # eps = 0.4: f = 0.4, 0.4, 0.5, 0.5 (so "0 1" is an optimum); eps = 0: 0.4, 0.2, 0.3, 0.1, mean 0.25.
    np.testing.assert_allclose(best.at_end("relative_regret"), 0, atol=1e-12)
    np.testing.assert_allclose(random.at_end("relative_regret"), (0.2 / 0.15 + 0) / 2)
    # (1.1 - 0.2) * (1.1 - 0.5) + the strip between errors 0.1 and 0.2 right of cost 1.
    np.testing.assert_allclose(best.at_end("hypervolume"), 0.9 * 0.6 + 0.1 * 0.1)
    np.testing.assert_allclose(judge.budgets(by_hand()), [0.375, 0.5, 0.625, 1])
    np.testing.assert_array_equal(best.attainment[0], [np.inf, 0.2, 0.2, 0.1])
    np.testing.assert_array_equal(random.attainment[0], [0.4, 0.3, 0.3, 0.3])
    # Eight seeds, all differences of one sign: 2 / 2^8, doubled by Holm for the smaller of two equal p-values.
    assert standing.tests["best", "relative_regret"].p_holm == pytest.approx(2 * 2 / 2**8)
    assert standing.beats_random("best", "relative_regret")
    assert {method for method, _ in standing.tests} == {"best"}
    few = Standings.of({name: judged(archs, 2) for name, archs in METHODS.items()})
    assert not few.beats_random("best", "relative_regret")
    enough, too_few = (page.verdicts({"problem": each})[0] for each in (standing, few))
    assert enough.endswith("not shown to be better than random search in either measure: no method.")
    assert too_few == "**problem**: 2 seeds are too few for a test to tell any method from random search."


def test_json_keeps_everything():
    standing = Standings.of({name: judged(archs) for name, archs in METHODS.items()})
    written = json.loads(json.dumps(leaderboard.to_plain(standings.as_json(standing))))
    again = standings.from_json(written)
    assert list(again.results) == list(standing.results)
    assert again.tests == standing.tests
    for name, result in standing.results.items():
        for measure in judge.MEASURES:
            np.testing.assert_array_equal(again.results[name].at_end(measure), result.at_end(measure))
        for field in ("evaluations", "attainment", "encodings", "spent", "wall_seconds"):
            np.testing.assert_array_equal(getattr(again.results[name], field), getattr(result, field))
    assert written["methods"]["random"]["p_regret"] is None
    assert written["methods"]["best"]["p_regret"] == standing.tests["best", "relative_regret"].p_holm


def test_tables_say_the_same_on_a_terminal_and_in_markdown():
    table = standings_table("a [b] | c", Standings.of({name: judged(archs) for name, archs in METHODS.items()}))
    console = Console(file=io.StringIO(), width=160)
    console.print(table.rich())
    printed = console.file.getvalue()
    assert "a [b] | c: medians over seeds" in printed
    markdown = table.markdown().splitlines()
    assert markdown[2] == r"| `best` | 0.000\* (0.00 to 0.00) | 0.5500 | - / 20.00 / 20.00 / 10.00 | 100 | 1 |"
    for cell in table.rows[0]:
        assert cell in printed


@pytest.fixture
def table_file(tmp_path):
    table = synthetic_table((3, 3, 2), seed=0)
    choices = table.archs
    np.savez(tmp_path / "small.npz", choices=choices, error=table.error, flops=table.cost)
    return tmp_path / "small.npz"


def test_tables_from_the_command_line(table_file, tmp_path, capsys):
    arguments = [f"--table={table_file}", "--evaluations=60", "--seeds=6", f"--out={tmp_path / 'out'}"]
    cli.run(leaderboard.main, leaderboard.Config, [*arguments, "--methods", "random", "importance_sampling"])
    assert "importance_sampling" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    part = content["problems"]["small"]
    assert (part["evaluations"], part["seeds"]) == (60, 6)
    assert part["methods"].keys() == {"random", "importance_sampling"}
    assert np.shape(part["methods"]["random"]["encodings"]) == (6, 5, 3)
    assert (tmp_path / "out" / "leaderboard.png").stat().st_size > 5000
    cli.run(
        methods_page.main,
        methods_page.Config,
        [f"--result={tmp_path / 'out' / 'result.json'}", f"--out={tmp_path / 'methods.md'}"],
    )
    written = (tmp_path / "methods.md").read_text()
    assert "### small, noise 0.01" in written
    assert "experiments.leaderboard" in written
    assert (tmp_path / "leaderboard.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to compare on"),
        (["--supernet=imagenet"], "supernet must be one of"),
        (["--supernet=digits", "--methods=magic"], "method 'magic' is not known"),
        (["--supernet=digits", "--methods=introspectable_importance"], "'introspectable_importance_sampling'"),
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


def test_every_method_is_documented_and_the_page_says_the_same():
    docs = page.documented()
    assert set(on_supernets.methods()) <= set(docs)
    text = PAGE.read_text(encoding="utf-8")
    for name, doc in docs.items():
        assert re.search(r"arXiv|IEEE|Biometrika", doc.paper), name
        for part in (f"`{name}`", doc.idea, doc.faithful, doc.deviations, doc.location, doc.limits):
            assert part.replace("|", r"\|") in text, (
                f"docs/reference/methods.md is not up to date on {name}; make it again"
            )


def test_a_docstring_without_a_paragraph_is_named():
    with pytest.raises(ValueError, match=r"jaxnas\.metrics needs a paragraph.*Paper"):
        method_docs.read(metrics.hypervolume)


@pytest.fixture(scope="module")
def tiny_problem():
    """An problem of seconds: a search space of four networks on digits."""
    preset = presets.MEMORY.configs["quickstart"]
    small = {"weight_steps": 4, "batch_size": 32, "steps_per_dispatch": 4}
    config = settings_tree.replace(preset, space=tiny_search.tiny().name, penalties=(0.0, 0.3), samples=2, **small)
    search = build(config)
    untrained = FrozenSupernet(search, search.supernet.init_params(jax.random.key(0)))
    return supernet_problem.SupernetProblem(
        untrained, 0, config.method.penalties, search.strategy.cost, evaluations=400
    )


def test_the_unit_of_cost_by_hand(tiny_problem):
    # 4 steps of one architecture, three passes each, 32 images where an evaluation takes 120.
    assert tiny_problem.training == pytest.approx(4 * 3 * 32 / 120)
    assert tiny_problem.total == pytest.approx(400 + 3.2)
    assert tiny_problem.mixture(60) == pytest.approx(2 * 60 / 120)  # two choices for each layer
    assert tiny_problem.mixture(60, gradient=True) == pytest.approx(3 * 2 * 60 / 120)


def test_the_judge_scores_all_networks_on_test_images(tiny_problem):
    images = load("digits")
    part = Examples(images.test_images[:120], images.test_labels[:120])
    judged = supernet_problem.score_all(tiny_problem.supernet, part, tiny_problem.cost, "tiny")
    archs = architectures((2, 2), np.arange(4))
    search = dataclasses.replace(tiny_problem.search, valid=InMemory(part))
    losses = np.asarray(search.evaluate(tiny_problem.supernet.params, archs).loss)
    np.testing.assert_allclose(judged.error, 1 - np.exp(-losses), rtol=1e-5)
    np.testing.assert_allclose(judged.cost.scaled, tiny_problem.cost(archs), atol=1e-6)


def test_training_ends_with_the_weights_phase(tiny_problem):
    trained = supernet_problem.train(tiny_problem.search, 0)
    start = tiny_problem.search.init(0).params
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(trained.params), jax.tree.leaves(start)))


@pytest.mark.slow
def test_every_method_runs_on_a_supernet_within_the_common_cost(tiny_problem):
    told = []
    names = list(on_supernets.methods())
    images = load("digits")
    part = Examples(images.test_images[:120], images.test_labels[:120])
    truth = supernet_problem.score_all(tiny_problem.supernet, part, tiny_problem.cost, "tiny")
    results = on_supernets.run([tiny_problem], names, truth, told.append)
    assert told == names
    space = tiny_problem.search.strategy.space
    for name, result in results.items():
        assert result.encodings.shape == (1, 2, 2), name
        for arch in result.encodings[0]:
            space.validate(arch)
        assert 0 < result.spent <= 1.05 * tiny_problem.total, name
    limits = [
        tiny_problem.cost.lowest + share * (tiny_problem.cost.highest - tiny_problem.cost.lowest) for share in (1, 0.5)
    ]
    assert np.all(tiny_problem.cost.total(results["rc_darts"].encodings[0]) <= limits)
