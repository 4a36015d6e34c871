"""The report of searches as one HTML file that needs nothing else: no script, no font, no request."""

import dataclasses
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnas.report import charts
from jaxnas.report.charts import Series
from jaxnas.report.drawings import draw
from jaxnas.report.page import details, document, section, table
from jaxnas.report.result import FoundArchitecture, SearchResult
from jaxnas.spaces import SPACES, SearchSpace

POINTS = 300  # of a line: finer than a screen shows, and small
TIMES = 60  # of a chart of probabilities


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report shows of one search.

    Attributes:
      name: of the run, such as its folder's.
      result: what it found.
      metrics: records of its steps; none if they were not kept.
      trained: by k, test accuracies in [0, 1] of the networks trained from scratch.
      exports: by k, (name, relative address) of files.
    """

    name: str
    result: SearchResult
    metrics: Sequence[Mapping[str, Any]] = ()
    trained: Mapping[int, Sequence[float]] = dataclasses.field(default_factory=dict)
    exports: Mapping[int, Sequence[tuple[str, str]]] = dataclasses.field(default_factory=dict)

    @property
    def space(self) -> SearchSpace:
        """The search space, at its own width; ValueError if it is not known here."""
        if self.result.space not in SPACES:
            raise ValueError(f"space {self.result.space!r} of {self.name} is not known; known are {', '.join(SPACES)}")
        return SPACES[self.result.space]()


def report(runs: Sequence[Run], baselines: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> str:
    """The page.

    Args:
      runs: searches, at least one unless there are baselines.
      baselines: names and documents of `tabular_search` results, comparisons of methods on a table.

    Returns:
      HTML.
    """
    if not runs and not baselines:
        raise ValueError("runs must hold a search, or baselines a comparison, to report on")
    parts = [_front(runs)] if runs else []
    for index, run in enumerate(runs):
        parts += [_head(run)] if len(runs) > 1 else []
        parts += [_networks(run, index), _costs(run), _course(run), _probabilities(run), _repeat(run)]
    parts += [_comparison(name, baseline) for name, baseline in baselines]
    title = runs[0].result.space if runs else "Comparison of methods"
    lead = " ".join(_lead(run) for run in runs[:1])
    return document(f"{title}: search report" if runs else title, lead, "".join(parts))


def _lead(run: Run) -> str:
    result = run.result
    return (
        f"{len(result.architectures)} networks of {result.space} for {result.dataset}, found by one search: "
        f"{result.method}, seed {result.seed}, {result.evaluations:,} evaluations, {_duration(result.wall_seconds)}."
    )


def _head(run: Run) -> str:
    return f'<h2 class="run">{html.escape(run.name)}</h2><p class="lead">{html.escape(_lead(run))}</p>'


def _front(runs: Sequence[Run]) -> str:
    """Validation error against multiply-adds, a series for each run."""
    series = []
    for index, run in enumerate(runs):
        known = [found for found in run.result.architectures if found.valid_accuracy is not None]
        series.append(
            Series(
                name=run.name,
                colour=f"var(--k{index % 8})" if len(runs) > 1 else "var(--faint)",
                x=[found.macs for found in known],
                y=[100 * (1 - found.valid_accuracy) for found in known],
                labels=[f"k={found.k}" for found in known],
                tips=[f"{run.name}, k={found.k}: {found.macs:,} multiply-adds, {found.description}" for found in known],
            )
        )
    note = (
        "Errors are those of the validation split with the supernet's shared weights: they rank networks, and are far "
        "above what the networks reach when they are trained alone."
    )
    rows = [row for run in runs for row in _rows(run, len(runs) > 1)]
    head = ["network", "multiply-adds", "parameters", "validation error", "test accuracy, trained", "files"]
    keys = charts.legend(series) if len(runs) > 1 else ""
    chart = charts.front(series, "multiply-adds of one image", "validation error, %")
    return section("The networks and what they cost", note, keys + chart + table(head, rows))


def _rows(run: Run, named: bool) -> list[list[str]]:
    rows = []
    for found in run.result.architectures:
        accuracies = 100 * np.array(run.trained.get(found.k, []))
        trained = f"{accuracies.mean():.2f} %" if len(accuracies) else "-"
        if len(accuracies) > 1:
            trained += f" ± {accuracies.std(ddof=1):.2f}"
        links = " ".join(
            f'<a href="{html.escape(address, quote=True)}" title="{html.escape(name, quote=True)}">{_kind(name)}</a>'
            for name, address in run.exports.get(found.k, ())
        )
        name = f"{run.name}, k={found.k}" if named else f"k={found.k}"
        error = "-" if found.valid_accuracy is None else f"{100 * (1 - found.valid_accuracy):.2f} %"
        dot = f'<i style="background:var(--k{found.k % 8})"></i>'
        rows.append([dot + html.escape(name), f"{found.macs:,}", f"{found.params:,}", error, trained, links or "-"])
    return rows


def _kind(name: str) -> str:
    kinds = {".onnx": "ONNX", ".stablehlo": "StableHLO", ".safetensors": "weights", ".md": "card"}
    return kinds.get(pathlib.PurePath(name).suffix, html.escape(name))


def _networks(run: Run, index: int) -> str:
    """A drawing of each network."""
    cards = []
    for found in run.result.architectures:
        cards.append(
            f'<figure id="run{index}-k{found.k}"><figcaption><i style="background:var(--k{found.k % 8})"></i>'
            f"<strong>k={found.k}</strong> {html.escape(_goal(found))}</figcaption>"
            f'<div class="scroll">{draw(run.space, found.encoding)}</div></figure>'
        )
    note = "Blocks are MBConv layers; taller is a higher resolution, darker a larger kernel. A thin line is a skip."
    return section("What they are made of", note if hasattr(run.space, "layers") else "", "".join(cards))


def _goal(found: FoundArchitecture) -> str:
    if found.budgets:
        return "within " + ", ".join(f"{charts.short(value)} {name}" for name, value in found.budgets.items())
    return f"penalty {found.penalty:.4g}"


def _costs(run: Run) -> str:
    """Multiply-adds and parameters by decision."""
    space, body = run.space, []
    names = [decision.name.replace("layer ", "") for decision in space.decisions]
    for cost in (space.cost("macs"), space.cost("params")):
        series = [
            Series(
                f"k={found.k}",
                f"var(--k{found.k % 8})",
                (),
                [float(row[choice]) for row, choice in zip(cost.table, found.encoding)],
            )
            for found in run.result.architectures
        ]
        if not body:
            body.append(charts.legend(series))
        body.append(f'<div class="scroll">{charts.bars(names, series, cost.unit)}</div>')
    fixed = ", ".join(f"{space.cost(name).fixed:,} {space.cost(name).unit}" for name in ("macs", "params"))
    what = "layer" if hasattr(space, "layers") else "edge"
    note = f"By {what}. What no decision changes (stem, head, classifier) has {fixed}."
    return section("Where the cost is", note, f'<div class="grid2">{"".join(body[1:])}</div>{body[0]}')


_COURSE = {
    "loss": "validation loss",
    "ess": "effective sample size",
    "entropy": "entropy, nats",
    "convergence": "mean largest probability",
}


def _course(run: Run) -> str:
    """Loss, effective sample size, entropy and convergence over the steps, a line for each k."""
    found = run.result.architectures
    plots, legend = [], ""
    for name, label in _COURSE.items():
        records = [record for record in run.metrics if isinstance(record.get(name), list)]
        if records:
            steps, values = _binned([r["step"] for r in records], np.array([r[name] for r in records], float))
            series = [
                Series(f"k={one.k}", f"var(--k{one.k % 8})", steps, values[:, index]) for index, one in enumerate(found)
            ]
            legend = charts.legend(series)
            plots.append(f'<div class="scroll">{charts.lines(series, "step", label)}</div>')
    if not plots:
        return section("How the search went", "The run has no record of its steps.", "")
    note = (
        "Means over bins of steps. The effective sample size counts the samples of all distributions that inform one."
    )
    return section("How the search went", note, f'<div class="grid2">{"".join(plots)}</div>{legend}')


def _binned(steps: Sequence[int], values: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Means [T, K] over at most `POINTS` bins of consecutive steps."""
    bins = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    return [float(np.mean(np.take(steps, b))) for b in bins], np.array([values[b].mean(0) for b in bins])


