"""Drawings of networks: layers as blocks, a cell as its graph."""

import math

import numpy as np

from jaxnas.report.charts import color
from jaxnas.report.svg import Node, add, element, number, svg, text, title
from jaxnas.report.wording import short_name
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace, searched_stages
from jaxnas.spaces.mbconv import Layer, Operation
from jaxnas.spaces.nasbench201 import EDGES

_CELL = 48.0  # width of a layer's place
_GAP = 12.0  # between stages
_AXIS = 74.0  # height of the line that a network's data flows along
_HEIGHT = 128.0


def draw(space: SearchSpace, arch: np.ndarray, k: int) -> Node:
    """A drawing of one architecture.

    Args:
      space: its space.
      arch: int [D].
      k: of its colour.
    """
    if isinstance(space, MBConvSpace):
        return _layers(space, arch, k)
    if isinstance(space, CellSpace):
        return _cell(space, arch, k)
    return _plain([decision.choices[choice] for decision, choice in zip(space.decisions, arch)], k)


def draw_names(description: str, k: int) -> Node:
    """A drawing of an architecture whose space is not known, from its description in words."""
    return _plain(description.split(" | "), k)


def _layers(space: MBConvSpace, arch: np.ndarray, k: int) -> Node:
    """Blocks along a line: as wide as the kernel, as high as the expansion; stages on bands with their shape."""
    places, nodes, x = [], [], 4.0
    stem_resolution = -(-space.image_size // space.stem_stride)
    for label, name, hint in (
        (f"{space.image_size}²", "image", f"image, {space.image_size}×{space.image_size}, 3 channels"),
        ("3×3", "stem", f"3×3 convolution to {space.stem_channels} channels at {stem_resolution}×{stem_resolution}"),
    ):
        nodes.append(_fixed_block(x, label, name, hint))
        x += _CELL
    for layer in space.fixed_layers:
        nodes.append(_fixed_block(x, short_name(layer.operations[0].name).split()[0], "fixed", _hint("fixed", layer)))
        x += _CELL
    for group in searched_stages(space):
        x += _GAP
        first, last = space.layers[group[0]], space.layers[group[-1]]
        width = _CELL * len(group)
        shape = f"{last.out_channels} ch · {last.out_resolution}²"
        name = shape if len(group) > 1 else f"{last.out_channels}·{last.out_resolution}²"
        hint = f"stage of {last.out_channels} channels at {last.out_resolution}×{last.out_resolution}, "
        hint += f"from {first.in_channels} at {first.resolution}×{first.resolution}"
        places.append((x, width, name, hint))
        for index in group:
            operation = space.layers[index].operations[arch[index]]
            nodes.append(_block(x + _CELL / 2, index, space.layers[index], operation, k))
            x += _CELL
    x += _GAP
    last = space.layers[-1]
    for label, name, hint in (
        ("1×1", "head", f"1×1 convolution, {last.out_channels} to {space.head_channels} channels, then the mean"),
        (str(space.num_classes), "classes", f"linear classifier of {space.num_classes} classes"),
    ):
        nodes.append(_fixed_block(x, label, name, hint))
        x += _CELL
    drawing = svg(x + 4, _HEIGHT, f"drawing of network {k}", class_="network")
    for left, width, name, hint in places:
        band = element("rect", title(hint), x=left, y=20, width=width, height=_HEIGHT - 22, rx=6, class_="stage")
        add(drawing, band, text(left + width / 2, 13, name, "middle", class_="tick"))
    add(drawing, element("line", x1=10, x2=x - 6, y1=_AXIS, y2=_AXIS, class_="flow"))
    return add(drawing, *nodes)


def _hint(name: str, layer: Layer) -> str:
    return (
        f"{name}: {layer.in_channels} to {layer.out_channels} channels, "
        f"{layer.resolution}×{layer.resolution} to {layer.out_resolution}×{layer.out_resolution}"
    )


def _block(x: float, index: int, layer: Layer, operation: Operation, k: int) -> Node:
    """One searched layer; a skip that keeps the shape is but a line, another one a dot: its 1x1 convolution."""
    name = "skip" if operation.is_skip else short_name(operation.name)
    if operation.is_skip and not layer.keeps_shape:
        name = "skip (1×1 convolution)"
    hint = f"{_hint(f'layer {index + 1}, {name}', layer)}; {layer.macs(operation):,} multiply-adds, "
    group = element("g", title(hint + f"{layer.params(operation):,} parameters"))
    add(group, text(x, _HEIGHT - 7, str(index + 1), "middle", class_="tick faint"))
    if operation.is_skip:
        add(group, element("rect", x=x - _CELL / 2, y=_AXIS - 14, width=_CELL, height=28, class_="reach"))
        if not layer.keeps_shape:
            add(group, element("circle", cx=x, cy=_AXIS, r=4, class_="dot", style=f"stroke:{color(k)}"))
        return add(group, text(x, _AXIS - 9, "skip" if layer.keeps_shape else "1×1", "middle", class_="tick faint"))
    width = 30.0 + 3 * (operation.kernel - 3)
    height = 24.0 + 7.0 * min(operation.expansion, 6)
    share = 66 + round(34 * min(operation.expansion, 6) / 6)
    style = f"fill:color-mix(in oklab, {color(k)} {share}%, var(--panel))"
    corner = {"x": x - width / 2, "y": _AXIS - height / 2, "width": width, "height": height, "rx": 4.0}
    add(group, element("rect", **corner, style=style))
    kernel = f"{operation.kernel}×{operation.kernel}"
    add(group, text(x, _AXIS - 1, kernel, "middle", class_="on"))
    return add(group, text(x, _AXIS + 11, f"e{operation.expansion}", "middle", class_="on small"))


def _fixed_block(x: float, label: str, name: str, hint: str) -> Node:
    rect = element("rect", x=x + 6, y=_AXIS - 14, width=_CELL - 12, height=28, rx=4, class_="fixed")
    label_node = text(x + _CELL / 2, _AXIS + 4, label, "middle", class_="tick strong")
    below = text(x + _CELL / 2, _HEIGHT - 7, name, "middle", class_="tick faint")
    return element("g", title(hint), rect, label_node, below)


_NODES = {0: (40.0, 96.0), 1: (190.0, 36.0), 2: (330.0, 156.0), 3: (480.0, 96.0)}  # of the cell's graph


# Where along an edge its label stands, so that none lies on another edge.
_LABEL_AT = {(0, 3): 0.28, (0, 2): 0.4, (1, 3): 0.62, (1, 2): 0.22}


def _cell(space: CellSpace, arch: np.ndarray, k: int) -> Node:
    """The graph of the cell, and the network that it is repeated in."""
    drawing = svg(520, 258, f"drawing of the cell of network {k}", class_="network")
    for d, edge in enumerate(EDGES):
        operation = space.decisions[d].choices[arch[d]]
        add(drawing, _edge(edge, operation, k))
    names = {0: "in", 1: "1", 2: "2", 3: "out"}
    for node, (x, y) in _NODES.items():
        add(drawing, element("circle", cx=x, cy=y, r=15, class_="node"))
        add(drawing, text(x, y + 4, names[node], "middle", class_="tick strong"))
    parts = [("stem", str(space.channels))]
    for stage, (channels, resolution) in enumerate(zip(space.stage_channels, space.stage_resolutions)):
        parts += [("halve", "")] * (stage > 0) + [(f"{space.cells} cells", f"{channels} ch · {resolution}²")]
    parts.append(("mean", f"{space.num_classes} classes"))
    widths = [84.0 if name.endswith("cells") else 52.0 for name, _ in parts]
    add(drawing, element("line", x1=10, x2=510, y1=216, y2=216, class_="flow"))
    x, gap = 10.0, (500 - sum(widths)) / (len(parts) - 1)
    for (name, below), width in zip(parts, widths):
        style = f"fill:color-mix(in oklab, {color(k)} 30%, var(--panel))" if name.endswith("cells") else None
        box = element("rect", x=x, y=203, width=width, height=26, rx=4, class_="fixed", style=style)
        add(drawing, box, text(x + width / 2, 220, name, "middle", class_="tick strong"))
        add(drawing, text(x + width / 2, 246, below, "middle", class_="tick faint"))
        x += width + gap
    return drawing


def _edge(edge: tuple[int, int], operation: str, k: int) -> Node:
    """An edge of the cell: convolutions thick in the network's colour, pooling dashed, skips thin, none dotted."""
    (x1, y1), (x2, y2) = _NODES[edge[0]], _NODES[edge[1]]
    away = 17 / math.dist((x1, y1), (x2, y2))
    x1, y1, x2, y2 = x1 + away * (x2 - x1), y1 + away * (y2 - y1), x2 + away * (x1 - x2), y2 + away * (y1 - y2)
    kind = {"none": "none", "skip_connect": "skip", "avg_pool_3x3": "pool"}.get(operation, "conv")
    share = _LABEL_AT.get(edge, 0.5)
    x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
    group = element("g", title(f"edge {edge[0]}-{edge[1]}: {operation}"))
    width = {"nor_conv_3x3": 5.0, "nor_conv_1x1": 3.0}.get(operation)
    style = f"stroke:{color(k)};stroke-width:{number(width)}" if width else None
    style = f"stroke:{color(k)}" if kind == "pool" else style
    add(group, element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"edge {kind}", style=style))
    label = short_name(operation)
    room = 6.4 * len(label) + 10
    add(group, element("rect", x=x - room / 2, y=y - 9, width=room, height=18, rx=9, class_="edge-label"))
    return add(group, text(x, y + 4, label, "middle", class_="tick faint" if kind == "none" else "tick strong"))


def _plain(choices: list[str], k: int) -> Node:
    """One block for each decision with the name of its choice."""
    widths = [max(40.0, 7.0 * len(choice) + 16) for choice in choices]
    total = sum(widths) + 8.0 * (len(widths) + 1)
    drawing = svg(total, 60, f"choices of network {k}", class_="network")
    add(drawing, element("line", x1=0, x2=total, y1=26, y2=26, class_="flow"))
    x = 8.0
    for index, (choice, width) in enumerate(zip(choices, widths)):
        style = f"fill:color-mix(in oklab, {color(k)} 30%, var(--panel))"
        add(drawing, element("rect", x=x, y=10, width=width, height=32, rx=5, style=style))
        add(drawing, text(x + width / 2, 30, choice, "middle", class_="tick strong"))
        add(drawing, text(x + width / 2, 56, str(index + 1), "middle", class_="tick faint"))
        x += width + 8
    return drawing
