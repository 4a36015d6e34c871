"""Models of every kind as search spaces: masked and extracted are the same functions, and cost what is counted.

Spaces are tiny: each test builds one.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnas.elastic import elastic

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((4, 6)).astype(np.float32)
SEQUENCES = RNG.standard_normal((4, 5, 8)).astype(np.float32)
IMAGES = RNG.standard_normal((4, 8, 8, 3)).astype(np.float32)
TOKENS = RNG.integers(0, 16, (3, 6))


def assert_exact(space, archs=6):
    """Masked is extracted, and both costs are what the extracted model has, for random architectures."""
    archs = space.sample_uniform(np.random.default_rng(7), archs)
    assert space.check(archs).largest < 1e-5
    for name in ("macs", "params"):
        assert space.cost(name).total(archs).tolist() == [space.count(name, arch) for arch in archs]
    sizes = [sum(np.size(leaf) for leaf in jax.tree.leaves(extracted(space, arch))) for arch in archs]
    assert space.cost("params").total(archs).tolist() == sizes


def extracted(space, arch):
    return space.extract(jax.tree.map(np.asarray, space.init_params(jax.random.key(0))), arch)


class Block(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):  # automatic names: LayerNorm_0 is another layer where heads is 0
        if self.heads:
            attention = nn.MultiHeadDotProductAttention(self.heads, qkv_features=4 * self.heads, out_features=8)
            x = x + attention(nn.LayerNorm()(x))
        if self.hidden:
            x = x + nn.Dense(8)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x))))
        return x


class Transformer(nn.Module):
    heads: tuple
    hidden: tuple

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(16, 8)
        x = embed(tokens)
        for heads, hidden in zip(self.heads, self.hidden):
            x = Block(heads, hidden)(x)
        return embed.attend(nn.LayerNorm()(x))  # tied


@pytest.fixture(scope="module")
def transformer():
    def make(heads, hidden):
        return Transformer(heads, hidden)

    return elastic(make, TOKENS, heads=[(0, 1, 2)] * 2, hidden=[(0, 4, 8)] * 2)


@pytest.mark.long
def test_a_transformer_with_blocks_left_out(transformer):
    assert_exact(transformer)


def test_is_a_search_space_like_any_other(transformer):
    arch = transformer.validate([0, 2, 1, 2])
    assert transformer.num_choices == (3, 3, 3, 3)
    assert transformer.describe(arch) == "heads[0]=0 | heads[1]=2 | hidden[0]=4 | hidden[1]=8"
    assert transformer.decode(transformer.encode(arch)).tolist() == arch.tolist()
    assert transformer.hyperparameters(arch) == {"heads": (0, 2), "hidden": (4, 8)}
    assert transformer.model(arch) == Transformer((0, 2), (4, 8))
    assert [cost.name for cost in transformer.costs] == ["macs", "params"]


def test_apply_is_the_extracted_model_under_jit_and_vmap(transformer):
    params = transformer.init_params(jax.random.key(1))
    archs = transformer.sample_uniform(np.random.default_rng(0), 3)
    masked = jax.jit(jax.vmap(transformer.apply, (None, None, 0)))(params, TOKENS, jnp.asarray(archs))
    for outputs, arch in zip(masked, archs):
        own = transformer.model(arch).apply({"params": transformer.extract(params, arch)}, TOKENS)
        np.testing.assert_allclose(outputs, own, atol=1e-5)
    supernet = transformer.supernet()
    np.testing.assert_allclose(supernet.apply({"params": params}, TOKENS, archs[0]), masked[0], atol=1e-5)


def test_masked_parameters_get_no_gradient(transformer):
    params = transformer.init_params(jax.random.key(1))
    gradient = jax.jit(jax.grad(lambda p: (transformer.apply(p, TOKENS, jnp.asarray([1, 2, 2, 0])) ** 2).mean()))(
        params
    )
    query = gradient["Block_0"]["MultiHeadDotProductAttention_0"]["query"]["kernel"]  # [8, heads, 4]
    assert np.abs(query[:, 0]).min() > 0
    assert not query[:, 1].any()
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["Block_1"]["Dense_1"]))


def test_check_lists_every_choice_once(transformer):
    table = transformer.check()
    assert len(table.rows) == 4 * 2 + 1  # the largest architecture once
    assert table.largest < 1e-5
    assert "hidden[1]=0" in str(table)


def test_inputs_of_another_shape_are_refused(transformer):
    params = transformer.init_params(jax.random.key(0))
    transformer.apply(params, TOKENS[:1], [0, 0, 0, 0])
    with pytest.raises(ValueError, match="inputs must have the shapes"):
        transformer.apply(params, TOKENS[:, :3], [0, 0, 0, 0])


class ConvNet(nn.Module):
    first: int
    second: int
    kernel: int

    @nn.compact
    def __call__(self, x, train: bool):
        for width in (self.first, self.second):
            x = nn.Conv(width, (self.kernel, self.kernel), use_bias=False)(x)
            x = nn.Dropout(0.3, deterministic=not train)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))
        return nn.Dense(5)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def convnet():
    return elastic(ConvNet, IMAGES, first=(4, 8), second=(4, 6, 8), kernel=(1, 3, 5))


def test_a_convolutional_network_with_batch_norm_dropout_and_kernels(convnet):
    assert_exact(convnet)
    kept = convnet.layout.positions(("params", "Conv_0", "kernel"), 0, np.asarray([0, 0, 1]))
    assert kept.tolist() == [1, 2, 3]  # the middle of the kernel


def test_three_sizes_multiply_in_one_convolution(convnet):
    scopes = [decisions for decisions, _ in convnet.cost("macs").interactions]
    assert scopes == [(0, 1), (0, 1, 2), (0, 2), (1, 2)]
    # 8x8 places: 3 -> first with k x k, first -> second with k x k, second -> 5 once.
    expected = 64 * (9 * 3 * 4 + 9 * 4 * 8) + 8 * 5
    assert convnet.cost("macs").total([0, 2, 1]) == expected


def test_dropout_is_on_with_a_key_alone(convnet):
    params = convnet.init_params(jax.random.key(0))
    arch = jnp.asarray([1, 1, 1])
    apply = jax.jit(jax.vmap(convnet.apply, (None, None, None, 0)))
    first, second, again = apply(params, IMAGES, arch, jax.random.split(jax.random.key(1))[jnp.asarray([0, 1, 0])])
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(convnet.apply(params, IMAGES, arch), convnet.apply(params, IMAGES, arch))


class Stage(nn.Module):
    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(self.width, (3, 3), self.stride)(x)))
        return y if self.stride > 1 else x + y


class Stages(nn.Module):
    depth: tuple

    @nn.compact
    def __call__(self, x):
        for depth in self.depth:
            for i in range(depth):  # automatic names: a block left out renames all that follow
                x = Stage(6, 1 if i else 2)(x)
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.long
def test_depths_of_stages_whose_blocks_are_numbered_through():
    space = elastic(Stages, IMAGES, depth=[(1, 2, 3)] * 2)
    assert_exact(space)
    # The largest has blocks 0, 1, 2 and 3, 4, 5: the second stage's first block is Stage_3 there and Stage_1 here.
    params = jax.tree.map(np.asarray, space.init_params(jax.random.key(0)))
    small = space.extract(params, [0, 0])
    np.testing.assert_array_equal(small["Stage_1"]["Conv_0"]["kernel"], params["Stage_3"]["Conv_0"]["kernel"])


class Inverted(nn.Module):
    kernel: tuple
    expand: tuple

    @nn.compact
    def __call__(self, x):
        for kernel, expand in zip(self.kernel, self.expand):  # blocks of one shape, numbered through layer by layer
            if expand:
                y = nn.relu(nn.Conv(3 * expand, (1, 1))(x))
                y = nn.relu(nn.Conv(3 * expand, (kernel, kernel), feature_group_count=3 * expand)(y))
                x = x + nn.Conv(3, (1, 1))(y)
        return x


def test_each_decision_leaves_out_its_own_block_of_one_shape():
    space = elastic(Inverted, IMAGES[:, :4, :4], kernel=[(1, 3)] * 2, expand=[(0, 2)] * 2)
    assert_exact(space, 8)
    params = jax.tree.map(np.asarray, space.init_params(jax.random.key(0)))
    small = space.extract(params, [1, 0, 0, 1])
    np.testing.assert_array_equal(small["Conv_1"]["kernel"], params["Conv_4"]["kernel"][1:2, 1:2])


class Hidden(nnx.Module):
    def __init__(self, hidden, rngs):
        self.layers = nnx.List([nnx.Linear(6, hidden, rngs=rngs), nnx.Linear(hidden, 6, rngs=rngs)])
        self.extra = nnx.Dict(norm=nnx.BatchNorm(hidden, rngs=rngs), drop=nnx.Dropout(0.5, rngs=rngs))

    def __call__(self, x):
        return x + self.layers[1](nnx.relu(self.extra["drop"](self.extra["norm"](self.layers[0](x)))))


class Stack(nnx.Module):
    def __init__(self, hidden, rngs):
        self.blocks = nnx.List([Hidden(size, rngs) if size else None for size in hidden])
        self.shared = nnx.Linear(6, 6, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = self.shared(x)
            x = x if block is None else block(x)
        return x[:, :2]


@pytest.fixture(scope="module")
def stack():
    return elastic(Stack, ROWS, hidden=[(0, 4, 8)] * 2)


def test_an_nnx_model_with_lists_dictionaries_and_a_shared_module(stack):
    assert_exact(stack)


def test_a_class_with_some_arguments_fixed_is_a_function():
    class Wide(nnx.Module):
        def __init__(self, width, outputs, rngs):
            self.layers = nnx.List([nnx.Linear(6, width, rngs=rngs), nnx.Linear(width, outputs, rngs=rngs)])

        def __call__(self, x):
            return self.layers[1](nnx.relu(self.layers[0](x)))

    assert_exact(elastic(functools.partial(Wide, outputs=3), ROWS, width=(4, 8)), 2)
    with pytest.raises(ValueError, match="cannot be called with outputs"):
        elastic(functools.partial(Wide, outputs=3), ROWS, outputs=(4, 8))


def test_an_nnx_model_comes_back_with_its_parameters(stack):
    params = stack.init_params(jax.random.key(3))
    model = stack.model([1, 0], stack.extract(params, [1, 0]))
    assert model.blocks[1] is None
    model.eval()
    model.set_attributes(use_running_average=False)
    np.testing.assert_allclose(model(ROWS), stack.apply(params, ROWS, jnp.asarray([1, 0])), atol=1e-5)
    apply = jax.jit(jax.vmap(stack.apply, (None, None, 0, 0)))
    keys = jax.random.split(jax.random.key(0))
    first, second = apply(params, ROWS, jnp.asarray([[1, 2], [1, 2]]), keys)
    assert np.abs(first - second).max() > 1e-3


def test_init_depends_on_the_key(stack):
    a, b = (stack.init_params(jax.random.key(seed))["shared"]["kernel"] for seed in (0, 1))
    assert np.abs(a - b).min() > 0


class Body(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(8)(nn.gelu(nn.Dense(self.hidden)(nn.LayerNorm()(x)))), None


class Scanned(nn.Module):
    depth: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        body = nn.scan(nn.remat(Body), variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth)
        return nn.Dense(3)(body(self.hidden)(x, None)[0])


def test_scanned_and_rematerialised_layers():
    space = elastic(Scanned, SEQUENCES, depth=(1, 2, 4), hidden=(4, 8))
    assert_exact(space)
    assert space.cost("macs").total([1, 0]) == 2 * 5 * (8 * 4 + 4 * 8) + 5 * 8 * 3


def test_attention_whose_queries_keys_and_values_are_one_matrix():
    def make(heads, size=4):
        def init(key):
            a, b, c = jax.random.split(key, 3)
            n = 3 * heads * size
            first = {"w": jax.random.normal(a, (8, n)), "b": jnp.zeros(n)}
            return {"qkv": first, "out": jax.random.normal(b, (heads * size, 8)), "head": jax.random.normal(c, (8, 3))}

        def apply(params, x):
            qkv = x @ params["qkv"]["w"] + params["qkv"]["b"]
            q, k, v = (part.reshape(*x.shape[:-1], heads, size) for part in jnp.split(qkv, 3, -1))
            weights = jax.nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) / 2)
            mixed = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(*x.shape[:-1], -1)
            return (x + mixed @ params["out"]) @ params["head"]

        return init, apply

    space = elastic(make, SEQUENCES, heads=(1, 2, 3))
    assert_exact(space, 3)
    kept = space.layout.positions(("params", "qkv", "w"), 1, np.asarray([0]))
    assert kept.tolist() == [0, 1, 2, 3, 12, 13, 14, 15, 24, 25, 26, 27]  # the first head of each of the three
    wide = elastic(lambda size: make(2, size), SEQUENCES, size=(2, 4))  # interleaved with the heads
    assert_exact(wide, 2)


def test_concatenated_widths_are_sums_and_products():
    def make(left, right, top):
        def init(key):
            a, b, c = jax.random.split(key, 3)
            last = {"w": jax.random.normal(c, (left + right, top)), "o": jnp.ones((top, 1))}
            return [jax.random.normal(a, (6, left)), jax.random.normal(b, (6, right)), last]

        def apply(params, x):
            hidden = jax.nn.relu(jnp.concatenate([x @ params[0], x @ params[1]], -1))
            return jnp.tanh(hidden @ params[2]["w"]) @ params[2]["o"]

        return init, apply

    space = elastic(make, ROWS, left=(4, 8), right=(2, 4, 6), top=(1, 5))
    assert_exact(space)
    assert space.layout.positions(("params", 2, "w"), 0, np.asarray([0, 1, 0])).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


@pytest.mark.long
def test_flattened_images_grouped_and_causal_convolutions():
    def make(width, groups):
        layers = [nn.Conv(width, (3, 3)), nn.relu, nn.Conv(groups, (3, 3), feature_group_count=2), nn.relu]
        return nn.Sequential([*layers, lambda x: x.reshape(len(x), -1), nn.Dense(3)])

    assert_exact(elastic(make, IMAGES, width=(4, 8), groups=(4, 6)), 4)
    causal = elastic(lambda k: nn.Sequential([nn.Conv(4, (k,), padding="CAUSAL"), nn.Dense(2)]), SEQUENCES, k=(1, 3))
    assert causal.layout.positions(("params", "layers_0", "kernel"), 0, np.asarray([0])).tolist() == [2]


@pytest.mark.long
def test_group_norm_by_group_size_recurrent_layers_and_half_precision():
    def groups(width):
        layers = [nn.Conv(width, (3, 3)), nn.GroupNorm(num_groups=None, group_size=4), nn.relu, nn.Conv(2, (1, 1))]
        return nn.Sequential(layers)

    assert_exact(elastic(groups, IMAGES, width=(4, 8, 12)), 3)

    def recurrent(width):
        return nn.Sequential([nn.RNN(nn.GRUCell(width)), nn.Dense(2)])

    assert_exact(elastic(recurrent, SEQUENCES, width=(4, 8)), 2)

    def half(width, second):
        dense = lambda n: nn.Dense(n, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)  # noqa: E731
        return nn.Sequential([dense(width), nn.relu, dense(second), nn.relu, dense(2)])

    space = elastic(half, ROWS, width=(4, 8), second=(4, 8))
    assert_exact(space, 4)
    params = space.init_params(jax.random.key(0))
    assert space.apply(params, ROWS, [0, 1]).dtype == jnp.bfloat16
    assert space.extract(params, [0, 1])["layers_0"]["kernel"].dtype == jnp.bfloat16


def test_zero_parameters_and_constant_inputs_hide_nothing():
    class Zero(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):  # a fresh model's outputs are 0, whatever comes before
            return nn.Dense(2, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(nn.Dense(self.width)(x)))

    with pytest.raises(ValueError, match="norm over an elastic width"):
        elastic(Zero, np.zeros((1, 6), np.float32), width=(4, 8))


# What cannot be exact under masks is refused by name.


class Normed(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.LayerNorm()(nn.Dense(self.width)(x)))


class PostNorm(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        if self.hidden:
            x = nn.LayerNorm()(x + nn.Dense(6)(nn.relu(nn.Dense(self.hidden)(x))))
        return nn.Dense(2)(x)


class Gate(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(x + nn.sigmoid(nn.Dense(6)(x)) if self.hidden else x)


class Head(nn.Module):
    size: int

    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(2, qkv_features=2 * self.size)(x)


class Chain(nn.Module):
    depth: int

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.relu(nn.Dense(6)(x))
        return x


def rolled(width):
    def init(key):
        return {"a": jax.random.normal(key, (6, width)), "b": jax.random.normal(key, (width, 3))}

    def apply(params, x):
        hidden = x @ params["a"]
        return (hidden * jnp.roll(hidden, 1, -1)) @ params["b"]

    return init, apply


class RMS(nnx.Module):
    def __init__(self, width, rngs):
        self.first, self.norm = nnx.Linear(6, width, rngs=rngs), nnx.RMSNorm(width, rngs=rngs)
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize(
    ("make", "inputs", "choices", "message"),
    [
        (
            Normed,
            ROWS,
            {"width": (4, 8)},
            "width=4 is not exact.*Dense_1/kernel.*norm over an elastic width in Normed/La",
        ),
        (RMS, ROWS, {"width": (4, 8)}, "width=4 is not exact.*norm over an elastic width"),
        (PostNorm, ROWS, {"hidden": (0, 4)}, "hidden=0 is not exact.*post-norm block.*pre-norm"),
        (Gate, ROWS, {"hidden": (0, 1)}, "hidden=0 is not exact.*sigmoid units.*relu"),
        (Head, SEQUENCES, {"size": (2, 4)}, "size=2 is not exact.*depends on the size.*head_dim"),
        (Chain, ROWS, {"depth": (1, 2)}, "depth=1 is not exact.*no residual branch"),
        (rolled, ROWS, {"width": (4, 8)}, "width=4 is not exact.*interleaved axes.*slices="),
        (lambda width: nn.Dense(width), ROWS, {"width": (4, 8)}, "outputs must have one shape"),
        (
            lambda w: nn.Sequential([nn.Dense(16 // w), nn.Dense(2)]),
            ROWS,
            {"w": (2, 4)},
            "w=2 is no part.*layers_0/",
        ),
        (Normed, ROWS, {"width": (8, 4)}, "width must hold its choices from smallest to largest"),
        (Normed, ROWS, {"width": 8}, "width must be a tuple"),
        (Normed, ROWS, {}, "choices must name at least one"),
        (Normed, ROWS, {"depth": (1, 2)}, "cannot be called with depth"),
        (lambda z: nn.Dense(2), ROWS, {"z": (1, 2)}, "z changes nothing: the model ignores"),
        (
            lambda z: nn.Sequential([lambda x: x * z, nn.Dense(2)]),
            ROWS,
            {"z": (1, 2)},
            "z changes what the model computes",
        ),
        (
            lambda w: nn.Sequential([nn.Dense(w // 4), nn.Dense(2)]),
            ROWS,
            {"w": (4, 5, 8)},
            "w changes nothing between 4",
        ),
        (lambda w: w, ROWS, {"w": (1, 2)}, "make must return a Flax Linen module"),
    ],
)
def test_what_is_not_exact_or_no_choice_is_refused_by_name(make, inputs, choices, message):
    with pytest.raises(ValueError, match=message):
        elastic(make, inputs, **choices)


def test_a_maximum_of_two_widths_is_refused():
    def make(a, b):
        return nn.Sequential([nn.Dense(max(a, b)), nn.relu, nn.Dense(a + b), nn.relu, nn.Dense(2)])

    with pytest.raises(ValueError, match="sum or product of what single decisions give|not exact"):
        elastic(make, ROWS, a=(4, 8), b=(4, 8))


def test_slices_by_hand():
    def make(width):
        return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(2)])

    last = {
        "layers_0/kernel": {1: "trailing"},
        "layers_0/bias": {0: [[4, 5, 6, 7], range(8)]},
        "layers_2/kernel": {0: "trailing"},
    }
    space = elastic(make, ROWS, slices=last, width=(4, 8))
    assert space.layout.positions(("params", "layers_0", "bias"), 0, np.asarray([0])).tolist() == [4, 5, 6, 7]
    assert_exact(space, 2)
    with pytest.raises(ValueError, match="slices must name leaves of the model, got 'dense'"):
        elastic(make, ROWS, slices={"dense": {0: "leading"}}, width=(4, 8))
    with pytest.raises(ValueError, match="must be one of"):
        elastic(make, ROWS, slices={"layers_0/bias": {0: "first"}}, width=(4, 8))
    with pytest.raises(ValueError, match="positions that each choice keeps, 4, 8 of 8, got"):
        elastic(make, ROWS, slices={"layers_0/bias": {0: [[1], range(8)]}}, width=(4, 8))


# Weights that are there already.


def noisy(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + 0.3 * rng.standard_normal(leaf.shape).astype(leaf.dtype), params)


def test_sorted_parameters_are_the_same_function_with_important_units_first(convnet, transformer):
    for space, inputs in ((convnet, IMAGES), (transformer, TOKENS)):
        params = noisy(space.init_params(jax.random.key(0)))
        ordered = space.sort_params(params)
        largest = space.choices.largest
        expected = space.apply(params, inputs, largest)
        np.testing.assert_allclose(space.apply(ordered, inputs, largest), expected, atol=1e-5 * np.abs(expected).max())
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), params, ordered)
        assert any(jax.tree.leaves(moved))
    params = noisy(convnet.init_params(jax.random.key(0)))
    # The only unit of the first layer that does anything comes first, whatever its place was.
    alive = np.arange(8) == 5
    params["Conv_0"]["kernel"] = params["Conv_0"]["kernel"] * alive
    params["BatchNorm_0"] = {name: leaf * alive for name, leaf in params["BatchNorm_0"].items()}
    params["Conv_1"]["kernel"] = params["Conv_1"]["kernel"] * alive[:, None]
    ordered = convnet.sort_params(params)
    assert np.abs(ordered["Conv_0"]["kernel"]).sum((0, 1, 2)).astype(bool).tolist() == [True] + 7 * [False]
    small = convnet.apply(ordered, IMAGES, jnp.asarray([0, 2, 2]))
    np.testing.assert_allclose(small, convnet.apply(params, IMAGES, convnet.choices.largest), atol=1e-5)


def test_sorting_moves_whole_groups_and_whole_heads():
    def groups(width):
        layers = [nn.Conv(width, (3, 3)), nn.GroupNorm(num_groups=None, group_size=4), nn.relu, nn.Conv(2, (1, 1))]
        return nn.Sequential(layers)

    plain = elastic(groups, IMAGES, width=(4, 8, 12))
    params = noisy(plain.init_params(jax.random.key(0)))
    scale = np.repeat([1.0, 10.0, 100.0], 4).astype(np.float32)
    params["layers_0"]["kernel"] = params["layers_0"]["kernel"] * scale
    params["layers_3"]["kernel"] = params["layers_3"]["kernel"] * scale[:, None]
    space = elastic(groups, IMAGES, params=params, width=(4, 8, 12))
    ordered = space.init_params(jax.random.key(1))
    order = [*range(8, 12), *range(4, 8), *range(4)]
    np.testing.assert_array_equal(ordered["layers_0"]["kernel"], params["layers_0"]["kernel"][..., order])
    np.testing.assert_array_equal(ordered["layers_3"]["kernel"], params["layers_3"]["kernel"][..., order, :])
    with pytest.raises(ValueError, match="params must be those of the model with width=12: leaf layers_0/"):
        elastic(groups, IMAGES, params=plain.extract(params, [1]), width=(4, 8, 12))


def test_sorting_by_the_change_of_a_loss():
    def make(width):
        return nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(2)])

    space = elastic(make, ROWS, width=(2, 4))
    params = noisy(space.init_params(jax.random.key(0)))
    params["layers_2"]["kernel"] = jnp.asarray([[1.0, 9.0], [2.0, 9.0], [3.0, 9.0], [0.0, 9.0]])

    def loss(params):  # of the first output alone, linear in the hidden units
        return space.apply(params, ROWS, space.choices.largest)[:, 0].mean()

    hidden = np.maximum(ROWS @ params["layers_0"]["kernel"] + params["layers_0"]["bias"], 0).mean(0)
    share = hidden * np.asarray([1.0, 2.0, 3.0, 0.0])
    ordered = space.sort_params(params, score=loss)
    expected = params["layers_2"]["kernel"][np.argsort(-share, kind="stable")]
    np.testing.assert_array_equal(ordered["layers_2"]["kernel"], expected)


def test_batch_norm_is_calibrated_for_one_architecture(convnet, stack):
    params = noisy(convnet.init_params(jax.random.key(0)))
    arch = [0, 1, 1]
    own = convnet.extract(params, arch)
    state = convnet.calibrate(own, arch, [IMAGES])
    outputs = convnet.model(arch).apply({"params": own, **state}, IMAGES, train=False)
    np.testing.assert_allclose(outputs, convnet.apply(params, IMAGES, jnp.asarray(arch)), rtol=1e-3, atol=1e-4)
    two = convnet.calibrate(own, arch, [IMAGES, 2 * IMAGES])["batch_stats"]["BatchNorm_0"]
    one = state["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(two["mean"], 1.5 * one["mean"], rtol=1e-3, atol=1e-6)  # no bias before it
    np.testing.assert_allclose(two["var"], 2.5 * one["var"], rtol=1e-3)
    with pytest.raises(ValueError, match="batches must hold at least one"):
        convnet.calibrate(own, arch, [])

    params = noisy(stack.init_params(jax.random.key(0)))
    own = stack.extract(params, [1, 2])
    model = stack.model([1, 2], own, stack.calibrate(own, [1, 2], [ROWS]))
    model.eval()
    np.testing.assert_allclose(model(ROWS), stack.apply(params, ROWS, jnp.asarray([1, 2])), rtol=1e-3, atol=1e-4)
