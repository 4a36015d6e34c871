"""The shared model against enumeration, a ridge regression in numpy, and the invariances that it claims."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.strategies import make
from jaxnas.strategies.shared_model import design as designs
from jaxnas.strategies.shared_model import posterior as posteriors
from jaxnas.strategies.shared_model import strategy as strategy_module
from jaxnas.strategies.shared_model.strategy import SharedModel
from jaxnas.tasks import TabularTask, synthetic_table

COUNTS = (3, 1, 2, 4)
PENALTIES = (0.0, 0.1, 0.4)
STEPS = 24
NOISE = 0.003  # without any, draws would be equal, and rounding would decide between architectures of equal worth
DESIGN = designs.build(COUNTS)


@functools.cache
def task():
    """Errors of single choices and of neighbouring pairs, without noise: the model's own family."""
    return TabularTask.from_table(synthetic_table(COUNTS, seed=5))


@functools.cache
def strategy(scale=1.0):
    penalties = tuple(scale * penalty for penalty in PENALTIES)
    return SharedModel(task().space, penalties, samples=4, cost=task().cost, spread=0.25)


def all_archs():
    return np.stack(np.unravel_index(np.arange(np.prod(COUNTS)), COUNTS), axis=1).astype(np.int32)


def search(method, seed):
    """Theta after each step, [STEPS, K, D, C]."""

    def step(state, key):
        ask_key, noise_key = jax.random.split(key)
        archs, state = method.ask(ask_key, state)
        noise = NOISE * jax.random.normal(noise_key, archs.shape[:1])
        losses = task().lookup(archs) + noise
        state, _ = method.tell(state, archs, losses)
        return state, state.theta

    init_key, scan_key = jax.random.split(jax.random.key(seed))
    return jax.lax.scan(step, method.init(init_key), jax.random.split(scan_key, STEPS))[1]


@functools.cache
def searches():
    """Three searches in one program, [3, STEPS, K, D, C]."""
    program = jax.jit(jax.vmap(functools.partial(search, strategy())))
    return np.asarray(program(jnp.arange(3)))


def test_features_are_orthonormal_under_uniform_choices():
    features = np.asarray(DESIGN.features(jnp.asarray(all_archs())), np.float64)
    assert features.shape == (24, DESIGN.size)
    assert DESIGN.size == (2 + 1 + 3) + (2 * 1 + 2 * 3 + 1 * 3)
    np.testing.assert_array_equal(DESIGN.order, [0] * 6 + [1] * 11)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(features.T @ features / 24, np.eye(DESIGN.size), atol=1e-5)


def test_spaces_with_too_many_pairs_are_modelled_by_single_choices():
    large = designs.build((7,) * 21)
    assert large.size == 21 * 6
    assert not large.order.any()


def test_split_is_the_model_as_a_quadratic_form():
    coefficients = jax.random.normal(jax.random.key(0), (2, DESIGN.size))
    archs = jnp.asarray(all_archs())
    linear, quadratic = DESIGN.split(coefficients)
    singles = DESIGN.singles(archs)
    both = jnp.einsum("na,kab,nb->kn", singles, quadratic, singles)
    np.testing.assert_allclose(linear @ singles.T + both / 2, coefficients @ DESIGN.features(archs).T, atol=1e-4)
    np.testing.assert_array_equal(DESIGN.pairs_of(quadratic), coefficients[:, 6:])


def test_curvatures_hold_the_square_of_an_additive_score():
    archs = jnp.asarray(all_archs())
    additive, cost = jax.random.normal(jax.random.key(0), (2, 6))
    directions = designs.curvatures(DESIGN, additive, cost)
    np.testing.assert_allclose(jnp.linalg.norm(directions, axis=0), 1, rtol=1e-5)
    score, price = DESIGN.singles(archs) @ additive, DESIGN.singles(archs) @ cost
    one_hot = np.asarray(jax.nn.one_hot(archs, 4)).reshape(24, -1)
    for column, product in zip(directions.T, (score**2, score * price, price**2)):
        pairs = DESIGN.features(archs)[:, 6:] @ column
        # What the direction does not explain must be additive: a function of single decisions.
        x = np.concatenate([np.asarray(pairs)[:, None], one_hot], axis=1)
        np.testing.assert_allclose(x @ np.linalg.lstsq(x, product, rcond=1e-5)[0], product, atol=1e-3)


