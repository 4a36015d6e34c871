"""A network that teaches others in a step of the weights, and the extremes of the space among these, by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnas
from jaxnas import strategies, supernet
from jaxnas.cost import AdditiveCost, JointCost, LargestCost
from jaxnas.family.batches import Prepare
from jaxnas.search import sandwich
from jaxnas.search.sandwich import Teacher
from jaxnas.search.search import Search
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import InMemory
from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.strategies import ImportanceSampling
from jaxnas.supernet import distillation
from tests import regression_search
from tests.test_interaction_cost import arbitrary, brute_force

SHARE, TEMPERATURE, RATE = 0.25, 2.0, 0.1
GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.normal(size=(8, 3)).astype(np.float32)
LABELS = (np.arange(8) % 4).astype(np.int32)
WEIGHTS = GENERATOR.normal(size=(3, 4)).astype(np.float32)
# A choice scales the weights that all have.
SCALES = np.array([[0.5, 1.0, 2.0], [1.0, -1.0, 3.0]], np.float32)
ARCHS = np.array([[2, 2], [0, 0], [1, 1], [0, 2]], np.int32)


def apply(params, inputs, arch):
    scale = jnp.asarray(SCALES)[jnp.arange(2), arch].prod()
    return inputs @ params["kernel"] * scale


def cross_entropy(outputs, batch):
    return supernet.cross_entropy(outputs, batch)


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def expected_gradient(archs, share, temperature, targets=None):
    """Gradient of the mean loss, and the losses without a teacher, in float64."""
    kernel, one_hot = WEIGHTS.astype(np.float64), np.eye(4)[LABELS]
    scales = SCALES.astype(np.float64)[np.arange(2), archs].prod(-1)
    logits = [INPUTS @ kernel * scale for scale in scales]
    total, losses = np.zeros_like(kernel), []
    for number, (scale, own) in enumerate(zip(scales, logits)):
        teacher = targets if targets is not None else logits[0]
        part = 0 if targets is None and number == 0 else share
        towards = temperature * (softmax(own / temperature) - softmax(teacher / temperature))
        slope = (1 - part) * (softmax(own) - one_hot) + part * towards
        total += INPUTS.T @ slope * scale / len(INPUTS) / len(archs)
        losses.append(-np.log(softmax(own)[np.arange(8), LABELS]).mean())
    return total, losses


def gradient(archs=ARCHS, share=SHARE, **options):
    return distillation.gradient(
        apply,
        {"kernel": jnp.asarray(WEIGHTS)},
        INPUTS,
        LABELS,
        jnp.asarray(archs),
        cross_entropy,
        soft_loss=distillation.of_logits(TEMPERATURE),
        share=share,
        **options,
    )


FORMS = [{"batching": "map"}, {"batching": "vmap"}, {"batching": "vmap", "chunk_size": 2}]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_first_network_teaches_the_others(options):
    found, evaluation = gradient(**options)
    expected, losses = expected_gradient(ARCHS, SHARE, TEMPERATURE)
    np.testing.assert_allclose(found["kernel"], expected, atol=1e-5)
    np.testing.assert_allclose(evaluation.loss, losses, rtol=1e-5)
    assert evaluation.metrics.keys() == {"accuracy"}
    assert evaluation.metrics["accuracy"].shape == (4,)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_another_teacher_teaches_all(options):
    targets = GENERATOR.normal(size=(8, 4))
    found, evaluation = gradient(targets=jnp.asarray(targets, jnp.float32), **options)
    expected, losses = expected_gradient(ARCHS, SHARE, TEMPERATURE, targets)
    np.testing.assert_allclose(found["kernel"], expected, atol=1e-5)
    np.testing.assert_allclose(evaluation.loss, losses, rtol=1e-5)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize(("archs", "share"), [(ARCHS, 0.0), (ARCHS[:1], SHARE)])
def test_nothing_taught_is_the_plain_gradient(archs, share, options):
    found, evaluation = gradient(archs, share, **options)
    expected, plain = supernet.gradient(
        apply, {"kernel": jnp.asarray(WEIGHTS)}, INPUTS, LABELS, jnp.asarray(archs), cross_entropy, **options
    )
    np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluation.loss, plain.loss, rtol=1e-6)


def test_no_gradient_reaches_the_teacher():
    """Of weights that the teacher alone has, the soft loss moves nothing."""

    def apply(params, inputs, arch):
        return inputs @ params["each"][arch[0]]

    kernels = {"each": jnp.asarray(GENERATOR.normal(size=(2, 3, 4)), jnp.float32)}
    for batching in ("map", "vmap"):
        found = [
            distillation.gradient(
                apply, kernels, INPUTS, LABELS, jnp.array([[1], [0]]), cross_entropy,
                soft_loss=distillation.of_logits(1.0), share=share, batching=batching,
            )[0]["each"]
            for share in (0.5, 0.0)
        ]  # fmt: skip
        np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)
        assert not np.allclose(found[0][0], found[1][0])


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_a_distance_without_a_derivative_at_0(options):
    """The teacher, and an architecture that is the teacher's again, have no distance from it to descend."""
    archs, kernel = np.array([[2, 2], [0, 0], [2, 2]], np.int32), WEIGHTS.astype(np.float64)
    found, _ = distillation.gradient(
        apply, {"kernel": jnp.asarray(WEIGHTS)}, INPUTS, LABELS, jnp.asarray(archs), cross_entropy,
        soft_loss=lambda outputs, targets: jnp.linalg.norm(outputs - targets, axis=-1).mean(), share=SHARE, **options,
    )  # fmt: skip
    scales = SCALES.astype(np.float64)[np.arange(2), archs].prod(-1)
    total = np.zeros_like(kernel)
    for number, scale in enumerate(scales):
        slope = (1 if number == 0 else 1 - SHARE) * (softmax(INPUTS @ kernel * scale) - np.eye(4)[LABELS])
        apart = INPUTS @ kernel * (scale - scales[0])
        if scale != scales[0]:
            slope += SHARE * apart / np.linalg.norm(apart, axis=-1, keepdims=True)
        total += INPUTS.T @ slope * scale / len(INPUTS) / len(archs)
    np.testing.assert_allclose(found["kernel"], total, atol=1e-5)


