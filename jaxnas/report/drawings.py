"""Networks as SVG drawings: MBConv layers as blocks in a row, cells as graphs."""

import functools
import html
import math
from collections.abc import Sequence

from jaxnas.report.charts import figure, text
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.spaces.mbconv import Layer, Operation
from jaxnas.spaces.nasbench201 import EDGES, OPERATIONS

_BLOCK, _GAP, _TALL, _LEFT = 58, 10, 110, 2
_MIDDLE = 40 + _TALL / 2  # below the names of the stages
_NODES = {0: (40.0, 95.0), 1: (190.0, 35.0), 2: (310.0, 155.0), 3: (460.0, 95.0)}


@functools.singledispatch
def draw(space: SearchSpace, arch: Sequence[int]) -> str:
    """A network as an SVG element.

    Spaces of other kinds get a list of their decisions; a new kind needs one function, `draw.register(MySpace)`.

    Args:
      space: the search space.
      arch: D choices.
    """
    items = "".join(
        f"<li>{html.escape(decision.name)}: {html.escape(decision.choices[choice])}</li>"
        for decision, choice in zip(space.decisions, arch)
    )
    return f"<ul>{items}</ul>"


@draw.register(MBConvSpace)
def _(space: MBConvSpace, arch: Sequence[int]) -> str:
    """Blocks as tall as their output's resolution (in powers of two), darker with larger kernels, in stages."""
    layers = [(layer, layer.operations[0], False) for layer in space.fixed_layers]
    layers += [(layer, layer.operations[choice], True) for layer, choice in zip(space.layers, arch)]
    most, x = space.image_size, float(_LEFT)
    stem_size = -(-space.image_size // space.stem_stride)
    body = [_box(x, stem_size, most, "stem", [f"{space.stem_channels} ch"], "fixed", "3x3 convolution")]
    stage = (stem_size, space.stem_channels)
    body.append(_stage(x, *stage))
    for layer, operation, searched in layers:
        x += _BLOCK + _GAP
        body.append(_joint(x))
        if (layer.out_resolution, layer.out_channels) != stage:
            stage = (layer.out_resolution, layer.out_channels)
            body.append(f'<path d="M{x - _GAP / 2} 4V{_TALL + 42}" class="stage"/>')
            body.append(_stage(x, *stage))
        body.append(_layer(x, most, layer, operation, searched))
    last = space.layers[-1].out_resolution
    x += _BLOCK + _GAP
    body.append(_joint(x))
    body.append(_box(x, last, most, "head", [f"{space.head_channels} ch"], "fixed", "1x1 convolution"))
    x += _BLOCK + _GAP
    body.append(_joint(x))
    body.append(_box(x, 1, most, f"{space.num_classes}", ["classes"], "fixed", "average pooling, linear classifier"))
    return figure("".join(body), space.describe(arch), x + _BLOCK + _LEFT, _TALL + 46)


def _height(size: int, most: int) -> float:
    return 40 + (_TALL - 40) * math.log2(size + 1) / math.log2(most + 1)


def _joint(x: float) -> str:
    """The line from the block before."""
    return f'<path d="M{x - _GAP} {_MIDDLE}h{_GAP}" class="wire"/>'


def _stage(x: float, size: int, channels: int) -> str:
    return text(x, 14, f"{size}\N{MULTIPLICATION SIGN}{size}", "tick") + text(x, 27, f"{channels} ch", "tick")


def _layer(x: float, most: int, layer: Layer, operation: Operation, searched: bool) -> str:
    if operation.is_skip:
        line = f'<path d="M{x} {_MIDDLE}h{_BLOCK}" class="wire"><title>skip</title></path>'
        if layer.keeps_shape:
            return line + f'<text x="{x + _BLOCK / 2}" y="{_MIDDLE - 6}" class="tick" text-anchor="middle">skip</text>'
        note = f"strided 1x1 convolution to {layer.out_channels} channels"
        return line + _box(x + _BLOCK / 3, layer.out_resolution, most, "", [], "fixed", note, _BLOCK / 3)
    size = operation.kernel
    tip = (
        f"MBConv, kernel {size}x{size}, expansion {operation.expansion}, {layer.in_channels} to {layer.out_channels} "
        f"channels, stride {layer.stride}, {layer.macs(operation):,} multiply-adds, "
        f"{layer.params(operation):,} parameters"
    )
    style = f"kernel{size}" if searched else "fixed"
    title = f"{size}\N{MULTIPLICATION SIGN}{size}"
    return _box(x, layer.out_resolution, most, title, [f"exp {operation.expansion}"], style, tip)


def _box(
    x: float, size: int, most: int, title: str, notes: Sequence[str], style: str, tip: str, width: float = _BLOCK
) -> str:
    height = _height(size, most)
    parts = [
        f'<rect x="{x:.5g}" y="{_MIDDLE - height / 2:.5g}" width="{width:.5g}" height="{height:.5g}" rx="6" '
        f'class="block {style}"><title>{html.escape(tip)}</title></rect>'
    ]
    for index, line in enumerate([title, *notes] if title else []):
        place = _MIDDLE + 4 + 14 * (index - len(notes) / 2)
        name = f"inside {style}" + ("" if index else " strong")
        at = f'x="{x + width / 2:.5g}" y="{place:.5g}"'
        parts.append(f'<text {at} class="{name}" text-anchor="middle">{html.escape(line)}</text>')
    return "".join(parts)


@draw.register(CellSpace)
def _(space: CellSpace, arch: Sequence[int]) -> str:
    """Nodes and the operations on the edges between them; "none" is left out."""
    body = []
    for (source, target), choice in zip(EDGES, arch):
        name = OPERATIONS[choice]
        if name == "none":
            continue
        (x0, y0), (x1, y1) = _NODES[source], _NODES[target]
        middle_x, middle_y = (x0 + x1) / 2, (y0 + y1) / 2
        bend = {(0, 3): 0.0, (0, 2): 55.0, (1, 3): -55.0}.get((source, target), 0.0)
        style = "skip" if name == "skip_connect" else "edge"
        body.append(f'<path d="M{x0} {y0}Q{middle_x} {middle_y + bend} {x1} {y1}" class="{style}"/>')
        label = name.replace("nor_conv_", "conv ").replace("avg_pool_", "pool ").replace("skip_connect", "skip")
        place = middle_y + bend / 2 - 6
        body.append(
            f'<text x="{middle_x}" y="{place}" class="tick halo" text-anchor="middle">{html.escape(label)}</text>'
        )
    for node, (x, y) in _NODES.items():
        name = {0: "in", 3: "out"}.get(node, str(node))
        body.append(f'<circle cx="{x}" cy="{y}" r="19" class="block fixed"/>')
        body.append(f'<text x="{x}" y="{y + 4}" class="inside fixed strong" text-anchor="middle">{name}</text>')
    return figure("".join(body), space.describe(arch), 500, 195)
