"""The front of expected loss and cost that the evaluations of one search tell, as a picture."""

import os
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxnas.cost import Cost
from jaxnas.results.files import replacing
from jaxnas.selection.picking import COVERAGE, Pick

_COLOR, _INK = "#1f5a8a", "#1a1a1a"


def plot_front(picks: Sequence[Pick], cost: Cost, path: str | os.PathLike) -> None:
    """Draws networks from the cheapest to the most expensive, with the intervals of their losses.

    Args:
      picks: of `jaxnas.selection.picking.front`.
      cost: the cost of the front.
      path: of the picture; its suffix chooses the format (png, pdf, svg).
    """
    totals = np.array([found.costs[cost.name] for found in picks])
    low, high = np.array([found.interval for found in picks]).T
    figure = Figure(figsize=(6.4, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.fill_between(totals, low, high, step="post", color=_COLOR, alpha=0.15, linewidth=0)
    axes.step(totals, [found.expected_loss for found in picks], where="post", color=_COLOR, marker="o", markersize=3)
    axes.set_xlabel(f"{cost.name} ({cost.unit})", color=_INK)
    axes.set_ylabel(f"Expected loss, {COVERAGE:.0%} interval", color=_INK)
    axes.grid(color="#ececec", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary)
