"""DARTS-PT's selection: what is removed, what is kept, in which order, and at what price."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import distribution, relaxation, selection, spaces, supernet
from jaxnas.selection import perturbation

NUM_CHOICES = (3, 1, 4, 2)
VALID = distribution.valid_choices(NUM_CHOICES)


def planted(seed):
    """Worth of each choice [D, C], of which one of each decision has the most; the padding has more than any."""
    rng = np.random.default_rng(seed)
    worth = rng.permuted(np.arange(16.0)).reshape(4, 4) / 16
    return np.where(VALID, worth, 10.0)


def additive(worth, params, weights):
    return -float((np.asarray(weights) * np.where(VALID, worth, 0)).sum())


@pytest.mark.parametrize("seed", range(4))
def test_recovers_planted_choices_in_any_order(seed):
    worth = planted(seed)
    best = np.where(VALID, worth, -1).argmax(1)
    orders = set()
    for key in range(3):
        found = selection.SELECTIONS["darts_pt"](
            jax.random.key(key), functools.partial(additive, worth), {}, NUM_CHOICES
        )
        np.testing.assert_array_equal(found.arch, best)
        np.testing.assert_array_equal(found.weights, jax.nn.one_hot(best, 4))
        assert sorted(found.order.tolist()) == [0, 1, 2, 3]
        orders.add(tuple(found.order.tolist()))
    assert len(orders) > 1


def test_accuracies_are_the_other_way_round():
    worth = planted(0)
    accuracy = functools.partial(lambda params, weights: -additive(worth, params, weights))
    found = perturbation.select(jax.random.key(0), accuracy, {}, NUM_CHOICES, higher_is_better=True)
    np.testing.assert_array_equal(found.arch, np.where(VALID, worth, -1).argmax(1))


def test_rows_are_masked_without_renormalising_then_fixed_and_counted():
    theta = np.where(VALID, np.random.default_rng(0).dirichlet(np.ones(4), size=4), 0.0)
    theta = jnp.asarray(theta / theta.sum(1, keepdims=True), jnp.float32)
    seen, tuned = [], []

    def score(params, weights):
        seen.append(np.asarray(weights))
        return float(params)

    def tune(params, weights, key):
        tuned.append(np.asarray(weights))
        return params + 1

    found = perturbation.select(jax.random.key(3), score, 0, NUM_CHOICES, theta, tune)
    assert found.evaluations == len(seen) == sum(NUM_CHOICES)
    assert found.params == len(tuned) == 3  # not after the last decision
    current, calls = np.asarray(theta).copy(), iter(seen)
    for place, d in enumerate(found.order):
        for choice in range(NUM_CHOICES[d]):
            expected = current.copy()
            expected[d, choice] = 0
            np.testing.assert_array_equal(next(calls), expected)
        np.testing.assert_array_equal(found.scores[d, : NUM_CHOICES[d]], place)
        current[d] = np.eye(4)[0]  # all scores tie: the first wins
        if place < 3:
            np.testing.assert_array_equal(tuned[place], current)
    np.testing.assert_array_equal(found.arch, 0)
    assert np.isnan(found.scores[~VALID]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("higher_is_better", [False, True])
def test_a_score_that_is_not_finite_never_wins(bad, higher_is_better):
    def score(params, weights):
        if weights[0, 0] == 0:
            return bad
        return 1.0 if weights[0, 2] == 0 else 0.5

    kept = 1 if higher_is_better else 2
    found = perturbation.select(jax.random.key(0), score, {}, (3,), higher_is_better=higher_is_better)
    assert found.arch.tolist() == [kept]
    with pytest.raises(ValueError, match="score must be finite for a choice of decision 0"):
        perturbation.select(jax.random.key(0), lambda params, weights: bad, {}, (3,))


def test_score_of_a_split_is_the_mean_over_equal_minibatches():
    def loss(params, weights, batch):
        return params * batch.mean() + weights.sum() * len(batch)

    score = perturbation.split_score(loss, jnp.arange(10.0), batch_size=4)  # three of 3, one left out
    np.testing.assert_allclose(score(2.0, jnp.ones((1, 2))), 2 * np.arange(9).mean() + 6)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        perturbation.split_score(loss, jnp.arange(10.0), batch_size=0)


def test_tuning_trains_the_parameters_under_the_given_weights():
    def loss(params, weights, batch):
        return jnp.square(params - weights[0, 0] * batch).mean()

    tune = perturbation.tuner(loss, jnp.full(8, 3.0), steps=50, batch_size=4, optimizer=optax.sgd(0.1))
    np.testing.assert_allclose(tune(jnp.float32(0), jnp.asarray([[2.0, 0.0]]), jax.random.key(0)), 6, rtol=1e-3)


@pytest.mark.slow
def test_on_a_supernet():
    """Statistics of the minibatch, weights of the mixture as they are: a supernet is scored by its own loss."""
    space = spaces.mbconv_space(
        "tiny",
        image_size=8,
        stem_channels=4,
        stages=((4, 2, 1),),
        operations=(spaces.mbconv.Operation(3, 1), spaces.mbconv.SKIP),
        head_channels=8,
        num_classes=3,
    )
    module = supernet.build(space)
    params = module.init_params(jax.random.key(0))
    split = (jax.random.normal(jax.random.key(1), (8, 8, 8, 3)), jnp.arange(8) % 3)
    loss = relaxation.supernet_loss(module)
    score = perturbation.split_score(loss, split, batch_size=8)
    tune = perturbation.tuner(loss, split, 2, 8, optax.sgd(0.0025, momentum=0.9))
    found = perturbation.select(jax.random.key(2), score, params, space.num_choices, tune=tune)
    assert found.evaluations == 4
    first = found.order[0]
    weights = jnp.full((2, 2), 0.5).at[first, 1].set(0.0)
    np.testing.assert_allclose(found.scores[first, 1], jax.jit(loss)(params, weights, split), rtol=1e-4)
    assert found.arch[first] == found.scores[first].argmax()
    assert np.any(found.params["stem"]["kernel"] != params["stem"]["kernel"])
