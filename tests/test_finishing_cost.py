"""What finishing costs, measured on a tiny search: the command itself, and its counts by hand."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import finishing_cost

COMMAND = "import tests.tiny_search; from experiments import cli; from benchmarks import {} as this; "
IMAGES = 512


def call(out, *arguments, benchmark="finishing_cost"):
    command = COMMAND.format(benchmark) + "cli.run(this.main, this.Config)"
    return subprocess.run(
        [sys.executable, "-c", command, "--preset", "quickstart", "--space", "tiny", "--images", str(IMAGES),
         "--out", str(out), *arguments],
        env={**os.environ, "COLUMNS": "80"}, text=True, capture_output=True, check=True,
    ).stdout  # fmt: skip


@pytest.mark.long
def test_the_step_of_two_networks_beside_their_own_and_those_of_the_search(tmp_path):
    arguments = ("--networks", "2", "--rounds", "2", "--steps", "2", "--own", "retraining", "finishing")
    shown = call(tmp_path, *arguments)
    found = json.loads((tmp_path / "cost.json").read_text())
    rows = found["rows"]
    dearest, cheapest = [0, 0], [1, 1]  # two MBConvs, two skips
    assert [(row["program"], row["networks"]) for row in rows] == [
        ("search: weights", []),
        ("search: distributions", []),
        ("finishing", [dearest, cheapest]),
        *(("finishing alone", [arch]) for arch in (dearest, cheapest)),
        *(("retraining", [arch]) for arch in (dearest, cheapest)),
    ]
    # Images, labels and their order; weights, their average and momentum; keys and counts.
    common = 3 * 9 * 8 + 16 + 8 * 16 + 32 + 17 * 10
    mbconvs, skip = 2 * (8 * 16 + 32 + 9 * 16 + 32 + 16 * 8 + 16), 8 * 8 + 16
    for row, parameters in zip(rows[2:5], (common + mbconvs + skip, common + mbconvs, common + skip)):
        counted = IMAGES * (8 * 8 * 3 + 4 + 4) + 3 * 4 * parameters
        assert 0 <= row["argument_bytes"] - counted < 256
    for row in rows:
        used = sum(row[f"{name}_bytes"] for name in ("argument", "output", "temp"))
        assert row["peak_bytes"] == used - row["aliased_bytes"]
    for row in rows[2:]:
        assert row["step_seconds"] > 0
    # One network has its memory after the other: the cheapest adds some copies of its weights, no activations.
    assert rows[2]["temp_bytes"] - rows[3]["temp_bytes"] < rows[4]["temp_bytes"] / 4
    assert found["ratios"] == finishing_cost.ratios(rows)
    assert f"finishing / memory of the search: {found['ratios']['memory of the search']:.2f}" in " ".join(shown.split())
    assert call(tmp_path, *arguments) == shown  # nothing is measured again


def test_ratios_by_hand():
    def row(program, peak, seconds=None):
        return {"program": program, "peak_bytes": peak} | ({} if seconds is None else {"step_seconds": seconds})

    rows = [row("search: weights", 40), row("search: distributions", 30), row("finishing", 50, 0.6)]
    assert finishing_cost.ratios(rows) == {"memory of the search": 1.25}
    rows += [row("retraining", 10, 0.5), row("retraining", 90, 0.7), row("finishing alone", 10, 0.3)]
    assert finishing_cost.ratios(rows) == {
        "memory of the search": 1.25,
        "seconds of retraining": 0.6 / 1.2,
        "seconds of finishing alone": 2.0,
    }


def test_networks_are_drawn_evenly_by_cost(tmp_path):
    config = finishing_cost.Config(tmp_path, preset="quickstart", images=IMAGES)
    _, search, _ = config.make_search()
    archs = finishing_cost.choose(config, search)
    costs = [search.supernet.space.cost("macs").total(np.array(arch)) for arch in archs]
    assert len(archs) == 4
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"networks": 0}, "networks must be at least 1"),
        ({"rounds": -1}, "rounds must be 0"),
        ({"steps": 0}, "steps must"),
    ],
)
def test_bad_settings(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        finishing_cost.Config(tmp_path, **settings)
