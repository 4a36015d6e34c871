"""Figures with a row for each decision: what it costs, and how theta settled on its choice."""

import numpy as np

from jaxnas.report.charts import Scale, color, tick_label
from jaxnas.report.markup import Node, add, element, number, svg, text, title
from jaxnas.report.runs import count
from jaxnas.spaces import SearchSpace

WIDTH = 360
THETA_POINTS = 60  # of each picture; more than this its few pixels do not show
_ROW = 17.0


def short_name(choice: str) -> str:
    """The name of a choice where there is little room.

    >>> short_name("mbconv_k5_e6"), short_name("nor_conv_3x3"), short_name("skip_connect")
    ('5×5 e6', '3×3', 'skip')
    """
    parts = choice.split("_")
    if parts[0] == "mbconv" and len(parts) == 3:
        return f"{parts[1][1:]}×{parts[1][1:]} {parts[2]}"
    names = {"skip_connect": "skip", "nor_conv_1x1": "1×1", "nor_conv_3x3": "3×3", "avg_pool_3x3": "pool 3×3"}
    return names.get(choice, choice)


def layer_costs(space: SearchSpace, archs: np.ndarray, index: int, k: int) -> Node:
    """Multiply-adds to the left and parameters to the right, one row for each decision, of one network.

    Bars of all networks have one scale, so that the pictures compare.

    Args:
      space: with the costs "macs" and "params".
      archs: int [K, D], of all networks.
      index: which of them is drawn.
      k: of its colour.
    """
    archs = np.asarray(archs)
    names = [decision.name for decision in space.decisions] + ["stem, head"]
    middle, side = 74.0, (WIDTH - 74.0) / 2 - 42.0
    height = 22 + _ROW * len(names)
    drawing = svg(WIDTH, height, f"costs by layer of network {k}")
    for name, direction in (("macs", -1), ("params", 1)):
        cost = space.cost(name)
        rows = np.array([[*(row[c] for row, c in zip(cost.table, arch)), cost.fixed] for arch in archs], float)
        scale = Scale(0, rows.max() or 1.0, 0, side)
        start = WIDTH / 2 + direction * middle / 2
        anchor = "end" if direction < 0 else "start"
        heading = f"{'multiply-adds' if name == 'macs' else 'parameters'} {count(float(cost.total(archs[index])))}"
        add(drawing, text(start, 12, heading, anchor, class_="name"))
        for row, value in enumerate(rows[index]):
            top, length = 22 + row * _ROW, scale(value)
            tint = color(k) if row < len(space.decisions) else "var(--faint)"
            left = start - length if direction < 0 else start
            shape = {"x": left, "y": top, "width": length, "height": _ROW - 5, "rx": 2, "style": f"fill:{tint}"}
            choice = space.decisions[row].choices[archs[index][row]] if row < len(space.decisions) else "always there"
            if value > 0:
                hint = f"{names[row]}, {choice}: {int(value):,} {cost.unit}"
                add(drawing, element("rect", title(hint), **shape))
            label = count(value) if value > 0 else "0"
            place = start + direction * (length + 4)
            add(drawing, text(place, top + 10, label, anchor, class_="tick"))
    for row, name in enumerate(names):
        add(drawing, text(WIDTH / 2, 22 + row * _ROW + 10, name, "middle", class_="tick strong"))
    return drawing


def ranks(space: SearchSpace, decision: int, cost: str) -> list[int]:
    """The place of each choice of a decision in the order of its cost, cheapest 0; equal ones in their own order."""
    row = space.cost(cost).table[decision]
    order = sorted(range(len(row)), key=lambda choice: (row[choice], choice))
    return [order.index(choice) for choice in range(len(row))]


def shade(k: int, rank: int, choices: int) -> str:
    """The colour of a choice of network k: the dearer, the darker (in dark mode, the brighter)."""
    share = round(12 + 88 * rank / max(1, choices - 1))
    return f"color-mix(in oklab, {color(k)} {share}%, var(--panel))"


def theta_rows(space: SearchSpace, steps: np.ndarray, theta: np.ndarray, k: int, cost: str, first: int = 0) -> Node:
    """theta_k over steps: for each decision a band that its choices share by their probabilities.

    Args:
      space: with a cost that orders the choices.
      steps: int [T].
      theta: float [T, D, C].
      k: of its colour.
      cost: name of the cost.
      first: the step that the distributions began at, where theta is uniform.
    """
    names = [decision.name for decision in space.decisions]
    uniform = np.zeros((1, *theta.shape[1:]))
    for d, n in enumerate(space.num_choices):
        uniform[0, d, :n] = 1 / n
    steps, theta = np.concatenate([[first], steps]), np.concatenate([uniform, theta])
    kept = np.unique(np.linspace(0, len(steps) - 1, min(THETA_POINTS, len(steps))).round().astype(int))
    steps, theta = steps[kept], theta[kept]
    row, left, right = 22.0, 58.0, 94.0
    x = Scale(steps[0], max(steps[-1], steps[0] + 1), left, WIDTH - right)
    height = 6 + row * len(names) + 34
    drawing = svg(WIDTH, height, f"theta of network {k} over steps")
    for d, decision in enumerate(space.decisions):
        order = sorted(range(len(decision.choices)), key=ranks(space, d, cost).__getitem__)
        top, thick = 6 + d * row, row - 4
        add(drawing, text(left - 6, top + 13, names[d], "end", class_="tick"))
        below = np.zeros(len(steps))
        total = np.maximum(theta[:, d].sum(-1), 1e-9)
        for rank, choice in enumerate(order):
            above = below + theta[:, d, choice] / total
            edge = [(x(step), top + thick * (1 - share)) for step, share in zip(steps, above)]
            back = [(x(step), top + thick * (1 - share)) for step, share in zip(steps, below)][::-1]
            outline = "M" + "L".join(f"{number(round(px, 1))} {number(round(py, 1))}" for px, py in edge + back) + "Z"
            hint = f"{names[d]}, {decision.choices[choice]}: {theta[-1, d, choice]:.3f} at the end"
            tint = shade(k, rank, len(order))
            add(drawing, element("path", title(hint), d=outline, style=f"fill:{tint}"))
            below = above
        best = int(theta[-1, d].argmax())
        label = f"{short_name(decision.choices[best])} {100 * theta[-1, d, best]:.0f}%"
        add(drawing, text(WIDTH - right + 6, top + 13, label, class_="tick strong"))
    bottom = 6 + row * len(names)
    for value in x.ticks(4):
        add(drawing, element("line", x1=x(value), x2=x(value), y1=bottom - 1, y2=bottom + 3, class_="axis"))
        add(drawing, text(x(value), bottom + 15, tick_label(value), "middle", class_="tick"))
    return add(drawing, text(WIDTH - right, bottom + 29, "step", "end", class_="name"))
