"""The HTML report: what it shows, that it is whole, and that a browser needs nothing else for it."""

import html.parser
import json
import re
import shlex
import shutil
import urllib.parse
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from experiments import cifar_search, cli
from experiments import report as report_command
from jaxnas.networks import latency
from jaxnas.report import charts
from jaxnas.report.charts import ranks
from jaxnas.report.labels import place_labels
from jaxnas.report.runs import read_folders
from jaxnas.results import (
    FoundArchitecture,
    MetricsLog,
    SearchResult,
    history,
    read_history,
    settings_tree,
    theta_field,
)
from jaxnas.results.json_files import unsealed
from jaxnas.search import presets, repeat
from jaxnas.spaces import SPACES
from tests import browser

HOSTILE = '<script>alert("x")</script>&amp;'
STEPS, SPACE = 40, "mbconv_digits"
ARCHS = ([3, 3, 3, 3, 0, 1], [3, 0, 4, 4, 1, 0], [2, 4, 4, 4, 4, 4])
VOID = {"meta", "link", "br", "img", "input", "hr"}


def description(preset="quickstart", **options):
    return settings_tree.to_json(presets.MEMORY(preset=preset, **options), decisive=True)


def theta_at(step, space):
    """Distributions that move from uniform to ARCHS, float [K, D, C]."""
    share = step / STEPS
    theta = np.zeros((len(ARCHS), len(space.decisions), space.max_choices))
    for k, arch in enumerate(ARCHS):
        for d, choice in enumerate(arch):
            theta[k, d, : space.num_choices[d]] = (1 - share) / space.num_choices[d]
            theta[k, d, choice] += share
    return theta


def write_run(folder, space_name=SPACE, archs=ARCHS, budgets=None, with_theta=True, **changes):
    """A run as cifar_search leaves it, written in milliseconds."""
    space = SPACES[space_name]()
    found = [
        FoundArchitecture(
            k,
            0.1 * (k + 1),
            tuple(arch),
            space.describe(arch),
            int(space.cost("params").total(arch)),
            int(space.cost("macs").total(arch)),
            0.25,
            0.5 + 0.125 * k,
            0.9375 - 0.03125 * k,
            None if budgets is None else {"macs": budgets[k]},
        )
        for k, arch in enumerate(archs)
    ]
    fields = {"method": "importance_sampling", "space": space_name, "dataset": "digits", "seed": 0,
              "config": description(penalties=(0.1, 0.2, 0.3)), "versions": {"python": "3.11.0", "jaxnas": HOSTILE},
              "evaluations": 480, "wall_seconds": 61.0, "architectures": found}  # fmt: skip
    SearchResult(**(fields | changes)).write(folder / "result.json")
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step in range(1, STEPS + 1):
            record = {"step": step, "phase": "joint", "train_loss": 2 / step, "wall_seconds": 0.1 * step}
            record |= {name: [step + k for k in range(len(archs))] for name in history.SERIES}
            if with_theta and step % 8 == 0:
                record |= theta_field(theta_at(step, space))
            log.append(record)
    return folder


