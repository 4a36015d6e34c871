"""The parts of a report on one search: its networks, their drawings and costs, theta, curves, and how to repeat it."""

import json
import os
import pathlib
import urllib.parse
from collections.abc import Sequence

import numpy as np

from jaxnas.report import charts
from jaxnas.report.charts import color
from jaxnas.report.drawings import draw, draw_names
from jaxnas.report.layer_charts import layer_costs, ranks, shade, short_name, theta_rows
from jaxnas.report.markup import Node, add, element, svg
from jaxnas.report.runs import Run, Truth, count, label
from jaxnas.results.result import FoundArchitecture
from jaxnas.spaces import CellSpace, MBConvSpace

_TITLES = {
    "ess": ("Effective sample size", "How many samples of all networks count for each one."),
    "entropy": ("Entropy (nats)", "What theta has left open; 0 is a single architecture."),
    "convergence": ("Convergence", "Mean over decisions of the largest probability; 1 is a single architecture."),
    "loss": ("Validation loss", "Of the samples, weighted towards each distribution."),
    "accuracy": ("Validation accuracy", "Likewise, on the minibatch of the step."),
    "train_loss": ("Training loss", "Of the supernet's weights, mean over the sampled architectures."),
}


def tinted(tag: str, k: int, *children: Node | str | None, **attributes: str) -> Node:
    """An element with the colour of network k at hand as --tint."""
    return element(tag, *children, style=f"--tint:{color(k)}", **attributes)


def heading(k: int, found: FoundArchitecture, *more: str) -> Node:
    """The heading of a figure of network k."""
    words = element("small", " · ".join((label(found), *more)))
    return tinted("h3", k, element("span", class_="chip"), f"Network {found.k}", words)


def scrolling(*children: Node) -> Node:
    """A box that scrolls across where its content is wider than the page."""
    return element("div", *children, class_="scroll", tabindex="0")


def networks_table(run: Run, page: pathlib.Path, truth: Truth | None) -> Node:
    """The networks of a run with their costs, accuracies and exported files.

    Args:
      run: the search.
      page: where the report will be, since links to exports are relative to it.
      truth: true errors; None for none.
    """
    known = truth is not None and truth.covers(run.space)
    names = ["network", "penalty or budget", "validation error", "validation loss", "multiply-adds", "parameters"]
    optional = {
        "true error": known,
        "test error, trained": bool(run.tested),
        "latency": any(found.latency is not None for found in run.result.architectures),
    }
    names += ["probability", *(name for name, shown in optional.items() if shown), "exports"]
    head = element("tr", *(element("th", name, class_="text" if name in names[:2] + ["exports"] else None)
                           for name in names))  # fmt: skip
    body = element("tbody")
    for k, found in enumerate(run.result.architectures):
        values = {
            "true error": f"{float(truth.errors(np.array(found.encoding))):.2%}" if known else "",
            "test error, trained": _tested(run.tested.get(found.k, ())),
            "latency": "–" if found.latency is None else f"{1e3 * found.latency:.3g} ms",
        }
        cells = [
            element("td", tinted("span", k, class_="chip"), f" {found.k}"),
            element("td", label(found), class_="text"),
            *(
                element("td", cell)
                for cell in (
                    _percent(found.valid_accuracy),
                    "–" if found.valid_loss is None else f"{found.valid_loss:.4f}",
                    f"{found.macs:,}",
                    f"{found.params:,}",
                    "–" if found.probability is None else f"{found.probability:.3g}",
                    *(values[name] for name, shown in optional.items() if shown),
                )
            ),
            element("td", *_links(run.exports.get(found.k, ()), page), class_="text"),
        ]
        add(body, element("tr", *cells))
    return element("figure", scrolling(element("table", element("thead", head), body)))


def _tested(accuracies: Sequence[float]) -> str:
    """Mean test error, and its standard deviation over seeds."""
    if not accuracies:
        return "–"
    errors = 1 - np.array(accuracies)
    return f"{errors.mean():.2%}" + (f" ± {errors.std(ddof=1):.2%}" if len(errors) > 1 else "")


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{1 - accuracy:.2%}"


def _links(files: Sequence[pathlib.Path], page: pathlib.Path) -> list[Node | str]:
    if not files:
        return ["none yet"]
    nodes: list[Node | str] = []
    for path in files:
        relative = os.path.relpath(path.resolve(), page.resolve().parent)
        address = urllib.parse.quote(pathlib.PurePath(relative).as_posix())
        if ":" in address.split("/")[0]:
            address = "./" + address  # or it would be read as a scheme
        nodes += [", "] * bool(nodes) + [element("a", path.name, href=address)]
    return nodes


def drawings(run: Run) -> list[Node]:
    """How to read the drawings, and one of each network."""
    if run.space is None:
        note = f"The search space {run.result.space} is not part of this version: only the names of its choices."
    elif isinstance(run.space, MBConvSpace):
        note = (
            "A block is an inverted residual: the wider, the larger its kernel; the higher, the larger its expansion "
            "(e). A skip is a thin line; where the shape changes it has a 1×1 convolution, drawn as a ring. Grey bands "
            "are stages, with their channels and resolution; the same place is the same layer in all drawings."
        )
    elif isinstance(run.space, CellSpace):
        note = (
            "The cell's graph: convolutions are thick, pooling dashed, skips thin, what is left out dotted. "
            "Below it, the network that repeats the cell."
        )
    else:
        note = "The choice of each decision."
    figures = []
    for k, found in enumerate(run.result.architectures):
        arch = np.array(found.encoding)
        drawing = draw(run.space, arch, k) if run.space is not None else draw_names(found.description, k)
        totals = (f"{count(found.macs)} multiply-adds", f"{count(found.params)} parameters")
        figures.append(element("figure", heading(k, found, *totals), scrolling(drawing)))
    narrow = isinstance(run.space, CellSpace) or (run.space is not None and len(run.space.decisions) <= 6)
    layout = "grid wide" if narrow else "grid stack"
    return [element("p", note, class_="note"), element("div", *figures, class_=layout)]


