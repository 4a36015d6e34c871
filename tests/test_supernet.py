"""Both supernets against plain discrete networks, and their batching over architectures."""

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from jaxnas import spaces, supernet
from jaxnas.spaces.mbconv import SKIP, Operation
from jaxnas.supernet import cell, init, layer_weights, mbconv, mbconv_layer
from jaxnas.supernet.conv import full_conv
from tests.test_layer_weights import noisy

BATCH, SIZE, CLASSES, SAMPLES = 4, 8, 3, 8

# Nothing here runs long: compile fast instead of well.
jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)


# Plain discrete networks: nothing of the supernets is used but the names of their weights.


def _conv(x, kernel, stride=1, groups=1):
    padding = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _norm(x, p):
    variance = ((x - x.mean((0, 1, 2))) ** 2).mean((0, 1, 2))
    return (x - x.mean((0, 1, 2))) / jnp.sqrt(variance + 1e-5) * p["scale"] + p["bias"]


def _relu(x):
    return jnp.where(x > 0, x, 0)


def _relu6(x):
    return jnp.where(x > 0, jnp.where(x < 6, x, 6), 0)


def _conv_norm(x, p, stride=1):
    kernel = p["kernel"] if p["kernel"].ndim == 4 else p["kernel"][None, None]
    return _norm(_conv(x, kernel, stride), p)


def discrete_mbconv(params, images, space, arch):
    x = _relu6(_conv_norm(images, params["stem"], space.stem_stride))
    layers = [(f"fixed_{i + 1}", layer, 0) for i, layer in enumerate(space.fixed_layers)]
    layers += [(f"layer_{i + 1}", layer, arch[i]) for i, layer in enumerate(space.layers)]
    for name, layer, choice in layers:
        operation = layer.operations[choice]
        p = layer_weights.unpack(params[name], layer, operation)
        same_shape = layer.stride == 1 and layer.in_channels == layer.out_channels
        if operation == SKIP:
            x = x if same_shape else _conv_norm(x, p, layer.stride)
            continue
        h = _relu6(_conv_norm(x, p["expand"])) if "expand" in p else x
        h = _conv(h, p["depthwise"]["kernel"][:, :, None], layer.stride, groups=h.shape[-1])
        h = _conv_norm(_relu6(_norm(h, p["depthwise"])), p["project"])
        x = x + h if same_shape else h
    features = _relu6(_conv_norm(x, params["head"])).mean((1, 2))
    return features @ params["classifier"]["kernel"] + params["classifier"]["bias"]


def _pool(x):
    add = functools.partial(
        lax.reduce_window,
        init_value=0.0,
        computation=lax.add,
        window_dimensions=(1, 3, 3, 1),
        window_strides=(1, 1, 1, 1),
        padding="SAME",
    )
    return add(x) / add(jnp.ones_like(x))


def discrete_cell(params, images, space, arch):
    x = _conv_norm(images, params["stem"])
    for stage in (1, 2, 3):
        if stage > 1:
            p = params[f"reduction_{stage - 1}"]
            h = _conv_norm(_relu(_conv_norm(_relu(x), p["conv_1"], 2)), p["conv_2"])
            pooled = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
            x = pooled @ p["shortcut"]["kernel"] + h
        for index in range(space.cells):
            nodes = [x, 0.0, 0.0, 0.0]
            for choice, (source, target) in zip(arch, ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))):
                name = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")[choice]
                p = jax.tree.map(lambda a: a[index], params[f"stage_{stage}"][f"edge_{source}_{target}"][name])  # noqa: B023
                h = nodes[source]
                if name == "none":
                    h = h * 0.0
                elif name == "avg_pool_3x3":
                    h = _pool(h)
                elif name != "skip_connect":
                    h = _conv_norm(_relu(h), p)
                nodes[target] = nodes[target] + h
            x = nodes[3]
    features = _relu(_norm(x, params["head"])).mean((1, 2))
    return features @ params["classifier"]["kernel"] + params["classifier"]["bias"]


# Instances


def _mbconv_space(project_skip):
    return spaces.mbconv_space(
        "tiny",
        image_size=SIZE,
        stem_channels=4,
        first_channels=None if project_skip else 4,
        stages=((4, 2, 1), (8, 1, 2)),
        operations=(Operation(3, 3), Operation(5, 2), SKIP),
        project_skip=project_skip,
        head_channels=16,
        num_classes=CLASSES,
    )


INSTANCES = {
    "mbconv": (functools.partial(_mbconv_space, False), discrete_mbconv),
    "mbconv, projecting skip": (functools.partial(_mbconv_space, True), discrete_mbconv),
    "cell": (
        functools.partial(spaces.nasbench201, channels=4, cells=2, image_size=SIZE, num_classes=CLASSES),
        discrete_cell,
    ),
}


