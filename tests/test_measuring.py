"""Latency of any model: what is fitted is found again, and held against other networks; searches keep budgets of it."""

import dataclasses
import itertools
import json
import sys

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxnas
from jaxnas import spaces
from jaxnas.cost import AdditiveCost, InteractionCost
from jaxnas.networks import latency, latency_fit, latency_model, timing
from jaxnas.spaces.base import Decision, SearchSpace
from tests.tiny_search import tiny

SPACE = SearchSpace("toy", tuple(Decision(f"d{d}", tuple("abc"[:n])) for d, n in enumerate((3, 2, 3, 3))))
X = np.random.default_rng(0).standard_normal((24, 6)).astype(np.float32)


class Net(nn.Module):
    depth: int
    widths: tuple

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        for width in self.widths[: self.depth]:
            x = x + nn.Dense(4)(nn.tanh(nn.Dense(width)(x)))
        return nn.Dense(1)(x)


@pytest.fixture(scope="module")
def elastic():
    return jaxnas.elastic(Net, X[:4], depth=(1, 2, 3), widths=[(2, 4, 8)] * 3)


def additive(rng, space=SPACE):
    return AdditiveCost("true", "seconds", 0.01, [rng.uniform(0, 0.02, n) for n in space.num_choices])


def of_pairs(rng, space=SPACE):
    single = additive(rng, space)
    pairs = itertools.combinations(range(len(space.num_choices)), 2)
    tables = [((a, b), rng.uniform(0, 0.01, space.num_choices[a] * space.num_choices[b])) for a, b in pairs]
    return InteractionCost("true", "seconds", 0.01, single.table, tables)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), make=st.sampled_from([additive, of_pairs]), unit=st.sampled_from([1e-6, 1.0, 100.0]))
def test_models_of_choices_and_of_pairs_are_found_exactly(seed, make, unit):
    rng = np.random.default_rng(seed)
    true, archs = make(rng), SPACE.enumerate()
    measured = rng.permutation(len(archs))[:50]
    found = latency_model.fit(SPACE, archs[measured], unit * true.total(archs[measured]))
    np.testing.assert_allclose(found.total(archs), unit * true.total(archs), rtol=1e-4)
    assert isinstance(found, AdditiveCost) == (make is additive)
    assert found.lowest == pytest.approx(unit * true.lowest, rel=1e-4)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_no_network_takes_less_than_no_time(seed):
    rng = np.random.default_rng(seed)
    archs = SPACE.sample_uniform(rng, 12)
    found = latency_model.fit(SPACE, archs, np.exp(3 * rng.standard_normal(12)))
    assert found.total(SPACE.enumerate()).min() >= 0


def gated(space, rng):
    """Seconds of networks of `Net`: of each block that is there some, and some for each of its units."""
    fixed, block, unit = rng.uniform(1e-7, 1e-6, 3)

    def seconds(archs):
        values = [space.hyperparameters(arch) for arch in archs]
        return np.array([fixed + sum(block + unit * width for width in v["widths"][: v["depth"]]) for v in values])

    return seconds


def test_few_networks_suffice_where_sizes_multiply(elastic):
    seconds = gated(elastic, np.random.default_rng(1))
    table = jaxnas.measure_latency(elastic, networks=12, check_networks=20, timer=seconds, device="a phone")
    assert table.check["networks"] == 20
    assert table.check["largest_absolute_error"] < 1e-3
    assert (table.device, table.batch_size, table.space) == ("a phone", 4, elastic.name)
    with_latency = table.added_to(elastic, "phone")
    archs = elastic.enumerate()
    np.testing.assert_allclose(with_latency.cost("phone").total(archs), seconds(archs), rtol=1e-3)


def test_another_device_that_is_known_lets_few_networks_do():
    rng = np.random.default_rng(2)
    known = of_pairs(rng)
    space = dataclasses.replace(SPACE, costs=(dataclasses.replace(known, name="laptop"),))
    table = jaxnas.measure_latency(
        space, networks=10, check_networks=20, timer=lambda archs: 3 * known.total(archs) + 0.02
    )
    assert table.check["largest_absolute_error"] < 1e-3


