"""A picture of how trainings went: accuracy by epoch."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from jaxnas.results.files import replacing


def plot_training(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike) -> None:
    """Draws training accuracy (thin) and, where it was logged, test accuracy (thick) of each run.

    Args:
      runs: by name, records with "epoch", "train_accuracy" and some of them with "test_accuracy".
      path: of the picture; its suffix decides the format.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for index, (name, records) in enumerate(runs.items()):
        colour = f"C{index % 10}"
        axes.plot(
            [record["epoch"] for record in records],
            [100 * record["train_accuracy"] for record in records],
            color=colour,
            linewidth=0.8,
            alpha=0.6,
        )
        tested = [record for record in records if "test_accuracy" in record]
        axes.plot(
            [record["epoch"] for record in tested],
            [100 * record["test_accuracy"] for record in tested],
            color=colour,
            linewidth=2,
            marker="o",
            markersize=3,
            label=name,
        )
    axes.set_xlabel("Epoch")
    axes.set_ylabel("Accuracy (%)")
    axes.set_title("thin: training minibatches, thick: test images", loc="right", fontsize=8, color="#777777")
    axes.grid(color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if runs:
        axes.legend(frameon=False, fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
