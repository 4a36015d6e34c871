"""Introspectability, and costs that are measured with the losses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, strategies, supernet
from jaxnas.strategies import NSGA2, ImportanceSampling
from jaxnas.tasks import introspectability as module
from tests import test_strategies as contract

pytestmark = pytest.mark.long

CLASSES = 4
TAKE_MEASURED_COSTS = ("importance_sampling", "independent", "random", "nsga2")


def of(features, predicted):
    predicted = jnp.asarray(predicted)
    features = [jnp.asarray(feature, jnp.float32) for feature in features]
    return float(module.introspectability(module.class_gram(features, predicted, CLASSES), predicted))


def directly(features, predicted):
    """The definition, by loops in float64."""
    flat = np.concatenate([np.asarray(f, np.float64).reshape(len(f), -1) for f in features], axis=1)
    means = [flat[predicted == k].sum(0) / len(flat) for k in range(CLASSES) if (predicted == k).any()]
    distances = []
    for i in range(len(means)):
        for j in range(i):
            lengths = np.linalg.norm(means[i]) * np.linalg.norm(means[j])
            if lengths > 0:
                distances.append(1 - means[i] @ means[j] / lengths)
    return np.mean(distances) if distances else -np.inf


@pytest.fixture(scope="module")
def random_case():
    rng = np.random.default_rng(0)
    predicted = rng.integers(CLASSES, size=24)
    features = [rng.normal(size=(24, 3, 3, 5)) + predicted[:, None, None, None], rng.normal(size=(24, 7))]
    return features, predicted


def test_hand_worked_cases():
    same = np.ones((4, 2, 3))
    assert of([same], [0, 0, 1, 2]) == pytest.approx(0, abs=1e-6)
    orthogonal = np.eye(3)[[0, 0, 1, 2]]
    assert of([orthogonal], [0, 0, 1, 2]) == pytest.approx(1)
    assert of([np.array([[1.0, 2.0], [-2.0, -4.0]])], [0, 3]) == pytest.approx(2)


def test_the_gram_route_is_the_definition(random_case):
    features, predicted = random_case
    assert of(features, predicted) == pytest.approx(directly(features, predicted), abs=1e-5)
    with jax.enable_x64(True):
        exact = [jnp.asarray(feature, jnp.float64) for feature in features]
        value = module.introspectability(module.class_gram(exact, jnp.asarray(predicted), CLASSES), predicted)
        assert float(value) == pytest.approx(directly(features, predicted), abs=1e-12)


def test_scale_order_and_zeros_change_nothing(random_case):
    features, predicted = random_case
    value = of(features, predicted)
    assert of([3 * feature for feature in features], predicted) == pytest.approx(value, abs=1e-5)
    assert of(features[::-1], predicted) == pytest.approx(value, abs=1e-5)
    shuffled = features[0].reshape(24, -1)[:, np.random.default_rng(1).permutation(45)]
    assert of([shuffled, features[1]], predicted) == pytest.approx(value, abs=1e-5)
    assert of([*features, np.zeros((24, 9))], predicted) == pytest.approx(value, abs=1e-5)
    renamed = np.asarray([2, 0, 3, 1])[predicted]
    assert of(features, renamed) == pytest.approx(value, abs=1e-5)


def test_where_nothing_can_be_compared_there_is_none():
    rng = np.random.default_rng(0)
    assert of([rng.normal(size=(6, 5))], [2] * 6) == -np.inf
    assert of([np.zeros((4, 5))], [0, 1, 2, 3]) == -np.inf
    dead = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert of([dead], [0, 1, 2]) == pytest.approx(1)  # class 0 has no direction; the other pair remains
    np.testing.assert_array_equal(module.measured_cost(jnp.array([-jnp.inf, jnp.nan, 0.0, 2.0])), [1, 1, 1, 0])


@functools.cache
def tiny():
    space = spaces.nasbench201(channels=4, cells=1, image_size=8, num_classes=CLASSES)
    net = supernet.build(space)
    params = net.init_params(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (32, 8, 8, 3))
    labels = jnp.arange(32) % CLASSES

    def apply(params, images, arch):
        return net.apply({"params": params}, images, arch, method="apply_with_features")

    return space, jax.jit(functools.partial(module.evaluate, apply, params, images, labels)), (net, params, images)


def test_on_a_supernet_it_is_the_definition_on_the_active_path():
    space, evaluate, (net, params, images) = tiny()
    archs = jnp.asarray(space.sample_uniform(np.random.default_rng(0), 4))
    losses, measured = evaluate(archs)
    assert losses.shape == (4,)
    assert measured.shape == (4, 1)
    logits, features = net.apply({"params": params}, images, archs[0], method="apply_with_features")
    wanted = directly([np.asarray(f) for f in features], np.asarray(logits.argmax(-1)))
    assert float(measured[0, 0]) == pytest.approx(float(module.measured_cost(jnp.float32(wanted))), abs=1e-4)
    assert np.all((measured >= 0) & (measured <= 1))
    assert np.ptp(measured) > 0


@pytest.mark.parametrize("strategy", [NSGA2, ImportanceSampling])
def test_a_search_for_it(strategy):
    """The penalty pulls towards introspectable networks: what is found for 10 costs less than what 0 finds."""
    space, evaluate, _ = tiny()
    method = strategy(space, (0.0, 10.0), samples=4)
    state = method.init(jax.random.key(0))
    for step in range(25):
        archs, state = method.ask(jax.random.key(step), state)
        state, _ = method.tell(state, archs, *evaluate(archs))
    losses, costs = evaluate(method.modes(state))
    assert costs[1] < costs[0]
    assert losses[0] < losses[1]


@pytest.mark.parametrize("name", TAKE_MEASURED_COSTS)
def test_measured_costs_take_the_place_of_the_space_s(name):
    """A strategy that is told the costs it would compute itself does the same."""
    method, state, archs = contract.stepped(name)
    losses = contract.task().lookup(archs)
    costs = method.cost(archs)[:, None]
    told = method.tell(state, archs, losses, costs)
    jax.tree.map(np.testing.assert_array_equal, method.tell(state, archs, losses), told)
    (other, _), (same, _) = (method.tell(state, archs, losses, each) for each in (1 - costs, costs))
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(same)))
    with pytest.raises((AssertionError, ValueError)):
        method.tell(state, archs, losses[:, None])


@pytest.mark.parametrize("name", ["shared_model", "constrained", "evolution"])
def test_strategies_that_cannot_refuse_them(name):
    method, state, archs = contract.stepped(name)
    with pytest.raises(ValueError, match="measured costs cannot serve"):
        method.tell(state, archs, jnp.zeros(len(archs)), jnp.zeros((len(archs), 1)))


def test_nsga2_takes_more_than_two_objectives():
    space = contract.task().space
    with pytest.raises(ValueError, match="objectives must be at least 2"):
        strategies.make("nsga2", space, (0.1,), cost=contract.task().cost, objectives=1)
    method = strategies.make("nsga2", space, (0.0,), samples=3, cost=contract.task().cost, objectives=3)
    corners = jnp.asarray([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0]], jnp.int32)
    state, _ = method.tell(method.init(jax.random.key(0)), corners, 1 - jnp.eye(3)[:, 0], 1 - jnp.eye(3)[:, 1:])
    dominated = corners.at[:, 5].set(1)
    state, _ = method.tell(state, dominated, jnp.ones(3), jnp.ones((3, 2)))
    assert sorted(np.asarray(state.archs).tolist()) == corners.tolist()