class Page(html.parser.HTMLParser):
    """Parses a page; fails where an element is not closed, and collects what is asked about."""

    def __init__(self, path):
        super().__init__()
        self.open, self.words, self.links, self.count = [], [], [], {}
        self.attributes = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.links += [value for name, value in attrs if name == "href" and tag == "a"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def make(tmp_path, *folders, arguments=()):
    out = tmp_path / "pages" / "report.html"
    command = [*(str(folder) for folder in folders), f"--out={out}", *arguments]
    cli.run(report_command.main, report_command.Config, command)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    one = write_run(folder / "one & <b>")
    for suffix in ("model.onnx", "weights.safetensors", "model.stablehlo", "model_card.md", "secret.pkl"):
        (one / "exports" / "k1").mkdir(parents=True, exist_ok=True)
        (one / "exports" / "k1" / suffix).write_bytes(b"")
    return one, write_run(folder / "two", budgets=(9e5, 7e5, 4e5), with_theta=False)


def test_page_is_whole_and_shows_every_part(runs, tmp_path):
    path = make(tmp_path, runs[0])
    page = Page(path)
    space = SPACES[SPACE]()
    for arch in ARCHS:
        assert f"{int(space.cost('macs').total(arch)):,}" in page.text
        assert f"{int(space.cost('params').total(arch)):,}" in page.text
    assert "6.25%" in page.text  # 1 - 0.9375, the validation error of network 0
    assert "93.8%" in page.text
    # Layer 2 of network 0: the choice, its exact costs, and its probability at the end.
    layer = space.layers[1]
    assert f"{layer.macs(layer.operations[3]):,} multiply-adds" in page.text
    assert "layer 2, mbconv_k5_e6: 1.000 at the end" in page.text
    assert "layer 2, mbconv_k3_e3: 0.000 at the end" in page.text
    # Two charts of cost and error; a drawing, costs and theta of three networks; curves of six series, training.
    assert page.count["svg"] == 2 + 3 * 3 + 6 + 1
    assert "Effective sample size" in page.text
    assert "Entropy" in page.text
    assert "480 evaluations" in page.text
    assert "python 3.11.0" in page.text
    names = {value for tag, name, value in page.attributes if name == "name" and tag == "meta"}
    assert {"viewport", "color-scheme"} <= names
    text = path.read_text()
    assert "prefers-color-scheme:dark" in text
    assert len(text) < 3e6


def test_page_asks_for_nothing_and_escapes_names(runs, tmp_path):
    path = make(tmp_path, *runs)
    page = Page(path)
    assert HOSTILE in page.text  # as text: a script it is not
    assert "one & <b>" in page.text
    assert not page.count.keys() & {"script", "img", "iframe", "object", "embed", "b x"}
    assert not [value for _, name, value in page.attributes if name == "src" or value.lower().startswith("http")]
    assert "url(" not in path.read_text()
    assert "@import" not in path.read_text()
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(ids)


def test_exports_are_linked_from_where_the_page_is(runs, tmp_path):
    path = make(tmp_path, runs[0])
    links = [link for link in Page(path).links if not link.startswith("#")]
    assert [link.rsplit("/", 1)[1] for link in links] == [
        "model.onnx", "model.stablehlo", "model_card.md", "weights.safetensors",
    ]  # fmt: skip
    for link in links:
        target = (path.parent / urllib.parse.unquote(link)).resolve()
        assert target.exists()
        assert target.parent == (runs[0] / "exports" / "k1").resolve()


def test_run_without_theta_and_without_curves(runs, tmp_path):
    page = Page(make(tmp_path, runs[1]))
    assert "kept no record of theta" in page.text
    assert "macs ≤ 700k" in page.text
    assert page.text.count("budget 900k") == 1  # on the chart of multiply-adds alone
    bare = tmp_path / "bare"
    shutil.copytree(runs[1], bare)
    (bare / "metrics.jsonl").unlink()
    assert "no curves (metrics.jsonl)" in Page(make(tmp_path, bare)).text


@pytest.mark.parametrize("name", sorted(SPACES))
def test_every_space_is_drawn(name, tmp_path):
    space = SPACES[name]()
    arch = space.sample_uniform(np.random.default_rng(0), 1)[0].tolist()
    run = write_run(tmp_path / name, name, [arch], with_theta=False)
    page = Page(make(tmp_path, run))
    assert page.count["svg"] == 2 + 2 + 6 + 1
    if name == "nasbench201":
        for decision, choice in zip(space.decisions, arch):
            assert f"{decision.name}: {decision.choices[choice]}" in page.text
    else:
        for index, (layer, choice) in enumerate(zip(space.layers, arch)):
            macs = layer.macs(layer.operations[choice])
            assert re.search(rf"layer {index + 1}, [^;]*; {macs:,} multiply-adds", page.text)


def test_unknown_space_is_said(runs, tmp_path):
    run = tmp_path / "foreign"
    shutil.copytree(runs[0], run)
    document = unsealed(json.loads((run / "result.json").read_text()))
    document["space"] = "darts"
    (run / "result.json").write_text(json.dumps(document))
    page = Page(make(tmp_path, run))
    assert "darts is not part of this version" in page.text
    assert "mbconv_k5_e6" in page.text


def write_table(path, space):
    archs = np.stack(np.unravel_index(np.arange(space.size), space.num_choices), axis=1)
    error = 0.5 - 0.4 * np.asarray(space.cost("macs").total(archs)) / space.cost("macs").highest
    np.savez(path, choices=archs, error=error)
    return archs, error


def test_table_gives_true_errors_and_baselines(tmp_path):
    space = SPACES["nasbench_macro"]()
    archs, error = write_table(tmp_path / "table.npz", space)
    networks = archs[[100, 2000, 6000]]
    run = write_run(tmp_path / "run", "nasbench_macro", networks.tolist(), with_theta=False)
    compared = tmp_path / "compared"
    compared.mkdir()
    # Two seeds, two penalties; the median of two networks is their mean.
    encodings = [[networks[0].tolist(), networks[1].tolist()], [networks[2].tolist(), networks[1].tolist()]]
    document = {"table": "t", "penalties": [0.1, 0.2], "methods": {"nsga2": {"encodings": encodings}}}
    (compared / "result.json").write_text(json.dumps(document))
    page = Page(make(tmp_path, run, compared, arguments=[f"--table={tmp_path / 'table.npz'}"]))
    for row in (100, 2000, 6000):
        assert f"true error {error[row]:.2%}" in page.text
    assert f"nsga2 (compared), penalty 0.1: true error {(error[100] + error[6000]) / 2:.2%}" in page.text
    without = Page(make(tmp_path, run, compared))
    assert "give the table of true errors" in without.text
    assert "nsga2" not in without.text


def damaged(tmp_path, case, run):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    if case == "half a result":
        (folder / "result.json").write_text((folder / "result.json").read_text()[:200])
    elif case == "choice out of range":
        document = unsealed(json.loads((folder / "result.json").read_text()))
        document["architectures"][0]["encoding"][0] = 9
        (folder / "result.json").write_text(json.dumps(document))
    elif case == "budgets in words":
        document = unsealed(json.loads((folder / "result.json").read_text()))
        document["architectures"][0]["budgets"] = {"macs": "many"}
        (folder / "result.json").write_text(json.dumps(document))
    elif case == "empty folder":
        shutil.rmtree(folder)
        folder.mkdir()
    elif case == "curves of another search":
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": [1.0]}\n')
    elif case == "words for numbers":
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": ["a", "b", "c"]}\n')
    elif case == "theta of another space":
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, **theta_field(np.ones((3, 2, 2)))}) + "\n")
    elif case == "a file":
        return folder / "result.json"
    elif case == "only baselines":
        document = {"table": "t", "penalties": [], "methods": {}}
        (folder / "result.json").write_text(json.dumps(document))
    elif case == "damaged baselines":
        document = {"table": "t", "penalties": [1], "methods": {"a": {"encodings": [[["x"]]]}}}
        (folder / "result.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("half a result", "not valid JSON"),
        ("choice out of range", "choose 0 to"),
        ("budgets in words", "budgets must be numbers"),
        ("empty folder", "no search result"),
        ("curves of another search", "loss must be numbers"),
        ("words for numbers", "loss must be numbers"),
        ("theta of another space", "must be [K, D, C]"),
        ("a file", "give the folder"),
        ("only baselines", "at least one search"),
        ("damaged baselines", "damaged result of tabular_search"),
        ("foreign table", "not a readable npz"),
        ("missing table", "No such file"),
    ],
)
def test_foreign_and_damaged_files_are_one_line(runs, tmp_path, capsys, case, words):
    arguments = []
    if "table" in case:
        arguments = [f"--table={tmp_path / 'table.npz'}"]
        if case == "foreign table":
            (tmp_path / "table.npz").write_bytes(b"nonsense")
    with pytest.raises(SystemExit) as stopped:
        make(tmp_path, damaged(tmp_path, case, runs[0]), arguments=arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "\n" not in message
    assert not (tmp_path / "pages" / "report.html").exists()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 3, "method": "shared_model", "cost": "params", "penalties": (0.01, 0.5), "weight_steps": 6},
        {"budgets": ("macs=3e5,params=2e4", "macs=9e5,params=6e4")},
        {"preset": "cpu", "space": "nasbench201", "batch_size": 32, "precision": "bfloat16", "chunk_size": 2},
    ],
)
def test_command_repeats_the_search(options):
    wanted = json.loads(json.dumps(description(**options)))
    line = repeat.command(wanted)
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "experiments.cifar_search"]
    made = settings_tree.to_json(cli.parse(cifar_search.Config, words[3:]), decisive=True)
    assert json.loads(json.dumps(made)) == wanted


