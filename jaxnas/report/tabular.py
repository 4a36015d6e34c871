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

from jaxnas.metrics import REFERENCE_POINT, evaluations_to_reach
from jaxnas.results.files import replacing
from jaxnas.results.tables import Column, Table
from jaxnas.tasks.comparison import Reach, mean_curves
from jaxnas.tasks.judge import Comparison, Result

LEVELS = (0.3, 0.25, 0.2, 0.15, 0.1)  # of relative regret


def as_json(
    results: Mapping[str, Result],
    comparisons: Sequence[Comparison],
    reaches: Sequence[Reach],
    **settings: Any,
) -> dict[str, Any]:
    """The content of result.json: the settings, the recorded counts, every method's curves, tests and ratios."""
    return {
        **settings,
        "evaluations": list(next(iter(results.values())).evaluations),
        "hypervolume_reference": list(REFERENCE_POINT),
        "methods": {
            name: {
                "relative_regret": result.relative_regret.tolist(),
                "hypervolume": result.hypervolume.tolist(),
                "distance": None if result.distance is None else result.distance.tolist(),
                "encodings": result.encodings.tolist(),
                "samples": result.samples,
                "wall_seconds": result.wall_seconds,
            }
            for name, result in results.items()
        },
        "tests": [
            {
                "baseline": each.baseline,
                "measure": each.measure,
                "evaluations": each.evaluations,
                "method_mean": each.method_average,
                "baseline_mean": each.baseline_average,
                "better": each.better,
                "p_value": each.p_value,
                "p_holm": each.p_holm,
            }
            for each in comparisons
        ],
        "evaluations_to_reach": [dataclasses.asdict(reach) for reach in reaches],
    }


def curves(results: Mapping[str, Result]) -> Figure:
    """Regret and hypervolume against evaluations: median and inter-quartile range over seeds."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    # "independent" is one of "independent@2", ...: drawing both would hide one under the other.
    shown = {name: result for name, result in results.items() if not name.startswith("independent@")}
    for name, result in shown.items():
        label = f"{name} ({result.samples} samples)"
        _band(left, result, "relative_regret", label)
        _band(right, result, "hypervolume", label)
    left.set_ylabel("relative regret, mean over penalties")
    right.set_ylabel(f"hypervolume to {REFERENCE_POINT}")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("evaluations")
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    left.legend()
    return figure


def _band(axes: Axes, result: Result, measure: str, label: str) -> None:
    """Median line and inter-quartile band over seeds."""
    recorded = result.evaluations
    low, median, high = np.quantile(result.per_seed(measure), (0.25, 0.5, 0.75), axis=0)
    (line,) = axes.plot(recorded, median, label=label, marker="." if len(recorded) == 1 else None)
    axes.fill_between(recorded, low, high, color=line.get_color(), alpha=0.15, linewidth=0)


def result_table(results: Mapping[str, Result]) -> Table:
    """Each method's regret at some counts, its distance there, and its hypervolume at the end.

    Regret is the mean and the quartiles over seeds; distance the mean, of true errors to the best that costs no more.
    """
    recorded = next(iter(results.values())).evaluations
    wanted = [count for count in (250, 1000, 2000, 4000) if count in recorded]
    counts = wanted if recorded[-1] in wanted else [*wanted, recorded[-1]]
    rows = []
    for name, result in results.items():
        cells = []
        for count in counts:
            per_seed = result.per_seed("relative_regret")[:, recorded.index(count)]
            low, high = np.quantile(per_seed, (0.25, 0.75))
            cells.append(f"{per_seed.mean():.3f} ({low:.2f}-{high:.2f})")
        at = [recorded.index(count) for count in counts]
        distance = "-" if result.distance is None else " / ".join(f"{100 * d:.2f}" for d in result.distance.mean(0)[at])
        volume = f"{result.hypervolume[:, -1].mean():.4f}"
        rows.append((name, str(result.samples), *cells, distance, volume, f"{result.wall_seconds:.1f}"))
    return Table(
        "Relative regret over evaluations: mean (quartiles over seeds)",
        (Column("method", "name"), "samples", *map(str, counts), "distance, points", "hypervolume", "seconds"),
        rows,
    )


def comparison_table(method: str, comparisons: Sequence[Comparison]) -> Table:
    """The tests of a method against the others."""
    rows = []
    for each in comparisons:
        significant = "yes" if each.p_holm < 0.01 else "not significantly"
        verdict = significant if each.better else "no"
        averages = (f"{each.method_average:.4f}", f"{each.baseline_average:.4f}")
        rows.append((each.baseline, each.measure, str(each.evaluations), *averages, verdict, f"{each.p_holm:.1e}"))
    return Table(
        f"{method} against the others: Wilcoxon over seeds, Holm-corrected over this table",
        (
            Column("against", "name"),
            Column("measure", "text"),
            "evaluations",
            method,
            "other",
            Column("better", "text"),
            "p",
        ),
        rows,
    )


def reach_table(reaches: Sequence[Reach]) -> Table:
    """Evaluations needed for the regret of independent searches."""
    rows = []
    for reach in reaches:
        needed = ("never", "-") if reach.evaluations is None else (str(reach.evaluations), f"{reach.ratio:.3f}")
        rows.append((reach.method, str(reach.at), str(reach.samples), f"{reach.level:.3f}", *needed))
    return Table(
        "Evaluations needed for the regret of independent searches with their best lambda",
        (Column("method", "name"), "independent at", "with samples", "regret", "needed", "ratio"),
        rows,
    )


def level_table(results: Mapping[str, Result]) -> Table:
    """Evaluations that each method needs for levels of mean regret; of independent searches, the best lambda's."""
    recorded = next(iter(results.values())).evaluations
    rows = []
    for name, curve in mean_curves(results).items():
        needed = [evaluations_to_reach(recorded, curve, level) for level in LEVELS]
        rows.append((name, *(f"{count:.0f}" if np.isfinite(count) else "never" for count in needed)))
    columns = (Column("method", "name"), *(f"{level:g}" for level in LEVELS))
    return Table("Evaluations needed for a relative regret of", columns, rows)


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
    with replacing(folder / "result.json") as result, replacing(folder / "curves.png") as picture:
        result.write_text(json.dumps(content, allow_nan=False) + "\n", encoding="utf-8")
        figure.savefig(picture, dpi=150)