def test_coordinate_descent_is_enumeration_for_additive_models():
    archs = all_archs()
    additive = jax.random.normal(jax.random.key(0), (50, DESIGN.size)) * (DESIGN.order == 0)
    values = np.asarray(additive @ DESIGN.features(jnp.asarray(archs)).T)
    start = jnp.zeros((50, len(COUNTS)), jnp.int32)
    found = designs.descend(DESIGN, additive, start, sweeps=1)
    np.testing.assert_array_equal(found, archs[values.argmin(1)])
    singles = dataclasses.replace(DESIGN, left=DESIGN.left[:0], right=DESIGN.right[:0])
    no_pairs = designs.descend(singles, additive[:, : singles.size], start, sweeps=1)
    np.testing.assert_array_equal(no_pairs, found)


def test_coordinate_descent_ends_where_no_single_change_improves():
    archs = all_archs()
    models = jax.random.normal(jax.random.key(1), (50, DESIGN.size))
    values = np.asarray(models @ DESIGN.features(jnp.asarray(archs)).T)  # [50, 24]
    start = jnp.asarray(archs[np.arange(50) % 24])
    found = np.asarray(designs.descend(DESIGN, models, start, sweeps=8))
    neighbours = (found[:, None] != archs[None]).sum(-1) <= 1
    reached = values[np.arange(50), np.ravel_multi_index(found.T, COUNTS)]
    np.testing.assert_allclose(reached, np.where(neighbours, values, np.inf).min(1), atol=1e-5)


def test_an_additive_cost_is_projected_exactly():
    space_cost = jnp.asarray([[0.0, 0.1, 0.3, 0], [0] * 4, [0, 0.2, 0, 0], [0, 0.1, 0.2, 0.5]])

    def cost(archs):
        return space_cost[jnp.arange(4), archs].sum(-1)

    archs = all_archs()
    (coefficients,) = designs.project_cost(DESIGN, cost, archs)
    projected = DESIGN.features(jnp.asarray(archs)) @ coefficients
    exact = np.asarray(cost(archs))
    np.testing.assert_allclose(projected, exact - exact.mean(), atol=1e-5)


def hand_sized_memory(steps=6, samples=5, written=6):
    archs = np.random.default_rng(0).integers(0, COUNTS, size=(written, samples, len(COUNTS))).astype(np.int32)
    losses = np.random.default_rng(1).normal(size=(written, samples)).astype(np.float32)
    costs = np.random.default_rng(2).uniform(size=(written, samples, 1)).astype(np.float32)
    memory = posteriors.empty(DESIGN, steps, samples, costs=1)
    for row in zip(archs, losses, costs):
        memory = posteriors.remember(memory, *row)
    return memory, archs, losses


def test_posterior_is_ridge_regression_in_numpy():
    memory, archs, losses = hand_sized_memory()
    ratios = np.asarray([0.7, 3.0])

    @jax.jit
    def fit(memory, coefficients, penalties):
        gram, counted = posteriors.count(memory, DESIGN)
        memory = memory.replace(gram=gram, counted=counted)
        equations = posteriors.normal_equations(memory, DESIGN, coefficients, penalties, worst=1.0)
        log_ratio = jnp.log(jnp.asarray(ratios))
        return posteriors.posterior(equations, DESIGN.order, log_ratio, jax.random.key(0), draws=4000)

    posterior, _ = fit(memory, jnp.zeros((2, DESIGN.size)), jnp.asarray([[0.1], [0.5]]))

    features = np.asarray(DESIGN.features(jnp.asarray(archs.reshape(30, -1))), np.float64).reshape(6, 5, -1)
    x = (features - features.mean(1, keepdims=True)).reshape(30, -1)
    y = (losses.astype(np.float64) - losses.mean(1, keepdims=True)).ravel()
    matrix = x.T @ x + np.diag(ratios[DESIGN.order])
    ridge = np.linalg.solve(matrix, x.T @ y)
    np.testing.assert_allclose(posterior.mean, np.stack([ridge, ridge]), atol=1e-4)  # without a cap all k are alike
    # Noise: the squared residual over what the coefficients leave of 6 (5 - 1) degrees of freedom.
    covariance = np.linalg.inv(matrix)
    determined = 1 - ratios[DESIGN.order] * np.diag(covariance)
    noise = np.square(y - x @ ridge).sum() / (24 - determined.sum())
    np.testing.assert_allclose(posterior.noise, [noise, noise], rtol=0.03)
    empirical = np.cov(np.asarray(posterior.deviations).T)
    np.testing.assert_allclose(empirical, covariance, atol=0.1 * covariance.max())


