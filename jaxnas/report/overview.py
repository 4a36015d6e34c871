"""Cost against error, of all searches of a page: by their own measure and, with a table, against true errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from jaxnas.report import charts
from jaxnas.report.charts import LINES, MARKERS, Points, color
from jaxnas.report.runs import Baseline, Run, Truth
from jaxnas.report.wording import costs_of, in_words, is_time, label, measures_loss, quantity, total
from jaxnas.results.result import FoundArchitecture
from jaxnas.spaces import SearchSpace


@dataclass(frozen=True)
class Overview:
    """Charts of cost against error, one for each cost.

    Attributes:
      charts: the drawings.
      keys: (mark, name) of each series.
      budgets: whether budgets are drawn.
      note: what is shown, in words.
    """

    charts: list[Markup]
    keys: list[tuple[Markup, str]]
    budgets: bool = False
    note: str = ""


def measured(runs: Sequence[Run]) -> Overview:
    """Validation errors of the networks of all runs, or losses where no accuracy is known."""
    drawn, budgets = [], []
    by_loss = measures_loss(found for run in runs for found in run.found)
    name = "validation loss" if by_loss else "validation error"
    for cost in _costs(runs):
        series, any_known = [], False
        for index, run in enumerate(runs):
            heights = {k: found.valid_loss if by_loss else _error(found) for k, found in enumerate(run.found)}
            heights = {k: height for k, height in heights.items() if height is not None}
            any_known |= bool(heights)
            values = np.array([(total(run.found[k], cost), height) for k, height in heights.items()]).reshape(-1, 2)
            series.append(_points(run, index, len(runs) == 1, values, list(heights), cost, name, percent=not by_loss))
        limits = [
            (float(found.budgets[cost]), color(k))
            for run in runs
            for k, found in enumerate(run.found)
            if found.budgets and found.budgets.get(cost)
        ]
        budgets += limits
        if any_known:
            title = name if by_loss else f"{name} (%)"
            drawn.append(charts.cost_error(series, cost, title, limits, time=_is_time(cost, runs)))
    return Overview(drawn, [_key(index, run.name) for index, run in enumerate(runs)], bool(budgets))


def _error(found: FoundArchitecture) -> float | None:
    return None if found.valid_accuracy is None else 1 - found.valid_accuracy


def against_truth(runs: Sequence[Run], baselines: Sequence[Baseline], truth: Truth) -> Overview:
    """True errors of the networks of the runs and baselines that are of the table's space."""
    covered = [run for run in runs if truth.covers(run.space)]
    if not covered:
        return Overview([], [], note=f"{truth.name} is not of the search spaces of these runs.")
    space = covered[0].space
    shown = {index: run for index, run in enumerate(runs) if run.space is not None and run.space.name == space.name}
    fitting = [baseline for baseline in baselines if _belongs(baseline, space)]
    note = (
        f"Errors of {truth.name}: every network of the space as a dot, and the line of the best there are. "
        "A search sees none of these numbers."
    )
    if len(fitting) < len(baselines):
        left_out = ", ".join(baseline.name for baseline in baselines if baseline not in fitting)
        note += f" Not of this space and left out: {left_out}."
    drawn = []
    for cost in [cost for cost in _costs(runs) if all(run.knows(cost) for run in shown.values())]:
        totals = covered[0].space.cost(cost).total
        series = [_baseline(each, index, truth, totals, cost) for index, each in enumerate(fitting)]
        for index, run in shown.items():
            archs = np.array([found.encoding for found in run.found])
            values = np.stack([totals(archs), truth.errors(archs)], axis=1)
            alone = len(runs) == 1 and not baselines
            series.append(_points(run, index, alone, values, range(len(archs)), cost, "true error"))
        cloud = (np.asarray(totals(truth.archs), float), truth.error)
        drawn.append(charts.cost_error(series, cost, "true error (%)", cloud=cloud, time=_is_time(cost, runs)))
    keys = [_key(index, run.name) for index, run in shown.items()]
    for index, each in enumerate(fitting):
        name = f"{each.name}, median over {len(each.archs)} seeds"
        keys.append((charts.key(_marker(index), None, name, hollow=True), name))
    return Overview(drawn, keys, note=note)


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]


def _line(index: int) -> str:
    return LINES[index % len(LINES)]


def _key(index: int, name: str) -> tuple[Markup, str]:
    return charts.key(_marker(index), _line(index), name), name


def _costs(runs: Sequence[Run]) -> list[str]:
    """The costs that are known of all networks, the one that the first search went for first."""
    known = costs_of([found for run in runs for found in run.found])
    return sorted(known, key=lambda cost: cost != runs[0].cost)


def _is_time(cost: str, runs: Sequence[Run]) -> bool:
    return is_time(cost, [found for run in runs for found in run.found])


def _points(
    run: Run,
    index: int,
    alone: bool,
    values: np.ndarray,
    networks: Sequence[int],
    cost: str,
    error_name: str,
    percent: bool = True,
) -> Points:
    """The networks of a run as a series, values [N, 2]; their labels are shorter where there are others."""
    found = [run.found[k] for k in networks]
    details = [
        f"{run.name}, network {each.k}, {label(each)}: {error_name} {format(error, '.2%' if percent else '.4g')}, "
        f"{quantity(cost, at, time=is_time(cost, found))} {in_words(cost)}"
        for each, (at, error) in zip(found, values)
    ]
    return Points(
        values[:, 0],
        values[:, 1],
        [color(k) for k in networks],
        [f"{each.k}: {label(each)}" if alone else str(each.k) for each in found],
        details,
        _marker(index),
        _line(index),
        percent=percent,
    )


def _baseline(baseline: Baseline, index: int, truth: Truth, totals, cost: str) -> Points:
    costs = np.median(totals(baseline.archs), axis=0)
    errors = np.median(truth.errors(baseline.archs), axis=0)
    details = [
        f"{baseline.name}, penalty {penalty:.3g}: true error {error:.2%}, {quantity(cost, at)} {in_words(cost)}"
        for penalty, at, error in zip(baseline.penalties, costs, errors)
    ]
    tints = ["var(--ink)"] * len(costs)
    return Points(costs, errors, tints, [""] * len(costs), details, _marker(index), line=None, hollow=True)


def _belongs(baseline: Baseline, space: SearchSpace) -> bool:
    return baseline.archs.shape[2] == len(space.decisions) and bool(
        (baseline.archs < np.array(space.num_choices)).all()
    )