@pytest.mark.parametrize(
    "outputs",
    [{"y": jnp.zeros((4, 2))}, jnp.zeros(4), jnp.zeros((4, 2), jnp.int32), jnp.zeros((4, 1)), ()],
    ids=str,
)
def test_outputs_that_are_no_logits_need_a_soft_loss(outputs):
    with pytest.raises(ValueError, match="soft_loss must be given for a model whose outputs are no logits"):
        distillation.of_logits(1.0)(outputs, outputs)


def test_a_teacher_of_other_outputs():
    with pytest.raises(ValueError, match=r"teacher must put out what the model does, of shape \(4, 2\), got \(4, 3\)"):
        distillation.of_logits(1.0)(jnp.zeros((4, 2)), jnp.zeros((4, 3)))


# Which architectures share a step


SPACE = SearchSpace(
    "three",
    tuple(Decision(name, ("a", "b", "c")) for name in "xyz"),
    (
        AdditiveCost("macs", "multiply-adds", 1, ((5, 1, 3), (2, 2, 1), (1, 2, 9))),
        AdditiveCost("params", "parameters", 0, ((1, 2, 3), (3, 2, 1), (0, 0, 1))),
    ),
)


def of_step(strategy, sort=False, seed=0, **settings):
    state, (key, subset) = strategy.init(jax.random.key(seed)), jax.random.split(jax.random.key(seed))
    settings = SearchSettings(joint_steps=1, **settings)
    return np.asarray(sandwich.step_archs(strategy, settings, state, key, subset, sort)).tolist()


def test_the_extremes_take_the_place_of_two_samples():
    strategy = ImportanceSampling(SPACE, penalties=(0.1, 0.2), samples=3)
    plain = of_step(strategy)
    assert of_step(strategy, sandwich=True) == [[0, 0, 2], [1, 2, 0], *plain[2:]]
    few = of_step(strategy, weight_samples=3)
    assert of_step(strategy, sandwich=True, weight_samples=3) == [[0, 0, 2], [1, 2, 0], few[2]]


