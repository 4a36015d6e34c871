"""The cell space: its published costs, exactly, and the order of its edges."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxnas import spaces
from jaxnas.spaces.nasbench201 import EDGES, OPERATIONS

TABLE = Path(__file__).resolve().parents[2] / "shared" / "tabular" / "nasbench201_cifar10.npz"


@pytest.fixture(scope="module")
def table():
    if not TABLE.exists():
        pytest.skip(f"needs the published table at {TABLE}")
    with np.load(TABLE) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def space():
    return spaces.nasbench201()


@pytest.mark.parametrize(("cost", "column"), [("macs", "flops"), ("params", "params")])
def test_costs_are_the_published_ones(space, table, cost, column):
    totals = space.cost(cost).total(table["choices"])
    assert len(totals) == space.size == 15_625
    np.testing.assert_array_equal(totals, table[column])


def test_choices_have_the_order_of_the_table(space, table):
    assert tuple(table["choice_names"].tolist()) == OPERATIONS
    assert all(decision.choices == OPERATIONS for decision in space.decisions)


def test_edges_have_the_order_of_the_table(table):
    """A cell that does not connect its input to its output guesses: which cells do depends on the order of edges."""
    connected = table["choices"] != OPERATIONS.index("none")
    edge = {nodes: connected[:, index] for index, nodes in enumerate(EDGES)}
    second = edge[0, 2] | (edge[0, 1] & edge[1, 2])
    output = edge[0, 3] | (edge[0, 1] & edge[1, 3]) | (second & edge[2, 3])
    np.testing.assert_allclose(table["error"][~output], 0.9, atol=1e-6)
    assert table["error"][output].max() < 0.89


@pytest.mark.parametrize(
    ("arch", "macs", "params"),
    [
        ([0, 0, 0, 0, 0, 0], 7_783_050, 73_306),
        ([2, 0, 0, 0, 0, 0], 11_715_210, 101_306),
        ([3, 3, 3, 3, 3, 3], 220_119_690, 1_531_546),
        ([1, 4, 1, 4, 1, 4], 7_783_050, 73_306),
    ],
)
def test_costs_of_known_cells(space, arch, macs, params):
    assert space.cost("macs").total(arch) == macs
    assert space.cost("params").total(arch) == params


def test_proxies_are_cheaper(space):
    proxy = spaces.nasbench201(width=0.5, image_size=16, num_classes=4, cells=1)
    assert (proxy.channels, proxy.stage_channels, proxy.stage_resolutions) == (8, (8, 16, 32), (16, 8, 4))
    assert proxy.decisions == space.decisions
    archs = space.sample_uniform(np.random.default_rng(0), 50)
    for name in ("macs", "params"):
        assert (proxy.cost(name).total(archs) < space.cost(name).total(archs)).all()


@pytest.mark.parametrize(
    "arguments", [{"image_size": 30}, {"image_size": 0}, {"width": 0}, {"channels": 0}, {"cells": 0}]
)
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        spaces.nasbench201(**arguments)


@pytest.mark.parametrize("name", sorted(spaces.SPACES))
def test_every_registered_space_keeps_the_contract(name):
    space = spaces.SPACES[name](width=0.5, image_size=32, num_classes=7)
    assert isinstance(space, spaces.SearchSpace)
    assert space.name == name
    archs = space.sample_uniform(np.random.default_rng(0), 5)
    assert space.decode(space.encode(archs[0])).tolist() == archs[0].tolist()
    assert [cost.name for cost in space.costs] == ["macs", "params"]
    for cost in space.costs:
        scaled = jax.device_get(cost(archs))
        assert ((scaled >= 0) & (scaled <= 1)).all()
