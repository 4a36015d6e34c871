"""One HTML file about one or several searches: it needs no network and no script, and works on any screen."""

import os
import pathlib
from collections.abc import Mapping, Sequence

from jaxnas.report import sections
from jaxnas.report.markup import Node, element, to_html
from jaxnas.report.overview import overview
from jaxnas.report.runs import Baseline, Run, Truth, count, label
from jaxnas.report.style import style_sheet
from jaxnas.results.files import replacing

# Nothing may be fetched, whatever the names in the files hold.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


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
    path = pathlib.Path(path)
    commands = {} if commands is None else commands
    most = max(len(run.result.architectures) for run in runs)
    title = f"{runs[0].result.space} on {runs[0].result.dataset}" if len(runs) == 1 else f"{len(runs)} searches"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Search report: {title}"),
        element("link", rel="icon", href="data:,"),
        element("style", style_sheet(most)),
    )
    body = element(
        "body",
        _header(title, runs),
        element(
            "main",
            *overview(runs, baselines, truth),
            *(
                _run(run, index, path, truth, commands.get(run.name), alone=len(runs) == 1)
                for index, run in enumerate(runs)
            ),
        ),
        element("footer", f"Made by jaxnas {runs[0].result.versions.get('jaxnas', '')}; this file needs no network."),
    )
    with replacing(path) as temporary:
        temporary.write_text("<!DOCTYPE html>\n" + to_html(element("html", head, body, lang="en")), encoding="utf-8")


def _header(title: str, runs: Sequence[Run]) -> Node:
    if len(runs) == 1:
        links = [("networks", "Networks"), ("costs", "Costs by layer"), ("theta", "Theta"), ("curves", "Curves")]
        links = [(f"{name}-0", words) for name, words in [*links, ("repeat", "Repeat it")]]
        about = _about(runs[0])
    else:
        links = [(f"run-{index}", run.name) for index, run in enumerate(runs)]
        about = "Each network has the colour of its place in its own search, in every figure."
    items = [element("a", words, href=f"#{name}") for name, words in [("front", "Cost and error"), *links]]
    return element("header", element("h1", title), element("p", about, class_="note"), element("nav", *items))


def _about(run: Run) -> str:
    result = run.result
    words = [f"{len(result.architectures)} networks by one search", result.method, f"seed {result.seed}"]
    words.append(f"{result.evaluations:,} evaluations")
    minutes, seconds = divmod(round(result.wall_seconds), 60)
    return " · ".join([*words, f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"])


def _run(run: Run, index: int, page: pathlib.Path, truth: Truth | None, command: str | None, alone: bool) -> Node:
    """All parts about one run."""
    found = run.result.architectures
    cards = [
        sections.tinted(
            "div",
            k,
            element("div", f"Network {each.k} · {label(each)}", class_="line"),
            element("b", "–" if each.valid_accuracy is None else f"{each.valid_accuracy:.1%}"),
            element("div", "validation accuracy", class_="line"),
            element("div", f"{count(each.macs)} multiply-adds", class_="line"),
            element("div", f"{count(each.params)} parameters", class_="line"),
            class_="card",
        )
        for k, each in enumerate(found)
    ]
    parts = [
        ("networks", "Networks", [element("div", *cards, class_="cards"), sections.networks_table(run, page, truth)]),
        ("drawings", "Their layers", sections.drawings(run)),
        ("costs", "Costs by layer", sections.costs(run)),
        ("theta", "Theta over time", sections.theta(run)),
        ("curves", "Effective samples, entropy, convergence", sections.curves(run)),
        ("repeat", "To repeat it", sections.repeat(run, command)),
    ]
    nodes = []
    for name, words, content in parts:
        nodes += [element("h2", words, id=f"{name}-{index}", class_="part"), *content]
    about = f"{run.result.space} on {run.result.dataset} · {_about(run)}"
    return element(
        "section",
        element("h2", run.name),
        None if alone else element("p", about, class_="note"),  # the head of the page has said it
        *nodes,
        id=f"run-{index}",
        class_="run",
    )