def test_memory_is_a_ring():
    memory, archs, losses = hand_sized_memory(steps=2, samples=256, written=5)  # blocks of one step
    assert memory.losses.shape == (2, 256)
    np.testing.assert_array_equal(memory.losses, losses[[4, 3]])
    np.testing.assert_array_equal(memory.archs, archs[[4, 3]])


def gram_of(archs):
    """Of features centred in each step, in numpy: int [T, S, D] -> float64 [P, P]."""
    features = np.asarray(DESIGN.features(jnp.asarray(archs)), np.float64)
    rows = (features - features.mean(1, keepdims=True)).reshape(-1, DESIGN.size)
    return rows.T @ rows


@pytest.mark.parametrize("fits", [(3,), (2, 5, 6), (1, 4, 9, 11)])
def test_counting_by_and_by_is_counting_at_once_also_when_the_ring_forgets(fits):
    samples, steps = 128, 8  # blocks of two steps
    archs = np.random.default_rng(0).integers(0, COUNTS, size=(12, samples, len(COUNTS))).astype(np.int32)
    memory = posteriors.empty(DESIGN, steps, samples, costs=1)
    for step in range(fits[-1]):
        memory = posteriors.remember(memory, archs[step], jnp.zeros(samples), jnp.zeros((samples, 1)))
        if step + 1 in fits:
            gram, counted = posteriors.count(memory, DESIGN)
            memory = memory.replace(gram=gram, counted=counted)
    remembered = archs[max(0, fits[-1] - steps) : fits[-1]]
    np.testing.assert_allclose(memory.gram, gram_of(remembered), rtol=1e-4, atol=0.05)
    assert int(memory.counted) == len(remembered)


def test_responses_beyond_the_quantile_of_the_objective_are_capped():
    memory, archs, losses = hand_sized_memory()
    equations = posteriors.normal_equations(
        memory, DESIGN, jnp.zeros((1, DESIGN.size)), jnp.asarray([[0.0]]), worst=0.6
    )
    levelled = losses - losses.mean(1, keepdims=True)
    # 30 samples are fewer than the cap is estimated from, and each step is taken equally often.
    capped = np.minimum(levelled, np.quantile(np.repeat(levelled, 17, axis=0), 0.6))
    response = capped - capped.mean(1, keepdims=True)
    features = np.asarray(DESIGN.features(jnp.asarray(archs)))
    np.testing.assert_allclose(equations.square, [np.square(response).sum()], rtol=0.02)
    np.testing.assert_allclose(equations.moment[0], np.einsum("ts,tsp->p", response, features), atol=0.2)


def test_augmented_equations_are_those_of_more_features():
    memory, archs, _ = hand_sized_memory()
    gram = gram_of(archs)
    moment = np.random.default_rng(4).normal(size=(2, DESIGN.size))
    directions = np.random.default_rng(3).normal(size=(len(DESIGN.left), 2))
    equations = posteriors.NormalEquations(jnp.asarray(gram), jnp.asarray(moment), jnp.ones(2), 1.0)
    found = equations.augmented(jnp.asarray(directions))
    more = np.concatenate([np.eye(DESIGN.size), np.concatenate([np.zeros((6, 2)), directions])], axis=1)
    np.testing.assert_allclose(found.gram, more.T @ gram @ more, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.moment, moment @ more, rtol=1e-4, atol=1e-4)


def test_finds_the_enumerated_optimum_for_every_penalty():
    modes = searches()[:, -1].argmax(-1)  # [3, K, D]
    np.testing.assert_array_equal(task().rows(modes), [task().objective(PENALTIES).argmin(1)] * 3)


@functools.cache
def told():
    """The state after six steps."""
    method = strategy()
    state = method.init(jax.random.key(0))
    tell = jax.jit(lambda state, archs, losses: method.tell(state, archs, losses)[0])
    for key in jax.random.split(jax.random.key(1), 6):
        archs, state = method.ask(key, state)
        state = tell(state, archs, task().lookup(archs) + NOISE * jax.random.normal(key, archs.shape[:1]))
    return state


def assert_same_fit(found, scale=1.0):
    """Theta and coefficients of a fit against those of `told`, up to rounding.

    Rounding may decide for another optimum in a few of the draws, and for all of the shares where no regret is left.
    """
    theta, _, coefficients = jax.jit(lambda state: strategy().fit(state)[:3])(told())
    assert np.abs(coefficients).max() > 0.01
    np.testing.assert_allclose(found[0], theta, atol=4 / strategy().draws)
    np.testing.assert_allclose(found[2] / scale, coefficients, atol=1e-4)