def test_the_extremes_are_those_of_the_cost_that_is_searched_for():
    params = ImportanceSampling(SPACE, penalties=(0.1, 0.2), cost=SPACE.cost("params"))
    assert sandwich.extremes(params) == ((2, 0, 2), (0, 2, 0))
    both = [SPACE.cost("params"), SPACE.cost("macs")]
    budgets = strategies.within_budgets(strategies.SharedModel, SPACE, both, [[3, 15], [5, 15]])
    assert isinstance(budgets.cost, JointCost)
    assert sandwich.extremes(budgets) == ((2, 0, 2), (0, 2, 0))


def test_the_extremes_of_a_cost_with_products():
    cost = arbitrary()
    space = SearchSpace("products", tuple(Decision(str(d), tuple(map(str, row))) for d, row in enumerate(cost.table)))
    strategy = ImportanceSampling(space, penalties=(0.1, 0.2), cost=cost)
    every = np.indices([len(row) for row in cost.table]).reshape(4, -1).T
    totals = brute_force(cost, every)
    dearest, cheapest = (np.asarray(arch) for arch in sandwich.extremes(strategy))
    np.testing.assert_array_equal(dearest, every[totals.argmax()])
    np.testing.assert_array_equal(cheapest, every[totals.argmin()])


def test_the_extremes_of_a_cost_that_is_the_largest_part():
    cost = LargestCost("memory", "bytes", 4, ((0, 5), (1, 2, 8)))
    assert (cost.total(cost.cheapest), cost.total(cost.dearest)) == (cost.lowest, cost.highest)
    assert (cost.dearest, cost.cheapest) == ((1, 2), (0, 0))


def test_a_cost_whose_extremes_are_not_known():
    def cost(archs):
        return archs.mean(-1)

    with pytest.raises(ValueError, match="sandwich needs a cost of the space"):
        sandwich.extremes(ImportanceSampling(SPACE, penalties=(0.1, 0.2), cost=cost))


def test_the_dearest_of_a_step_teaches_where_there_is_no_sandwich():
    strategy = ImportanceSampling(SPACE, penalties=(0.1, 0.2), samples=3)
    plain, ordered = of_step(strategy), of_step(strategy, sort=True)
    assert sorted(plain) == sorted(ordered)
    costs = SPACE.cost("macs").total(np.array(ordered)).tolist()
    assert costs == sorted(costs, reverse=True)


def test_the_dearest_of_a_step_within_budgets_of_the_peak():
    """Within its budget the peak has no price, and still an order."""
    peak = LargestCost("peak", "bytes", 1, ((5, 1, 3), (2, 4, 1), (1, 2, 6)))
    strategy = strategies.within_budgets(ImportanceSampling, SPACE, [peak], [[4], [8]], samples=4)
    totals = peak.total(np.array(of_step(strategy, sort=True))).tolist()
    assert totals == sorted(totals, reverse=True)
    assert len(set(totals)) > 2
    assert sandwich.extremes(strategy) == (peak.dearest, peak.cheapest)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distillation": 1.0}, "distillation must be at least 0 and less than 1, got 1.0"),
        ({"distillation": float("nan")}, "distillation must be at least 0"),
        ({"distillation_temperature": 0.0}, "distillation_temperature must be positive, got 0.0"),
        ({"distillation_temperature": float("inf")}, "distillation_temperature must be finite, got inf"),
    ],
)
def test_settings_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        SearchSettings(joint_steps=1, **settings)


def test_settings_that_do_not_fit_the_search():
    search = regression_search.in_memory()
    with pytest.raises(ValueError, match="weight_samples must be at least 2 with sandwich"):
        dataclasses.replace(search, settings=dataclasses.replace(search.settings, sandwich=True, weight_samples=1))
    with pytest.raises(ValueError, match="weight_samples must be at least 2 with distillation"):
        dataclasses.replace(search, settings=dataclasses.replace(search.settings, distillation=0.5, weight_samples=1))
    drawn = search.strategy.step_samples
    with pytest.raises(ValueError, match=f"weight_samples must be at most {drawn}, as many .* got {drawn + 1}; raise"):
        dataclasses.replace(search, settings=dataclasses.replace(search.settings, weight_samples=drawn + 1))
    with pytest.raises(ValueError, match="distillation must be positive with a teacher"):
        dataclasses.replace(search, teacher=regression_search.sum_of_sines())
    unknown = dataclasses.replace(regression_search.taught(), soft_loss=None)
    with pytest.raises(ValueError, match="soft_loss must be given"):
        next(unknown.run(unknown.init(0)))


