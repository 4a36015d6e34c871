"""Several devices in one search: networks against enumeration, penalties, settings, tables, and what is written."""

import dataclasses
import io
import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from benchmarks import devices
from experiments import cifar_search, cli, pick
from jaxnas import knapsack
from jaxnas.cost import AdditiveCost
from jaxnas.networks.latency import LatencyTable
from jaxnas.report import wording
from jaxnas.report.networks_table import result_table
from jaxnas.report.page import write_report
from jaxnas.report.progress import SearchDisplay
from jaxnas.report.runs import read_folders
from jaxnas.results import FoundArchitecture, SearchResult, read_result, settings_tree
from jaxnas.search import budgets, build, device_tables, presets, repeat
from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.strategies import ImportanceSampling, SharedModel, within_budgets
from jaxnas.tasks.finished_search import read_run
from tests import tiny_search

pytestmark = pytest.mark.long

COUNTS = (3, 2, 4)
ARCHS = np.array(list(itertools.product(*map(range, COUNTS))))
SPACE = SearchSpace("small", tuple(Decision(f"d{d}", tuple("abcd"[:n])) for d, n in enumerate(COUNTS)))
PHONE = AdditiveCost("phone", "seconds", 0.002, ((0.0, 0.004, 0.009), (0.0, 0.007), (0.001, 0.002, 0.003, 0.011)))
SERVER = AdditiveCost("server", "seconds", 0.001, ((0.0, 0.003, 0.001), (0.002, 0.0), (0.0, 0.0, 0.004, 0.001)))
INF = math.inf
SLOW = LatencyTable("tiny", "a telephone", 1, 1e-3, ((5e-4, 1e-4), (3e-4, 0.0)))
FAST = LatencyTable("tiny", "a rack", 8, 1e-5, ((1e-6, 4e-6), (3e-6, 2e-6)))  # a skip is dear here


def loss(archs):
    """Size pays, less and less."""
    return 1 / (1 + archs @ jnp.asarray([0.9, 0.5, 0.4]))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), rows=st.lists(st.integers(0, len(ARCHS) - 1), min_size=3, max_size=3))
def test_each_network_is_the_most_probable_within_the_budgets_of_its_own_devices(seed, rows):
    phone, server = PHONE.total(ARCHS), SERVER.total(ARCHS)
    limits = ((phone[rows[0]], INF), (INF, server[rows[1]]), (phone[rows[2]], server[rows[2]]))
    search = within_budgets(ImportanceSampling, SPACE, (PHONE, SERVER), limits)
    theta = np.zeros((3, len(COUNTS), max(COUNTS)))
    for d, count in enumerate(COUNTS):
        theta[:, d, :count] = np.random.default_rng([seed, d]).dirichlet(np.ones(count), 3)
    for found, one, (on_phone, on_server) in zip(search.most_probable(theta), theta, limits):
        fits = (phone <= on_phone) & (server <= on_server)
        probability = one[np.arange(len(COUNTS)), ARCHS].prod(1)
        (row,) = np.flatnonzero((found == ARCHS).all(1))
        assert fits[row]
        np.testing.assert_allclose(probability[row], probability[fits].max(), rtol=1e-5)


@pytest.mark.parametrize("method", [ImportanceSampling, pytest.param(SharedModel, marks=pytest.mark.slow)])
def test_networks_pay_for_their_own_device_alone(method):
    limits = ((0.012, INF), (0.018, INF), (INF, 0.005), (0.018, 0.003))
    search = within_budgets(method, SPACE, (PHONE, SERVER), limits, samples=4)
    bound = np.isfinite(limits)

    def step(state, key):
        archs, state = search.ask(key, state)
        state, _ = search.tell(state, archs, loss(archs))
        return state, (state.penalties, search.cost.expected(state.theta))

    start = search.init(jax.random.key(0))
    np.testing.assert_array_equal(start.penalties, bound)
    keys = jax.random.split(jax.random.key(1), 300)
    state, (penalties, expected) = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    assert (penalties[:, ~bound] == 0).all()  # no made-up budget has a price
    assert (penalties[:, bound] > 0).all()
    scaled = search._scaled_budgets()
    assert (np.asarray(expected[-100:]).mean(0) <= scaled + 0.1).all()
    found = search.modes(state)
    for arch, row in zip(found, limits):
        fits = knapsack.within(ARCHS, (PHONE, SERVER), row)
        assert knapsack.within(arch, (PHONE, SERVER), row)
        assert loss(arch) <= jnp.median(loss(ARCHS[fits]))
    # What is for the phone alone may be slow on the server.
    assert SERVER.total(found[:2]).max() > 0.003
    names = [list(row) for row in search.budgets_by_name]
    assert names == [["phone"], ["phone"], ["server"], ["phone", "server"]]
    in_use = np.asarray(state.penalties)[[0, 1, 2, 3], [0, 0, 1, 0]]
    np.testing.assert_array_equal(search.penalties_in_use(state), in_use)


