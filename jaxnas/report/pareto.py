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
from jaxnas.report.wording import costs_of, in_words, quantity, searched_cost, total, within
from jaxnas.results.files import replacing
from jaxnas.results.result import FoundArchitecture, SearchResult

_INK, _FAINT, _LINE = "#1a1a1a", "#8a8a8a", "#c9d3dc"
_COLOR = "#1f5a8a"  # One dark hue: full or hollow tells the groups apart, so nothing is lost in grey.


def plot_pareto(result: SearchResult, path: str | os.PathLike, cost: str | None = None) -> None:
    """Draws the networks of a search, each labelled with its penalty or its budget.

    Those that another one dominates in cost and accuracy are drawn hollow.

    Args:
      result: of a search.
      path: of the picture; its suffix chooses the format (png, pdf, svg).
      cost: "macs", "params", or another cost that is known of all networks; None for what the search went for.

    Raises:
      ValueError: if `cost` is none of these.
    """
    known = costs_of(result.architectures) if result.architectures else ["macs", "params"]
    cost = searched_cost(result) if cost is None else cost
    if cost not in known:
        raise ValueError(f"cost must be one of {', '.join(known)}, got {cost!r}")
    points = _points(result.architectures, cost)
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _style(axes, result)
    axes.set_xlabel(f"{in_words(cost).capitalize()} of one image" if cost != "params" else "Parameters", color=_INK)
    if points:
        costs, accuracies = np.array([point[:2] for point in points]).T
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: quantity(cost, value, 6)))
        front = pareto_front(costs, -accuracies)
        line = np.stack([costs[front], accuracies[front]], axis=1)[np.argsort(costs[front])]
        axes.plot(*line.T, color=_LINE, linewidth=2, zorder=1)
        for mask, face, label in ((front, _COLOR, "on the front"), (~front, "white", "dominated")):
            if mask.any():
                style = {"color": face, "edgecolor": _COLOR, "linewidth": 1.5, "s": 52, "zorder": 3}
                axes.scatter(costs[mask], accuracies[mask], label=label, **style)
        axes.margins(x=0.12, y=0.16)
        axes.legend(loc="best", frameon=False, fontsize=8, labelcolor=_INK, handletextpad=0.2)
        places = np.stack([costs, accuracies], axis=1)
        place_labels(axes, places, [point[2] for point in points], [line], fontsize=8.5, color=_INK, zorder=4)
    else:
        axes.text(0.5, 0.5, "no network was evaluated", transform=axes.transAxes, ha="center", color=_FAINT)
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _points(architectures: Sequence[FoundArchitecture], cost: str) -> list[tuple[float, float, str]]:
    """Cost, accuracy in per cent and label of each network; distributions that agree share a point."""
    labels: dict[tuple[tuple[int, ...], float, float], list[str]] = {}
    for found in architectures:
        if found.valid_accuracy is not None and np.isfinite(found.valid_accuracy):
            key = (found.encoding, float(total(found, cost)), 100 * float(found.valid_accuracy))
            labels.setdefault(key, []).append(within(found) if found.budgets else f"{found.penalty:.3g}")
    return [(at, accuracy, "; ".join(names)) for (_, at, accuracy), names in labels.items()]


def _style(axes: Axes, result: SearchResult) -> None:
    kind = "budget" if any(found.budgets for found in result.architectures) else "penalty"
    title = {"loc": "left", "fontsize": 11, "color": _INK, "fontweight": "bold"}
    axes.set_title(f"{result.space} on {result.dataset}", parse_math=False, **title)  # a "$" in a name is no formula
    axes.set_title(f"{result.method}, seed {result.seed}; labels: {kind}", loc="right", fontsize=8, color=_FAINT)
    axes.set_ylabel("Validation accuracy (%)", color=_INK)
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_FAINT)
    axes.tick_params(color=_FAINT, labelcolor=_INK, labelsize=9)