def test_an_offset_common_to_a_step_changes_nothing():
    memory = told().memory
    offsets = 0.5 * jax.random.normal(jax.random.key(2), (len(memory.losses), 1))
    shifted = told().replace(memory=memory.replace(losses=memory.losses + offsets))
    assert_same_fit(jax.jit(lambda state: strategy().fit(state)[:3])(shifted))


def test_scaled_losses_and_penalties_change_nothing():
    state = told()
    scaled = state.replace(
        memory=state.memory.replace(losses=10 * state.memory.losses),
        coefficients=10 * state.coefficients,
        penalties=10 * state.penalties,
    )
    assert_same_fit(jax.jit(lambda state: strategy(10.0).fit(state)[:3])(scaled), scale=10)


def test_a_fit_within_a_vmap_is_one_outside():
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), told())
    found = jax.jit(jax.vmap(lambda state: strategy().fit(state)[:3]))(both)
    assert_same_fit([leaf[1] for leaf in found])


def test_equal_settings_share_one_compiled_program():
    method = strategy()
    twin = SharedModel(task().space, list(PENALTIES), samples=4, cost=task().cost, spread=0.25)
    assert method.cost_coefficients.shape == (1, DESIGN.size)  # cached in one of the two; must not tell them apart
    assert method == twin
    assert hash(method) == hash(twin)
    state = method.init(jax.random.key(0))
    method.ask(jax.random.key(0), state)
    before = SharedModel.ask._cache_size()
    twin.ask(jax.random.key(0), state)
    assert SharedModel.ask._cache_size() == before


def test_samples_are_shared_out_by_expected_regret():
    method = strategy()
    drawn = jnp.zeros((3, 2, DESIGN.size)).at[:, :, 0].set(jnp.asarray([[0.0, 0.0], [1.0, 3.0], [1.0, 1.0]]))
    archs = jnp.asarray(all_archs())
    first = np.asarray(DESIGN.features(archs)[:, 0])
    worst, best = archs[first.argmax()], archs[first.argmin()]
    modes = jnp.stack([worst, worst, best])
    optima = jnp.broadcast_to(best, (3, 2, 4))
    # Regret is 0, twice the span of the first contrast, and 0: the second gets all that is not shared out evenly.
    np.testing.assert_allclose(
        posteriors.share_out(method.design, drawn, modes, optima), [1 / 6, 1 / 6 + 1 / 2, 1 / 6], rtol=1e-5
    )
    no_regret = posteriors.share_out(method.design, drawn, jnp.broadcast_to(best, (3, 4)), optima)
    np.testing.assert_allclose(no_regret, 1 / 3, rtol=1e-5)


def test_each_distribution_gets_its_share_of_the_samples():
    method = strategy()
    state = method.init(jax.random.key(0))
    certain = jax.nn.one_hot(jnp.asarray([[0, 0, 0, 0], [1, 0, 1, 1], [2, 0, 1, 2]]), 4)
    state = state.replace(theta=certain, shares=jnp.asarray([0.25, 0.5, 0.25]))
    archs, _ = method.ask(jax.random.key(1), state)
    assert np.bincount(np.asarray(archs)[:, 0]).tolist() == [3, 6, 3]


def state_with_optima(step):
    """Two optima for each of three distributions, which theta does not know of."""
    method = dataclasses.replace(strategy(), draws=2, redraw=0.4)
    state = method.init(jax.random.key(0))
    optima = jnp.asarray([[[0, 0, 1, 3], [0, 0, 1, 2]], [[1, 0, 0, 0], [1, 0, 0, 0]], [[2, 0, 1, 1], [0, 0, 0, 0]]])
    state = state.replace(optima=optima.astype(jnp.int32), shares=jnp.asarray([0.5, 0.3, 0.2]))
    return method, state.replace(memory=state.memory.replace(step=jnp.int32(step)), fits=jnp.int32(step // 2))


def test_the_law_of_the_samples_by_hand():
    method, state = state_with_optima(step=2)
    archs = jnp.asarray([[0, 0, 1, 3], [1, 0, 0, 0]], jnp.int32)
    # A decision stays with probability 0.6, or else is any of its C_d choices.
    kept = {c: 0.6 + 0.4 / c for c in (2, 3, 4)}
    lost = {c: 0.4 / c for c in (2, 3, 4)}
    expected = [
        [kept[3] * kept[2] * (kept[4] + lost[4]) / 2, lost[3] * lost[2] * lost[4]],
        [lost[3] * lost[2] * lost[4], kept[3] * kept[2] * kept[4]],
        [lost[4] * (lost[3] * kept[2] + kept[3] * lost[2]) / 2, lost[3] * (lost[2] * lost[4] + kept[2] * kept[4]) / 2],
    ]
    np.testing.assert_allclose(jnp.exp(method.log_prob(state, archs)), expected, rtol=1e-5)


@pytest.mark.parametrize("step", [0, 2])
def test_samples_follow_their_law(step):
    method, state = state_with_optima(step)
    every = all_archs()
    law = np.exp(np.asarray(method.log_prob(state, jnp.asarray(every)), np.float64))  # [K, 24]
    np.testing.assert_allclose(law.sum(1), 1, rtol=1e-5)
    if step == 0:
        np.testing.assert_allclose(law, 1 / 24, rtol=1e-5)  # no optimum is known yet
    keys = jax.random.split(jax.random.key(7), 4000)
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: method.ask(key, state)[0]))(keys)).reshape(-1, len(COUNTS))
    found = np.bincount(np.ravel_multi_index(drawn.T, COUNTS), minlength=24) / len(drawn)
    mixture = np.asarray(state.shares) @ law
    np.testing.assert_allclose(found, mixture, atol=4 * np.sqrt(mixture.max() / len(drawn)))


