"""The built wheel runs outside of the checkout, and the package with nothing but what it requires."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jaxnas

ROOT = pathlib.Path(__file__).parents[1]
OLDEST_TESTS = ("test_importance_sampling.py", "test_metrics.py", "test_checkpoint.py")
SMALL = ("--preset", "quickstart", "--weight-steps", "2", "--distribution-steps", "2", "--candidates", "0")
SMALL += ("--finish-steps", "0")


def test_the_changelog_knows_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    assert re.search(rf"\b{re.escape(jaxnas.__version__)}\b", text)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment with the wheel; what it depends on comes from the environment of the tests."""
    pytest.importorskip("build", reason="needs the extra 'dev'")
    folder = tmp_path_factory.mktemp("packaging")
    ignored = shutil.ignore_patterns(".*", "runs", "site", "build", "dist", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(ROOT, folder / "source", ignore=ignored)
    # The source archive first and the wheel from it, as a release is made.
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    (wheel,) = (folder / "dist").glob("*.whl")
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    # A path file names a folder and does not follow the path files in it: an editable jaxnas there stays out of sight.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment


def run(folder, environ, *command):
    """Runs a command in `folder`, which must succeed; what it prints."""
    done = subprocess.run([str(part) for part in command], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outside(folder, *command):
    """Runs a command of the environment in `folder`; nothing of the checkout is on the path."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return run(folder, environ, *command)


def needed(lines):
    """The names of all packages that these requirements bring with them."""
    found, open_ = set(), list(map(Requirement, lines))
    while open_:
        requirement = open_.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            theirs = map(Requirement, importlib.metadata.requires(name) or ())
            open_ += [each for each in theirs if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Environment variables that hide all packages of this Python that `pip install .` would not bring."""
    names = {"jaxnas", *needed(line for _, line in requirements().values())}
    modules = importlib.metadata.packages_distributions()
    hidden = [module for module, owners in modules.items() if names.isdisjoint(map(canonicalize_name, owners))]
    assert "jax" not in hidden
    assert {"cv2", "grain", "onnx", "onnxruntime", "tensorboardX"} & set(modules) <= set(hidden)
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules.update(dict.fromkeys({hidden}))\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


def test_everything_but_the_extras_is_imported_without_the_extras(bare):
    program = (
        "import jaxnas, jaxnas.elastic, jaxnas.report\n"
        "from experiments import cifar_search, export, imagenet_search, leaderboard, report, retrain, tabular_search\n"
    )
    run(ROOT, bare, sys.executable, "-c", program)


@pytest.mark.long
def test_a_search_is_exported_and_reported_without_the_extras(bare, tmp_path):
    """Some packages are imported only when they are used: JAX writes StableHLO programs with flatbuffers."""
    search, python = tmp_path / "search", (sys.executable, "-m")
    run(ROOT, bare, *python, "experiments.cifar_search", *SMALL, "--finish-steps", "2", "--workdir", search)
    run(ROOT, bare, *python, "experiments.export", "--run", search, "--index", "0", "--format", "stablehlo")
    run(ROOT, bare, *python, "experiments.report", search)
    assert (search / "exports" / "k0" / "model.stablehlo").is_file()


def requirements():
    """The lines of requirements.txt by name: (lowest release, the whole line)."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    found = {re.match(r"[\w.-]+", line)[0]: (re.search(r">=([\d.]+)", line)[1], line) for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "constraints").glob("*.txt")), ids=lambda path: path.stem)
def test_constraints_are_releases_that_requirements_allow(path):
    pinned = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, release = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.]+)", line).groups()
        pinned[canonicalize_name(name)] = release
    assert "torch" not in pinned
    for name, (lowest, _) in requirements().items():
        release = pinned[canonicalize_name(name)]
        assert [int(part) for part in re.findall(r"\d+", release)] >= [int(part) for part in lowest.split(".")], name


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the oldest releases are those of the oldest Python")
def test_the_oldest_releases_of_the_requirements_work(tmp_path):
    oldest = [f"{name}=={lowest}" for name, (lowest, _) in requirements().items()]
    (tmp_path / "oldest.txt").write_text("\n".join(oldest))
    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, "--constraint", tmp_path / "oldest.txt", *requirements(), "hypothesis", "pytest"], check=True)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    commands = [
        ("-m", "experiments.cifar_search", *SMALL, "--workdir", tmp_path / "run"),
        ("-m", "experiments.report", "--help"),
        ("-m", "pytest", "-p", "no:cacheprovider", *(ROOT / "tests" / name for name in OLDEST_TESTS)),
    ]
    for command in commands:
        run(ROOT, environ, python, *command)


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_types_and_version(installed, tmp_path):
    program = (
        "import importlib.metadata, importlib.resources, jaxnas; "
        "print(jaxnas.__file__); print(importlib.metadata.version('jaxnas')); "
        "print((importlib.resources.files('jaxnas') / 'py.typed').is_file())"
    )
    where, version, typed = outside(tmp_path, installed / "bin" / "python", "-c", program).split()
    assert pathlib.Path(where).is_relative_to(installed)
    assert version == jaxnas.__version__
    assert typed == "True"


@pytest.mark.slow
def test_the_quickstart_runs_from_the_wheel(installed, tmp_path):
    outside(tmp_path, installed / "bin" / "python", "-m", "experiments.cifar_search", *SMALL, "--workdir", "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(result["architectures"]) == 4


@pytest.mark.slow
def test_the_command_is_not_misled_by_a_folder_of_the_same_name(installed, tmp_path):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "__init__.py").write_text("raise RuntimeError('somebody else')")
    assert "--workdir" in outside(tmp_path, installed / "bin" / "jaxnas-search", "--help")