@dataclass
class Instance:
    """A tiny supernet, data and [S, D] architectures that together make every choice of every decision."""

    space: spaces.SearchSpace
    discrete: Any
    params: Any
    images: jax.Array
    labels: jax.Array
    archs: np.ndarray
    apply: Any
    gathered: Any  # as `apply`, with `gather=True`
    alone: Any  # arch [D] -> (logits [B, classes], gradient of the loss); compiled once

    @functools.cached_property
    def results(self):
        return [self.alone(arch) for arch in self.archs]


def _loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@pytest.fixture(scope="session", params=["mbconv", slow("mbconv, projecting skip"), "cell"])
def instance(request):
    make, discrete = INSTANCES[request.param]
    space = make()
    module = supernet.build(space)
    params_key, images_key = jax.random.split(jax.random.key(1))
    # With these seeds no activation lies within rounding of ReLU's kink, where two orders of sums give two gradients.
    declare = (cell if isinstance(space, spaces.CellSpace) else mbconv).declare
    params = init.draw(params_key, noisy(declare(space)))
    images = jax.random.normal(images_key, (BATCH, SIZE, SIZE, 3))
    labels = jnp.arange(BATCH) % CLASSES
    covering = [[(s + d) % n for d, n in enumerate(space.num_choices)] for s in range(space.max_choices)]
    others = space.sample_uniform(np.random.default_rng(1), SAMPLES - len(covering))
    archs = np.concatenate([covering, others]).astype(np.int32)

    def apply(params, images, arch):
        return module.apply({"params": params}, images, arch)

    def gathered(params, images, arch):
        return supernet.build(space, gather=True).apply({"params": params}, images, arch)

    @jit
    def alone(params, arch):
        def loss(params):
            logits = apply(params, images, arch)
            return _loss(logits, labels), logits

        gradient, logits = jax.grad(loss, has_aux=True)(params)
        return logits, gradient

    return Instance(space, discrete, params, images, labels, archs, apply, gathered, functools.partial(alone, params))


def assert_close(actual, expected, relative=1e-4):
    """Arrays agree to a share of the largest entry of their tree; some gradients are 0 but for rounding."""
    chex.assert_trees_all_equal_structs(actual, expected)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=relative * largest)


# Tests


@pytest.mark.parametrize(
    "instance", ["mbconv", slow("mbconv, projecting skip"), slow("cell")], indirect=True, scope="session"
)
def test_equals_the_discrete_network(instance):
    @functools.partial(jit, static_argnums=1)
    def discrete(params, arch):
        def loss(params):
            logits = instance.discrete(params, instance.images, instance.space, arch)
            return _loss(logits, instance.labels), logits

        gradient, logits = jax.grad(loss, has_aux=True)(params)
        return logits, gradient

    # Each architecture is a program to compile; these make every choice, if not at every edge of a cell.
    covering = slice(1, 2) if isinstance(instance.space, spaces.CellSpace) else slice(3)
    for arch, result in zip(instance.archs[covering].tolist(), instance.results[covering]):
        for actual, expected in zip(result, discrete(instance.params, tuple(arch))):
            assert_close(actual, expected)


@pytest.mark.parametrize("batching", ["vmap", "map"])
def test_batched_logits_equal_each_alone(instance, batching):
    batch = {"vmap": jax.vmap, "map": lambda f: functools.partial(lax.map, f)}[batching]
    apply = functools.partial(instance.apply, instance.params, instance.images)
    logits = jit(batch(apply))(instance.archs)
    chex.assert_shape(logits, (SAMPLES, BATCH, CLASSES))
    for index, (expected, _) in enumerate(instance.results):
        assert_close(logits[index], expected)


@pytest.mark.parametrize("batching", ["map", slow("vmap"), slow("gathered")])
def test_batched_gradient_is_the_mean_of_each_alone(instance, batching):
    if batching == "gathered":
        if isinstance(instance.space, spaces.CellSpace):
            pytest.skip("cells have nothing to gather: the same program as without")
        step = jit(functools.partial(supernet.gradient, instance.gathered, batching="vmap"))
    else:
        step = jit(functools.partial(supernet.gradient, instance.apply, batching=batching))
    gradient, evaluation = step(instance.params, instance.images, instance.labels, instance.archs)
    assert_close(gradient, jax.tree.map(lambda *leaves: sum(leaves) / SAMPLES, *(g for _, g in instance.results)))
    losses = [float(_loss(logits, instance.labels)) for logits, _ in instance.results]
    np.testing.assert_allclose(evaluation.loss, losses, rtol=1e-4)
    accuracies = [float((logits.argmax(-1) == instance.labels).mean()) for logits, _ in instance.results]
    np.testing.assert_allclose(evaluation.metrics["accuracy"], accuracies)


