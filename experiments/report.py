"""One HTML file about searches: their networks, what these cost, how the searches went.

    python -m experiments.report runs/quickstart
    python -m experiments.report runs/a runs/b runs/tabular --out report.html

Takes folders of `cifar_search` (with what `retrain` and `export` left in them) and of `tabular_search`. The file opens
from disk and asks for no other.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from experiments import cli
from jaxnas.report import read_metrics, read_result
from jaxnas.report.files import replacing
from jaxnas.report.html import Run, report


@dataclass(frozen=True)
class Config:
    """Write a report of searches as one HTML file.

    Attributes:
      dirs: folders of searches.
      out: the file; by default report.html in the first folder.
    """

    dirs: tyro.conf.Positional[tuple[Path, ...]]
    out: Path | None = None


def main(config: Config) -> None:
    """Reads, assembles, writes."""
    if not config.dirs:
        raise ValueError("dirs must name at least one folder of a search")
    out = config.dirs[0] / "report.html" if config.out is None else config.out
    runs, comparisons = [], []
    for folder in config.dirs:
        comparison = read_comparison(folder / "result.json")
        if comparison is None:
            runs.append(read_run(folder, out))
        else:
            comparisons.append((folder.name, comparison))
    page = report(runs, comparisons)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    Console().print(f"report in {out} ({len(page.encode()) / 1e3:.0f} kB)", soft_wrap=True)


def read_run(folder: Path, out: Path) -> Run:
    """What a folder of a search holds for a report at `out`.

    Raises:
      ValueError: if it holds no finished search, or one of its files is damaged.
    """
    result = read_result(folder / "result.json")
    log = folder / "metrics.jsonl"
    trained = {}
    summary = folder / "retrained" / "retrained.json"
    if summary.exists():
        try:
            document = json.loads(summary.read_text(encoding="utf-8"))
            trained = {network["k"]: list(map(float, network["test_accuracy_scratch"])) for network in document}
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{summary} is no summary of trained networks, or damaged") from error
    exports = {}
    for found in result.architectures:
        files = sorted(path for path in (folder / "exports" / f"k{found.k}").glob("*") if path.name != "network.json")
        exports[found.k] = [(path.name, Path(os.path.relpath(path, out.parent)).as_posix()) for path in files]
    run = Run(folder.resolve().name, result, read_metrics(log) if log.exists() else (), trained, exports)
    for found in result.architectures:
        run.space.validate(found.encoding)
    return run


def read_comparison(path: Path) -> dict[str, Any] | None:
    """The result of a `tabular_search`; None if the file is something else or absent.

    Raises:
      ValueError: if it looks like one and is damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the reader of searches says what is wrong
    if not isinstance(document, dict) or "methods" not in document or "architectures" in document:
        return None
    wanted = ("table", "cost", "noise", "penalties", "evaluations")
    whole = all(name in document for name in wanted) and isinstance(document["methods"], dict)
    if not whole or not all("relative_regret" in outcome for outcome in document["methods"].values()):
        raise ValueError(f"{path} is no result of tabular_search, or damaged; give its folder, or that of cifar_search")
    return document


if __name__ == "__main__":
    cli.run(main, Config)
