"""Memory as a cost: the largest of parts against enumeration, bytes against the networks themselves, and searches."""

import dataclasses
import io
import itertools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import jaxnas
from experiments import pick
from jaxnas import distribution, knapsack, spaces
from jaxnas.cost import AdditiveCost, InteractionCost, JointCost, LargestCost
from jaxnas.family.description import describe, space_of
from jaxnas.networks.mbconv import MBConvNetwork
from jaxnas.relaxation import RCDarts
from jaxnas.relaxation.base import Settings as RelaxationSettings
from jaxnas.report import runs, wording
from jaxnas.report.networks_table import result_table
from jaxnas.search import budgets, build, presets
from jaxnas.search.answer import costs_of
from jaxnas.selection import picking
from jaxnas.spaces import Decision, SearchSpace, memory
from jaxnas.strategies import ImportanceSampling, SharedModel, within_budgets
from tests.test_picking import observe
from tests.test_report_page import write_run

MEASURED = {"probability": 0.5, "valid_loss": 1.0, "valid_accuracy": 0.5}
COUNTS = (3, 2, 4)
ARCHS = np.array(list(itertools.product(*map(range, COUNTS))))
PEAK = LargestCost("peak", "bytes", 30, ((10, 40, 90), (20, 70), (31, 25, 60, 110)))
MACS = AdditiveCost("macs", "multiply-adds", 10, ((0, 4, 9), (0, 7), (1, 2, 3, 11)))
SECONDS = InteractionCost("latency", "seconds", 0.5, ((0, 1, 0), (0, 2), (0, 0, 0, 0)), (((0, 2), tuple(range(12))),))
SPACE = SearchSpace("small", tuple(Decision(f"d{d}", tuple("abcd"[:n])) for d, n in enumerate(COUNTS)), (MACS, PEAK))


def thetas(rng, count):
    theta = np.zeros((count, len(COUNTS), max(COUNTS)))
    for d, n in enumerate(COUNTS):
        theta[:, d, :n] = rng.dirichlet(np.full(n, 0.5), count)
    return theta


def peaks():
    """By the definition, one architecture after the other."""
    return np.array([max(30, *(row[c] for row, c in zip(PEAK.table, arch))) for arch in ARCHS.tolist()])


def test_the_largest_part_counts():
    totals = PEAK.total(ARCHS)
    assert totals.dtype.kind == "i"
    np.testing.assert_array_equal(totals, peaks())
    assert (PEAK.lowest, PEAK.highest) == (30, 110) == (totals.min(), totals.max())
    np.testing.assert_allclose(jax.jit(PEAK)(ARCHS), (totals - 30) / 80, atol=1e-6)
    assert [PEAK.scale(total) for total in (30, 70, math.inf)] == [0, 0.5, math.inf]


def test_equal_peaks_scale_to_0():
    flat = LargestCost("peak", "bytes", 200, PEAK.table)
    np.testing.assert_array_equal(flat(ARCHS), np.zeros(len(ARCHS)))
    np.testing.assert_array_equal(flat.expected(jnp.asarray(thetas(np.random.default_rng(0), 2))), [0, 0])


def test_the_expected_peak_is_exact():
    theta = thetas(np.random.default_rng(3), 5)
    probabilities = theta[:, np.arange(len(COUNTS)), ARCHS].prod(-1)
    expected = probabilities @ ((peaks() - 30) / 80)
    found = jax.jit(JointCost((MACS, PEAK)).expected)(jnp.asarray(theta))
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), row=st.integers(0, len(ARCHS) - 1), floor=st.sampled_from([-math.inf, 31, 60, 90]))
def test_networks_within_budgets_equal_enumeration(seed, row, floor):
    gain = np.where(distribution.valid_choices(COUNTS), np.random.default_rng(seed).normal(size=(3, 4)), -np.inf)
    costs, limits = (PEAK, MACS, SECONDS), [cost.total(ARCHS[row]) for cost in (PEAK, MACS, SECONDS)]
    lower = [floor, -math.inf, -math.inf]
    fits = knapsack.within(ARCHS, costs, limits, lower)
    if not fits.any():
        with pytest.raises(ValueError, match="cannot be met"):
            knapsack.largest_sum(gain, costs, limits, lower)
        return
    found = knapsack.largest_sum(gain, costs, limits, lower)
    sums = gain[np.arange(3), ARCHS].sum(-1)
    assert knapsack.within(found, costs, limits, lower)
    assert gain[np.arange(3), found].sum() == pytest.approx(sums[fits].max(), abs=1e-6)


