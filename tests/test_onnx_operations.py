"""ONNX graphs compute what the JAX functions do that they come from, and hold nothing that weights alone decide."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import networks, spaces
from tests.tiny_search import tiny

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from jaxnas.export.onnx_operations import UnsupportedOperationError, to_onnx  # noqa: E402

pytestmark = pytest.mark.long

KEY = jax.random.key(0)
WEIGHTS = jax.random.normal(KEY, (3, 5))


def kinds(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def check(function, size=8):
    """Compares a function with its graph for two batch sizes; returns the model."""
    model = to_onnx(function, (size, size, 3), "graph", "images", "logits")
    onnx.checker.check_model(model, full_check=True)
    evaluator = ReferenceEvaluator(model)
    for batch in (1, 3):
        images = np.asarray(jax.random.normal(jax.random.key(batch), (batch, size, size, 3)))
        (found,) = evaluator.run(None, {"images": images})
        np.testing.assert_allclose(found, function(images), rtol=1e-4, atol=1e-5)
    return model


def network(space, arch):
    """A network with random weights and running averages, as a function of images."""
    module = networks.build(space, arch, convolve=jax.lax.conv_general_dilated)
    variables = module.init(KEY, jnp.zeros((1, space.image_size, space.image_size, 3)))
    variables = jax.tree.map(lambda leaf: leaf + 0.1 * abs(jax.random.normal(KEY, leaf.shape)), variables)
    return lambda images: module.apply(variables, images)


def test_batch_norm_becomes_part_of_the_convolutions():
    # The stem, a convolution in place of the first layer, an inverted bottleneck with a sum around it, and the head.
    model = check(network(tiny(), (1, 0)))
    assert kinds(model) == {
        "Transpose": 1, "Conv": 6, "Clip": 4, "Add": 2, "ReduceSum": 1, "Div": 1, "MatMul": 1, "Identity": 1
    }  # fmt: skip
    assert model.opset_import[0].version == 17


@pytest.mark.parametrize("arch", [(2, 1, 4, 0, 0, 3), (0,) * 6], ids=["mixed", "no operation"])
def test_cells(arch):
    space = spaces.nasbench201(cells=1, width=0.25, image_size=8)
    model = check(network(space, arch))
    assert kinds(model)["Transpose"] == (1 if any(arch) else 0)


def pooled(x):
    return x.mean((1, 2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: pooled(nn.avg_pool(x, (3, 3), (2, 2), "SAME")) @ WEIGHTS,
        lambda x: pooled(nn.gelu(x) * nn.sigmoid(x) - nn.silu(2 - x)),
        lambda x: pooled(jnp.tanh(x) ** 3 / jnp.exp(abs(x)) + jax.lax.rsqrt(x**2 + 1)),
        lambda x: pooled(jnp.pad(x, ((0, 0), (1, 2), (0, 1), (0, 0)), constant_values=3)),
        lambda x: pooled(jax.lax.slice_in_dim(jax.lax.slice_in_dim(x, 1, 7, 2, axis=1), 0, 2, axis=3)),
        lambda x: jax.lax.slice_in_dim(x, 2, 4, axis=2).reshape(-1, 48) @ jnp.ones((48, 2)),
        lambda x: pooled(x * nn.sigmoid(x.mean((1, 2), keepdims=True) @ jnp.ones((3, 3)))),
        lambda x: pooled(x.transpose(0, 2, 3, 1)),
        lambda x: nn.relu(pooled(x) @ WEIGHTS + jnp.arange(5.0)),
        lambda x: jnp.clip(pooled(x - jnp.arange(3.0)), -1.5, 0.25),
        lambda x: pooled(jnp.minimum(nn.relu(x), 0.5 + nn.relu(x.mean((1, 2), keepdims=True)))),
    ],
)
def test_functions_and_their_graphs_agree(function):
    check(function)


def test_a_convolution_that_two_operations_use_is_scaled_for_one():
    kernel = jax.random.normal(KEY, (3, 3, 3, 4))

    def function(x):
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 1), "SAME", rhs_dilation=(1, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return pooled(nn.relu(x) + (x - jnp.arange(4.0)) / 3)

    check(function)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: pooled(jnp.cumsum(x, 1)), "the operation 'cumsum'"),
        (lambda x: pooled(x).reshape(1, -1), "outputs that are not"),
        (lambda x: x.reshape(-1, 4, 3).sum(1), "outputs that are not"),
        (lambda x: jnp.einsum("bijc,bijd->bcd", x, x).sum(1), "a product of two arrays that are computed"),
    ],
)
def test_what_is_not_known_is_named(function, message):
    with pytest.raises(UnsupportedOperationError, match=message):
        to_onnx(function, (8, 8, 3), "graph", "images", "logits")
