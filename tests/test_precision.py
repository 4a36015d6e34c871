"""Computing in bfloat16: close to float32, with float32 parameters, losses and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, supernet
from jaxnas.spaces.mbconv import SKIP, Operation
from jaxnas.supernet.precision import compute_in

SPACES = {
    "mbconv": spaces.mbconv_space(
        "tiny",
        image_size=8,
        stem_channels=4,
        stages=((8, 2, 2),),
        operations=(Operation(3, 2), SKIP),
        project_skip=True,
        head_channels=16,
    ),
    "cell": spaces.nasbench201(channels=4, cells=1, image_size=8),
}


@pytest.mark.parametrize("name", ["mbconv", pytest.param("cell", marks=pytest.mark.slow)])
def test_bfloat16_is_close(name):
    space = SPACES[name]
    module = supernet.build(space)
    params = module.init_params(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 3))
    labels = jnp.arange(16) % 10
    archs = jnp.asarray(space.sample_uniform(np.random.default_rng(0), 2))

    def apply(params, images, arch):
        return module.apply({"params": params}, images, arch)

    def run(precision):
        step = lambda params: supernet.gradient(compute_in(precision, apply), params, images, labels, archs)  # noqa: E731
        return jax.jit(step, compiler_options={"xla_backend_optimization_level": 0})(params)

    (half_gradient, half), (gradient, exact) = run("bfloat16"), run("float32")
    np.testing.assert_allclose(half.loss, exact.loss, rtol=0.02)
    assert half.loss.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(half_gradient)} == {np.dtype(np.float32)}
    flat, exact_flat = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in (half_gradient, gradient)
    )
    cosine = flat @ exact_flat / np.linalg.norm(flat) / np.linalg.norm(exact_flat)
    assert cosine > 0.98


def test_float32_is_the_function_itself():
    assert compute_in("float32", max) is max
    with pytest.raises(ValueError, match="float16"):
        compute_in("float16", max)
