"""`pareto.png`: the K networks of one search, accuracy against cost."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jaxnas.metrics import pareto_front
from jaxnas.report.labels import place_labels
from jaxnas.report.wording import costs_of, in_words, is_time, measures_loss, quantity, searched_cost, total, within
from jaxnas.results.files import replacing
from jaxnas.results.result import OWN_DATA, FoundArchitecture, SearchResult

_INK, _FAINT, _LINE = "#1a1a1a", "#8a8a8a", "#c9d3dc"
_COLOR = "#1f5a8a"  # One dark hue: full or hollow tells the groups apart, so nothing is lost in grey.


def plot_pareto(result: SearchResult, path: str | os.PathLike, cost: str | None = None) -> None:
    """Writes the picture of `draw_pareto`.

    Args:
      result: of a search.
      path: of the picture; its suffix chooses the format (png, pdf, svg).
      cost: see `draw_pareto`.

    Raises:
      ValueError: likewise.
    """
    figure = draw_pareto(result, cost)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def draw_pareto(result: SearchResult, cost: str | None = None) -> Figure:
    """Draws the networks of a search, each labelled with its penalty or its budget: accuracy, or else loss, and cost.

    Those that another one dominates in both are drawn hollow.

    Args:
      result: of a search.
      cost: "macs", "params", or another cost that is known of all networks; None for what the search went for.

    Raises:
      ValueError: if `cost` is none of these.
    """
    known = costs_of(result.architectures) if result.architectures else ["macs", "params"]
    cost = searched_cost(result) if cost is None else cost
    if cost not in known:
        raise ValueError(f"cost must be one of {', '.join(known)}, got {cost!r}")
    by_loss = measures_loss(result.architectures)
    points, time = _points(result.architectures, cost, by_loss), is_time(cost, result.architectures)
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, result)
    axes.set_ylabel("Validation loss" if by_loss else "Validation accuracy (%)", color=_INK)
    each = "example" if result.dataset == OWN_DATA else "image"
    axes.set_xlabel(f"{in_words(cost).capitalize()} of one {each}" if cost != "params" else "Parameters", color=_INK)
    if points:
        costs, heights = np.array([point[:2] for point in points]).T
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(cost, value, 6, time=time)))
        front = pareto_front(costs, heights if by_loss else -heights)
        line = np.stack([costs[front], heights[front]], axis=1)[np.argsort(costs[front])]
        axes.plot(*line.T, color=_LINE, linewidth=2, zorder=1)
        for mask, face, label in ((front, _COLOR, "on the front"), (~front, "white", "dominated")):
            if mask.any():
                style = {"color": face, "edgecolor": _COLOR, "linewidth": 1.5, "s": 52, "zorder": 3}
                axes.scatter(costs[mask], heights[mask], label=label, **style)
        axes.margins(x=0.12, y=0.16)
        axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=_INK, handletextpad=0.2)
        places = np.stack([costs, heights], axis=1)
        place_labels(axes, places, [point[2] for point in points], [line], fontsize=8.5, color=_INK, zorder=4)
    else:
        axes.text(0.5, 0.5, "no network was evaluated", transform=axes.transAxes, ha="center", color=_FAINT)
    return figure


def _points(architectures: Sequence[FoundArchitecture], cost: str, by_loss: bool) -> list[tuple[float, float, str]]:
    """Cost, accuracy in per cent or loss, and label of each network; distributions that agree share a point."""
    labels: dict[tuple[tuple[int, ...], float, float], list[str]] = {}
    for found in architectures:
        height = found.valid_loss if by_loss else found.valid_accuracy
        if height is not None and np.isfinite(height):
            key = (found.encoding, float(total(found, cost)), float(height) * (1 if by_loss else 100))
            labels.setdefault(key, []).append(within(found) if found.budgets else f"{found.penalty:.3g}")
    return [(at, height, "; ".join(names)) for (_, at, height), names in labels.items()]


def _style(axes: Axes, result: SearchResult) -> None:
    kind = "budget" if any(found.budgets for found in result.architectures) else "penalty"
    title = {"loc": "left", "fontsize": 11, "color": _INK, "fontweight": "bold"}
    axes.set_title(f"{result.space} on {result.dataset}", parse_math=False, **title)  # a "$" in a name is no formula
    axes.set_title(f"{result.method}, seed {result.seed}; labels: {kind}", loc="right", fontsize=8, color=_FAINT)
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(color=_FAINT, labelcolor=_INK, labelsize=9)