def test_no_command_for_what_is_no_configuration():
    wanted = description()
    assert repeat.command({**wanted, "method": {**wanted["method"], "temperature": 0.5}}) is None
    assert repeat.command({}) is None
    assert repeat.command({**wanted, "method": {**wanted["method"], "penalties": "many"}}) is None
    assert repeat.command({**wanted, "run": {"seed": [1]}}) is None
    assert set(presets.MEMORY.configs) == {"quickstart", "cpu", "full"}


def test_history_sorts_records_into_curves():
    records = [
        {"step": 1, "train_loss": 2.0},
        {"step": 2, "loss": [1.0, None], "ess": [3.0, 4.0]},
        {"step": 3, "loss": [0.5, 0.25], **theta_field(np.full((2, 1, 3), 1 / 3))},
    ]
    read = read_history(records, 2)
    assert set(read.series) == {"loss", "ess"}
    np.testing.assert_array_equal(read.series["loss"][0], [2, 3])
    np.testing.assert_array_equal(read.series["loss"][1], [[1.0, np.nan], [0.5, 0.25]])
    np.testing.assert_array_equal(read.training["train_loss"][1], [2.0])
    np.testing.assert_array_equal(read.theta_steps, [3])
    np.testing.assert_allclose(read.theta, np.full((1, 2, 1, 3), 0.3333))


