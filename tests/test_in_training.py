"""Networks in training by blocks compute what their Flax modules compute; a step of several adds up their gradients."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import data, networks
from jaxnas.search.finishing import Finishing
from jaxnas.search.images import CrossEntropy
from jaxnas.search.settings import FinishSettings, SearchSettings
from jaxnas.search.sources import InMemory
from tests.test_networks import SPACES, images, trained_like

pytestmark = pytest.mark.long

# Skips of both kinds, and a fixed layer without an expansion; skips alone; cells, which have no blocks.
CASES = {"mbconv": ((0, 2, 1), (2, 2, 2), (1, 1, 0)), "tiny": ((0, 1), (0, 0)), "nasbench201": ((3, 1, 4, 2, 0, 3),)}
LABELS = np.arange(4) % 3


def by_module(network, params, inputs):
    return network.apply({"params": params}, inputs, train=True, mutable=["batch_stats"])[0]


def value_and_gradient(function, params, inputs):
    def loss(params):
        outputs = function(params, inputs)
        return CrossEntropy()(outputs, data.Examples(inputs, LABELS))[0], outputs

    (_, outputs), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    return outputs, gradient


def assert_close(found, expected):
    """To 1e-5 of the largest number of each array, or of 1."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1, np.abs(other).max()))


@pytest.mark.parametrize(("name", "arch"), [(name, arch) for name, archs in CASES.items() for arch in archs])
def test_outputs_and_gradient_are_those_of_the_module(name, arch):
    space = SPACES[name]
    network = networks.build(space, arch)
    params = networks.inherit(space, arch, trained_like(name))
    expected = value_and_gradient(functools.partial(by_module, network), params, images(space))
    found = value_and_gradient(functools.partial(networks.in_training, network), params, images(space))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert_close(found, expected)


def test_the_module_computes_what_blocks_do_not():
    """Drop path needs random keys, which only the module asks for; bfloat16 is rounded to in every layer."""
    space, arch = SPACES["mbconv"], (0, 0, 1)
    params = networks.inherit(space, arch, trained_like("mbconv"))
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        jax.eval_shape(
            functools.partial(networks.in_training, networks.build(space, arch, drop_path=0.5)), params, images(space)
        )
    network = networks.build(space, arch, dtype=jnp.bfloat16)
    found, expected = (
        jax.jit(functools.partial(function, network))(params, images(space))
        for function in (networks.in_training, by_module)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_a_step_of_several_networks_adds_up_their_own_gradients(distillation):
    space, archs = SPACES["mbconv"], CASES["mbconv"][::2]
    shared, recipes = networks.share(space, archs, trained_like("mbconv"))
    modules = [networks.build(space, arch) for arch in archs]

    def outputs(k, function, params, inputs):
        return function(modules[k], networks.take(params, recipes[k]), inputs)

    inputs, loss = images(space), CrossEntropy()
    batch = data.Examples(inputs, LABELS)
    settings = FinishSettings(finish_steps=1, finish_learning_rate=1.0, finish_distillation=distillation)
    training = SearchSettings(
        distribution_steps=1, batch_size=4, valid_batch_size=4, momentum=0.0, weight_decay=0.0, clip_norm=1e9
    )
    members = [functools.partial(outputs, k, networks.in_training) for k in range(len(archs))]
    trainer = Finishing(
        members, InMemory(batch), settings, training, prepare=lambda batch, key: batch.images, loss=loss, teacher=1
    )
    ((state, measured),) = trainer.run(trainer.init(shared, jax.random.key(0)))

    def total(params):
        logits = [outputs(k, by_module, params, inputs) for k in range(len(archs))]
        losses = [loss(each, batch)[0] for each in logits]
        soft = jax.nn.softmax(jax.lax.stop_gradient(logits[1]))
        taught = [
            (soft * (jnp.log(soft) - jax.nn.log_softmax(each))).sum(-1).mean() if k != 1 else losses[1]
            for k, each in enumerate(logits)
        ]
        return sum((1 - distillation) * a + distillation * b for a, b in zip(losses, taught)), jnp.stack(losses)

    gradient, losses = jax.jit(jax.grad(total, has_aux=True))(shared)
    np.testing.assert_allclose(measured.loss[0], losses, rtol=1e-5)
    assert_close(jax.tree.map(jnp.subtract, shared, state.params), gradient)