def _probabilities(run: Run) -> str:
    """The probabilities of each k over time."""
    records = [record for record in run.metrics if "theta" in record]
    title = "The distributions over time"
    if len(records) < 2:
        return section(title, "The run has no record of its probabilities (an older run keeps none).", "")
    records = [records[i] for i in np.unique(np.linspace(0, len(records) - 1, TIMES).round().astype(int))]
    theta = np.array([record["theta"] for record in records], float)  # [T, K, D, C]
    space = run.space
    choices = list(dict.fromkeys(name for decision in space.decisions for name in decision.choices))
    coloured = [name for name in choices if name not in ("skip", "none")]  # what does nothing is grey
    shades = {name: f"var(--c{coloured.index(name) % 7 + 1})" if name in coloured else "var(--c0)" for name in choices}

    def colour(d: int, c: int) -> str:
        names = space.decisions[d].choices
        return shades[names[c]] if c < len(names) else "none"

    names = [decision.name for decision in space.decisions]
    steps = [record["step"] for record in records]
    body = [charts.legend([Series(name, shades[name], (), ()) for name in choices])]
    for index, found in enumerate(run.result.architectures):
        body.append(
            f'<figure><figcaption><i style="background:var(--k{found.k % 8})"></i><strong>k={found.k}</strong>'
            f'</figcaption><div class="scroll">{charts.areas(names, steps, theta[:, index], colour)}</div></figure>'
        )
    note = f"Share of each choice in the K distributions, steps {steps[0]:,} to {steps[-1]:,}, from left to right."
    return section(title, note, "".join(body))


def _repeat(run: Run) -> str:
    config = [[html.escape(str(name)), html.escape(str(value))] for name, value in run.result.config.items()]
    software = ", ".join(f"{name} {version}" for name, version in run.result.versions.items())
    return details("Settings and versions", table(["setting", "value"], config) + f"<p>{html.escape(software)}</p>")


def _comparison(name: str, document: Mapping[str, Any]) -> str:
    """Regret over evaluations of the methods of one `tabular_search`."""
    bands, rows = [], []
    for index, (method, outcome) in enumerate(document["methods"].items()):
        regret = np.array(outcome["relative_regret"], float).mean(1)  # [seeds, E]
        low, median, high = np.quantile(regret, (0.25, 0.5, 0.75), axis=0)
        one = Series(method, f"var(--k{index % 8})", document["evaluations"], median)
        bands.append((one, low, high))
        rows.append([html.escape(method), f"{regret[:, -1].mean():.4f}", f"{median[-1]:.4f}"])
    note = (
        f"{document['cost']} of {pathlib.PurePath(document['table']).name}, noise {document['noise']}, "
        f"{len(document['penalties'])} penalties: regret relative to the average network's, median and quartiles over "
        "seeds."
    )
    body = charts.legend([one for one, *_ in bands]) + charts.bands(bands, "evaluations", "relative regret")
    return section(f"Methods compared: {name}", note, body + table(["method", "mean at the end", "median"], rows))


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