def test_a_budget_below_the_least_peak_names_the_range():
    with pytest.raises(ValueError, match=r"budget of 29 bytes \(peak\) is out of reach.*30 to 110"):
        knapsack.most_probable(thetas(np.random.default_rng(0), 1)[0], [PEAK], [29])


@pytest.mark.parametrize("size", [picking.LARGEST_ENUMERATED, 1])
def test_picks_keep_budgets_of_the_peak(size, monkeypatch):
    monkeypatch.setattr(picking, "LARGEST_ENUMERATED", size)  # by enumeration, and as an integer programme
    losses = 1 - 0.1 * ARCHS.sum(1) / sum(COUNTS)  # larger choices are better
    limits = [{"peak": 45}, {"peak": 60, "macs": 17}, {"peak": 110}]
    for limit, found in zip(limits, picking.pick(SPACE, observe(SPACE, losses, noise=1e-4), limits)):
        fits = knapsack.within(ARCHS, [SPACE.cost(name) for name in limit], list(limit.values()))
        assert losses[(found.encoding == ARCHS).all(1)] == losses[fits].min()
        assert found.costs["peak"] <= limit["peak"]


@pytest.mark.parametrize("method", [ImportanceSampling, pytest.param(SharedModel, marks=pytest.mark.slow)])
def test_a_search_with_budgets_of_the_peak(method):
    def loss(archs):
        return 1 / (1 + archs @ jnp.asarray([0.9, 0.5, 0.4]))

    limits = ((45,), (70,), (110,))
    search = within_budgets(method, SPACE, (PEAK,), limits, samples=4)

    def step(state, key):
        archs, state = search.ask(key, state)
        state, _ = search.tell(state, archs, loss(archs))
        return state, None

    start, keys = search.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 300)
    state, _ = jax.jit(lambda: jax.lax.scan(step, start, keys))()
    found = search.modes(state)
    assert [dict(one) for one in search.budgets_by_name] == [{"peak": most} for (most,) in limits]
    np.testing.assert_array_equal(search.fits(ARCHS), PEAK.total(ARCHS) <= limits)
    assert (PEAK.total(found) <= np.ravel(limits)).all()
    best = [float(loss(ARCHS[fits]).min()) for fits in search.fits(ARCHS)]
    assert (loss(found) <= np.asarray(best) + 0.03).all()  # of 0.22 to 1


