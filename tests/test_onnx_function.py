"""Functions of any arrays as ONNX: ONNX Runtime computes what JAX does, and what is not known is one line."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from jaxnas.export import onnx_calls, onnx_function  # noqa: E402
from jaxnas.export.onnx_operations import UnsupportedOperationError  # noqa: E402

X = np.random.default_rng(0).standard_normal((2, 6, 8)).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((2, 9, 9, 4)).astype(np.float32)
TOKENS = np.random.default_rng(2).integers(0, 11, (2, 6)).astype(np.int32)


def check(function, *arguments):
    expected = jax.tree.leaves(jax.jit(function)(*arguments))
    found = onnx_calls.compiled(function, *arguments)()
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(11, 8)
        x = embed(tokens) + self.param("positions", nn.initializers.normal(1.0), (6, 8))
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x), mask=mask)
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.RMSNorm()(x))))
        return {"logits": embed.attend(x), "pooled": x.max(1)}


class Convolutions(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(8, (3, 3), strides=2)(x)))
        x = nn.Conv(8, (5, 5), feature_group_count=8, kernel_dilation=2)(nn.max_pool(x, (2, 2), (1, 1), "SAME"))
        x = nn.avg_pool(nn.GroupNorm(2)(x), (3, 3), (2, 2))
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.mark.parametrize(
    ("module", "inputs"), [(Attention(), TOKENS), (Convolutions(), IMAGES)], ids=["attention", "convolutions"]
)
def test_networks(module, inputs):
    variables = module.init(jax.random.key(0), inputs)
    check(lambda inputs: module.apply(variables, inputs), inputs)


def test_a_module_that_holds_its_weights():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layer, self.dropout = nnx.Linear(8, 12, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            gate, value, rest = jnp.split(self.dropout(self.layer(x)), 3, axis=-1)
            return nnx.sigmoid(gate) * value + jnp.cumsum(rest, axis=1)

    model = Net(nnx.Rngs(0))
    model.eval()
    check(model, X)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.einsum("bld,bmd->blm", x, x[:, :3]),
        lambda x: jnp.einsum("bld,kdb->klb", x, jnp.arange(48.0).reshape(3, 8, 2)),
        lambda x: jnp.where(x > 0, x, 0.1 * x).sum((0, 2)),
        lambda x: jnp.clip(x, -0.5, 0.5)[:, ::2, 1:7],
        lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.softplus(x) + jnp.expm1(x),
        lambda x: jnp.concatenate([x.argmax(-1).astype(jnp.float32), (x != x[:1]).mean(-1)], 1),
        lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 1)), constant_values=3.0) ** 3,
        lambda x: jax.checkpoint(lambda y: jnp.sin(y) % 0.3)(x) / jnp.linalg.norm(x, axis=-1, keepdims=True),
        lambda x: jnp.take(x, jnp.array([2, 0]), axis=1),
        lambda x: (x, jnp.ones(3)),
    ],
)
def test_operations(function):
    check(function, X)


def test_several_inputs_of_other_types():
    check(lambda pair: pair[0].sum(-1) * pair[1]["tokens"], (X, {"tokens": TOKENS}))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: jnp.sort(x), "the operation 'sort'"),
        (lambda x: jax.lax.scan(lambda c, y: (c + y.sum(), c), 0.0, x)[1], "the operation 'scan'"),
        (lambda x: x[jnp.argmax(x[:, 0, 0]), :2, 1], "a gather|dynamic"),
    ],
)
def test_what_is_not_known_is_one_line(function, words):
    with pytest.raises(UnsupportedOperationError, match=words):
        onnx_function.to_onnx(function, X)
    with pytest.raises(ValueError, match=r"cannot be run by onnxruntime.* use runtime='jax'") as raised:
        onnx_calls.compiled(function, X)
    assert "\n" not in str(raised.value)
