"""The notebooks: well-formed, without outputs, importing what exists; and run from top to bottom."""

import ast
import configparser
import importlib
import pathlib
import re

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_three_are_there():
    assert NAMES == ["own_model", "quickstart", "reading_results"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_is_valid_and_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_opens_with_the_install_cell(path):
    first = code_cells(nbformat.read(path, as_version=4))[0]
    assert first.source == code_cells(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source
    assert "%pip install" in first.source
    assert 'find_spec("jaxnas") is None' in first.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_knows_the_address_of_the_repository_if_setup_cfg_does(path):
    """`url` in setup.cfg is where the install cell and the badge for Colab have the address from."""
    setup = configparser.ConfigParser()
    setup.read(FOLDER.parent / "setup.cfg")
    url = setup.get("metadata", "url", fallback="")
    notebook = nbformat.read(path, as_version=4)
    assert f'SOURCE = "{"git+" + url if url else ""}"' in code_cells(notebook)[0].source
    badges = [cell for cell in notebook.cells if "colab.research.google.com" in cell.source]
    assert len(badges) == (1 if url else 0)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_imports_and_links_to_what_exists(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(re.sub(r"^(\s*)%.*$", r"\1pass", cell.source, flags=re.MULTILINE))):
            if isinstance(node, ast.Import):
                for name in node.names:
                    importlib.import_module(name.name)
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for name in node.names:
                    if not hasattr(module, name.name):
                        importlib.import_module(f"{node.module}.{name.name}")
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (FOLDER / target).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebook_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    root = FOLDER.parent
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # of the tests, which spare the compiler: here it is run that counts
    monkeypatch.setenv("JAXNAS_CACHE", str(root / ".pytest_cache" / "xla-notebooks"))
    monkeypatch.setenv("PYTHONPATH", str(root))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises on the first cell that fails
    pictures = [
        output
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "display_data" and "image/png" in output.data
    ]
    assert pictures
