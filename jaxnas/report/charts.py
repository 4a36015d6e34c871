"""Charts as SVG: axes with round ticks, curves over steps, and cost against error."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxnas.metrics import pareto_front
from jaxnas.report.markup import Node, add, element, number, svg, text, title

BINS = 60  # points of a curve: with more, the noise of minibatches hides its course
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 12, 34
MARKERS = ("circle", "square", "diamond", "triangle", "wedge")  # one for each series, in turn


def color(k: int) -> str:
    """The colour of network k in every figure of a report; `style.py` defines it for light and dark mode."""
    return f"var(--k{k})"


@dataclass(frozen=True)
class Scale:
    """Maps data to places in a drawing, linearly.

    Attributes:
      low: of the data.
      high: of the data, greater than `low`.
      start: place of `low`.
      end: place of `high`.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.start + (float(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers within the data, at most so many."""
        step = round_step((self.high - self.low) / max(1, most - 1))
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def round_step(least: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is no smaller.

    >>> round_step(0.03), round_step(7), round_step(2.2)
    (0.05, 10.0, 2.5)
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def spread(values: np.ndarray, margin: float, zero: bool = False) -> tuple[float, float]:
    """Bounds of an axis for values: a margin on both sides, from 0 on if asked; never empty."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    if zero:
        low = min(low, 0.0)
    room = (high - low) * margin or max(abs(high) * 0.1, 1e-3)
    return (low if zero and low == 0 else low - room), high + room


def tick_label(value: float) -> str:
    """A tick for people: 1500 is "1.5k"."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.6g}{name}"
    return f"{value:.6g}"


def axes(
    x: Scale, y: Scale, x_name: str, y_name: str, show: Callable[[float], str] = tick_label, x_ticks: int = 6
) -> Node:
    """Grid, ticks and names of both axes."""
    group = element("g", class_="axes")
    for value in y.ticks(5):
        at = y(value)
        add(group, element("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        add(group, text(x.start - 6, at + 3.5, show(value), "end", class_="tick"))
    for value in x.ticks(x_ticks):
        at = x(value)
        add(group, element("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="axis"))
        add(group, text(at, y.start + 16, tick_label(value), "middle", class_="tick"))
    add(group, element("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="axis"))
    add(group, text(x.end, y.start + 30, x_name, "end", class_="name"))
    return add(group, text(2, y.end - 8, y_name, class_="name"))


def line_path(points: Sequence[tuple[float, float]]) -> str:
    """The `d` of a line through points; where one is NaN it breaks off."""
    parts, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            parts.append(f"{pen}{number(round(x, 1))} {number(round(y, 1))}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def binned(steps: np.ndarray, values: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Means of values [T, ...] over at most `bins` runs of neighbouring steps, which end at the steps returned."""
    parts = np.array_split(np.arange(len(steps)), min(bins, len(steps)))
    return np.array([steps[part[-1]] for part in parts]), np.array([values[part].mean(0) for part in parts])


def curves(
    name: str, steps: np.ndarray, values: np.ndarray, colors: Sequence[str], labels: Sequence[str], zero: bool = False
) -> Node:
    """Curves over steps, one for each network.

    Args:
      name: of the quantity.
      steps: int [T].
      values: float [T, K].
      colors: [K], of the curves.
      labels: [K], shown where the pointer rests on a curve.
      zero: whether the axis begins at 0.
    """
    width, height = 360, 220
    steps, values = binned(steps, values)
    first = steps[0] if len(steps) > 1 else steps[0] - 1
    x = Scale(first, steps[-1], _LEFT, width - _RIGHT)
    y = Scale(*spread(values, 0.06, zero), height - _BOTTOM, _TOP + 16)
    drawing = svg(width, height, f"{name} over steps", axes(x, y, "step", name, x_ticks=5))
    for k in range(values.shape[1]):
        points = [(x(step), y(value)) for step, value in zip(steps, values[:, k])]
        line = element("path", title(labels[k]), d=line_path(points), class_="curve", style=f"stroke:{colors[k]}")
        add(drawing, line)
        if math.isfinite(points[-1][1]):
            add(drawing, element("circle", cx=points[-1][0], cy=points[-1][1], r=2.6, style=f"fill:{colors[k]}"))
    return drawing


@dataclass(frozen=True)
class Points:
    """One series of a chart of cost against error.

    Attributes:
      name: of the series.
      costs: [N].
      errors: [N], in [0, 1].
      colors: [N].
      labels: [N], written beside the points; "" for none.
      details: [N], shown where the pointer rests on a point.
      marker: one of `MARKERS`.
      line: how the points that no other of the series beats are joined: solid, dashed, dotted, or None for not at all.
      hollow: whether the marks are small and empty, for what others are compared with.
    """

    name: str
    costs: Sequence[float]
    errors: Sequence[float]
    colors: Sequence[str]
    labels: Sequence[str]
    details: Sequence[str]
    marker: str = "circle"
    line: str | None = "solid"
    hollow: bool = False


def pareto(
    series: Sequence[Points],
    cost_name: str,
    error_name: str,
    budgets: Sequence[tuple[float, str]] = (),
    cloud: tuple[np.ndarray, np.ndarray] | None = None,
) -> Node:
    """Cost against error.

    Args:
      series: the points.
      cost_name: with the unit, of the axis across.
      error_name: of the axis up, in per cent.
      budgets: (cost, colour) of the largest costs allowed.
      cloud: costs and errors [N] of all networks of a table, drawn faint, those near the points.
    """
    width, height = 410, 300
    costs = np.concatenate([np.asarray(each.costs, float) for each in series] + [[budget for budget, _ in budgets]])
    errors = 100 * np.concatenate([np.asarray(each.errors, float) for each in series])
    x = Scale(*spread(costs, 0.1), _LEFT, width - _RIGHT)
    y = Scale(*spread(errors, 0.16), height - _BOTTOM, _TOP + 16)
    drawing = svg(width, height, f"{error_name} against {cost_name}", axes(x, y, cost_name, error_name))
    taken: list[tuple[float, float, float, float]] = []
    if cloud is not None:
        dots, front = _cloud(x, y, *cloud)
        taken += _along(front)
        add(drawing, dots, element("path", d=line_path(front), class_="truth"))
    for budget, tint in budgets:
        line = element("line", x1=x(budget), x2=x(budget), y1=y.start, y2=y.end, class_="budget")
        line.set("style", f"stroke:{tint}")
        add(drawing, add(line, title(f"budget {tick_label(budget)}")))
    places = [[(x(at), y(100 * error)) for at, error in zip(each.costs, each.errors)] for each in series]
    for each, points in zip(series, places):
        if each.line and len(points) > 1:
            front = pareto_front(each.costs, each.errors)
            joined = sorted({point for point, best in zip(points, front) if best})
            taken += _along(joined)
            add(drawing, element("path", d=line_path(joined), class_=f"front {each.line}"))
        taken += [(px - 7, py - 7, px + 7, py + 7) for px, py in points]
    for each, points in zip(series, places):
        for index, (px, py) in enumerate(points):
            # Networks that agree lie on one place: the first is drawn larger, and shows around the others.
            size = 4.0 if each.hollow else 5.5 + 3.0 * points[index + 1 :].count((px, py))
            point = marker(each.marker, px, py, each.colors[index], size, each.hollow)
            add(drawing, add(point, title(each.details[index])))
        for index, (px, py) in enumerate(points):
            if each.labels[index]:
                box = _free_place(px, py, 6.6 * len(each.labels[index]), taken, x, y)
                taken.append(box)
                add(drawing, text(box[0], box[3] - 3, each.labels[index], class_="label"))
    return drawing


def _along(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """Small boxes along a line, which labels keep clear of."""
    boxes = []
    for (x1, y1), (x2, y2) in zip(points, points[1:]):
        for share in np.linspace(0, 1, 2 + int(math.dist((x1, y1), (x2, y2)) / 8)):
            x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
            boxes.append((x - 3, y - 3, x + 3, y + 3))
    return boxes


def marker(kind: str, x: float, y: float, tint: str, size: float = 5.5, hollow: bool = False) -> Node:
    """The mark of a point: full, with an edge of the page's colour that keeps neighbours apart, or hollow."""
    style = f"fill:var(--panel);stroke:{tint}" if hollow else f"fill:{tint}"
    if kind == "circle":
        return element("circle", cx=x, cy=y, r=size, class_="point", style=style)
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "diamond": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
        "triangle": ((0, -1.2), (1.15, 0.9), (-1.15, 0.9)),
        "wedge": ((0, 1.2), (1.15, -0.9), (-1.15, -0.9)),
    }[kind]
    points = " ".join(f"{number(x + size * dx)},{number(y + size * dy)}" for dx, dy in corners)
    return element("polygon", points=points, class_="point", style=style)


def _cloud(x: Scale, y: Scale, costs: np.ndarray, errors: np.ndarray) -> tuple[Node, list[tuple[float, float]]]:
    """All networks of a table within the axes as one path of dots, and the places of its Pareto front."""
    errors = 100 * np.asarray(errors, float)
    inside = (costs >= x.low) & (costs <= x.high) & (errors >= y.low) & (errors <= y.high)
    dots = {(round(x(cost)), round(y(error))) for cost, error in zip(costs[inside], errors[inside])}
    path = element("path", d="".join(f"M{px} {py}h0" for px, py in sorted(dots)), class_="cloud")
    front = pareto_front(costs, errors) & inside
    order = np.argsort(costs[front])
    return path, [(x(cost), y(error)) for cost, error in zip(costs[front][order], errors[front][order])]


def _free_place(
    px: float, py: float, width: float, taken: Sequence[tuple[float, float, float, float]], x: Scale, y: Scale
) -> tuple[float, float, float, float]:
    """A box for a label beside a point that covers least of what is there, within the axes where possible."""
    best, least = (px + 9, py - 7, px + 9 + width, py + 7), math.inf
    for dx, dy in ((9, -12), (9, 12), (-9 - width, -12), (-9 - width, 12), (-width / 2, -19), (-width / 2, 19),
                   (14, 25), (14, -25), (-14 - width, 25), (-14 - width, -25)):  # fmt: skip
        box = (px + dx, py + dy - 7, px + dx + width, py + dy + 7)
        covered = sum(_overlap(box, other) for other in taken)
        outside = max(0.0, x.start - box[0]) + max(0.0, box[2] - x.end) + max(0.0, y.end - box[1])
        outside += max(0.0, box[3] - y.start)
        if covered + 1e3 * outside < least:
            best, least = box, covered + 1e3 * outside
    return best


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    return max(0.0, across) * max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
