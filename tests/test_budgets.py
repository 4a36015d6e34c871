"""Budgets: the most probable architecture within them against enumeration, and the search that steers towards them."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import cifar_search, cli, tabular_budgets
from jaxnas import knapsack, strategies, tasks
from jaxnas.cost import AdditiveCost, JointCost
from jaxnas.results import evaluations, read_result, settings_tree
from jaxnas.search import budgets
from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.strategies import ImportanceSampling, SharedModel, within_budgets
from tests import tiny_search

COUNTS = (3, 2, 4)
ARCHS = np.array(list(itertools.product(*map(range, COUNTS))))
SPACE = SearchSpace("small", tuple(Decision(f"d{d}", tuple("abcd"[:n])) for d, n in enumerate(COUNTS)))
MACS = AdditiveCost("macs", "multiply-adds", 10, ((0, 4, 9), (0, 7), (1, 2, 3, 11)))
LATENCY = AdditiveCost("latency", "seconds", 0.001, ((0.0, 0.003, 0.001), (0.002, 0.0), (0.0, 0.0, 0.004, 0.001)))


def random_theta(seed):
    """Probabilities [D, C] with zeros in the padding."""
    theta = np.zeros((len(COUNTS), max(COUNTS)))
    for d, count in enumerate(COUNTS):
        theta[d, :count] = np.random.default_rng([seed, d]).dirichlet(np.ones(count))
    return theta


def probabilities(theta):
    return theta[np.arange(len(COUNTS)), ARCHS].prod(1)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), first=st.integers(0, len(ARCHS) - 1), second=st.integers(0, len(ARCHS) - 1))
def test_most_probable_equals_enumeration_and_a_budget_met_exactly_is_met(seed, first, second):
    theta, costs = random_theta(seed), (MACS, LATENCY)
    # Totals of architectures: whether one is within the budget hangs on the last bit.
    limits = (MACS.total(ARCHS[first]), LATENCY.total(ARCHS[second]))
    fits = (MACS.total(ARCHS) <= limits[0]) & (LATENCY.total(ARCHS) <= limits[1])
    np.testing.assert_array_equal(knapsack.within(ARCHS, costs, limits), fits)
    if not fits.any():
        with pytest.raises(ValueError, match="cannot be met by one architecture together"):
            knapsack.most_probable(theta, costs, limits)
        return
    found = knapsack.most_probable(theta, costs, limits)
    assert knapsack.within(found, costs, limits)
    (row,) = np.flatnonzero((found == ARCHS).all(1))
    np.testing.assert_allclose(probabilities(theta)[row], probabilities(theta)[fits].max(), rtol=1e-5)


def test_a_budget_one_unit_short_is_not_met():
    theta = np.zeros((3, 4))
    theta[:, :2] = [[0.01, 0.99]] * 3
    big = AdditiveCost("macs", "multiply-adds", 0, ((0, 50_000_000), (0, 50_000_001), (0, 50_000_000)))
    total = 150_000_001
    np.testing.assert_array_equal(knapsack.most_probable(theta, [big], [total]), [1, 1, 1])
    assert knapsack.most_probable(theta, [big], [total - 1]).sum() == 2


def test_an_unreachable_budget_is_refused_with_the_range():
    with pytest.raises(ValueError, match=r"budget of 10 multiply-adds \(macs\) is out of reach.* 11 to 37"):
        within_budgets(ImportanceSampling, SPACE, [MACS], [[20], [10]])


def test_measured_costs_are_refused():
    search = within_budgets(ImportanceSampling, SPACE, [MACS], [[20], [37]])
    archs, state = search.ask(jax.random.key(0), search.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"costs must be None here: .* expected costs"):
        search.tell(state, archs, jnp.zeros(len(archs)), jnp.zeros((len(archs), 1)))


def test_expected_cost_is_the_mean_over_all_architectures():
    theta = random_theta(1)
    expected = JointCost((MACS, LATENCY)).expected(jnp.asarray(theta, jnp.float32)[None])
    mean = [probabilities(theta) @ np.asarray(cost(ARCHS)) for cost in (MACS, LATENCY)]
    np.testing.assert_allclose(expected[0], mean, rtol=1e-5)


def loss(archs):
    """Size pays, less and less; another slope for each decision."""
    return 1 / (1 + archs @ jnp.asarray([0.9, 0.5, 0.4]))


@functools.cache
def searched(method, scale):
    search = within_budgets(method, SPACE, (MACS, LATENCY), ((20.0, 1.0), (37.0, 0.006), (28.0, 1.0)))

    def step(state, key):
        archs, state = search.ask(key, state)
        state, _ = search.tell(state, archs, scale * loss(archs))
        return state, search.cost.expected(state.theta)

    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))
    state, expected = run(search.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 400))
    return search, state, expected


@pytest.mark.parametrize("method", [pytest.param(SharedModel, marks=pytest.mark.slow), ImportanceSampling])
def test_expected_costs_come_to_the_budgets_and_networks_are_within_them(method):
    search, state, expected = searched(method, 1.0)
    found = search.modes(state)
    mean, scaled = np.asarray(expected[-100:]).mean(0), search._scaled_budgets()
    assert (mean <= scaled + 0.1).all()
    for arch, budget in zip(found, search.budgets):
        fits = knapsack.within(ARCHS, search.cost.costs, budget)
        assert knapsack.within(arch, search.cost.costs, budget)
        assert loss(arch) <= np.median(loss(ARCHS[fits]))
    assert (np.asarray(state.inner.penalties) > 0).all()


@pytest.mark.slow
def test_losses_of_another_scale_make_the_same_search():
    (search, one, _), (_, large, _) = searched(SharedModel, 1.0), searched(SharedModel, 1000.0)
    np.testing.assert_array_equal(search.modes(one), search.modes(large))


def test_additive_cost_of_a_table():
    table = tasks.Table.from_arrays(ARCHS, np.full(len(ARCHS), 0.5), MACS.total(ARCHS).astype(float))
    cost = tasks.additive_cost(table, "flops")
    np.testing.assert_allclose(cost.total(ARCHS), MACS.total(ARCHS))
    bent = table.cost + (ARCHS.sum(1) > 4)
    with pytest.raises(ValueError, match="cost 'flops' must be a sum over decisions"):
        tasks.additive_cost(tasks.Table.from_arrays(ARCHS, table.error, bent), "flops")


def run_command(folder, *arguments):
    np.savez(folder / "table.npz", choices=ARCHS, error=np.asarray(loss(ARCHS)), flops=MACS.total(ARCHS))
    cli.run(
        tabular_budgets.main,
        tabular_budgets.Config,
        [f"--table={folder / 'table.npz'}", "--cost=flops", f"--out={folder / 'out'}", *arguments],
    )


def test_the_command_returns_networks_within_their_budgets(tmp_path):
    run_command(tmp_path, "--budgets", "15", "30", "--noise=0.02", "--evaluations=160", "--seeds=3")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    cost = MACS.total(result["encodings"])
    assert result["over_budget"] == 0
    assert cost.shape == (3, 2)
    assert (cost <= [15, 30]).all()
    errors = np.asarray(loss(ARCHS))
    best = [errors[MACS.total(ARCHS) <= budget].min() for budget in (15, 30)]
    np.testing.assert_allclose(result["distance"], np.asarray(loss(np.asarray(result["encodings"]))) - best, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--budgets", "5"], "out of reach"),
        (["--budgets", "20", "--percentiles", "10"], "give either"),
        (["--percentiles", "101"], "between 0 and 100"),
        (["--budgets", "20", "--method=random"], "method must be"),
        (["--budgets", "20", "--method=importance"], "now called 'shared_model'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        run_command(tmp_path, *arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert words in message
    assert "\n" not in message


def test_registry_methods_that_take_budgets_keep_penalties_in_their_state():
    for name in ("shared_model", "importance_sampling"):
        state = strategies.make(name, SPACE, (0.1, 0.2), cost=MACS).init(jax.random.key(0))
        np.testing.assert_allclose(state.penalties, [[0.1], [0.2]])


def test_budgets_on_the_command_line():
    assert budgets.parse(["30e6", "6e7"], "macs") == ({"macs": 30e6}, {"macs": 60e6})
    several = budgets.parse(["macs=60e6,params=1e6", "params=2e6,macs=1e6"], "macs")
    assert several == ({"macs": 60e6, "params": 1e6}, {"macs": 1e6, "params": 2e6})
    assert list(several[1]) == ["macs", "params"]  # one order for all


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["much"], "positive numbers"),
        (["nan"], "positive numbers"),
        (["-1"], "positive numbers"),
        (["macs=1,macs=2"], "once each"),
        (["1", "params=2"], "the same costs"),
        ([], "at least one"),
    ],
)
def test_what_is_no_budget_is_refused(texts, words):
    with pytest.raises(ValueError, match=words):
        budgets.parse(texts, "macs")


def test_all_candidates_compete_within_each_budget():
    archs, losses = ARCHS[[0, 5, 23]], np.array([[0.9, 0.3, np.nan]])
    log_probs = np.log([[0.1, 0.1, 0.8]] * 3)
    select = functools.partial(knapsack.likely_within, costs=[MACS])
    chosen = select(losses, log_probs, archs, budgets=[[11], [MACS.total(ARCHS[5])], [100]])
    np.testing.assert_array_equal(chosen, [0, 1, 1])
    with pytest.raises(ValueError, match="must hold one within"):
        select(losses[:, 2:], log_probs[:1, 2:], archs[2:], budgets=[[100]])


def test_of_candidates_that_measure_alike_the_most_probable_is_taken():
    archs, log_probs = ARCHS[[0, 5, 23]], np.log([[0.1, 0.3, 0.6]])
    # Behind by 0.01 in the mean: over minibatches that differ by 0.02 the standard error is 0.02 / sqrt(3) > 0.01.
    alike = np.array([[0.5, 0.5, 0.49], [0.5, 0.4, 0.41], [0.5, 0.3, 0.33]])
    clear = alike + [0, 0, 0.02]
    for losses, expected in ((alike, 2), (clear, 1)):
        chosen = knapsack.likely_within(losses, log_probs, archs, [MACS], [[100]])
        np.testing.assert_array_equal(chosen, [expected])


@pytest.mark.slow
@pytest.mark.parametrize("main_effects", [0, 32])
def test_a_supernet_search_keeps_its_budgets(main_effects, tmp_path):
    """`tiny_search`: two layers, an MBConv or a skip each."""
    space = tiny_search.tiny()
    totals = np.sort(space.cost("macs").total(list(itertools.product(range(2), range(2)))))
    small = {"weight_steps": 2, "distribution_steps": 4, "finish_steps": 0}
    small |= {"batch_size": 16, "samples": 2, "steps_per_dispatch": 2}
    small |= {"main_effects": main_effects, "candidates": 2}
    config = cifar_search.Config(
        workdir=tmp_path,
        dataset="digits",
        space="tiny",
        budgets=(f"macs={totals[1]},params=1e9", f"macs={totals[3]},params=1e9"),
        **small,
    )
    cifar_search.main(config)
    first, second = read_result(tmp_path / "result.json").architectures
    assert first.macs <= totals[1]
    assert first.budgets == {"macs": totals[1], "params": 1e9}
    assert second.macs <= totals[3]
    uniform = tmp_path / evaluations.UNIFORM
    assert uniform.exists() == bool(main_effects)
    if main_effects:
        kept, about = evaluations.read_evaluations(uniform)
        assert kept.archs.shape == (2, 16, 2)
        assert about == evaluations.read_evaluations(tmp_path / evaluations.NAME)[1]
    with pytest.raises(ValueError, match="out of reach"):
        cifar_search.main(settings_tree.replace(config, workdir=tmp_path / "other", budgets=("1",)))
    with pytest.raises(ValueError, match="not both"):
        cifar_search.main(settings_tree.replace(config, workdir=tmp_path / "other", penalties=(0.1,)))