def test_the_check_is_of_networks_that_were_not_fitted():
    timed = []

    def timer(archs):
        timed.append(archs)
        return 0.01 * np.exp(np.random.default_rng(1).normal(0, 0.5, len(archs)))  # no network explains another

    table = jaxnas.measure_latency(SPACE, networks=30, check_networks=20, timer=timer)
    archs = timed[0]
    seconds = timer(archs)
    assert len(np.unique(archs, axis=0)) == 50
    predicted = latency_model.fit(SPACE, archs[:30], seconds[:30]).total(archs[30:])
    errors = np.abs(predicted - seconds[30:]) / seconds[30:]
    ranks = [scipy.stats.rankdata(each) for each in (predicted, seconds[30:])]
    assert table.check["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert table.check["median_absolute_error"] == pytest.approx(np.median(errors))
    assert table.check["largest_absolute_error"] == pytest.approx(errors.max())
    assert table.check["median_absolute_error"] > 0.2


def test_models_that_are_the_same_are_timed_once(elastic):
    timed = []

    def timer(archs):
        timed.extend(archs.tolist())
        return gated(elastic, np.random.default_rng(1))(archs)

    table = jaxnas.measure_latency(elastic, networks=80, check_networks=40, timer=timer)
    effective = {tuple(elastic.hyperparameters(arch)["widths"][: arch[0] + 1]) for arch in timed}
    assert len(effective) == len(timed) == 3 + 9 + 27
    assert table.check["networks"] == 39 // 3


def test_files_of_measured_networks_serve_too(elastic, tmp_path):
    seconds = gated(elastic, np.random.default_rng(5))
    archs = elastic.enumerate()[::4]
    lines = [f"{' '.join(map(str, arch))},{1000 * time!r}" for arch, time in zip(archs, seconds(archs).tolist())]
    (tmp_path / "phone.csv").write_text("\n".join(lines))
    phone = latency_fit.fit(elastic, *latency_fit.read_csv(tmp_path / "phone.csv", elastic), device="phone")
    np.testing.assert_allclose(phone.cost.total(archs), seconds(archs), rtol=1e-3)
    assert phone.check["largest_absolute_error"] < 1e-3
    few = archs[::2]
    server = latency_fit.fit(elastic, few, 3 * phone.cost.total(few) + 1e-6, device="server", known=phone)
    np.testing.assert_allclose(server.cost.total(archs), 3 * phone.cost.total(archs) + 1e-6, rtol=1e-3)


def test_a_table_with_interactions_comes_back_as_it_was_written(elastic, tmp_path):
    table = jaxnas.measure_latency(elastic, timer=gated(elastic, np.random.default_rng(3)))
    assert table.interactions
    table.write(tmp_path / "latency.json")
    again = latency.read(tmp_path / "latency.json")
    assert again == table
    assert again.digest == table.digest != dataclasses.replace(table, interactions=()).digest
    document = json.loads((tmp_path / "latency.json").read_text())
    assert document["format"] == "jaxnas latency 2"
    for change in ([[[0, 9], [1.0]]], [[[1, 0], [0.0] * 9]], [[[0, 1], [0.0] * 8]], [[[0, 1], ["fast"] * 9]], 3):
        (tmp_path / "latency.json").write_text(json.dumps(document | {"interactions": change}))
        with pytest.raises(ValueError, match="is no latency table") as raised:
            latency.read(tmp_path / "latency.json")
        assert "\n" not in str(raised.value)


def test_a_table_of_other_models_is_refused(elastic):
    table = jaxnas.measure_latency(elastic, timer=gated(elastic, np.random.default_rng(3)))
    others = jaxnas.elastic(Net, X[:4], depth=(1, 2, 3), widths=[(2, 4, 16)] * 3)
    with pytest.raises(ValueError, match=r"of models with .* measure them: table = jaxnas.measure_latency"):
        table.added_to(others)
    with pytest.raises(ValueError, match=r"measure it: table = jaxnas.measure_latency"):
        table.added_to(SPACE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"networks": 7}, "networks must be at least 8, got 7"),
        ({"check_networks": 1}, "check_networks must be at least 2, got 1"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"runtime": "tflite"}, "runtime must be one of jax, onnxruntime, got 'tflite'"),
        ({"timer": lambda archs: np.ones(3)}, "timer must return seconds for each of"),
        ({"timer": lambda archs: -np.ones(len(archs))}, "seconds must be positive, got -1"),
        ({"inputs": X[:4, :5]}, "inputs must have the shapes that the space was built with"),
    ],
)
def test_bad_arguments_are_one_line(elastic, arguments, words):
    with pytest.raises(ValueError, match=words) as raised:
        jaxnas.measure_latency(elastic, **arguments)
    assert "\n" not in str(raised.value)


