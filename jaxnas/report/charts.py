"""The charts of a page, drawn by matplotlib: cost against error, curves, costs by layer, theta over time."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jaxnas.metrics import pareto_front
from jaxnas.report.labels import place_labels
from jaxnas.report.svg import Canvas
from jaxnas.report.wording import count, in_words, quantity, short_name
from jaxnas.spaces import SearchSpace

BINS = 60  # points of a curve: with more, the noise of minibatches hides its course
MARKERS = ("o", "s", "D", "^", "v")  # one for each series, in turn
LINES = ("solid", "dashed", "dotted")
_WIDTH = 360.0  # of the charts that have a row for each decision
_SIZE = 11  # of letters


def color(k: int) -> str:
    """The colour of network k in every figure of a page; the style sheet defines it for light and dark mode."""
    return f"var(--k{k})"


@dataclass(frozen=True)
class Points:
    """One series of a chart of cost against error.

    Attributes:
      costs: [N].
      errors: [N], in [0, 1]; or losses.
      colors: [N].
      labels: [N], written beside the points; "" for none.
      details: [N], shown where the pointer rests on a point.
      marker: one of `MARKERS`.
      line: how the points that no other of the series dominates are joined: one of `LINES`, or None for not at all.
      hollow: whether the marks are small and empty, for what others are compared with.
      percent: whether errors are shown in per cent.
    """

    costs: Sequence[float]
    errors: Sequence[float]
    colors: Sequence[str]
    labels: Sequence[str]
    details: Sequence[str]
    marker: str = MARKERS[0]
    line: str | None = "solid"
    hollow: bool = False
    percent: bool = True

    @property
    def places(self) -> np.ndarray:
        """Costs and errors, as they are shown, float [N, 2]."""
        scale = 100 if self.percent else 1
        return np.stack([np.asarray(self.costs, float), scale * np.asarray(self.errors, float)], axis=1)


def cost_error(
    series: Sequence[Points],
    cost: str,
    error_name: str,
    budgets: Sequence[tuple[float, str]] = (),
    cloud: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    time: bool = False,
) -> Markup:
    """Cost against error.

    Args:
      series: the points.
      cost: name of the cost, of the axis across.
      error_name: of the axis up, with its unit.
      budgets: (cost, colour) of the largest costs allowed.
      cloud: costs and errors [N] of all networks of a table, drawn faint, those near the points.
      time: whether the cost is a time, whatever its name.
    """
    canvas = Canvas(410, 300)
    axes = _axes(canvas, in_words(cost), error_name, lambda value, _: quantity(cost, value, 6, time=time))
    axes.margins(0.1, 0.16)
    fronts, panel = [], canvas.color("var(--panel)")
    for budget, tint in budgets:
        line = axes.axvline(budget, color=canvas.color(tint), linewidth=1.5, linestyle=(0, (2, 2)))
        canvas.hint(line, f"budget {quantity(cost, budget, time=time)}")
    for each in series:
        if each.line:
            fronts.append(np.unique(each.places[pareto_front(each.costs, each.errors)], axis=0))
            axes.plot(*fronts[-1].T, color=canvas.color("var(--faint)"), linewidth=1.6, linestyle=each.line)
    for each in series:
        for index, place in enumerate(each.places):
            # Networks that agree lie on one place: the first is drawn larger, and shows around the others.
            later = int((each.places[index + 1 :] == place).all(1).sum())
            tint = canvas.color(each.colors[index])
            size = (11 + 6 * later) * (1.0 if each.marker == "o" else 0.9)  # shapes with corners look larger
            style = {"color": tint, "markeredgecolor": panel, "markeredgewidth": 1.5, "markersize": size}
            if each.hollow:
                style |= {"color": panel, "markeredgecolor": tint, "markersize": 8}
            canvas.hint(axes.plot(*place, each.marker, zorder=3, **style), each.details[index])
    axes.autoscale_view()
    axes.autoscale(False)  # what follows is drawn within these limits
    if cloud is not None:
        fronts.append(_cloud(canvas, axes, cloud[0], 100 * cloud[1]))
    places = np.concatenate([each.places for each in series])
    names = [name for each in series for name in each.labels]
    place_labels(axes, places, names, fronts, color=canvas.color("var(--ink)"), fontsize=_SIZE)
    return canvas.to_html(f"{error_name} against {in_words(cost)}")


def curves(
    name: str, steps: np.ndarray, values: np.ndarray, colors: Sequence[str], labels: Sequence[str], zero: bool = False
) -> Markup:
    """Curves over steps, one for each network.

    Args:
      name: of the quantity.
      steps: int [T].
      values: float [T, K].
      colors: [K], of the curves.
      labels: [K], shown where the pointer rests on a curve.
      zero: whether the axis begins at 0.
    """
    canvas = Canvas(360, 220)
    axes = _axes(canvas, "step", name, lambda value, _: count(value, 6))
    steps, values = binned(steps, values)
    axes.margins(0, 0.06)
    for k, curve in enumerate(values.T):
        tint = canvas.color(colors[k])
        drawn = axes.plot(steps, curve, color=tint, linewidth=2, solid_capstyle="round")
        drawn += axes.plot(steps[-1], curve[-1], "o", color=tint, markersize=5, markeredgewidth=0)
        canvas.hint(drawn, labels[k])
    axes.set_ylim(bottom=0 if zero else None)
    return canvas.to_html(f"{name} over steps")


def layer_costs(space: SearchSpace, archs: np.ndarray, index: int, costs: Sequence[str]) -> Markup:
    """Costs of one network, one row for each decision: the first to the left of its names, others to the right.

    Bars of all networks have one scale, so that the pictures compare.

    Args:
      space: with the costs.
      archs: int [K, D], of all networks.
      index: which of them is drawn.
      costs: names of costs of the space.
    """
    names = [decision.name for decision in space.decisions] + ["stem, head"]
    chosen = [decision.choices[choice] for decision, choice in zip(space.decisions, archs[index])] + ["always there"]
    middle, room, height = 74.0, 42.0, 17.0 * len(names)
    side = (_WIDTH - middle) / len(costs) - room
    canvas = Canvas(_WIDTH, 22 + height)
    tints = [canvas.color(color(index))] * len(space.decisions) + [canvas.color("var(--faint)")]
    style = {"color": canvas.color("var(--soft)"), "fontsize": _SIZE}
    for place, name in enumerate(costs):
        cost = space.cost(name)
        shown = functools.partial(quantity, name, time=cost.unit == "seconds")
        rows = np.array([[*(row[c] for row, c in zip(cost.table, arch)), cost.fixed] for arch in archs], float)
        most = rows.max() or 1.0
        axes = canvas.axes(room + place * (side + room) + (middle - room if place else 0), 20, side, height)
        axes.set(xlim=(0, most) if place else (most, 0), ylim=(len(names) - 0.5, -0.5), xticks=(), yticks=())
        values = rows[index]
        edges = {"edgecolor": tints, "linewidth": 2 * (values > 0), "joinstyle": "round"}  # rounds the corners
        bars = axes.barh(range(len(names)), values, 0.6, color=tints, **edges)
        axes.bar_label(bars, [shown(value) if value else "0" for value in values], padding=4, **style)
        total = f"{in_words(name)} {shown(float(cost.total(archs[index])))}"
        axes.set_title(total, loc="right" if place == 0 else "left", pad=7, weight="bold", **style)
        if place == 1:
            axes.set_yticks(range(len(names)), names, ha="center", va="center", color=canvas.color("var(--ink)"))
            axes.tick_params(axis="y", pad=middle / 2)
        for bar, value, decision, choice in zip(bars, values, names, chosen):
            exact = shown(value) if cost.unit == "seconds" else f"{int(value):,} {cost.unit}"
            canvas.hint(bar, f"{decision}, {choice}: {exact}")
    return canvas.to_html(f"costs by layer of network {index}")


def theta_rows(space: SearchSpace, steps: np.ndarray, theta: np.ndarray, k: int, cost: str, first: int = 0) -> Markup:
    """theta_k over steps: for each decision a band that its choices share by their probabilities.

    Args:
      space: with a cost that orders the choices.
      steps: int [T].
      theta: float [T, D, C].
      k: of its colour.
      cost: name of the cost.
      first: the step that the distributions began at, where theta is uniform.
    """
    counts = np.asarray(space.num_choices)
    uniform = np.where(np.arange(theta.shape[2]) < counts[:, None], 1 / counts[:, None], 0)
    steps, theta = np.append(first, steps), np.concatenate([uniform[None], theta])
    kept = np.unique(np.linspace(0, len(steps) - 1, min(BINS, len(steps))).round().astype(int))
    steps, theta = steps[kept], theta[kept]
    row, left, right = 22.0, 58.0, 94.0
    height = row * len(space.decisions)
    canvas = Canvas(_WIDTH, 6 + height + 34)
    axes = canvas.axes(left, 6, _WIDTH - left - right, height)
    axes.set_xlim(steps[0], max(steps[-1], steps[0] + 1))
    axes.set_ylim(len(space.decisions), 0)
    _steps_axis(canvas, axes, "step", 4)
    axes.set_yticks(np.arange(len(space.decisions)) + 0.45, [decision.name for decision in space.decisions])
    for d, decision in enumerate(space.decisions):
        place = ranks(space, d, cost)
        order = sorted(range(len(place)), key=place.__getitem__)
        shares = np.cumsum(theta[:, d, order] / np.maximum(theta[:, d].sum(-1, keepdims=True), 1e-9), axis=1)
        edges = d + 0.82 * (1 - np.pad(shares, ((0, 0), (1, 0))))  # [T, C_d + 1], from the bottom of the band
        for rank, choice in enumerate(order):
            outline = np.append(edges[:, rank + 1], edges[::-1, rank])
            tint = canvas.color(shade(k, rank, len(order)))
            band = axes.fill(np.append(steps, steps[::-1]), outline, color=tint, linewidth=0)
            canvas.hint(band, f"{decision.name}, {decision.choices[choice]}: {theta[-1, d, choice]:.3f} at the end")
        best = int(theta[-1, d].argmax())
        words = f"{short_name(decision.choices[best])} {100 * theta[-1, d, best]:.0f}%"
        style = {"textcoords": "offset points", "va": "center", "fontsize": _SIZE}
        axes.annotate(words, (axes.get_xlim()[1], d + 0.45), (6, 0), color=canvas.color("var(--ink)"), **style)
    return canvas.to_html(f"theta of network {k} over steps")


def ranks(space: SearchSpace, decision: int, cost: str) -> list[int]:
    """The place of each choice of a decision in the order of its cost, cheapest 0; equal ones in their own order."""
    row = space.cost(cost).table[decision]
    order = sorted(range(len(row)), key=lambda choice: (row[choice], choice))
    return [order.index(choice) for choice in range(len(row))]


def shade(k: int, rank: int, choices: int) -> str:
    """The colour of a choice of network k: the more expensive, the darker (in dark mode, the brighter)."""
    share = round(12 + 88 * rank / max(1, choices - 1))
    return f"color-mix(in oklab, {color(k)} {share}%, var(--panel))"


def binned(steps: np.ndarray, values: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Means of values [T, ...] over at most `bins` runs of neighbouring steps, which end at the steps returned."""
    parts = np.array_split(np.arange(len(steps)), min(bins, len(steps)))
    return np.array([steps[part[-1]] for part in parts]), np.array([values[part].mean(0) for part in parts])