def test_every_choice_of_every_decision_matters(instance):
    # The first choice that has weights everywhere: no decision is cut off from the output.
    base = [2 if isinstance(instance.space, spaces.CellSpace) else 0] * len(instance.space.decisions)
    for index, count in enumerate(instance.space.num_choices):
        archs = [base[:index] + [choice] + base[index + 1 :] for choice in range(count)]
        logits = [instance.alone(np.asarray(arch, np.int32))[0] for arch in archs]
        for first, second in itertools.combinations(logits, 2):
            assert jnp.abs(first - second).max() > 1e-4


def _chosen(space, arch):
    """{(parameter group, operation name): whether the architecture uses it}, and the groups in which there is one."""
    uses = {}
    for index, (decision, choice) in enumerate(zip(space.decisions, arch)):
        for position, name in enumerate(decision.choices):
            if isinstance(space, spaces.CellSpace):
                group = decision.name.replace(" ", "_").replace("-", "_")
            else:
                group = f"layer_{index + 1}"
            uses[group, name] = position == choice
    return uses


def _by_operation(space, tree):
    """A tree of parameters or gradients in which every operation has its own, by its name."""
    if isinstance(space, spaces.CellSpace):
        return tree
    layers = {f"layer_{index + 1}": layer for index, layer in enumerate(space.layers)}
    layers |= {f"fixed_{index + 1}": layer for index, layer in enumerate(space.fixed_layers)}
    unpacked = {
        name: {operation.name: layer_weights.unpack(tree[name], layer, operation) for operation in layer.operations}
        for name, layer in layers.items()
    }
    return {**tree, **unpacked}


def _by_use(space, arch, tree):
    """Leaves of the choices that are in use and of those that are not."""
    uses, leaves = _chosen(space, arch), {True: [], False: []}
    for path, leaf in jax.tree_util.tree_leaves_with_path(_by_operation(space, tree)):
        keys = [entry.key for entry in path]
        for pair in itertools.pairwise(keys):
            if pair in uses:
                leaves[uses[pair]].append(leaf)
    return leaves


def test_only_chosen_operations_get_gradient(instance):
    for arch, (_, gradient) in zip(instance.archs, instance.results):
        assert not any(jnp.any(leaf) for leaf in _by_use(instance.space, arch, gradient)[False])
    connected = np.full(len(instance.space.decisions), 2 if isinstance(instance.space, spaces.CellSpace) else 0)
    leaves = _by_use(instance.space, connected, instance.alone(connected.astype(np.int32))[1])
    assert len(leaves[True]) > 0
    assert all(jnp.any(leaf) for leaf in leaves[True])
    assert not any(jnp.any(leaf) for leaf in leaves[False])


def test_paths_have_the_parameters_that_the_cost_counts(instance):
    for arch in instance.archs:
        unused = sum(leaf.size for leaf in _by_use(instance.space, arch, instance.params)[False])
        total = sum(leaf.size for leaf in jax.tree.leaves(_by_operation(instance.space, instance.params)))
        assert total - unused == instance.space.cost("params").total(arch)


def test_identity_skip_is_exact():
    layer = spaces.nasbench_macro(width=0.1).layers[1]
    assert layer.keeps_shape
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, layer.in_channels))
    params = supernet.build(spaces.nasbench_macro(width=0.1)).init_params(jax.random.key(1))["layer_2"]
    choice = jnp.int32(layer.operations.index(SKIP))
    output, vjp = jax.vjp(lambda x: mbconv_layer.apply_layer(params, x, choice, layer), x)
    np.testing.assert_array_equal(output, x)
    np.testing.assert_array_equal(vjp(2 * x)[0], 2 * x)


def test_zero_and_identity_edges_are_exact():
    channels = 4
    space = spaces.nasbench201(channels=channels, cells=1, image_size=SIZE)
    stacked = supernet.build(space).init_params(jax.random.key(0))["stage_1"]
    params = jax.tree.map(lambda leaf: leaf[0], stacked)["edge_0_1"]
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, channels))

    @jit
    def edge(choice):
        output, vjp = jax.vjp(lambda x: cell.apply_edge(params, x, choice), x)
        return output, *vjp(2 * x)

    for array in edge(0):
        np.testing.assert_array_equal(array, jnp.zeros_like(x))
    output, gradient = edge(1)
    np.testing.assert_array_equal(output, x)
    np.testing.assert_array_equal(gradient, 2 * x)


