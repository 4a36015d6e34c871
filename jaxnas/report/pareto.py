"""`pareto.png`: the K networks of one search, accuracy against cost."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from jaxnas.metrics import pareto_front
from jaxnas.results.files import replacing
from jaxnas.results.result import FoundArchitecture, SearchResult

_COSTS = {"macs": "Multiply-adds of one image", "params": "Parameters"}
_INK, _FAINT, _LINE = "#1a1a1a", "#8a8a8a", "#c9d3dc"
_COLOR = "#1f5a8a"  # One dark hue: full or hollow tells the groups apart, so nothing is lost in grey.
# Where a label may stand, seen from its point, in points; the first that is free is taken.
_OFFSETS = ((9, -10), (9, 6), (-9, 6), (-9, -10), (0, 12), (0, -18), (14, -24), (14, 20), (-14, 20), (-14, -24))


def plot_pareto(result: SearchResult, path: str | os.PathLike, cost: str = "macs") -> None:
    """Draws the networks of a search, each labelled with its penalty.

    Those that another one beats in both cost and accuracy are drawn hollow.

    Args:
      result: of a search.
      path: of the picture; its suffix chooses the format (png, pdf, svg).
      cost: "macs" or "params".

    Raises:
      ValueError: if `cost` is neither.
    """
    if cost not in _COSTS:
        raise ValueError(f"cost must be one of {', '.join(_COSTS)}, got {cost!r}")
    points = _points(result.architectures, cost)
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, result)
    if points:
        costs, accuracies = np.array([point[:2] for point in points]).T
        unit, name = _unit(costs.max())
        axes.set_xlabel(f"{_COSTS[cost]} ({name})" if name else _COSTS[cost])
        front = pareto_front(costs, -accuracies)
        order = np.argsort(costs[front])
        axes.plot(costs[front][order] / unit, accuracies[front][order], color=_LINE, linewidth=2, zorder=1)
        for mask, face, label in ((front, _COLOR, "on the front"), (~front, "white", "dominated")):
            if mask.any():
                style = {"color": face, "edgecolor": _COLOR, "linewidth": 1.5, "s": 52, "zorder": 3}
                axes.scatter(costs[mask] / unit, accuracies[mask], label=label, **style)
        axes.margins(x=0.12, y=0.16)
        axes.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=_INK, handletextpad=0.2)
        _label(figure, axes, costs / unit, accuracies, [point[2] for point in points])
    else:
        axes.set_xlabel(_COSTS[cost])
        axes.text(0.5, 0.5, "no network was evaluated", transform=axes.transAxes, ha="center", color=_FAINT)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _points(architectures: Sequence[FoundArchitecture], cost: str) -> list[tuple[float, float, str]]:
    """Cost, accuracy in per cent and label of each network; distributions that agree share a point."""
    labels: dict[tuple[tuple[int, ...], float, float], list[str]] = {}
    for found in architectures:
        if found.valid_accuracy is not None and np.isfinite(found.valid_accuracy):
            key = (found.encoding, float(getattr(found, cost)), 100 * float(found.valid_accuracy))
            labels.setdefault(key, []).append(f"{found.penalty:.3g}")
    return [(at, accuracy, ", ".join(names)) for (_, at, accuracy), names in labels.items()]


def _unit(largest: float) -> tuple[float, str]:
    for unit, name in ((1e9, "billions"), (1e6, "millions"), (1e3, "thousands")):
        if largest >= unit:
            return unit, name
    return 1.0, ""


def _style(axes: Axes, result: SearchResult) -> None:
    axes.set_title(f"{result.space} on {result.dataset}", loc="left", fontsize=11, color=_INK, fontweight="bold")
    axes.set_title(f"{result.method}, seed {result.seed}; labels: penalty", loc="right", fontsize=8, color=_FAINT)
    axes.set_ylabel("Validation accuracy (%)")
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(color=_FAINT, labelcolor=_INK, labelsize=9)


def _label(figure: Figure, axes: Axes, costs: np.ndarray, accuracies: np.ndarray, names: list[str]) -> None:
    """Writes each name beside its point, where it covers no other name and no point."""
    figure.draw_without_rendering()  # Settles the layout: from here on, places in pixels are final.
    pixels = axes.transData.transform(np.column_stack([costs, accuracies]))
    taken = [Bbox.from_extents(*(place - 6), *(place + 6)) for place in pixels]
    if axes.get_legend() is not None:
        taken.append(axes.get_legend().get_window_extent())
    for name, cost, accuracy in zip(names, costs, accuracies):
        best, best_overlap = None, np.inf
        for offset in _OFFSETS:
            side = "left" if offset[0] > 0 else "right" if offset[0] < 0 else "center"
            text = axes.annotate(
                name, (cost, accuracy), offset, textcoords="offset points", ha=side, fontsize=8.5, color=_INK, zorder=4
            )
            box = text.get_window_extent()
            overlap = sum(_overlap(box, other) for other in taken) + (0 if _inside(box, figure.bbox) else 1e9)
            if overlap < best_overlap:
                if best is not None:
                    best.remove()
                best, best_overlap, best_box = text, overlap, box
            else:
                text.remove()
            if best_overlap == 0:
                break
        taken.append(best_box)


def _overlap(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else both.width * both.height


def _inside(box: Bbox, frame: Bbox) -> bool:
    return box.x0 >= frame.x0 and box.x1 <= frame.x1 and box.y0 >= frame.y0 and box.y1 <= frame.y1