# A step of a search


class Scaled:
    """The network above as a supernet."""

    def init_params(self, key):
        del key
        return {"kernel": jnp.asarray(WEIGHTS)}

    def apply(self, variables, inputs, arch):
        return apply(variables["params"], inputs, arch)


SCALED = SearchSpace(
    "scaled",
    tuple(Decision(name, ("a", "b", "c")) for name in "xy"),
    (AdditiveCost("macs", "multiply-adds", 0, ((0, 1, 2), (0, 1, 2))),),
)


def one_step(teacher=None, **settings):
    """A step of the weights with all eight examples at once: the weights after it, and what it measured."""
    search = Search(
        ImportanceSampling(SCALED, penalties=(0.1, 0.2), samples=1),
        Scaled(),
        InMemory((INPUTS, LABELS)),
        InMemory((INPUTS, LABELS)),
        SearchSettings(
            weight_steps=1, distribution_steps=1, batch_size=8, valid_batch_size=8, learning_rate=RATE, momentum=0.0,
            weight_decay=0.0, clip_norm=1e9, **settings,
        ),
        prepare=lambda batch, key: batch[0],
        loss=lambda outputs, batch: cross_entropy(outputs, batch[1]),
        teacher=teacher,
    )  # fmt: skip
    state, _, metrics = next(search.run(search.init(0)))
    return np.asarray(state.params["kernel"]), float(metrics.train_loss[0])


TAUGHT = {"sandwich": True, "distillation": SHARE, "distillation_temperature": TEMPERATURE}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_step_descends_the_loss_of_the_sandwich(form):
    """The dearest and the cheapest network alone, since there are two samples."""
    kernel, loss = one_step(**TAUGHT, **form)
    expected, losses = expected_gradient(np.array([[2, 2], [0, 0]]), SHARE, TEMPERATURE)
    np.testing.assert_allclose(kernel, WEIGHTS - RATE * expected, atol=1e-5)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_step_with_a_teacher_of_ones_own():
    targets = GENERATOR.normal(size=(3, 4))
    teacher = Teacher(lambda params, inputs: inputs @ params, targets.astype(np.float32))
    kernel, _ = one_step(teacher, **TAUGHT)
    expected, _ = expected_gradient(np.array([[2, 2], [0, 0]]), SHARE, TEMPERATURE, INPUTS @ targets)
    np.testing.assert_allclose(kernel, WEIGHTS - RATE * expected, atol=1e-5)


def test_without_a_share_a_step_is_the_plain_one():
    plain, sandwiched = one_step(), one_step(sandwich=True)
    expected, _ = expected_gradient(np.array([[2, 2], [0, 0]]), 0.0, 1.0)
    np.testing.assert_allclose(sandwiched[0], WEIGHTS - RATE * expected, atol=1e-5)
    np.testing.assert_array_equal(one_step(distillation_temperature=3.0)[0], plain[0])
    assert not np.allclose(sandwiched[0], plain[0])


def test_a_minibatch_in_parts_is_the_mean_of_their_gradients():
    whole, parts = one_step(**TAUGHT), one_step(**TAUGHT, accumulate=2)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-6)
    assert parts[1] == pytest.approx(whole[1], rel=1e-6)


# A search of one call


class Classifier(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.tanh(nn.Dense(self.width)(x)))


@functools.cache
def classifiers():
    return jaxnas.elastic(Classifier, INPUTS, width=(2, 4, 8))


def search(**settings):
    data = (INPUTS, LABELS)
    return jaxnas.search(
        classifiers(),
        loss=lambda outputs, batch: cross_entropy(outputs, batch[1])[0],
        train=data,
        valid=data,
        steps=20,
        batch_size=8,
        **{"penalties": (0.01, 0.1), **settings},
    )


def weights(family):
    return np.concatenate([np.ravel(leaf) for member in family for leaf in jax.tree.leaves(member.params)])


