"""The HTML report: whole, self-contained, with the numbers of its runs; and in a browser, where there is one."""

import html.parser
import json
import os
import re
import shutil
import subprocess

import numpy as np
import pytest

from experiments import cli
from experiments import report as command
from jaxnas import spaces
from jaxnas.report import FoundArchitecture, SearchResult
from jaxnas.report.charts import Series, front
from jaxnas.report.drawings import draw
from jaxnas.report.html import Run, report
from tests.tiny_search import tiny

ARCHS = ((0, 0), (1, 1))
VOID = {"meta", "br", "rect", "circle", "path", "i"}


class Page(html.parser.HTMLParser):
    """Tags that do not close, addresses, and the text of a page."""

    def __init__(self, content):
        super().__init__()
        self.open, self.addresses, self.words = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def make_result(space="tiny", archs=ARCHS, **changes):
    found = tuple(
        FoundArchitecture(k, 0.1 * (k + 1), arch, "d & <e>", 100 * (2 - k), 1000 * (2 - k), 0.5, 1.0, 0.8 - 0.1 * k)
        for k, arch in enumerate(archs)
    )
    fields = {"method": "importance", "space": space, "dataset": "digits", "seed": 3, "config": {"a": "<b>"}}
    fields |= {"versions": {"jax": "1"}, "evaluations": 640, "wall_seconds": 61.0, "architectures": found}
    return SearchResult(**fields | changes)


def make_metrics(steps=40):
    for step in range(1, steps + 1):
        record = {"step": step, "phase": "joint", "loss": [1 / step, 2 / step], "ess": [4.0, 5.0]}
        if step % 4 == 0:
            share = step / steps
            record["theta"] = [[[share, 1 - share]] * 2, [[1 - share, share]] * 2]
        yield record


@pytest.fixture
def folder(tmp_path):
    """A search with everything that later commands leave beside it."""
    path = tmp_path / "search"
    make_result().write(path / "result.json")
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in make_metrics()))
    exports = path / "exports" / "k0"
    exports.mkdir(parents=True)
    for name in ("model.onnx", "model_card.md", "network.json"):
        (exports / name).write_text("x")
    trained = [{"k": 1, "test_accuracy_scratch": [0.97, 0.99]}]
    (path / "retrained").mkdir()
    (path / "retrained" / "retrained.json").write_text(json.dumps(trained))
    return path


def run(*arguments):
    cli.run(command.main, command.Config, [str(argument) for argument in arguments])


def test_a_report_is_whole_and_asks_for_nothing(folder):
    run(folder)
    content = (folder / "report.html").read_text()
    page = Page(content)
    assert not page.open
    assert page.addresses == ["exports/k0/model.onnx", "exports/k0/model_card.md"]
    assert not re.search(r"https?://|@import|url\(|<script", content)
    assert len(content) < 3e6
    words = " ".join(page.words)
    for number in ("2,000", "200", "20.00 %", "30.00 %", "98.00 % ± 1.41", "640 evaluations", "seed 3", "<b>"):
        assert number in words
    for style in ("prefers-color-scheme:dark", 'name="viewport"'):
        assert style in content


def test_links_are_relative_to_the_report(folder, tmp_path):
    run(folder, "--out", tmp_path / "pages" / "all.html")
    page = Page((tmp_path / "pages" / "all.html").read_text())
    assert page.addresses[0] == "../search/exports/k0/model.onnx"
    assert os.path.exists(tmp_path / "pages" / page.addresses[0])


def test_old_runs_without_records_are_reported(folder):
    shutil.rmtree(folder / "retrained")
    (folder / "metrics.jsonl").unlink()
    run(folder)
    content = (folder / "report.html").read_text()
    assert "no record of its steps" in content
    assert "no record of its probabilities" in content


def test_several_runs_and_a_comparison(folder, tmp_path):
    methods = {name: {"relative_regret": np.full((3, 2, 4), 0.5).tolist()} for name in ("importance", "random")}
    fields = {"table": "x/t.npz", "cost": "flops", "noise": 0.03, "penalties": [0.1, 0.2], "evaluations": [1, 2, 3, 4]}
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "result.json").write_text(json.dumps({**fields, "methods": methods}))
    run(folder, folder, tmp_path / "table", "--out", tmp_path / "all.html")
    page = Page((tmp_path / "all.html").read_text())
    words = " ".join(page.words)
    assert not page.open
    assert "Methods compared: table" in words
    assert "0.5000" in words
    assert "t.npz, noise 0.03" in words


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "result.json").unlink(), "no search result"),
        (lambda path: (path / "result.json").write_bytes(b"\x80\x04K\x01."), "not valid JSON"),
        (lambda path: (path / "result.json").write_text('{"methods": 3}'), "no result of tabular_search"),
        (lambda path: (path / "retrained" / "retrained.json").write_text("{}["), "or damaged"),
        (lambda path: make_result(space="other").write(path / "result.json"), "space 'other' of search is not known"),
        (lambda path: make_result(archs=((0, 7), (1, 1))).write(path / "result.json"), "arch has choice 7"),
    ],
)
def test_foreseeable_mistakes_are_one_line(folder, capsys, damage, message):
    damage(folder)
    with pytest.raises(SystemExit) as stopped:
        run(folder)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_drawings_show_every_decision():
    macro = draw(spaces.nasbench_macro(), (0, 1, 2, 0, 0, 1, 2, 2))
    assert macro.count("exp 6") == 3
    assert macro.count("exp 3") == 2
    assert macro.count(">skip</text>") == 2  # the third, where shapes differ, is a convolution
    assert macro.count("strided 1x1 convolution to 64 channels") == 1
    assert "32\N{MULTIPLICATION SIGN}32" in macro
    cell = draw(spaces.nasbench201(), (3, 0, 1, 4, 2, 0))
    assert [cell.count(name) for name in ("conv 3x3", "conv 1x1", "pool 3x3", ">skip<")] == [1, 1, 1, 1]
    plain = draw(spaces.SearchSpace("x", tiny().decisions), (0, 1))
    assert "layer 2: skip" in plain


def test_the_front_joins_what_nothing_beats():
    chart = front([Series("a", "red", [1, 2, 3, 4], [5, 3, 4, 1])], "cost", "error")
    (steps,) = re.findall(r'<path d="(M[^"]*)" fill="none" stroke="red"', chart)
    assert steps.count("L") == 2  # the third point is beaten by the second
    assert chart.count("<circle") == 4


def test_nothing_to_report_on():
    with pytest.raises(ValueError, match="runs must hold a search"):
        report([])
    assert Page(report([Run("only", make_result())])).open == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium to show the page")
def test_a_browser_shows_it_without_a_request(folder, tmp_path):
    run(folder)
    log = tmp_path / "net.json"
    quiet = ("disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync")
    options = [f"--{name}" for name in ("headless", "no-sandbox", *quiet)]
    picture = tmp_path / "page.png"
    done = subprocess.run(
        ["chromium", *options, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}",
         "--enable-logging=stderr", "--window-size=390,3000", f"--screenshot={picture}",
         f"file://{folder / 'report.html'}"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert picture.stat().st_size > 20_000
    assert "CONSOLE" not in done.stderr
    requested = re.findall(r'"url":"(https?://[^"]+)"', log.read_text())
    assert not [address for address in requested if "google" not in address and "gstatic" not in address]