def test_the_best_candidate_within_the_own_budget_wins():
    search = within_budgets(ImportanceSampling, SPACE, (PHONE, SERVER), ((0.012, INF), (INF, 0.003)))
    losses = np.asarray(loss(ARCHS))[None]
    chosen = search.select(search.init(jax.random.key(0)), ARCHS, losses)
    for one, cost, limit in zip(chosen, (PHONE, SERVER), (0.012, 0.003)):
        assert losses[0, one] == losses[0, cost.total(ARCHS) <= limit].min()


def test_unreachable_budgets_of_a_device_are_refused():
    with pytest.raises(ValueError, match=r"budget of 0.0005 seconds \(server\) is out of reach"):
        within_budgets(ImportanceSampling, SPACE, (PHONE, SERVER), ((0.02, INF), (INF, 0.0005)))
    with pytest.raises(ValueError, match="out of reach"):
        within_budgets(ImportanceSampling, SPACE, (PHONE, SERVER), ((0.02, math.nan),))


def test_budgets_that_name_devices_may_differ():
    parsed = budgets.parse(["params=1e6,phone=5e-3", "server=1e-3", "2e6"], "macs")
    assert parsed == ({"params": 1e6, "phone": 5e-3}, {"server": 1e-3}, {"macs": 2e6})
    assert budgets.parse(budgets.to_texts(parsed), "params") == parsed


def test_settings_of_one_device_and_of_several(tmp_path):
    parse = cli.parse
    for path in ("table.json", "runs/table.json", "./runs=3/table.json"):
        assert parse(cifar_search.Config, ["--latency", path]).method.latency == Path(path)
    arguments = ["--latency", "phone=a.json", "server=~/b=1.json", "--budgets", "phone=5e-3", "server=1e-3"]
    config = parse(cifar_search.Config, arguments)
    files = device_tables.parse(config.method.latency)
    assert list(files) == ["phone", "server"]
    assert files["server"].is_absolute()
    assert files["server"].name == "b=1.json"
    one = parse(cifar_search.Config, ["--latency", "phone=a.json", "--budgets", "phone=5e-3"])
    assert one.method.latency == ("phone=a.json",)
    for each in (config, one, parse(cifar_search.Config, ["--latency", "a.json"]), parse(cifar_search.Config, [])):
        document = json.loads(json.dumps(settings_tree.to_json(each)))
        assert settings_tree.from_json(type(each), document) == each
    # What decides has no paths, and is read without them.
    decisive = settings_tree.to_json(config, decisive=True)
    assert settings_tree.from_json(type(config), decisive).method.budgets == config.method.budgets


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["phone=a.json", "phone=b.json"], "each device once, got 'phone' twice"),
        (["phone=a.json", "Phone=b.json"], "each device once, got 'Phone' twice"),
        (["a.json", "b.json"], "must name a device for each of several tables.*'a.json'"),
        (["phone=a.json", "b.json"], "must name a device.*'b.json'"),
        (["phone=a.json", "server="], "must name a device.*'server='"),
        (["macs=a.json"], "not macs, params, latency, weight_memory, activation_memory, got 'macs'"),
        (["latency=a.json", "phone=b.json"], "got 'latency'"),
        (["phone=a.json", "../x=b.json"], "letters, digits.*got '../x'"),
    ],
)
def test_names_that_are_no_devices_are_refused(texts, words):
    with pytest.raises(ValueError, match=words):
        device_tables.parse(texts)


@pytest.fixture
def tables(tmp_path):
    SLOW.write(tmp_path / "slow.json")
    FAST.write(tmp_path / "fast.json")
    return f"phone={tmp_path / 'slow.json'}", f"server={tmp_path / 'fast.json'}"


def configuration(tables, *texts, **settings):
    return presets.MEMORY(preset="quickstart", space="tiny", latency=tables, budgets=texts, **settings)