def test_average_pool_counts_the_pixels_inside():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    expected = [[(0 + 1 + 3 + 4) / 4, 15 / 6, (1 + 2 + 4 + 5) / 4]] * 2
    np.testing.assert_allclose(cell.average_pool(x)[0, :, :, 0], expected, rtol=1e-6)


def test_flax_declares_the_weights_that_are_drawn():
    module = supernet.build(INSTANCES["cell"][0]())
    arch, images = jnp.zeros(6, jnp.int32), jnp.zeros((BATCH, SIZE, SIZE, 3))
    declared = jax.eval_shape(module.init, jax.random.key(0), images, arch)["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(declared, module.init_params(jax.random.key(0)))


def test_initial_weights_are_he_normal():
    checked = 0
    for space in (spaces.nasbench201(), spaces.mbconv_digits()):
        params = supernet.build(space).init_params(jax.random.key(3))
        for path, leaf in jax.tree_util.tree_leaves_with_path(_by_operation(space, params)):
            keys = [entry.key for entry in path]
            if keys[-1] == "scale":
                np.testing.assert_array_equal(leaf, 1)
            elif keys[-1] == "bias":
                np.testing.assert_array_equal(leaf, 0)
            elif keys[0] != "classifier" and leaf.size > 2000:
                shape = leaf.shape[1:] if keys[0].startswith("stage") else leaf.shape
                fan_in = math.prod(shape[:2] if keys[-2] == "depthwise" else shape[:-1])
                assert abs(float(leaf.std()) / math.sqrt(2 / fan_in) - 1) < 0.08, keys
                assert abs(float(leaf.mean())) < 5 * math.sqrt(2 / fan_in / leaf.size), keys
                checked += 1
    assert checked > 40


@pytest.mark.parametrize("name", sorted(spaces.SPACES))
def test_logits_of_every_registered_space(name):
    space = spaces.SPACES[name](width=0.25, image_size=16, num_classes=5)
    module = supernet.build(space)
    params = jax.eval_shape(module.init_params, jax.random.key(0))
    images, arch = jnp.zeros((2, 16, 16, 3)), jnp.zeros(len(space.decisions), jnp.int32)
    logits = jax.eval_shape(lambda p, x, a: module.apply({"params": p}, x, a), params, images, arch)
    assert (logits.shape, logits.dtype) == ((2, 5), jnp.float32)


def test_projecting_skip_halves_the_resolution():
    space = spaces.nasbench_macro(width=0.25)
    layer = space.layers[0]
    params = {layer_weights.SHORTCUT: {"kernel": jnp.ones((8, 16)), "scale": jnp.ones(16), "bias": jnp.zeros(16)}}
    assert (layer.in_channels, layer.out_channels, layer.stride) == (8, 16, 2)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 8))
    y = mbconv_layer.apply_operation(params, x, layer, SKIP)
    chex.assert_shape(y, (2, 16, 16, 16))
    expected = _norm(x[:, ::2, ::2].sum(-1, keepdims=True), {"scale": 1.0, "bias": 0.0})
    np.testing.assert_allclose(y, jnp.broadcast_to(expected, y.shape), atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel_size", "height", "width"), [(3, 8, 8), (5, 7, 6), (1, 5, 4)])
def test_full_convolution_and_its_gradients(kernel_size, height, width, stride):
    x_key, kernel_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (3, height, width, 2))
    kernel = jax.random.normal(kernel_key, (kernel_size, kernel_size, 2, 5))
    output, vjp = jax.vjp(functools.partial(full_conv, stride=stride), x, kernel)
    expected, expected_vjp = jax.vjp(functools.partial(_conv, stride=stride), x, kernel)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    for actual, reference in zip(vjp(jnp.cos(output)), expected_vjp(jnp.cos(output))):
        assert_close(actual, reference, relative=1e-5)


def test_a_kind_of_space_is_one_registration():
    class OtherSpace(spaces.SearchSpace):
        pass

    class OtherSupernet(nn.Module):
        space: OtherSpace

    space = OtherSpace("other", (spaces.Decision("a", ("x", "y")),))
    with pytest.raises(ValueError, match="OtherSpace"):
        supernet.build(space)
    supernet.build.register(OtherSpace, OtherSupernet)
    assert isinstance(supernet.build(space), OtherSupernet)


def test_images_that_cannot_be_halved_are_refused():
    space = spaces.nasbench201(channels=4, cells=1, image_size=8)
    module = supernet.build(space)
    params = module.init_params(jax.random.key(0))
    with pytest.raises(ValueError, match="multiples of 4"):
        module.apply({"params": params}, jnp.zeros((1, 6, 8, 3)), jnp.zeros(6, jnp.int32))
