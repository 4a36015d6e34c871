"""One HTML file about one or several searches: it needs no network and no script, and works on any screen.

matplotlib draws the charts (`charts.py`), jinja2 fills in the page (templates/). The drawings of networks are ours
(`drawings.py`): no library draws layers and cells.
"""

import json
import os
import pathlib
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from jaxnas.report import charts, overview
from jaxnas.report.charts import color, ranks, shade
from jaxnas.report.drawings import draw, draw_names
from jaxnas.report.runs import Baseline, Run, Truth
from jaxnas.report.svg import to_html
from jaxnas.report.wording import (
    COSTS,
    costs_of,
    duration,
    in_words,
    is_time,
    label,
    latencies,
    memory_of,
    quantity,
    short_name,
    total,
    within,
)
from jaxnas.results.files import replacing
from jaxnas.results.result import FoundArchitecture
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxnas.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # HTML can hold none of these, escaped or not
_HUES = (265, 22)  # of the first and of the last network: blue over green and gold to red
_CURVES = {
    "ess": ("Effective sample size", "How many samples of all networks count for each one."),
    "entropy": ("Entropy (nats)", "What theta has left open; 0 is a single architecture."),
    "convergence": ("Convergence", "Mean over decisions of the largest probability; 1 is a single architecture."),
    "loss": ("Validation loss", "Of the samples, weighted towards each distribution."),
    "accuracy": ("Validation accuracy", "Likewise, on the minibatch of the step."),
    "finish_loss": ("Training loss while finishing", "Of each network on its minibatch, all trained together."),
}
_TRAINING = ("Training loss", "Of the supernet's weights, mean over the sampled architectures.")
_BLOCKS = (
    "A block is an inverted residual: the wider, the larger its kernel; the higher, the larger its expansion "
    "(e). A skip is a thin line; where the shape changes it has a 1×1 convolution, drawn as a ring. Grey bands "
    "are stages, with their channels and resolution; the same place is the same layer in all drawings."
)
_CELLS = (
    "The cell's graph: convolutions are thick, pooling dashed, skips thin, what is left out dotted. "
    "Below it, the network that repeats the cell."
)