def simulated_peak(space, arch):
    """Numbers held at once while the network itself runs, by the liveness of the arrays of its program.

    Only convolutions, the pooling and the classifier make new arrays; what else there is works in place.
    """
    network = MBConvNetwork(space, tuple(arch))
    images = jnp.zeros((1, space.image_size, space.image_size, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    program = jax.make_jaxpr(network.apply)(variables, images).jaxpr
    given = program.invars[-1]  # the images
    held = {given: given}  # arrays that depend on the images, and where they lie
    uses, made = {}, {}
    for place, equation in enumerate(program.eqns):
        read = [var for var in equation.invars if not isinstance(var, jax.extend.core.Literal) and var in held]
        for var in read:
            uses[held[var]] = place
        if not read:
            continue
        (out,) = equation.outvars
        # The library's convolutions have gradients of their own.
        makes = equation.primitive.name in ("custom_vjp_call", "conv_general_dilated", "dot_general", "reduce_sum")
        latest = max(read, key=lambda var: (var.aval.size, made.get(held[var], -1)))
        held[out] = out if makes else held[latest]
        if makes:
            made[out] = place
    made[given] = -1
    return max(
        sum(array.aval.size for array, since in made.items() if since <= place <= uses.get(array, since))
        for place in made.values()
    )


@pytest.mark.parametrize("name", ["nasbench_macro", "mbconv_cifar10", "mbconv_digits"])
def test_activations_are_those_of_the_networks(name):
    space = spaces.SPACES[name](width=0.25, image_size=8)
    cost = memory.activation_memory(space, bits=16)
    for arch in space.sample_uniform(np.random.default_rng(0), 4):
        assert cost.total(arch) == 2 * simulated_peak(space, arch.tolist())


def test_the_peak_of_a_layer_by_hand():
    layer = spaces.nasbench_macro().layers[1]  # 64 channels at 16x16, in and out
    k5_e6 = layer.operations[2]
    assert memory.layer_activations(layer, layer.operations[0]) == 64 * 256
    assert memory.layer_activations(layer, k5_e6) == (64 + 384 + 384) * 256  # the depthwise, with the input kept
    first = spaces.nasbench_macro().layers[0]  # 32 to 64 channels, stride 2 from 32x32
    assert memory.layer_activations(first, first.operations[0]) == 32 * 1024 + 64 * 256
    assert memory.layer_activations(first, first.operations[2]) == 192 * 1024 + 192 * 256


def test_weights_are_those_of_the_networks():
    space = spaces.mbconv_digits(width=0.5)
    arch = [3, 0, 4, 2, 1, 0]
    params = MBConvNetwork(space, tuple(arch)).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert [memory.weight_memory(space, bits).total(arch) for bits in (32, 16, 8, 4)] == [
        4 * size,
        2 * size,
        size,
        size / 2,
    ]


def test_spaces_of_the_users_own_models():
    def make(hidden, depth):
        def init(key, x):
            first = jax.random.normal(key, (4, hidden))
            return {"in": first, "out": jnp.ones((hidden, 2)), "more": [jnp.ones((hidden, hidden))] * depth}

        def apply(params, x):
            h = jax.nn.relu(x @ params["in"])
            for matrix in params["more"]:
                h += jax.nn.relu(h @ matrix)
            return h @ params["out"]

        return init, apply

    space = jaxnas.elastic(make, inputs=jnp.ones((3, 4)), hidden=(2, 5, 8), depth=(1, 2))
    space = memory.added_to(space, ["weight_memory"], weight_bits=8)
    params = space.init_params(jax.random.key(0))
    for arch in itertools.product(range(3), range(2)):
        leaves = jax.tree.leaves(space.extract(params, arch))
        assert space.cost("weight_memory").total(arch) == sum(leaf.size for leaf in leaves)
    read = space_of(describe(space), make)
    assert read.costs == space.costs
    with pytest.raises(ValueError, match="activation_memory is known of spaces of MBConv layers alone"):
        memory.added_to(space, ["activation_memory"])


@pytest.mark.long
def test_a_users_own_cost_in_bytes_is_as_before_there_was_memory(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    space = jaxnas.elastic(
        lambda hidden: (lambda key, x: {"w": jnp.ones((4, hidden))}, lambda params, x: (x @ params["w"]).sum(-1)),
        inputs=inputs[:3],
        hidden=(2, 5, 8),
    )
    own = dataclasses.replace(space, costs=(*space.costs, AdditiveCost("ram", "bytes", 10, ((1000, 2000, 3500),))))
    data = {"train": (inputs, inputs[:, 0]), "valid": (inputs, inputs[:, 0])}

    def search(space, name, limit):
        return jaxnas.search(
            space,
            loss=lambda outputs, batch: ((outputs - batch[1]) ** 2).mean(),
            **data,
            budgets={name: (limit,)},
            steps=3,
            batch_size=8,
            workdir=tmp_path / name,
        )

    family = search(own, "ram", 1500)
    assert "measured_costs" not in family.result.config  # a folder of an earlier version can be resumed
    assert "| 1,010 |" in str(family)
    family = search(memory.added_to(space, ["weight_memory"], 8), "weight_memory", 19)
    assert "| 8 B |" in str(family)
    with pytest.raises(ValueError, match="holds another search, different in measured_costs"):
        search(memory.added_to(space, ["weight_memory"], 16), "weight_memory", 19)


@pytest.mark.parametrize("config", [{}, {"method": {"method": "shared_model"}}, {"method": {"weight_bits": 32}}])
def test_a_report_knows_the_bits_of_its_networks(config, tmp_path):
    space = memory.added_to(spaces.mbconv_digits(), memory.NAMES, 8, 4)
    archs = np.array([[0, 1, 2, 3, 4, 4], [1, 0, 4, 4, 4, 4], [0, 0, 0, 0, 0, 0]])
    found = [
        jaxnas.results.FoundArchitecture(k, 0.1 + k, arch, "", **costs_of(space, arch), **MEASURED)
        for k, arch in enumerate(archs)
    ]
    write_run(tmp_path, "mbconv_digits", archs, architectures=found, config=config)
    (run,), _ = runs.read_folders([tmp_path])
    for name in memory.NAMES:
        assert run.space.cost(name) == space.cost(name)


def test_a_description_keeps_the_kind_of_a_cost():
    space = jaxnas.elastic(
        lambda hidden: (lambda key, x: {"w": jnp.ones((4, hidden))}, lambda params, x: (x @ params["w"]).sum(-1)),
        inputs=jnp.ones((3, 4)),
        hidden=(2, 5, 8),
    )
    peak = LargestCost("peak", "bytes", 4, ((1, 6, 9),))
    described = describe(dataclasses.replace(space, costs=(*space.costs, peak)))
    assert space_of(described, None).cost("peak") == peak


@pytest.mark.parametrize("bits", [0, -8, math.inf, "8"])
def test_bits_must_be_positive(bits):
    with pytest.raises(ValueError, match="weight bits must be positive"):
        memory.weight_memory(spaces.mbconv_digits(), bits)


def test_bits_of_any_number_type():
    space = spaces.mbconv_digits()
    expected = memory.weight_memory(space, 8)
    assert memory.weight_memory(space, np.int64(8)) == expected
    assert isinstance(memory.weight_memory(space, np.int64(8)).fixed, int)
    assert memory.weight_memory(space, np.float32(8)) == expected


def test_memory_is_not_added_for_other_bits_in_silence():
    space = memory.added_to(spaces.mbconv_digits(), ["weight_memory"], weight_bits=8)
    assert memory.added_to(space, ["weight_memory", "macs"], weight_bits=8).costs == space.costs
    with pytest.raises(ValueError, match="has weight_memory for 8 bits already, got 32; add it once"):
        memory.added_to(space, ["weight_memory"], weight_bits=32)
    for name in ("mbconv_digits", "nasbench201"):  # a user's own, of any space
        base = spaces.SPACES[name]()
        own = dataclasses.replace(base.cost("macs"), name="activation_memory")
        space = dataclasses.replace(base, costs=(*base.costs, own))
        assert memory.added_to(space, ["activation_memory"]).costs == space.costs


@pytest.mark.parametrize("name", ["weight_bits", "activation_bits"])
def test_bits_of_no_cost_are_refused(name):
    cost = name.replace("bits", "memory")
    space = spaces.mbconv_digits()
    with pytest.raises(ValueError, match=f"{name} is for {cost}, which has no budget here and is not the cost, got 8"):
        build.search_space(presets.MEMORY(preset="quickstart", budgets=("9e5",), **{name: 8}), space)
    for named in ({"cost": cost}, {"budgets": (f"{cost}=1e5",)}):
        found = build.search_space(presets.MEMORY(preset="quickstart", **named, **{name: 8}), space)
        assert found.cost(cost) == memory.added_to(space, [cost], 8, 8).cost(cost)
    with pytest.raises(ValueError, match=f"{name} is for {cost}"):
        pick.main(pick.Config(run=Path("runs/none"), budgets=("9e5",), **{name: 8}))


def test_a_budget_that_binds_nothing_leaves_the_first_penalty():
    archs = jnp.asarray(ARCHS)
    losses = jnp.asarray(1 - 0.1 * ARCHS.sum(1) / sum(COUNTS))
    firsts = []
    for costs, limits in (((MACS,), ((20,), (25,))), ((MACS, PEAK), ((20, 110), (25, 500)))):
        search = within_budgets(ImportanceSampling, SPACE, costs, limits, samples=len(ARCHS) // 2)
        state, _ = search.tell(search.init(jax.random.key(0)), archs, losses)
        firsts.append(float(state.first_penalty))
        np.testing.assert_array_equal(search.fits(ARCHS), [MACS.total(ARCHS) <= 20, MACS.total(ARCHS) <= 25])
    assert firsts[0] == pytest.approx(firsts[1], rel=1e-6)


def test_settings_name_costs_of_memory():
    texts = [
        f"macs={macs},weight_memory={weights},activation_memory={activations}"
        for macs, weights, activations in ((9e5, 4e4, 7e3), (5e5, 3e4, 5e3))
    ]
    config = presets.MEMORY(preset="quickstart", budgets=tuple(texts), weight_bits=8, activation_bits=8)
    assert config.method.costs == ("macs", "weight_memory", "activation_memory")
    strategy = build.choose_strategy(config, build.search_space(config, spaces.mbconv_digits()))
    assert budgets.to_texts(strategy.budgets_by_name) == config.method.budgets
    found = strategy.modes(strategy.init(jax.random.key(0)))
    np.testing.assert_array_equal(np.diagonal(strategy.fits(found)), True)
    space = strategy.space
    for arch, budget in zip(found, strategy.budgets_by_name):
        assert all(space.cost(name).total(arch) <= limit for name, limit in budget.items())
    plain = presets.MEMORY(preset="quickstart")
    assert [cost.name for cost in build.search_space(plain, spaces.mbconv_digits()).costs] == ["macs", "params"]
    with pytest.raises(ValueError, match="weight_bits must be at least 1"):
        presets.MEMORY(preset="quickstart", weight_bits=0)
    typo = presets.MEMORY(preset="quickstart", budgets=("weight_memroy=1e5",))
    with pytest.raises(ValueError, match="none of macs, params, weight_memory, activation_memory, nor a device"):
        build.choose_strategy(typo, build.search_space(typo, spaces.mbconv_digits()))
    wrong = presets.MEMORY(preset="quickstart", cost="activation_memory")
    with pytest.raises(ValueError, match="activation_memory is known of spaces of MBConv layers alone"):
        build.search_space(wrong, spaces.nasbench201())


def test_reports_show_bytes():
    space = memory.added_to(spaces.mbconv_digits(), memory.NAMES, 8, 8)
    arch = np.array([1, 0, 4, 4, 4, 4])
    costs = costs_of(space, arch)["costs"]
    found = jaxnas.results.FoundArchitecture(
        0, 0.1, arch, "", 1, 1, 0.5, 0.1, 0.9, costs=costs, budgets={"weight_memory": 2e4}
    )
    weights, activations = (f"{costs[name] / 1e3:.3g} kB" for name in memory.NAMES)
    assert wording.memory_of(found) == [f"{weights} of weights", f"{activations} of activations"]
    result = jaxnas.results.SearchResult("m", space.name, "d", 0, {}, {}, 1, 1.0, (found,))
    printed = io.StringIO()
    Console(file=printed, width=80).print(result_table(result))
    assert f"({weights} of weights, {activations} of activations)" in " ".join(printed.getvalue().split())
    assert wording.within(found) == "weight_memory ≤ 20 kB"
    assert wording.quantity("weight_memory", 3.5e6) == "3.5 MB"


def test_costs_that_are_no_sums_are_refused_where_sums_are_needed():
    with pytest.raises(ValueError, match="costs must be AdditiveCost, got LargestCost"):
        RCDarts(SPACE, RelaxationSettings(10), costs=(PEAK,))