def test_a_search_of_several_devices(tables):
    config = configuration(tables, "phone=1.5e-3", "server=1.5e-5,macs=1e5", "phone=1.6e-3,server=1.5e-5")
    space = build.search_space(config, tiny_search.tiny())
    assert [cost.name for cost in space.costs[-2:]] == ["phone", "server"]
    strategy = build.choose_strategy(config, space)
    assert [cost.name for cost in strategy.cost.costs] == ["phone", "server", "macs"]
    assert strategy.budgets == ((1.5e-3, INF, INF), (INF, 1.5e-5, 1e5), (1.6e-3, 1.5e-5, INF))
    assert build.inputs(config)["devices"] == {
        "phone": {"device": "a telephone", "batch_size": 1, "digest": SLOW.digest},
        "server": {"device": "a rack", "batch_size": 8, "digest": FAST.digest},
    }


def test_budgets_and_tables_that_do_not_fit_are_refused(tables, tmp_path):
    def refuses(words, given, *texts):
        config = configuration(given, *texts)
        with pytest.raises(ValueError, match=words):
            build.choose_strategy(config, build.search_space(config, tiny_search.tiny()))

    refuses("'watch'.*phone, server, .*--latency watch=FILE.json", tables, "phone=1e-2", "watch=1e-2")
    refuses("cost 'latency' is not known", tables, "phone=1e-2", "latency=1e-2")
    refuses("out of reach", tables, "phone=1e-2", "server=1e-6")
    dataclasses.replace(FAST, table=((1e-6,), (1e-6,))).write(tmp_path / "other.json")
    unfit = (tables[0], f"server={tmp_path / 'other.json'}")
    refuses(r"the latency table of server is of space 'tiny' with choices \(1, 1\)", unfit, "phone=1e-2")
    with pytest.raises(ValueError, match="absent.json cannot be read"):
        build.search_space(configuration(("phone=absent.json",), "phone=1"), tiny_search.tiny())
    with pytest.raises(ValueError, match="the name of another cost"):
        SLOW.added_to(SLOW.added_to(tiny_search.tiny(), "phone"), "phone")


def test_the_display_names_devices(tables):
    config = configuration(tables, "phone=1.5e-3", "server=1.5e-5")
    strategy = build.choose_strategy(config, build.search_space(config, tiny_search.tiny()))
    assert SearchDisplay.of(strategy, 10).labels == ("phone 0.0015", "server 1.5e-05")


def test_a_folder_names_files_of_devices_alone():
    with pytest.raises(ValueError, match="got '../../etc'"):
        device_tables.names({"devices": {"../../etc": {}}})
    assert device_tables.names({"devices": {"phone": {}}}) == ["phone"]
    assert device_tables.names(None) == device_tables.names({"devices": 3}) == ["latency"]


def test_tables_name_the_latencies_of_devices():
    found = FoundArchitecture(
        *(0, 0.1, (0, 1), "k3e3 skip", 10, 20, 0.5, 1.0, 0.5),
        {"phone": 5e-3},
        latencies={"phone": 4.5e-3, "rack": 2e-4},
    )
    assert [wording.total(found, name) for name in ("phone", "rack", "watch")] == [4.5e-3, 2e-4, None]
    assert wording.costs_of([found]) == ["macs", "params", "phone", "rack"]
    result = SearchResult("shared_model", "tiny", "digits", 0, {}, {}, 1, 1.0, (found,))
    console = Console(file=io.StringIO(), width=80)
    console.print(result_table(result))
    printed = console.file.getvalue()
    assert all(words in printed for words in ("phone ≤ 5 ms", "phone 4.5 ms", "rack 200 µs", "k3e3 skip"))
    assert max(map(len, printed.splitlines())) <= 80


@pytest.mark.parametrize("seconds", [-1e-3, "fast", True])
def test_latencies_of_a_result_are_seconds(tmp_path, seconds):
    found = FoundArchitecture(*(0, 0.1, (0, 1), "", 10, 20, 0.5, 1.0, 0.5), latencies={"phone": seconds})
    SearchResult("shared_model", "tiny", "digits", 0, {}, {}, 1, 1.0, (found,)).write(tmp_path / "result.json")
    with pytest.raises(ValueError, match="'latencies' of .* must hold seconds"):
        read_result(tmp_path / "result.json")