def key(marker: str, line: str | None, name: str, hollow: bool = False) -> Markup:
    """The mark of a series in a legend."""
    canvas = Canvas(34, 14)
    axes = canvas.axes(0, 0, 34, 14)
    axes.set_axis_off()
    axes.set(xlim=(0, 34), ylim=(0, 14))
    if line:
        axes.plot([1, 33], [7, 7], color=canvas.color("var(--faint)"), linewidth=1.6, linestyle=line)
    fill = canvas.color("var(--panel)" if hollow else "var(--soft)")
    axes.plot(17, 7, marker, color=fill, markeredgecolor=canvas.color("var(--soft)"), markersize=7.5)
    return canvas.to_html(f"mark of {name}", class_="key")


def _axes(canvas: Canvas, x_name: str, y_name: str, show: Callable[[float, int], str]) -> Axes:
    """Axes with a grid, and the names at their ends."""
    axes = canvas.axes(46, 28, canvas.width - 60, canvas.height - 62)
    _steps_axis(canvas, axes, x_name, 5)
    axes.xaxis.set_major_formatter(FuncFormatter(show))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes.grid(axis="y", color=canvas.color("var(--rule)"), linewidth=1)
    axes.set_axisbelow(True)
    style = {"color": canvas.color("var(--soft)"), "fontsize": _SIZE, "weight": "bold"}
    axes.annotate(y_name, (0, 1), (-44, 8), xycoords="axes fraction", textcoords="offset points", **style)
    return axes


