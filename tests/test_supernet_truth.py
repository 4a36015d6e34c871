"""The comparison on a frozen supernet through its real entry point, after a search of seconds on digits."""

import json

import numpy as np
import pytest

from experiments import cifar_search, cli, supernet_truth
from jaxnas import strategies
from tests import tiny_search

pytestmark = pytest.mark.long

CHOICES = np.stack(np.unravel_index(np.arange(4), (2, 2)), axis=1)  # tiny_search: two layers, MBConv or skip
ERROR = np.array([0.05, 0.2, 0.1, 0.4])
FLOPS = tiny_search.tiny().cost("macs").total(CHOICES)
TABLE = {"choices": CHOICES, "error": ERROR, "flops": FLOPS}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a finished search."""
    run = tmp_path_factory.mktemp("search")
    small = {"weight_steps": 2, "batch_size": 16, "samples": 2, "steps_per_dispatch": 2, "finish_steps": 0}
    cifar_search.main(cifar_search.Config(workdir=run, dataset="digits", space="tiny", penalties=(0.01, 0.5), **small))
    return run


@pytest.fixture
def compare(tmp_path):
    """Runs the command on a table; returns its folder."""

    def run(search, *arguments, table=TABLE):
        np.savez(tmp_path / "table.npz", **table)
        cli.run(
            supernet_truth.main,
            supernet_truth.Config,
            [f"--table={tmp_path / 'table.npz'}", f"--run={search}", f"--out={tmp_path / 'out'}", *arguments],
        )
        return tmp_path / "out"

    return run


@pytest.mark.slow
def test_all_methods_are_compared_by_true_errors(trained, compare, capsys):
    methods = supernet_truth.Config.methods
    assert {"shared_model", "independent", "random", "nsga2", "constrained"} <= set(methods)
    assert set(methods) <= set(strategies.STRATEGIES)
    out = compare(trained, "--evaluations=32", "--search-seeds=2", "--samples=2", "--architectures=20", "--images=32")
    printed = capsys.readouterr().out
    assert "Kendall tau" in printed
    assert all(name in printed for name in methods)
    result = json.loads((out / "result.json").read_text())
    assert (result["space"], result["evaluations"], result["samples"]) == ("tiny", 32, 2)
    assert result["penalties"] == [0.01, 0.5]
    assert result["networks"] == 20
    assert result["kendall_tau"].keys() == {"overall", "cheaper_half", "dearer_half", "cost_alone"}
    assert -1 <= result["kendall_tau"]["overall"] <= 1
    assert result["methods"].keys() == set(methods)
    for method in result["methods"].values():
        assert method["wall_seconds"] > 0
        assert len(method["seeds"]) == 2
        for seed in method["seeds"]:
            rows = np.asarray(seed["encodings"]) @ [2, 1]
            np.testing.assert_array_equal(seed["error"], ERROR[rows])
            np.testing.assert_array_equal(seed["cost"], FLOPS[rows])
            best = [min(ERROR[no_dearer] for no_dearer in range(4) if FLOPS[no_dearer] <= FLOPS[row]) for row in rows]
            np.testing.assert_allclose(seed["distance"], ERROR[rows] - best)
            assert 0 < seed["hypervolume"] < 1.21


def test_hypervolume_by_hand(trained, compare):
    """Both networks alike, error e and scaled cost r: (1.1 - e) (1.1 - r)."""
    out = compare(
        trained, "--methods", "random", "--evaluations=8", "--search-seeds=1", "--architectures=8", "--images=16"
    )
    (seed,) = json.loads((out / "result.json").read_text())["methods"]["random"]["seeds"]
    scaled = (np.asarray(seed["cost"]) - FLOPS.min()) / np.ptp(FLOPS)
    pairs = sorted(zip(scaled, seed["error"]))
    area, ceiling = 0.0, 1.1
    for cost, error in pairs:  # from the cheapest: each adds the strip below what cheaper ones reached
        area += max(ceiling - error, 0.0) * (1.1 - cost)
        ceiling = min(ceiling, error)
    assert seed["hypervolume"] == pytest.approx(area)


def fails(capsys, run, *arguments, **options):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments, **options)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--methods", "random", "anealing"], ["anealing", "constrained"]),
        (["--methods", "importance_plain"], ["now called 'importance_sampling'"]),
        (["--evaluations=0"], ["evaluations", "0"]),
        (["--search-seeds=0"], ["search_seeds"]),
        (["--samples=-1"], ["samples", "-1"]),
        (["--architectures=3"], ["architectures", "3"]),
        (["--images=0"], ["images"]),
        (["--cost=joules"], ["joules", "flops"]),
        (["--table=missing.npz"], ["missing.npz"]),
    ],
)
def test_bad_settings_are_one_line(trained, compare, capsys, tmp_path, arguments, words):
    message = fails(capsys, compare, trained, *arguments)
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


def test_a_table_of_another_space(trained, compare, capsys, tmp_path):
    three = {"choices": np.arange(3)[:, None], "error": ERROR[:3], "flops": FLOPS[:3]}
    message = fails(capsys, compare, trained, table=three)
    assert all(words in message for words in ("another space", "(3,)", "'tiny'", "(2, 2)"))
    # Without a run it would train `nasbench_macro` first: the table is refused before.
    arguments = [f"--table={tmp_path / 'table.npz'}", f"--out={tmp_path / 'out'}"]
    message = fails(capsys, cli.run, supernet_truth.main, supernet_truth.Config, arguments)
    assert "'nasbench_macro'" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"seed": 0, "method": "shared_model", "cost": "macs"}'])
def test_a_folder_without_a_search(compare, capsys, tmp_path, content):
    run = tmp_path / "run"
    run.mkdir()
    if content is not None:
        (run / "config.json").write_text(content)
    assert "not the folder of a search" in fails(capsys, compare, run)


def test_an_unfinished_search(trained, compare, capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text((trained / "config.json").read_text())
    assert "not finished" in fails(capsys, compare, tmp_path / "run")