@pytest.mark.parametrize(("samples", "steps"), [(1, 2), (13, 2), (14, 1)])
def test_the_first_fit_waits_for_samples(samples, steps):
    method = dataclasses.replace(strategy(), samples=samples)  # of each of three distributions
    state = method.init(jax.random.key(0))
    for step in range(1, steps + 1):
        archs, state = method.ask(jax.random.key(step), state)
        state, _ = method.tell(state, archs, task().lookup(archs))
        assert bool(jnp.any(state.coefficients != 0)) == (step == steps)


def test_shapes():
    method = make("shared_model", task().space, PENALTIES, cost=task().cost, samples=2)
    state = method.init(jax.random.key(0))
    archs, state = method.ask(jax.random.key(1), state)
    assert archs.shape == (6, 4)
    after, info = jax.eval_shape(method.tell, state, archs, jnp.zeros(6))
    assert state.theta.shape == (3, 4, 4)
    assert state.coefficients.shape == (3, DESIGN.size)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert info.weights.shape == info.objective.shape == (3, 6)
    assert info.ess.shape == (3,)
    np.testing.assert_allclose(method.tell(state, archs, jnp.zeros(6))[1].weights, 1, rtol=1e-5)  # uniform at first
    with pytest.raises(AssertionError):
        method.tell(state, archs[:-1], jnp.zeros(5))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("memory", 23),
        ("draws", 0),
        ("sweeps", 0),
        ("worst", 0.0),
        ("worst", 1.5),
        ("spread", -1.0),
        ("growth", 0.5),
        ("growth", float("nan")),
        ("redraw", 0.0),
        ("redraw", 1.5),
    ],
)
def test_bad_settings_are_errors_that_name_them(setting, value):
    with pytest.raises(ValueError, match=f"{setting}.*{value}"):
        SharedModel(task().space, PENALTIES, cost=task().cost, **{setting: value})


@pytest.mark.parametrize(("distributions", "samples"), [(1, 16), (2, 8), (3, 6), (4, 4), (16, 1), (40, 1)])
def test_a_step_has_about_sixteen_samples_whatever_the_number_of_distributions(distributions, samples):
    method = SharedModel(task().space, tuple(np.linspace(0, 1, distributions)), cost=task().cost)
    assert method.samples == samples


def test_probabilities_in_parts_are_those_at_once(monkeypatch):
    method, state = state_with_optima(step=2)
    every = jnp.asarray(all_archs())
    whole = method.log_prob(state, every)
    monkeypatch.setattr(strategy_module, "PROBABILITIES_AT_ONCE", 5 * 3 * 2 * 4)  # 5 samples, K M D each
    np.testing.assert_allclose(method.log_prob(state, every), whole, rtol=1e-6)


def test_memory_of_a_thousand_distributions_is_bounded():
    """For each draw, distribution, sample and decision there is a probability: 4 GB for these."""
    with pytest.raises(ValueError, match="memory must hold at least 2 steps of 4000 samples, got 4096"):
        SharedModel(task().space, tuple(np.linspace(0, 1, 1000)), samples=4, cost=task().cost)
    method = SharedModel(task().space, tuple(np.linspace(0, 1, 1000)), samples=4, cost=task().cost, memory=8000)
    state = jax.eval_shape(method.init, jax.random.key(0))
    archs = jax.ShapeDtypeStruct((4000, len(COUNTS)), jnp.int32)
    compiled = jax.jit(method.log_prob).lower(state, archs).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 300e6