@pytest.mark.slow
def test_a_search_keeps_names_and_budgets_of_devices(tables, tmp_path, capsys):
    """From the command to result.json, the printed table, the page, `pick`, and resuming."""
    run = tmp_path / "run"
    small = ["--dataset=digits", "--space=tiny", "--samples=2", "--weight-steps=2", "--joint-steps=0"]
    small += ["--distribution-steps=4", "--finish-steps=0", "--batch-size=16", "--steps-per-dispatch=2"]
    shared = [f"--workdir={run}", *small, "--budgets", "phone=1.3e-3", "server=1.4e-5,params=1e5", "phone=1.9e-3"]
    cli.run(cifar_search.main, cifar_search.Config, [*shared, "--latency", *tables])
    printed = capsys.readouterr().out
    for words in ("phone ≤ 1.3 ms", "server ≤ 14 µs", "params ≤ 100k", "phone ≤ 1.9 ms"):
        assert words in printed

    result = read_result(run / "result.json")
    first, second, third = result.architectures
    assert first.budgets == {"phone": 1.3e-3}
    assert second.budgets == {"server": 1.4e-5, "params": 1e5}
    for found in result.architectures:
        costs = {"phone": SLOW.cost.total(found.encoding), "server": FAST.cost.total(found.encoding)}
        assert found.latencies == pytest.approx(costs)
        assert found.latency is found.costs is None
        totals = {**found.latencies, "params": found.params}
        assert all(totals[name] <= budget for name, budget in found.budgets.items())
    assert third.latencies["phone"] <= 1.9e-3
    assert result.config["inputs"]["devices"]["phone"]["device"] == "a telephone"

    console = Console(file=io.StringIO(), width=80)
    console.print(result_table(result))
    assert f"phone {1e3 * first.latencies['phone']:.3g} ms" in console.file.getvalue()
    write_report(tmp_path / "page.html", read_folders([run])[0])
    page = (tmp_path / "page.html").read_text()
    assert "phone ≤ 1.3 ms" in page
    assert "server ≤ 14 µs, params ≤ 100k" in page
    assert f"{1e3 * first.latencies['phone']:.3g} ms phone" in page
    words = repeat.command(result.config)
    assert "--latency phone=DIR/latency_phone.json server=DIR/latency_server.json" in words
    assert device_tables.parse(read_run(run).method.latency)["server"] == run / "latency_server.json"

    out = tmp_path / "picks.json"
    cli.run(pick.main, pick.Config, [f"--run={run}", "--budgets", "phone=1.9e-3", "server=1.4e-5", f"--out={out}"])
    picked = json.loads(out.read_text())
    assert picked[0]["costs"]["phone"] <= 1.9e-3
    assert picked[1]["costs"]["server"] <= 1.4e-5
    other = ["--latency", f"watch={tmp_path / 'slow.json'}", tables[1]]
    cli.run(pick.main, pick.Config, [f"--run={run}", "--budgets", "watch=1.3e-3", *other, f"--out={out}"])
    assert json.loads(out.read_text())[0]["costs"]["watch"] <= 1.3e-3

    def fails(*latency):
        with pytest.raises(SystemExit) as stopped:
            cli.run(cifar_search.main, cifar_search.Config, [*shared, "--latency", *latency])
        assert stopped.value.code == 2
        return capsys.readouterr().err.strip()

    # The same tables under each other's names are other costs.
    message = fails(tables[0].replace("phone", "server"), tables[1].replace("server", "phone"))
    assert message.count("\n") == 0
    FAST.write(run / "latency_phone.json")
    with pytest.raises(ValueError, match="not the latency table that the run was begun with"):
        read_folders([run])


def test_the_benchmark_compares_on_a_table(tmp_path, capsys):
    errors, bent = np.asarray(loss(ARCHS)) / 2, SERVER.total(ARCHS) + 1e-3 * (ARCHS.sum(1) > 4)  # is no sum
    np.savez(tmp_path / "t.npz", choices=ARCHS, error=errors, phone=PHONE.total(ARCHS), server=bent)
    arguments = [f"--table={tmp_path / 't.npz'}", "--costs", "phone", "server", "--method=importance_sampling"]
    small = ["--evaluations", "64", "128", "--seeds=2", "--percentiles", "40", "80", "--samples=2"]
    cli.run(devices.main, devices.Config, [*arguments, *small, f"--out={tmp_path / 'out.json'}"])
    written = json.loads((tmp_path / "out.json").read_text())
    np.testing.assert_allclose(written["budgets"], [np.percentile(x, [40, 80]) for x in (PHONE.total(ARCHS), bent)])
    assert [row["evaluations"] for row in written["rows"]] == [64, 128]
    for row in written["rows"]:
        for name in ("together", "alone"):
            by_network = row[f"{name}_by_network"]
            assert len(by_network) == 4
            assert all(0 <= distance < 0.4 for distance in by_network)
            np.testing.assert_allclose(row[name], np.mean(by_network), rtol=1e-6)
        assert 0 <= row["p"] <= 1
    assert "one search" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.run(devices.main, devices.Config, [f"--table={tmp_path / 't.npz'}", "--costs", "phone"])
    assert "two arrays or more" in capsys.readouterr().err
