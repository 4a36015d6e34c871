"""The documentation says what is so: its commands parse, its Python runs, its links lead somewhere."""

import importlib
import importlib.util
import pathlib
import re
import shlex
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from experiments import cli
from jaxnas import data, networks, spaces, supernet
from jaxnas.export import saved, shared_weights
from jaxnas.search.finished import FinishedNetworks
from jaxnas.search.network_steps import Score
from jaxnas.search.training_data import InMemoryData

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(r"python -m experiments\.(?P<name>\w+) (?P<arguments>-[^`#\n]*)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands():
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for match in COMMAND.finditer(text):
            arguments = match["arguments"].strip()
            if "--help" not in arguments:
                yield pytest.param(match["name"], arguments, id=f"{page.stem}-{match['name']}")


def pages_with_python():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if PYTHON.search(text):
            searches = "method.tell" in text or "= jaxnas.search(" in text  # which compiles for seconds
            yield pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if searches else [])


@pytest.mark.parametrize(("name", "arguments"), list(commands()))
def test_a_command_in_the_documentation_is_understood(name, arguments):
    module = importlib.import_module(f"experiments.{name}")
    cli.parse(module.Config, shlex.split(arguments))  # exits on an unknown option or a value of the wrong kind


@pytest.mark.parametrize("page", list(pages_with_python()))
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = page.read_text(encoding="utf-8"), {}
    if "jaxnas.load(" in text:  # of what the commands before it would have left
        names["images"] = save_networks(tmp_path / "runs" / "digits")
    with mock.patch.dict(data.DATASETS), mock.patch.dict(spaces.SPACES):  # what a page registers is gone after it
        for program in PYTHON.findall(text):
            exec(compile(program, str(page), "exec"), names)  # later programs of a page go on from earlier ones


def save_networks(run):
    """A network for digits with random weights, as exported and as a search finishes it; returns images for it."""
    digits, space, arch = data.load("digits"), spaces.mbconv_digits(), (0, 4, 4, 4, 4, 4)
    description = saved.NetworkDescription(space.name, arch, 1.0, 8, 10, "digits", digits.mean, digits.std)
    variables = networks.build(space, arch).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    saved.save(run / "exports" / "k0", description, variables)
    supernet_params = supernet.build(space).init_params(jax.random.key(0))
    shared, recipes = networks.share(space, [arch], supernet_params)
    scores, images = (Score(0.0, 1.0),), InMemoryData(digits)
    statistics = (variables["batch_stats"],)
    together = FinishedNetworks(space, (arch,), shared, recipes, statistics, scores, images)
    shared_weights.save(run / shared_weights.FOLDER, [description], together)
    return digits.test_images[:2]


def hook(name):
    """A module of docs/hooks, which is no package."""
    pytest.importorskip("mkdocstrings", reason="needs the extra 'docs'")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repository_pages():
    return hook("repository_pages")


@pytest.mark.parametrize(
    ("source", "text", "expected"),
    [
        ("README.md", "[what](docs/explanation/ablation.md#here)", "[what](explanation/ablation.md#here)"),
        ("README.md", "![front](docs/images/pareto.png)", "![front](images/pareto.png)"),
        ("README.md", "[so](CONTRIBUTING.md)", "[so](contributing.md)"),
        ("benchmarks/README.md", "[up](../README.md)", "[up](index.md)"),
        ("README.md", "[asng](jaxnas/asng.py)", "[asng](api/jaxnas.md#jaxnas.asng)"),
        ("README.md", "[all](jaxnas/strategies)", "[all](api/strategies.md)"),
        (
            "README.md",
            "[`nsga2.py`](jaxnas/strategies/nsga2.py)",
            "[`nsga2.py`](api/strategies.md#jaxnas.strategies.nsga2)",
        ),
        ("README.md", "[no page](Makefile), [elsewhere](https://arxiv.org)", "no page, [elsewhere](https://arxiv.org)"),
        ("README.md", "    [code](docs/explanation/method.md)", "    [code](docs/explanation/method.md)"),
        ("docs/tutorials/tables.md", "[up](../../README.md), [so](budgets.md)", "[up](../index.md), [so](budgets.md)"),
        ("docs/explanation/method.md", "[code](../../jaxnas/asng.py)", "[code](../api/jaxnas.md#jaxnas.asng)"),
        ("docs/results.md", "[in the site](benchmarks.md#here)", "[in the site](benchmarks.md#here)"),
    ],
)
def test_links_of_repository_files_lead_to_pages(repository_pages, source, text, expected):
    assert repository_pages.relink(text, source) == expected


def test_every_module_is_in_the_reference(repository_pages):
    pages = [repository_pages.reference(name) for name in ("jaxnas", *repository_pages.packages())]
    documented = set(re.findall(r"^::: (\S+)", "".join(pages), re.MULTILINE))
    for path in (ROOT / "jaxnas").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert module in documented or path.stem.startswith("_")
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(f"api/{name}.md" in nav for name in repository_pages.packages())


def test_examples_in_docstrings_become_blocks_of_code():
    text = "Does it.\n\nRaises:\n  ValueError: never.\n\n>>> f(1)\n2\n>>> f(2)\n[3]\n\nAfterwards."
    fenced = "Does it.\n\nRaises:\n  ValueError: never.\n\n```pycon\n>>> f(1)\n2\n>>> f(2)\n[3]\n```\n\nAfterwards."
    assert hook("examples").fence(text) == fenced
    assert hook("examples").fence("Nothing to show.") == "Nothing to show."
    assert hook("examples").fence("x\n\n    >>> f(1)\n    2") == "x\n\n    ```pycon\n    >>> f(1)\n    2\n    ```\n"
