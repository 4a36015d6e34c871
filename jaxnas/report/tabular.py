"""Reports of searches on a table: result.json, curves and printed tables."""

import dataclasses
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from jaxnas.metrics import REFERENCE_POINT, evaluations_to_reach
from jaxnas.tasks.comparison import Comparison, Reach, Result

LEVELS = (0.3, 0.25, 0.2, 0.15, 0.1)  # of relative regret


def as_json(
    recorded: Sequence[int],
    results: Mapping[str, Result],
    comparisons: Sequence[Comparison],
    reaches: Sequence[Reach],
    **settings: Any,
) -> dict[str, Any]:
    """The content of result.json: the settings, the recorded counts, every method's curves, tests and ratios."""
    return {
        **settings,
        "evaluations": list(recorded),
        "hypervolume_reference": list(REFERENCE_POINT),
        "methods": {
            name: {
                "relative_regret": result.relative_regret.tolist(),
                "hypervolume": result.hypervolume.tolist(),
                "encodings": result.encodings.tolist(),
                "samples": result.samples,
                "wall_seconds": result.wall_seconds,
            }
            for name, result in results.items()
        },
        "tests": [dataclasses.asdict(each) for each in comparisons],
        "evaluations_to_reach": [dataclasses.asdict(reach) for reach in reaches],
    }


def curves(recorded: Sequence[int], results: Mapping[str, Result]) -> Figure:
    """Regret and hypervolume against evaluations: median and inter-quartile range over seeds."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    # "independent" is one of "independent@2", ...: drawing both would hide one under the other.
    shown = {name: result for name, result in results.items() if not name.startswith("independent@")}
    for name, result in shown.items():
        label = f"{name} ({result.samples} samples)"
        _band(left, recorded, result.relative_regret.mean(1), label)
        _band(right, recorded, result.hypervolume, label)
    left.set_ylabel("relative regret, mean over penalties")
    right.set_ylabel(f"hypervolume to {REFERENCE_POINT}")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("evaluations")
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    left.legend()
    return figure


def _band(axes: Axes, recorded: Sequence[int], values: np.ndarray, label: str) -> None:
    """Median line and inter-quartile band of values [M, E]."""
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    (line,) = axes.plot(recorded, median, label=label, marker="." if len(recorded) == 1 else None)
    axes.fill_between(recorded, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def result_table(recorded: Sequence[int], results: Mapping[str, Result]) -> Table:
    """Each method's regret at some counts, mean and quartiles over seeds, and its hypervolume at the end."""
    wanted = [count for count in (250, 1000, 2000, 4000) if count in recorded]
    counts = wanted if recorded[-1] in wanted else [*wanted, recorded[-1]]
    table = Table(title="Relative regret over evaluations: mean (quartiles over seeds)")
    table.add_column("method", no_wrap=True)
    table.add_column("samples", justify="right")
    for count in counts:
        table.add_column(str(count), justify="right")
    table.add_column("hypervolume", justify="right")
    table.add_column("seconds", justify="right")
    for name, result in results.items():
        cells = []
        for count in counts:
            per_seed = result.relative_regret[:, :, list(recorded).index(count)].mean(1)
            low, high = np.quantile(per_seed, (0.25, 0.75))
            cells.append(f"{per_seed.mean():.3f} ({low:.2f}-{high:.2f})")
        volume = f"{result.hypervolume[:, -1].mean():.4f}"
        table.add_row(name, str(result.samples), *cells, volume, f"{result.wall_seconds:.1f}")
    return table


def comparison_table(method: str, comparisons: Sequence[Comparison]) -> Table:
    """The tests of a method against the others."""
    table = Table(title=f"{method} against the others: Wilcoxon over seeds, Holm-corrected over this table")
    for column in ("against", "measure", "evaluations", method, "other", "better", "p"):
        table.add_column(
            column,
            justify="left" if column in ("against", "measure", "better") else "right",
            no_wrap=column == "against",
        )
    for each in comparisons:
        significant = "yes" if each.p_holm < 0.01 else "not significantly"
        verdict = significant if each.better else "no"
        means = (f"{each.method_mean:.4f}", f"{each.baseline_mean:.4f}")
        table.add_row(each.baseline, each.measure, str(each.evaluations), *means, verdict, f"{each.p_holm:.1e}")
    return table


def reach_table(reaches: Sequence[Reach]) -> Table:
    """Evaluations needed for the regret of independent searches."""
    table = Table(title="Evaluations needed for the regret of independent searches with their best lambda")
    for column in ("method", "independent at", "with samples", "regret", "needed", "ratio"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=column == "method")
    for reach in reaches:
        needed = ("never", "-") if reach.evaluations is None else (str(reach.evaluations), f"{reach.ratio:.3f}")
        table.add_row(reach.method, str(reach.at), str(reach.samples), f"{reach.level:.3f}", *needed)
    return table


def level_table(recorded: Sequence[int], results: Mapping[str, Result]) -> Table:
    """Evaluations that each method needs for levels of mean regret; of independent searches, the best lambda's."""
    table = Table(title="Evaluations needed for a relative regret of")
    table.add_column("method", no_wrap=True)
    for level in LEVELS:
        table.add_column(f"{level:g}", justify="right")
    curves_of = {name: result.mean_regret for name, result in results.items() if not name.startswith("independent")}
    sweep = [result.mean_regret for name, result in results.items() if name.startswith("independent@")]
    if sweep:
        curves_of["independent"] = np.min(sweep, axis=0)
    for name, curve in curves_of.items():
        needed = [evaluations_to_reach(recorded, curve, level) for level in LEVELS]
        table.add_row(name, *(f"{count:.0f}" if np.isfinite(count) else "never" for count in needed))
    return table


def prepare(out: str | os.PathLike) -> pathlib.Path:
    """Makes the output folder, and finds out before hours of work whether it can be written to.

    Raises:
      OSError: if not.
    """
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder


def write(folder: pathlib.Path, content: Mapping[str, Any], figure: Figure) -> None:
    """Writes result.json and curves.png; files of an earlier run are replaced only once both are complete."""
    partial = {name: folder / f".{name}.partial" for name in ("result.json", "curves.png")}
    try:
        partial["result.json"].write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        figure.savefig(partial["curves.png"], format="png", dpi=150)
        for name, path in partial.items():
            os.replace(path, folder / name)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
