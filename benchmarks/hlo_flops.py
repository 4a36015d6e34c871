"""Operations of matrix products and convolutions in a compiled program, also of those that a library computes."""

import math
import re

import numpy as np

from benchmarks.hlo_text import Computation, Instruction


def flops(computation: Computation, each: Instruction) -> float:
    """Operations of a matrix product or convolution, also of one by cuDNN or cuBLAS; 0 of anything else."""
    target = each.attribute(r'custom_call_target="([^"]*)"') or ""
    shapes = [computation[name].arrays[0].shape for name in each.operands if computation[name].arrays]
    if each.opcode == "dot" or target.startswith("__cublas"):
        contracted = each.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        if contracted is None:
            contracted = (each.attribute(r'"lhs_contracting_dimensions":\[([^\]]*)\]') or "").replace('"', "")
        axes = [int(axis) for axis in contracted.split(",") if axis]
        return 2.0 * each.arrays[0].size * math.prod(shapes[0][axis] for axis in axes)
    result = each.arrays[0].shape if each.arrays else ()
    if (
        each.opcode == "convolution"
        or target.startswith("__cudnn$convForward")
        or target.startswith("__cudnn$convBias")
    ):
        return _convolution(each, shapes[0], shapes[1], result)
    if target == "__cudnn$convBackwardInput":
        return _convolution(each, result, shapes[1], shapes[0])
    if target == "__cudnn$convBackwardFilter":
        return _convolution(each, shapes[0], result, shapes[1])
    return 0.0


def _convolution(
    each: Instruction, inputs: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...]
) -> float:
    """As XLA counts: each output, feature and tap that falls on an input, two operations."""
    labels = re.match(r"(\w+)_(\w+)->(\w+)", each.attribute(r"dim_labels=([\w>\-]+)"))
    places = [{label: place for place, label in enumerate(group)} for group in labels.groups()]
    groups = int(each.attribute(r"batch_group_count=(\d+)") or 1)
    total = 2.0 * outputs[places[2]["b"]] * outputs[places[2]["f"]] * kernel[places[1]["i"]]
    if groups > 1:  # each group of images meets its own part of the features only
        total = 2.0 * inputs[places[0]["b"]] / groups * outputs[places[2]["f"]] * kernel[places[1]["i"]]
    for axis, window in enumerate(_windows(each)):
        label = str(axis)
        total *= _taps(window, inputs[places[0][label]], outputs[places[2][label]])
    return total


def _windows(each: Instruction) -> list[dict[str, int]]:
    """Size, stride, padding and dilations of each spatial axis."""
    text = each.attribute(r"window=\{([^}]*)\}")
    if text is None:
        return []
    fields = dict(part.split("=") for part in text.split())
    axes = len(fields["size"].split("x"))
    values = {name: fields[name].split("x") if name in fields else [None] * axes for name in _WINDOW}
    return [
        {
            "size": int(values["size"][axis]),
            "stride": int(values["stride"][axis] or 1),
            "before": int((values["pad"][axis] or "0_0").split("_")[0]),
            "inner": int(values["lhs_dilate"][axis] or 1),
            "outer": int(values["rhs_dilate"][axis] or 1),
        }
        for axis in range(axes)
    ]


_WINDOW = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")


def _taps(window: dict[str, int], inputs: int, outputs: int) -> int:
    """Pairs of an output and a tap of the kernel that meet an input, along one axis."""
    places = np.arange(outputs)[:, None] * window["stride"] + np.arange(window["size"]) * window["outer"]
    places = places - window["before"]
    last = (inputs - 1) * window["inner"]
    return int(((places >= 0) & (places <= last) & (places % window["inner"] == 0)).sum())
