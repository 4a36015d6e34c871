"""Cost against error, of all searches of a report: by their own measure and, with a table, against true errors."""

from collections.abc import Sequence

import numpy as np

from jaxnas.report import charts, sections
from jaxnas.report.charts import Points, color
from jaxnas.report.markup import Node, element
from jaxnas.report.runs import Baseline, Run, Truth, count, label
from jaxnas.spaces import SearchSpace

_COSTS = {"macs": "multiply-adds", "params": "parameters"}
_LINES = ("solid", "dashed", "dotted")


def overview(runs: Sequence[Run], baselines: Sequence[Baseline], truth: Truth | None) -> list[Node]:
    """The charts of cost against error.

    Args:
      runs: the searches, each a series.
      baselines: drawn with true errors only, since they have no others.
      truth: a table of true errors; None for none.
    """
    drawn = [_validation_chart(runs, cost) for cost in _costs(runs)]
    nodes = [
        element("h2", "Cost and error", id="front"),
        element(
            "p",
            "Validation error with the weights of each search's supernet, which train for all networks at once.",
            class_="note",
        ),
        element("div", *drawn, class_="grid wide"),
    ]
    if len(runs) > 1:
        legend = [sections.key(_marker(index), _line(index), run.name) for index, run in enumerate(runs)]
        nodes.append(element("ul", *legend, class_="legend"))
    if truth is not None:
        nodes += [element("h2", "True errors", class_="part"), *_truth(runs, baselines, truth)]
    elif baselines:
        note = "Baselines from tables have no validation error; give the table of true errors (--table) to see them."
        nodes.append(element("p", note, class_="note"))
    return nodes


def _marker(index: int) -> str:
    return charts.MARKERS[index % len(charts.MARKERS)]


def _line(index: int) -> str:
    return _LINES[index % len(_LINES)]


def _costs(runs: Sequence[Run]) -> list[str]:
    """The cost that the first search went for, then the other."""
    return sorted(_COSTS, key=lambda cost: cost != runs[0].cost)


def _validation_chart(runs: Sequence[Run], cost: str) -> Node:
    series, budgets = [], []
    for index, run in enumerate(runs):
        known = [(k, found) for k, found in enumerate(run.result.architectures) if found.valid_accuracy is not None]
        values = [(getattr(found, cost), 1 - found.valid_accuracy) for _, found in known]
        series.append(_points(run, index, len(runs) == 1, values, [k for k, _ in known], cost, "validation error"))
        for k, found in enumerate(run.result.architectures):
            if found.budgets and found.budgets.get(cost):
                budgets.append((float(found.budgets[cost]), color(k)))
    if not any(len(each.costs) for each in series):
        return element("figure", element("p", "No network has a validation accuracy.", class_="note"))
    drawing = charts.pareto(series, _COSTS[cost], "validation error (%)", budgets)
    caption = element("figcaption", "Dashed upright lines are budgets.") if budgets else None
    return element("figure", sections.scrolling(drawing), caption)


def _points(
    run: Run,
    index: int,
    alone: bool,
    values: Sequence[tuple[float, float]],
    networks: Sequence[int],
    cost: str,
    error_name: str,
) -> Points:
    """The networks of a run as a series; their labels are shorter where there are others."""
    found = [run.result.architectures[k] for k in networks]
    details = [
        f"{run.name}, network {each.k}, {label(each)}: {error_name} {error:.2%}, {count(at)} {_COSTS[cost]}"
        for each, (at, error) in zip(found, values)
    ]
    return Points(
        run.name,
        [at for at, _ in values],
        [error for _, error in values],
        [color(k) for k in networks],
        [f"{each.k}: {label(each)}" if alone else str(each.k) for each in found],
        details,
        _marker(index),
        _line(index),
    )


def _truth(runs: Sequence[Run], baselines: Sequence[Baseline], truth: Truth) -> list[Node]:
    covered = [run for run in runs if truth.covers(run.space)]
    if not covered:
        return [element("p", f"{truth.name} is not of the search spaces of these runs.", class_="note")]
    space = covered[0].space
    fitting = [baseline for baseline in baselines if _belongs(baseline, space)]
    note = (
        f"Errors of {truth.name}: every network of the space as a dot, and the line of the best there are. "
        "A search sees none of these numbers."
    )
    if len(fitting) < len(baselines):
        left_out = ", ".join(baseline.name for baseline in baselines if baseline not in fitting)
        note += f" Not of this space and left out: {left_out}."
    drawn = [_truth_chart(runs, fitting, truth, space, cost) for cost in _costs(runs)]
    legend = [
        sections.key(_marker(index), _line(index), run.name)
        for index, run in enumerate(runs)
        if run.space is not None and run.space.name == space.name
    ]
    legend += [
        sections.key(_marker(index), None, f"{each.name}, median over {len(each.archs)} seeds", hollow=True)
        for index, each in enumerate(fitting)
    ]
    return [
        element("p", note, class_="note"),
        element("div", *drawn, class_="grid wide"),
        element("ul", *legend, class_="legend") if len(legend) > 1 else element("p"),
    ]


def _truth_chart(
    runs: Sequence[Run], baselines: Sequence[Baseline], truth: Truth, space: SearchSpace, cost: str
) -> Node:
    totals = space.cost(cost).total
    alone = len(runs) == 1 and not baselines
    series = []
    for index, baseline in enumerate(baselines):
        costs = np.median(totals(baseline.archs), axis=0)
        errors = np.median(truth.errors(baseline.archs), axis=0)
        details = [
            f"{baseline.name}, penalty {penalty:.3g}: true error {error:.2%}, {count(at)} {_COSTS[cost]}"
            for penalty, at, error in zip(baseline.penalties, costs, errors)
        ]
        inks, names = ["var(--ink)"] * len(costs), [""] * len(costs)
        mark = _marker(index)
        series.append(Points(baseline.name, costs, errors, inks, names, details, mark, line=None, hollow=True))
    for index, run in enumerate(runs):
        if run.space is not None and run.space.name == space.name:
            archs = np.array([found.encoding for found in run.result.architectures])
            values = list(zip(totals(archs).tolist(), truth.errors(archs).tolist()))
            series.append(_points(run, index, alone, values, range(len(archs)), cost, "true error"))
    cloud = (np.asarray(totals(truth.archs), float), truth.error)
    drawing = charts.pareto(series, _COSTS[cost], "true error (%)", cloud=cloud)
    return element("figure", sections.scrolling(drawing))


def _belongs(baseline: Baseline, space: SearchSpace) -> bool:
    return baseline.archs.shape[2] == len(space.decisions) and bool(
        (baseline.archs < np.array(space.num_choices)).all()
    )
