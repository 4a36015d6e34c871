"""Fixtures: the public benchmark tables and inputs that users have, where they are present."""

import gc
import os
import pathlib
import subprocess
import sys

import hypothesis
import jax
import numpy as np
import pytest

from experiments import cli
from jaxnas.runtime import compilation_cache

# Tracing makes many objects that live: looking for garbage among them is a waste.
cli.collect_rarely()

# How long an example takes depends on what else the machine does. Every run draws the same examples, so that a change
# fails for what it changes; HYPOTHESIS_PROFILE=explore draws others.
hypothesis.settings.register_profile("jaxnas", deadline=None, derandomize=True, database=None)
hypothesis.settings.register_profile("explore", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "jaxnas"))

# Compiling is most of the time of these tests: what one run has compiled, the next one loads, small programs too.
compilation_cache.enable(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# A compiled program is some memory maps. Linux gives a process 65,530, and beyond them the compiler crashes.
MANY_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def bounded_maps():
    """After a file of tests, gives up all compiled programs where there are many; those needed again come from disk."""
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()
        gc.collect()


SHARED = pathlib.Path(__file__).parents[1].parent / "shared"
TABLES = SHARED / "tabular"


def table_path(name: str) -> pathlib.Path:
    """The path of a benchmark table; skips the test where it is absent."""
    path = TABLES / name
    if not path.exists():
        pytest.skip(f"needs ../shared/tabular/{name}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def macro_path():
    return table_path("nasbench_macro.npz")


@pytest.fixture(scope="session")
def macro_table(macro_path):
    with np.load(macro_path) as table:
        return dict(table)


@pytest.fixture(scope="session")
def nasbench201_path():
    return table_path("nasbench201_cifar10.npz")


@pytest.fixture(scope="session")
def made_cases(tmp_path_factory):
    """A folder with `folders/` and `images/`: inputs that users have, and that went wrong once."""
    program = SHARED / "cases" / "make_cases.py"
    if not program.is_file():
        pytest.skip("needs ../shared/cases/make_cases.py, which is not part of the repository")
    out = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, program, out], check=True, capture_output=True)
    return out
