"""What sharing by slices costs, measured on a tiny search: the command itself, and its counts by hand."""

import json

import pytest

from benchmarks import sharing_cost
from jaxnas import spaces
from jaxnas.spaces.mbconv import SKIP, Operation
from tests.test_finishing_cost import call


def test_parameters_of_separate_weights_and_slices():
    space = spaces.mbconv_space(
        "two", image_size=8, stem_channels=8, stages=((8, 1, 1),), head_channels=16,
        operations=(Operation(3, 2), Operation(5, 1), SKIP),
    )  # fmt: skip
    common = 3 * 9 * 8 + 16 + 8 * 16 + 32 + 17 * 10
    first = 8 * 16 + 32 + 9 * 16 + 32 + 16 * 8 + 16
    second = 25 * 8 + 16 + 8 * 8 + 16  # without an expansion
    largest = 8 * 16 + 32 + 25 * 16 + 32 + 16 * 8 + 16
    assert sharing_cost.parameters(space, "separate") == common + first + second
    assert sharing_cost.parameters(space, "slices") == common + largest


@pytest.mark.long
def test_sharing_costs(tmp_path):
    shown = call(tmp_path, benchmark="sharing_cost")
    rows = json.loads((tmp_path / "sharing-cost.json").read_text())["rows"]
    assert [(row["steps"], row["sharing"]) for row in rows] == [
        (steps, sharing) for steps in ("plain", "sandwich", "distillation") for sharing in ("separate", "slices")
    ]
    # One MBConv a layer is all there is: slices have as many parameters, and nothing is padded.
    assert {row["parameters"] for row in rows} == {row["stored"] for row in rows} == {1602}
    assert shown.count("1,602") == 12
    assert all(row["compile_seconds"] > 0 for row in rows)


def test_bad_settings(tmp_path):
    with pytest.raises(ValueError, match="images must be at least 1"):
        sharing_cost.Config(tmp_path, images=0)
