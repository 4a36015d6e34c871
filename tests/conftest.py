"""Fixtures: the public benchmark tables, where they are at hand."""

import pathlib

import jax
import numpy as np
import pytest

from experiments import cli
from jaxnas.runtime import compilation_cache

# Tracing makes many objects that live: looking for garbage among them is a waste.
cli.collect_rarely()

# Compiling is most of the time of these tests: what one run has compiled, the next one loads, small programs too.
compilation_cache.enable(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "xla")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

TABLES = pathlib.Path(__file__).parents[1].parent / "shared" / "tabular"


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