def drawing(markup):
    """A chart as a tree, and the corners of the first path below each hint, by the hint."""
    root = ElementTree.fromstring(markup)
    paths = {}
    for group in root.iter("g"):
        path = group.find("path")
        moved = re.findall(r"-?[\d.]+", path.get("transform", ""))  # a mark is drawn at 0, 0 and moved to its place
        corners = re.findall(r"([ML]) (\S+) (\S+)", path.get("d"))
        place = moved or [(kind, float(x), float(y)) for kind, x, y in corners]
        paths.setdefault(group.find("title").text, place)
    return root, paths


def test_points_and_ticks_of_a_chart_stand_at_their_places():
    points = charts.Points([1e6, 2e6, 4e6], [0.07, 0.04, 0.05], ["var(--k0)"] * 3, ["a", "b", ""], ["A", "B", "C"])
    root, paths = drawing(charts.cost_error([points], "macs", "error (%)", [(3e6, "var(--k1)")]))
    (ax, ay), (bx, by), (cx, cy) = ([float(value) for value in paths[name]] for name in "ABC")
    assert (bx - ax) / (cx - ax) == pytest.approx(1 / 3, abs=0.01)
    assert (by - ay) / (cy - ay) == pytest.approx(3 / 2, abs=0.01)
    budget = paths["budget 3M"]
    assert budget[0][1] == budget[1][1] == pytest.approx((bx + cx) / 2, abs=0.2)
    texts = [node.text for node in root.iter("text")]
    assert {"1M", "2M", "3M", "4M", "4", "5", "6", "7", "multiply-adds", "error (%)", "a", "b"} == set(texts)
    # The third point is dominated: the line of the front ends at the second.
    lines = [node.get("d") for node in root.iter("path") if "--faint" in node.get("style", "")]
    front = next(line for line in lines if f"M {round(ax, 1):g} {round(ay, 1):g}" in line)
    assert front.endswith(f"L {round(bx, 1):g} {round(by, 1):g}")


def test_costs_in_seconds_are_called_so():
    points = charts.Points([0.001, 0.004], [0.07, 0.04], ["var(--k0)"] * 2, ["", ""], ["A", "B"])
    root, paths = drawing(charts.cost_error([points], "latency", "error (%)", [(0.0025, "var(--k1)")]))
    assert {"1 ms", "2 ms", "3 ms", "4 ms", "latency"} <= {node.text for node in root.iter("text")}
    assert "budget 2.5 ms" in paths


def test_charts_are_text_and_the_page_s_colours():
    found = charts.curves("loss", np.arange(3), np.eye(3), ["var(--k0)", "var(--k1)", "var(--soft)"], ["a", "b", "<c>"])
    root, _ = drawing(found)
    painted = [node.get("style", "") for node in root.iter() if node.tag in ("path", "text")]
    values = [value for style in painted for value in re.findall(r"(?:fill|stroke):([^;]+)", style)]
    assert {"var(--k0)", "var(--k1)", "var(--soft)", "none"} <= set(values)
    assert all(re.fullmatch(r"none|var\(--\w+\)", value) for value in values)
    assert {node.tag for node in root.iter()} == {"svg", "g", "path", "text", "title"}
    assert not [node for node in root.iter() if node.get("id") or "font" in node.get("style", "")]


def test_a_curve_breaks_off_where_it_is_nan():
    values = np.array([0.0, 1.0, np.nan, 3.0, 4.0])[:, None]
    _, paths = drawing(charts.curves("loss", np.arange(1, 6), values, ["var(--k0)"], ["curve"]))
    assert [kind for kind, _, _ in paths["curve"]] == ["M", "L", "M", "L"]
    steps, values = charts.binned(np.arange(1, 7), np.arange(6.0)[:, None], bins=3)
    np.testing.assert_array_equal(steps, [2, 4, 6])
    np.testing.assert_array_equal(values[:, 0], [0.5, 2.5, 4.5])
    assert ranks(SPACES["nasbench201"](), 0, "macs") == [0, 1, 3, 4, 2]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8, unique=True))