def _steps_axis(canvas: Canvas, axes: Axes, name: str, ticks: int) -> None:
    """The axis across: a line, round ticks, and its name at the right end."""
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(canvas.color("var(--faint)"))
    axes.tick_params(axis="x", length=4, width=1, color=canvas.color("var(--faint)"))
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=(1, 2, 2.5, 5, 10)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value, 6)))
    style = {"ha": "right", "color": canvas.color("var(--soft)"), "fontsize": _SIZE, "weight": "bold"}
    axes.annotate(name, (1, 0), (0, -30), xycoords="axes fraction", textcoords="offset points", **style)


def _cloud(canvas: Canvas, axes: Axes, costs: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Draws all networks of a table within the axes, and their Pareto front; the front [N, 2], cheapest first."""
    points = np.stack([np.asarray(costs, float), errors], axis=1)
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    inside = ((points >= [x0, y0]) & (points <= [x1, y1])).all(1)
    dots = np.unique(axes.transData.transform(points[inside]).round(), axis=0)  # one for each pixel
    path = Path(np.repeat(dots, 2, axis=0) + np.tile([[0, 0], [0.01, 0]], (len(dots), 1)),
                np.tile([Path.MOVETO, Path.LINETO], len(dots)))  # fmt: skip
    style = {"edgecolor": canvas.color("var(--faint)"), "linewidth": 2.4, "capstyle": "round", "alpha": 0.45}
    axes.add_patch(PathPatch(path, transform=None, facecolor="none", **style))
    front = points[pareto_front(costs, errors) & inside]
    front = front[np.argsort(front[:, 0])]
    axes.plot(*front.T, color=canvas.color("var(--ink)"), linewidth=1.1, alpha=0.55)
    return front