@pytest.mark.long
def test_a_search_of_one_call_with_a_teacher_in_place():
    given = {"weight_samples": 3, "sandwich": True}
    family = search(**given, distillation=jaxnas.Distillation(share=0.5, finish_share=0.5, temperature=2.0))
    assert family.result.config["distillation"] == {"share": 0.5, "finish_share": 0.5, "temperature": 2.0}
    assert (family.result.config["weight_samples"], family.result.config["sandwich"]) == (3, True)
    assert np.isfinite([member.loss for member in family]).all()
    steps = [record for record in family.records if record["phase"] == "weights"]
    assert len(steps) == 12


@pytest.mark.long
def test_a_teacher_of_ones_own_pulls_networks_towards_its_outputs():
    """One that always says 3 is followed to where the labels alone would not lead."""

    def constant(params, inputs):
        return jnp.broadcast_to(params, (len(inputs), 4))

    teacher = (constant, jnp.array([0.0, 0.0, 0.0, 9.0]))
    found = {}
    for name, shares in {"none": None, "search": (0.99, 0.0), "finish": (0.0, 0.99), "both": (0.99, 0.99)}.items():
        distilled = shares and jaxnas.Distillation(*shares, teacher=teacher)
        found[name] = np.mean(
            [jax.nn.softmax(member(INPUTS))[:, 3].mean() for member in search(distillation=distilled)]
        )
    assert found["both"] > found["search"] > found["none"]
    assert found["both"] > found["finish"] > found["none"]


def test_a_resumed_search_must_have_the_same_teacher(tmp_path):
    def linear(params, inputs):
        return inputs @ params

    def taught(params, **changes):
        return jaxnas.Distillation(**{"share": 0.5, "teacher": (linear, params), **changes})

    first = search(workdir=tmp_path, distillation=taught(WEIGHTS))
    again = search(workdir=tmp_path, distillation=taught(WEIGHTS))
    np.testing.assert_array_equal(weights(first), weights(again))
    for other in (taught(2 * WEIGHTS), taught(WEIGHTS, share=0.6), None):
        with pytest.raises(ValueError, match="holds another search, different in distillation"):
            search(workdir=tmp_path, distillation=other)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "share or finish_share must be positive"),
        ({"share": 1.0}, "share must be at least 0 and less than 1"),
        ({"finish_share": -0.1}, "finish_share must be at least 0"),
        ({"share": 0.5, "temperature": float("nan")}, "temperature must be positive"),
        ({"share": 0.5, "temperature": float("inf")}, "temperature must be finite"),
        ({"share": 0.5, "soft_loss": "l2"}, "soft_loss must be a function"),
        ({"share": 0.5, "teacher": lambda inputs: inputs}, "teacher must be a pair"),
    ],
)
def test_distillations_out_of_range(given, words):
    with pytest.raises(ValueError, match=words):
        jaxnas.Distillation(**given)


def test_a_soft_loss_must_return_one_number():
    distilled = jaxnas.Distillation(share=0.5, soft_loss=lambda outputs, targets: (outputs - targets) ** 2)
    with pytest.raises(ValueError, match="soft_loss must return one number"):
        search(weight_samples=2, distillation=distilled)
    with pytest.raises(ValueError, match="weight_samples must be at least 2 with distillation"):
        search(distillation=distilled)


def test_a_single_network_has_no_dearer_one_to_learn_from():
    with pytest.raises(ValueError, match="finish_share needs a teacher or a second network"):
        search(penalties=(0.1,), distillation=jaxnas.Distillation(finish_share=0.5))
    jaxnas.Distillation(finish_share=0.5).check_networks(2)
    jaxnas.Distillation(finish_share=0.5, teacher=(lambda params, inputs: inputs, {})).check_networks(1)


def test_a_teacher_gets_the_inputs_of_the_model():
    """Not the random keys that go with them."""
    distilled = jaxnas.Distillation(share=0.5, teacher=(lambda params, inputs: inputs @ params, WEIGHTS))
    taught = distilled.in_search(dataclasses.replace(regression_search.in_memory(), prepare=Prepare(None)))
    prepared = taught.prepare((jnp.asarray(INPUTS), LABELS), jax.random.key(0))
    np.testing.assert_allclose(taught.teacher.apply(taught.teacher.params, prepared), INPUTS @ WEIGHTS, rtol=1e-5)