def test_spaces_that_cannot_be_measured_are_one_line(elastic):
    with pytest.raises(ValueError, match="give timer="):
        jaxnas.measure_latency(SPACE)
    small = SearchSpace("small", SPACE.decisions[:2])
    with pytest.raises(ValueError, match="10 different models or more .* has 6; time them all"):
        jaxnas.measure_latency(small, timer=lambda archs: np.ones(len(archs)))


def test_without_onnxruntime_the_remedy_is_named(elastic, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "jaxnas.export.onnx_calls", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'jaxnas\[export\]'"):
        jaxnas.measure_latency(elastic, runtime="onnxruntime")


@pytest.mark.long
def test_a_search_keeps_budgets_of_latency_and_is_stored(elastic, tmp_path):
    seconds = gated(elastic, np.random.default_rng(4))
    table = jaxnas.measure_latency(elastic, timer=seconds)
    space = table.added_to(table.added_to(elastic), "phone")
    cost = space.cost("latency")
    limits = tuple(np.quantile(cost.total(space.enumerate()), (0.2, 0.6)).tolist())

    def search(space):
        return jaxnas.search(
            space,
            loss=lambda outputs, batch: ((outputs - batch[1]) ** 2).mean(),
            train=(X, X[:, :1]),
            valid=(X, X[:, :1]),
            budgets={"latency": limits},
            steps=12,
            batch_size=8,
            workdir=tmp_path / "run",
        )

    family = search(space)
    for member, limit in zip(family, limits):
        assert member.costs["latency"] == cost.total(member.arch) <= limit
        assert type(member.costs["macs"]) is int
    for member, found in zip(family, family.result.architectures):
        assert member.costs["latency"] == found.latency == found.latencies["phone"]
    assert str(family).count("µs") == 3 * len(family)  # the budget, and two latencies
    for folder, make in ((family.export(tmp_path / "exported"), None), (family.save(tmp_path / "saved"), Net)):
        again = jaxnas.load(folder, make=make)
        assert again.space.cost("latency") == cost
        assert [member.costs for member in again] == [member.costs for member in family]
        assert again.at({"latency": limits[:1]})[0].costs["latency"] <= limits[0]
    other = jaxnas.measure_latency(elastic, timer=lambda archs: 2 * seconds(archs)).added_to(elastic)
    with pytest.raises(ValueError, match="latency"):
        search(other)


@pytest.fixture
def counted_clock(monkeypatch):
    """A call of a program takes a microsecond more than that of the program before."""
    seconds = {}
    monkeypatch.setattr(timing, "seconds_of_call", lambda program: 1e-6 * seconds.setdefault(program, len(seconds) + 1))
    return seconds


@pytest.mark.long
def test_built_in_spaces_are_measured_whole(counted_clock):
    space = spaces.nasbench201(cells=1, width=0.25, image_size=8)
    table = jaxnas.measure_latency(space, jnp.zeros((2, 8, 8, 3)), networks=8, check_networks=2, rounds=1)
    assert len(counted_clock) == 10
    assert (table.batch_size, table.image_size) == (2, 8)
    assert table.device == timing.device_name()
    assert table.added_to(space).cost("latency").total([[3] * 6]).shape == (1,)
    with pytest.raises(ValueError, match="different models or more"):
        jaxnas.measure_latency(tiny(), networks=8)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["jax", "onnxruntime"])
def test_real_networks_are_timed(runtime):
    if runtime == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    space = jaxnas.elastic(Net, X[:4], depth=(1, 2, 3), widths=[(32, 256, 2048)] * 3)
    inputs = np.tile(X, (32, 1))  # enough work to tell networks apart on a machine that does other things too
    table = jaxnas.measure_latency(space, inputs, runtime=runtime, networks=26, check_networks=13, rounds=7)
    assert table.versions.keys() >= {"jax", runtime}
    assert table.batch_size == len(inputs)
    assert table.check["median_absolute_error"] < 0.5
    small, large = space.choices.largest * 0, space.choices.largest
    assert 5 * table.cost.total(small) < table.cost.total(large)  # 32 units, and 2,048 in each of 3 blocks