def write_report(
    path: str | os.PathLike,
    runs: Sequence[Run],
    baselines: Sequence[Baseline] = (),
    truth: Truth | None = None,
    commands: Mapping[str, str] | None = None,
) -> None:
    """Writes the report.

    Args:
      path: of the HTML file; links to exports are relative to its folder.
      runs: at least one search.
      baselines: networks that other methods found on a table, shown where `truth` covers their space.
      truth: a table of true errors.
      commands: what repeats a run, by the run's name.

    Raises:
      ValueError: if there is no run.
    """
    if not runs:
        raise ValueError("runs must hold at least one search")
    path, commands = pathlib.Path(path), {} if commands is None else commands
    most = max(len(run.found) for run in runs)
    page = _TEMPLATES.get_template("page.html").render(
        title=_where(runs[0]) if len(runs) == 1 else f"{len(runs)} searches",
        alone=len(runs) == 1,
        hues=[round(_HUES[0] + (_HUES[1] - _HUES[0]) * k / max(1, most - 1)) for k in range(most)],
        runs=[_run(run, path, truth, commands.get(run.name)) for run in runs],
        measured=overview.measured(runs),
        baselines=baselines,
        truth=None if truth is None else overview.against_truth(runs, baselines, truth),
        version=runs[0].result.versions.get("jaxnas", ""),
    )
    with replacing(path) as temporary:
        temporary.write_text(_NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", page), encoding="utf-8")


def _where(run: Run) -> str:
    return f"{run.result.space} on {run.result.dataset}"


def _run(run: Run, page: pathlib.Path, truth: Truth | None, command: str | None) -> dict[str, Any]:
    """What the template shows of one run."""
    result = run.result
    about = [f"{len(run.found)} networks by one search", result.method, f"seed {result.seed}"]
    about += [f"{result.evaluations:,} evaluations", duration(result.wall_seconds)]
    if run.space is None:
        drawn = f"The search space {result.space} is not part of this version: only the names of its choices."
    else:
        kinds = {MBConvSpace: _BLOCKS, CellSpace: _CELLS}
        drawn = next(
            (words for kind, words in kinds.items() if isinstance(run.space, kind)), "The choice of each decision."
        )
    return {
        "name": run.name,
        "where": _where(run),
        "about": " · ".join(about),
        "kind": "budget" if any(found.budgets for found in run.found) else "penalty",
        "networks": [_network(run, k, page) for k in range(len(run.found))],
        "table": _table(run, truth),
        "legend_of_drawings": drawn,
        "narrow": isinstance(run.space, CellSpace) or (run.space is not None and len(run.space.decisions) <= 6),
        "costs": _costs(run),
        "theta": _theta(run),
        "curves": _curves(run),
        "command": command,
        "versions": result.versions,
        "settings": json.dumps(result.config, indent=2, ensure_ascii=False),
    }


def _network(run: Run, k: int, page: pathlib.Path) -> dict[str, Any]:
    found = run.found[k]
    arch, words = np.array(found.encoding), found.description
    drawing = draw_names(words, k) if run.space is None else draw(run.space, arch, k)
    totals = {cost: total(found, cost) for cost in costs_of([found])}
    return {
        "k": found.k,
        "color": color(k),
        "label": label(found),
        "name": within(found) if found.budgets else f"{found.penalty:.3g}",
        "measured": _measured(found),
        "totals": [
            f"{quantity(name, value, time=is_time(name, [found]))} {in_words(name)}"
            for name, value in totals.items()
            if value is not None
        ],
        "drawing": to_html(drawing),
        "links": [(path.name, _address(path, page)) for path in run.exports.get(found.k, ())],
    }


def _measured(found: FoundArchitecture) -> tuple[str, str]:
    """A network's accuracy, or else its loss, and what it is."""
    if found.valid_accuracy is None and found.valid_loss is not None:
        return f"{found.valid_loss:.4g}", "validation loss"
    return _known(found.valid_accuracy, "{:.1%}".format) or "–", "validation accuracy"


def _table(run: Run, truth: Truth | None) -> dict[str, list[str]]:
    """The columns of figures of the table of networks, those that are known."""
    found = run.found
    columns = {
        "validation error": [
            None if each.valid_accuracy is None else f"{1 - each.valid_accuracy:.2%}" for each in found
        ],
        "validation loss": [None if each.valid_loss is None else f"{each.valid_loss:.4f}" for each in found],
        "multiply-adds": [_known(each.macs, "{:,}".format) for each in found],
        "parameters": [_known(each.params, "{:,}".format) for each in found],
        "latency": [", ".join(latencies(each)) or None for each in found],
        "memory": [", ".join(memory_of(each)) or None for each in found],
        "probability": [_known(each.probability, "{:.3g}".format) for each in found],
        "test error, finished": [_known(each.test_accuracy, lambda value: f"{1 - value:.2%}") for each in found],
        "test error, trained": [_tested(run.tested.get(each.k, ())) for each in found],
    }
    if truth is not None and truth.covers(run.space):
        columns["true error"] = [f"{error:.2%}" for error in truth.errors(np.array([each.encoding for each in found]))]
    optional = ("latency", "memory", "test error, finished", "test error, trained", "multiply-adds", "parameters")
    shown = {name: cells for name, cells in columns.items() if name not in optional or any(cells)}
    return {name: ["–" if cell is None else cell for cell in cells] for name, cells in shown.items()}


def _known(value: float | None, show: Callable[[float], str]) -> str | None:
    return None if value is None else show(value)


def _tested(accuracies: Sequence[float]) -> str | None:
    """Mean test error, and its standard deviation over seeds."""
    if not accuracies:
        return None
    errors = 1 - np.array(accuracies)
    return f"{errors.mean():.2%}" + (f" ± {errors.std(ddof=1):.2%}" if len(errors) > 1 else "")


def _address(path: pathlib.Path, page: pathlib.Path) -> str:
    """The address of an exported file, seen from the page."""
    relative = os.path.relpath(path.resolve(), page.resolve().parent)
    address = urllib.parse.quote(pathlib.PurePath(relative).as_posix())
    return "./" + address if ":" in address.split("/")[0] else address  # or it would be read as a scheme


def _costs(run: Run) -> dict[str, Any]:
    """Costs of each layer of each network."""
    if run.space is None:
        return {"note": "The costs of this search space's layers are not known to this version.", "charts": []}
    others = [cost.name for cost in run.space.costs if cost.name not in COSTS]
    names = [cost for cost in COSTS if run.knows(cost)] or [cost for cost in others if run.knows(cost)]
    if not names:
        note = "No choice has a cost of its own: the space has no costs, or sizes of several decisions multiply."
        return {"note": note, "charts": []}
    archs = np.array([found.encoding for found in run.found])
    first, *others = (in_words(name) for name in names)
    right = f", {' and '.join(others)} to the right" if others else ""
    return {
        "note": f"{first.capitalize()} of one image to the left{right}, on the scale of "
        "the largest of the networks. What no decision changes is grey.",
        "charts": [charts.layer_costs(run.space, archs, k, names) for k in range(len(archs))],
    }


def _theta(run: Run) -> dict[str, Any]:
    """Theta of each network over time."""
    space, history = run.space, run.history
    if history is None or not len(history.theta):
        note = "This run kept no record of theta: it was made by a version before that, or stopped before its first."
        return {"note": note, "charts": []}
    if space is None:
        return {"note": "The search space is not part of this version, so theta is not drawn.", "charts": []}
    first = int(next(iter(history.series.values()))[0][0]) - 1 if history.series else 0
    networks = range(len(run.found))
    return {
        "note": "Each row is a decision, shared by its choices as their probabilities share it; the stronger the "
        f"colour, the more {in_words(run.cost)} the choice costs. At the right, the most probable choice at the end.",
        "charts": [
            charts.theta_rows(space, history.theta_steps, history.theta[:, k], k, run.cost, first) for k in networks
        ],
        "legends": [_shades(space, k, run.cost) for k in networks],
    }


def _shades(space: SearchSpace, k: int, cost: str) -> list[tuple[str, str]]:
    """Colour and name of each choice of the decision with most of them, cheapest first."""
    most = max(range(len(space.decisions)), key=lambda d: space.num_choices[d])
    place, choices = ranks(space, most, cost), space.decisions[most].choices
    order = sorted(range(len(choices)), key=place.__getitem__)
    return [(shade(k, place[choice], len(choices)), short_name(choices[choice])) for choice in order]


def _curves(run: Run) -> dict[str, Any]:
    """Effective sample size, entropy, convergence and losses over time."""
    history = run.history
    if history is None or not (history.series or history.training):
        return {"note": "The folder of this run has no curves (metrics.jsonl).", "charts": []}
    tints = [color(k) for k in range(len(run.found))]
    names = [f"network {each.k}, {label(each)}" for each in run.found]
    drawn: list[tuple[Markup, str]] = []
    for name, (words, caption) in _CURVES.items():
        if name in history.series:
            zero = name in ("ess", "entropy")
            drawn.append((charts.curves(words, *history.series[name], tints, names, zero=zero), caption))
    if "train_loss" in history.training:
        steps, values = history.training["train_loss"]
        drawn.append((charts.curves(_TRAINING[0], steps, values[:, None], ["var(--soft)"], ["supernet"]), _TRAINING[1]))
    longest = max((len(steps) for steps, _ in history.series.values()), default=0)
    note = f"Means over {-(-longest // charts.BINS)} steps each." if longest > charts.BINS else "Every step."
    if run.damaged_lines:
        note += f" Of metrics.jsonl {run.damaged_lines:,} lines are damaged or half written, and left out."
    return {"note": note, "charts": drawn, "legend": list(zip(tints, names))}
