"""The leaderboard: judged by hand-made cases, and its real entry points on small problems."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import cifar_search, cli, leaderboard, methods_page
from jaxnas import metrics
from jaxnas.data import Split, load
from jaxnas.leaderboard import method_docs, on_supernets, standings, supernet_problem
from jaxnas.leaderboard import methods_page as page
from jaxnas.leaderboard.standings import Found
from jaxnas.search.presets import PRESETS
from jaxnas.tasks import Table, TabularTask, synthetic_table
from jaxnas.tasks.supernet import FrozenSupernet
from tests import tiny_search
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
    enough, too_few = (page.verdicts({"problem": each})[0] for each in (standing, few))
    assert enough.endswith("not shown to be better than random search in either measure: no method.")
    assert too_few == "**problem**: 2 seeds are too few for a test to tell any method from random search."


def test_json_keeps_everything():
    standing = standings.judge(by_hand(), (0.0, 0.4), {"a": found([[1, 1], [0, 1]]), "random": found([[1, 0], [0, 0]])})
    again = standings.from_json(json.loads(json.dumps(leaderboard.to_plain(standings.as_json(standing)))))
    for name in standing:
        for field in dataclasses.fields(standings.Standing):
            np.testing.assert_array_equal(getattr(again[name], field.name), getattr(standing[name], field.name))


@pytest.fixture
def table_file(tmp_path):
    table = synthetic_table((3, 3, 2), seed=0)
    choices = supernet_problem.all_architectures((3, 3, 2))
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


def test_all_architectures_are_in_the_table_s_order_and_not_too_many():
    archs = supernet_problem.all_architectures(task().space.num_choices)
    np.testing.assert_array_equal(task().rows(archs), np.arange(len(archs)))
    with pytest.raises(ValueError, match="at most"):
        supernet_problem.all_architectures((10,) * 6)


def test_every_method_is_documented_and_the_page_says_the_same():
    docs = page.documented()
    assert set(on_supernets.methods()) <= set(docs)
    text = PAGE.read_text(encoding="utf-8")
    for name, doc in docs.items():
        assert re.search(r"arXiv|IEEE|Biometrika", doc.paper), name
        for part in (f"`{name}`", doc.idea, doc.faithful, doc.deviations, doc.location, doc.limits):
            assert part.replace("|", r"\|") in text, f"docs/methods.md is not up to date on {name}; make it again"


def test_a_docstring_without_a_paragraph_is_named():
    with pytest.raises(ValueError, match=r"jaxnas\.metrics needs a paragraph.*Paper"):
        method_docs.read(metrics.hypervolume)


@pytest.fixture(scope="module")
def tiny_arena():
    """An arena of seconds: a search space of four networks on digits."""
    preset = dataclasses.replace(PRESETS["quickstart"], space=tiny_search.tiny().name, penalties=(0.0, 0.3), samples=2)
    small = dataclasses.replace(preset.settings, weight_steps=4, batch_size=32, steps_per_dispatch=4)
    search = cifar_search.build(cifar_search.Config(preset="quickstart"), dataclasses.replace(preset, settings=small))
    untrained = FrozenSupernet(search, search.supernet.init_params(jax.random.key(0)))
    return supernet_problem.Arena(untrained, 0, preset.penalties, search.strategy.cost, evaluations=400)


def test_the_unit_of_cost_by_hand(tiny_arena):
    # 4 steps of one architecture, three passes each, 32 images where an evaluation takes 120.
    assert tiny_arena.training == pytest.approx(4 * 3 * 32 / 120)
    assert tiny_arena.total == pytest.approx(400 + 3.2)
    assert tiny_arena.mixture(60) == pytest.approx(2 * 60 / 120)  # two choices for each layer
    assert tiny_arena.mixture(60, gradient=True) == pytest.approx(3 * 2 * 60 / 120)


def test_the_judge_scores_all_networks_on_test_images(tiny_arena):
    images = load("digits")
    part = Split(images.test_images[:120], images.test_labels[:120])
    judged = supernet_problem.judge(tiny_arena.supernet, part, tiny_arena.cost, "tiny")
    archs = supernet_problem.all_architectures((2, 2))
    search = dataclasses.replace(tiny_arena.search, valid=part)
    losses = np.asarray(search.evaluate(tiny_arena.supernet.params, archs).loss)
    np.testing.assert_allclose(judged.error, 1 - np.exp(-losses), rtol=1e-5)
    np.testing.assert_allclose(judged.cost.scaled, tiny_arena.cost(archs), atol=1e-6)


def test_training_ends_with_the_weights_phase(tiny_arena):
    trained = supernet_problem.train(tiny_arena.search, 0)
    start = tiny_arena.search.init(0).params
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(trained.params), jax.tree.leaves(start)))


@pytest.mark.slow
def test_every_method_runs_on_a_supernet_within_the_common_cost(tiny_arena):
    told = []
    names = list(on_supernets.methods())
    outcomes = on_supernets.run([tiny_arena], names, told.append)
    assert told == names
    space = tiny_arena.search.strategy.space
    for name, outcome in outcomes.items():
        assert outcome.archs.shape == (1, 2, 2), name
        for arch in outcome.archs[0]:
            space.validate(arch)
        assert 0 < outcome.spent <= 1.05 * tiny_arena.total, name
    limits = [tiny_arena.cost.lowest + share * (tiny_arena.cost.highest - tiny_arena.cost.lowest) for share in (1, 0.5)]
    assert np.all(tiny_arena.cost.total(outcomes["rc_darts"].archs[0]) <= limits)
