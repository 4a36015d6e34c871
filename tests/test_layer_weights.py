"""All choices of a layer in few arrays: what is stored is what comes back, and padding takes no part."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas.spaces.mbconv import SKIP, Layer, Operation
from jaxnas.supernet import batched_layer, init, layer_weights, mbconv_layer
from jaxnas.supernet.cpu import layer as cpu_layer


def noisy(declared):
    """The same arrays, but with scales and biases away from 1 and 0, so that leaving them out would be noticed."""

    def of_part(array):
        return dataclasses.replace(array, deviation=array.deviation or 0.2)

    def of(array):
        if isinstance(array, init.Stack):
            return dataclasses.replace(array, parts=tuple(of_part(part) for part in array.parts))
        return of_part(array)

    return jax.tree.map(of, declared)


OPERATIONS = (Operation(3, 3), SKIP, Operation(5, 2))


def layer(out_channels=6, operations=OPERATIONS):
    return Layer(4, out_channels, 1, 6, operations)


def test_shapes_are_those_of_the_largest():
    shapes = jax.tree.map(lambda array: array.shape, layer_weights.declare(layer()))
    assert shapes == {
        "expand": {"kernel": (2, 4, 12), "scale": (2, 12), "bias": (2, 12)},
        "depthwise": {"kernel": (2, 5, 5, 12), "scale": (2, 12), "bias": (2, 12)},
        "project": {"kernel": (2, 12, 6), "scale": (2, 6), "bias": (2, 6)},
        "shortcut": {"kernel": (4, 6), "scale": (6,), "bias": (6,)},
    }
    assert "shortcut" not in layer_weights.declare(layer(out_channels=4))
    assert set(layer_weights.declare(layer(operations=(Operation(3, 1),)))) == {"depthwise", "project"}
    assert layer_weights.declare(layer(out_channels=4, operations=(SKIP,))) == {}


def test_a_choice_has_its_own_sizes_and_all_that_is_not_padding():
    params = init.draw(jax.random.key(0), noisy(layer_weights.declare(layer())))
    small, wide = (layer_weights.unpack(params, layer(), operation) for operation in (Operation(3, 3), Operation(5, 2)))
    np.testing.assert_array_equal(small["depthwise"]["kernel"], params["depthwise"]["kernel"][0, 1:4, 1:4])
    np.testing.assert_array_equal(wide["depthwise"]["kernel"], params["depthwise"]["kernel"][1, :, :, :8])
    assert wide["expand"]["kernel"].shape == (4, 8)
    assert wide["project"]["kernel"].shape == (8, 6)
    skip = layer_weights.unpack(params, layer(), SKIP)
    kept = sum(np.count_nonzero(leaf) for tree in (small, wide, skip) for leaf in jax.tree.leaves(tree))
    assert kept == sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(params))
    taps, channels = layer_weights.used(layer())
    np.testing.assert_array_equal(taps[:, :, :, None] & channels[:, None, None], params["depthwise"]["kernel"] != 0)
    np.testing.assert_array_equal(channels, params["expand"]["bias"] != 0)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_choice_alone_is_the_layer_without_the_others(operation):
    params = init.draw(jax.random.key(0), noisy(layer_weights.declare(layer())))
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    alone = dataclasses.replace(layer(), operations=(operation,))
    own = layer_weights.unpack(params, layer(), operation)
    if operation.is_skip:
        own = {layer_weights.SHORTCUT: own} if own else {}
    else:
        own = jax.tree.map(lambda array: array[None], own)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(lambda array: array.shape, layer_weights.declare(alone))
    choice = jnp.int32(layer().operations.index(operation))
    np.testing.assert_allclose(
        mbconv_layer.apply_layer(own, x, jnp.int32(0), alone),
        mbconv_layer.apply_layer(params, x, choice, layer()),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "module", [mbconv_layer, batched_layer, cpu_layer], ids=lambda module: module.__name__.split(".")[-1]
)
@pytest.mark.parametrize("choice", [0, 2])
def test_padding_has_no_gradient(module, choice):
    params = init.draw(jax.random.key(0), noisy(layer_weights.declare(layer())))
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))

    def loss(params):
        return (module.apply_layer(params, x, jnp.int32(choice), layer()) ** 3).sum()

    gradient = jax.jit(jax.grad(loss))(params)
    jax.tree.map(lambda leaf, g: np.testing.assert_array_equal(g[leaf == 0], 0), params, gradient)
    assert all(
        np.any(leaf) for leaf in jax.tree.leaves(layer_weights.unpack(gradient, layer(), layer().operations[choice]))
    )


def test_a_layer_with_and_without_expansion():
    mixed = layer(operations=(Operation(3, 1), Operation(3, 2)))
    params = init.draw(jax.random.key(0), layer_weights.declare(mixed))
    assert not np.any(params["expand"]["kernel"][0])
    assert "expand" not in layer_weights.unpack(params, mixed, mixed.operations[0])
    x = jax.random.normal(jax.random.key(1), (2, 6, 6, 4))
    for choice in range(2):
        output = mbconv_layer.apply_layer(params, x, jnp.int32(choice), mixed)
        assert output.shape == (2, 6, 6, 6)
        assert np.all(np.isfinite(output))