@settings(max_examples=10, deadline=None)
def test_labels_stand_beside_their_points_and_clear_of_others(points):
    """Ten columns and rows leave a free place for each of a few short names."""
    figure = Figure(figsize=(8, 8), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-1, 10), ylim=(-1, 10))
    place_labels(axes, np.array(points, float), [str(index) for index in range(len(points))], fontsize=8)
    boxes = [text.get_window_extent() for text in axes.texts]
    pixels = axes.transData.transform(points)
    assert len(boxes) == len(points)
    for index, box in enumerate(boxes):
        assert not any(Bbox.intersection(box, other) for other in boxes[:index])
        assert not any(box.contains(*pixel) for pixel in pixels)
        own = pixels[index].clip(box.min, box.max)
        assert np.hypot(*(own - pixels[index])) < 32


def test_a_search_for_latency_shows_latency(tmp_path):
    space = SPACES[SPACE]()
    seconds = tuple(tuple(1e-4 * (d + 1) * (c + 1) for c in range(n)) for d, n in enumerate(space.num_choices))
    table = latency.LatencyTable(SPACE, "a device", 8, 1e-3, seconds)
    run = write_run(tmp_path / "run", config=description(cost="latency", penalties=(0.1, 0.2, 0.3)))
    document = unsealed(json.loads((run / "result.json").read_text()))
    for found, budget in zip(document["architectures"], (0.02, 0.01, 0.0101)):
        found["latency"] = table.cost.total(np.array(found["encoding"])).item()
        found["budgets"] = {"latency": budget}
    (run / "result.json").write_text(json.dumps(document))
    table.write(run / "latency.json")
    page = Page(make(tmp_path, run))
    assert page.count["svg"] == 3 + 3 * 3 + 6 + 1
    assert "budget 10.1 ms" in page.text
    assert "latency ≤ 20 ms" in page.text
    assert "the more latency the choice costs" in page.text
    first = document["architectures"][0]
    assert f"{1e3 * first['latency']:.3g} ms latency" in page.text
    assert "layer 2, mbconv_k5_e6: 800 µs" in page.text  # in the chart of costs by layer
    (run / "latency.json").write_text("{}")
    with pytest.raises(SystemExit):
        make(tmp_path, run)


def test_names_of_folders_are_no_markup(runs, tmp_path, capsys):
    folder = tmp_path / "m[" / "x]"
    shutil.copytree(runs[0], folder)
    cli.run(report_command.main, report_command.Config, [str(folder)])
    assert f"wrote {folder / 'report.html'}" in capsys.readouterr().out


def test_equal_folder_names_are_told_apart(runs, tmp_path):
    again = tmp_path / "other" / "two"
    shutil.copytree(runs[1], again)
    read, _ = read_folders([runs[1], again])
    assert [run.name for run in read] == [str(runs[1]), str(again)]


needs_browser = pytest.mark.skipif(browser.find() is None, reason="needs chromium or google-chrome on the PATH")


@needs_browser
def test_a_browser_shows_it_without_requests_or_errors(runs, tmp_path):
    path = make(tmp_path, *runs)
    (tmp_path / "profile").mkdir()
    pixels = []
    with browser.open_tab(tmp_path / "profile") as tab:
        for width, dark in ((1200, False), (1200, True), (390, False)):
            tab.show(path.as_uri(), width, dark=dark)
            assert [url for url in tab.requested if not url.startswith("data:")] == [path.as_uri()]
            assert tab.complaints == []
            # The page itself never scrolls across: what is wide scrolls in its own box.
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            assert tab.evaluate(
                "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 20)"
            )
            pixels.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert tab.screenshot()[:4] == b"\x89PNG"
        # That the checks above would notice: a page with an error, and one that asks for something.
        bad = tmp_path / "bad.html"
        bad.write_text("<script>console.error(1)</script><img src='http://127.0.0.1:9/x.png'>")
        tab.show(bad.as_uri(), 390)
        assert len(tab.requested) == 2
        assert tab.complaints
    assert pixels == ["rgb(247, 247, 245)", "rgb(19, 22, 25)", "rgb(247, 247, 245)"]


def test_trained_networks_have_their_test_errors(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    summary = folder / "retrained" / "retrained.json"
    summary.parent.mkdir()
    summary.write_text(json.dumps([{"k": 1, "test_accuracy_scratch": [0.97, 0.99]}]))
    cli.run(report_command.main, report_command.Config, [str(folder)])
    assert "2.00% ± 1.41%" in Page(folder / "report.html").text
    summary.write_text("{}[")
    with pytest.raises(SystemExit):
        cli.run(report_command.main, report_command.Config, [str(folder)])
    assert "is no summary of trained networks" in capsys.readouterr().err
