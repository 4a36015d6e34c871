"""Phases, resumability in memory, the guard against non-finite losses, and evaluation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnas import data, spaces, supernet
from jaxnas.runtime.loop import NonFiniteLossError
from jaxnas.search.image_search import image_search
from jaxnas.search.settings import SearchSettings
from jaxnas.spaces.mbconv import SKIP, Operation
from jaxnas.strategies import ImportanceSampling
from jaxnas.tasks.supernet import FrozenSupernet

SETTINGS = SearchSettings(
    weight_steps=3,
    joint_steps=2,
    distribution_steps=4,
    batch_size=8,
    valid_batch_size=16,
    crop_padding=1,
    steps_per_dispatch=3,
)


@functools.cache
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def search():
    space = spaces.mbconv_space(
        "tiny",
        image_size=8,
        stem_channels=8,
        stages=((8, 2, 2),),
        operations=(Operation(3, 2), SKIP),
        head_channels=8,
    )
    train, valid = data.split(digits(), 0.5, seed=0)
    strategy = ImportanceSampling(space, penalties=(0.1, 1.0), samples=2)
    return image_search(strategy, supernet.build(space), digits(), train, valid, SETTINGS)


def raw(tree):
    """Every leaf as numpy, random keys as their data."""
    is_key = lambda leaf: jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return [np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf) for leaf in jax.tree.leaves(tree)]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(raw(first), raw(second), strict=True))


@pytest.fixture(scope="module")
def history(search):
    """(step, params, strategy, train cursor, valid cursor) on the host, after every program."""
    states = [jax.device_get((0, *parts(search.init(0))))]
    phases, metrics = [], []
    for state, phase, measured in search.run(search.init(0)):
        states.append(jax.device_get((int(state.step), *parts(state))))
        phases.append(phase)
        metrics.append(measured)
    return states, phases, metrics


def parts(state):
    return state.params, state.strategy, state.train_cursor.position, state.valid_cursor.position


def test_phases_move_what_they_should(history):
    states, phases, _ = history
    assert phases == ["weights", "joint", "distributions", "distributions"]
    assert [state[0] for state in states] == [0, 3, 5, 8, 9]
    start, weights, joint, *_, end = states
    assert not same(start[1], weights[1])
    assert same(start[2], weights[2])
    assert weights[4] == 0
    assert not same(weights[1], joint[1])
    assert not same(weights[2], joint[2])
    assert same(joint[1], end[1])
    assert not same(joint[2], end[2])
    assert (end[3], end[4]) == (5 * 8, 6 * 16)


def test_metrics_say_what_was_measured(history):
    _, _, metrics = history
    weights, joint, distributions, rest = metrics
    assert [len(part.finite) for part in metrics] == [3, 2, 3, 1]
    assert np.isfinite(weights.train_loss).all()
    assert np.isnan(weights.loss).all()
    assert np.isfinite(joint.train_loss).all()
    assert np.isfinite(joint.loss).all()
    assert np.isnan(distributions.train_loss).all()
    assert ((rest.ess >= 1) & (rest.ess <= 4)).all()
    assert ((rest.convergence >= 0.5) & (rest.convergence <= 1)).all()


def test_continuing_from_a_copy_is_the_same_search(search, history):
    states, _, _ = history
    copy = None
    for state, _, _ in search.run(search.init(0)):
        if int(state.step) == 5:
            copy = jax.tree.map(jnp.copy, state)
    *_, (resumed, _, _) = search.run(copy)
    assert same(jax.device_get(parts(resumed)), states[-1][1:])


def test_non_finite_loss_names_the_step(search):
    state = search.init(0)
    broken = jax.tree.map(jnp.copy, state.params)
    broken["classifier"]["bias"] = jnp.full(10, jnp.nan)
    with pytest.raises(NonFiniteLossError, match="step 1 "):
        next(search.run(state.replace(params=broken)))


def test_evaluation_covers_the_validation_split(search):
    """The whole split, cut by hand into equal minibatches, one architecture at a time."""
    params = search.init(0).params
    archs = jnp.asarray([[0, 0], [1, 1]])
    evaluation = search.evaluate(params, archs)
    valid, dataset = search.valid.examples, digits()
    count = -(-len(valid) // 16)
    size = len(valid) // count
    apply = jax.jit(lambda images, arch: search.supernet.apply({"params": params}, images, arch))
    for index, arch in enumerate(archs):
        losses, hits = [], []
        for start in range(0, count * size, size):
            labels = valid.labels[start : start + size]
            images = data.normalize(valid.images[start : start + size], dataset.mean, dataset.std)
            logits = apply(images, arch)
            losses.append(optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean())
            hits.append((logits.argmax(-1) == labels).mean())
        np.testing.assert_allclose(evaluation.loss[index], np.mean(losses), rtol=1e-4)
        np.testing.assert_allclose(evaluation.metrics["accuracy"][index], np.mean(hits), rtol=1e-5)


def test_weight_decay_spares_norms_and_biases():
    settings = dataclasses.replace(SETTINGS, weight_decay=0.1, momentum=0.0, learning_rate=1.0)
    params = {"layer": {"kernel": jnp.ones(3), "scale": jnp.ones(3)}, "classifier": {"bias": jnp.ones(2)}}
    optimizer = settings.optimizer()
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["layer"]["kernel"], -0.1, rtol=1e-6)
    assert not updates["layer"]["scale"].any()
    assert not updates["classifier"]["bias"].any()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_steps", -1),
        ("batch_size", 0),
        ("weight_samples", 0),
        ("batching", "both"),
        ("chunk_size", 0),
        ("precision", "float8"),
        ("accumulate", 0),
        ("accumulate", 3),
        ("steps_per_dispatch", 0),
    ],
)
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(SETTINGS, **{field: value})


def test_a_search_needs_a_step_of_the_distributions():
    with pytest.raises(ValueError, match="distribution_steps"):
        SearchSettings(weight_steps=10)


def test_phase_of_each_step():
    assert [SETTINGS.phase(step) for step in (0, 2, 3, 5, 8)] == [
        ("weights", 3),
        ("weights", 3),
        ("joint", 5),
        ("distributions", 9),
        ("distributions", 9),
    ]
    with pytest.raises(ValueError, match="step"):
        SETTINGS.phase(9)


def test_a_frozen_supernet_is_a_task(search):
    task = FrozenSupernet(search, search.init(0).params)
    archs = jnp.asarray([[0, 0], [1, 1], [0, 0]])
    losses = task.losses(jax.random.key(0), archs)
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]
    np.testing.assert_array_equal(losses, task.losses(jax.random.key(0), archs))
    assert not np.array_equal(losses, task.losses(jax.random.key(1), archs))
    found = task.run(search.strategy, evaluations=8, seed=0)
    assert found.shape == (2, 2)
    np.testing.assert_array_equal(found, task.run(search.strategy, evaluations=8, seed=0))