def costs(run: Run) -> list[Node]:
    """Multiply-adds and parameters of each layer of each network."""
    if run.space is None:
        return [element("p", "The costs of this search space's layers are not known to this version.", class_="note")]
    archs = np.array([found.encoding for found in run.result.architectures])
    figures = [
        element("figure", heading(k, found), layer_costs(run.space, archs, k, k))
        for k, found in enumerate(run.result.architectures)
    ]
    note = (
        "Multiply-adds of one image to the left, parameters to the right, on the scale of the largest of the networks. "
        "What no decision changes is grey."
    )
    return [element("p", note, class_="note"), element("div", *figures, class_=_layout(figures))]


def theta(run: Run) -> list[Node]:
    """Theta of each network over time."""
    if run.history is None or not len(run.history.theta):
        note = "This run kept no record of theta: it was made by a version before that, or stopped before its first."
        return [element("p", note, class_="note")]
    if run.space is None:
        return [element("p", "The search space is not part of this version, so theta is not drawn.", class_="note")]
    space, history = run.space, run.history
    first = int(next(iter(history.series.values()))[0][0]) - 1 if history.series else 0
    figures = []
    most = max(range(len(space.decisions)), key=lambda d: space.num_choices[d])
    for k, found in enumerate(run.result.architectures):
        place = ranks(space, most, run.cost)
        legend = element("ul", class_="legend")
        for choice in sorted(range(space.num_choices[most]), key=place.__getitem__):
            swatch = element("span", class_="chip")
            swatch.set("style", f"--tint:{shade(k, place[choice], space.num_choices[most])}")
            add(legend, element("li", swatch, short_name(space.decisions[most].choices[choice])))
        picture = theta_rows(space, history.theta_steps, history.theta[:, k], k, run.cost, first)
        figures.append(element("figure", heading(k, found), picture, legend))
    note = (
        f"Each row is a decision, shared by its choices as their probabilities share it; the stronger the colour, the "
        f"more {'multiply-adds' if run.cost == 'macs' else 'parameters'} the choice costs. At the right, the most "
        "probable choice at the end."
    )
    return [element("p", note, class_="note"), element("div", *figures, class_=_layout(figures))]


def curves(run: Run) -> list[Node]:
    """Effective sample size, entropy, convergence and losses over time."""
    history = run.history
    if history is None or not (history.series or history.training):
        return [element("p", "The folder of this run has no curves (metrics.jsonl).", class_="note")]
    found = run.result.architectures
    legend = element("ul", class_="legend")
    for k, each in enumerate(found):
        add(legend, element("li", tinted("span", k, class_="chip"), f"network {each.k}, {label(each)}"))
    figures = []
    for name in ("ess", "entropy", "convergence", "loss", "accuracy"):
        if name in history.series:
            steps, values = history.series[name]
            names = [f"network {each.k}, {label(each)}" for each in found]
            tints = [color(k) for k in range(len(found))]
            chart = charts.curves(_TITLES[name][0], steps, values, tints, names, zero=name in ("ess", "entropy"))
            figures.append(element("figure", chart, element("figcaption", _TITLES[name][1])))
    if "train_loss" in history.training:
        steps, values = history.training["train_loss"]
        chart = charts.curves(_TITLES["train_loss"][0], steps, values[:, None], ["var(--soft)"], ["supernet"])
        figures.append(element("figure", chart, element("figcaption", _TITLES["train_loss"][1])))
    longest = max((len(steps) for steps, _ in history.series.values()), default=0)
    note = f"Means over {-(-longest // charts.BINS)} steps each." if longest > charts.BINS else "Every step."
    return [legend, element("div", *figures, class_="grid"), element("p", note, class_="note")]


def _layout(figures: Sequence[Node]) -> str:
    """Two in a row where three would leave one alone."""
    return "grid pairs" if len(figures) in (2, 4) else "grid"


def repeat(run: Run, command: str | None) -> list[Node]:
    """The command, the versions and the settings that repeat a search."""
    versions = element("ul", class_="legend")
    for name, version in run.result.versions.items():
        add(versions, element("li", f"{name} {version}"))
    if command is None:
        shown = element("p", "No preset of this version has these settings; they are listed below.", class_="note")
    else:
        shown = element("pre", element("code", command))
    settings = json.dumps(run.result.config, indent=2, ensure_ascii=False)
    details = element("details", element("summary", "All settings"), element("pre", element("code", settings)))
    return [shown, versions, details]


def key(kind: str, line: str | None, name: str, hollow: bool = False) -> Node:
    """An entry of a legend: how a series is drawn, and its name."""
    mark = svg(34, 14, f"mark of {name}", class_="key")
    if line:
        add(mark, element("path", d="M1 7L33 7", class_=f"front {line}"))
    return element("li", add(mark, charts.marker(kind, 17, 7, "var(--soft)", 4.5, hollow)), name)
