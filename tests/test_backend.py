"""Programs for backends that are not there: the backend is an argument, and JAX's default is asked for in one place."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from jaxnas import spaces, supernet
from jaxnas.spaces.mbconv import SKIP, Operation
from jaxnas.supernet.backend import resolve_backend

SPACES = {
    "mbconv": spaces.mbconv_space(
        "small",
        image_size=8,
        stem_channels=4,
        first_channels=4,
        stages=((8, 2, 2),),
        operations=(Operation(3, 3), Operation(5, 6), SKIP),
        head_channels=8,
    ),
    "cell": spaces.nasbench201(channels=4, cells=1, image_size=8),
}


def grouped_convolutions(jaxpr):
    """How many convolutions by groups a program has."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            total += equation.params["feature_group_count"] > 1
        total += sum(map(grouped_convolutions, jaxprs_in_params(equation.params)))
    return total


def program(space, backend, **options):
    module = supernet.build(space, backend=backend, **options)
    params = jax.eval_shape(module.init_params, jax.random.key(0))
    images, arch = jnp.zeros((2, 8, 8, 3)), jnp.zeros(len(space.decisions), jnp.int32)
    return jax.make_jaxpr(lambda p, x, a: module.apply({"params": p}, x, a))(params, images, arch).jaxpr


@pytest.fixture
def no_default(monkeypatch):
    def refuse():
        raise AssertionError("the backend was given, JAX must not be asked")

    monkeypatch.setattr(jax, "default_backend", refuse)


@pytest.mark.parametrize("gather", [False, True])
def test_depthwise_convolutions_are_those_of_the_given_backend(no_default, gather):
    assert grouped_convolutions(program(SPACES["mbconv"], "tpu", gather=gather)) > 0  # the compiler's own
    assert grouped_convolutions(program(SPACES["mbconv"], "cpu", gather=gather)) == 0  # shifted products


def test_other_programs_of_a_supernet_take_it_too(no_default):
    for space in SPACES.values():
        module = supernet.build(space, backend="gpu")
        params = jax.eval_shape(module.init_params, jax.random.key(0))
        images = jnp.zeros((2, 8, 8, 3))
        arch = jnp.zeros(len(space.decisions), jnp.int32)
        weights = jnp.zeros((len(space.decisions), space.max_choices))
        for method, choices in (("__call__", arch), ("apply_with_features", arch), ("apply_mixture", weights)):
            jax.eval_shape(
                lambda p, x, c, module=module, method=method: module.apply({"params": p}, x, c, method=method),
                params,
                images,
                choices,
            )
    assert supernet.resolve_batching("auto", "gpu") == "vmap"
    assert supernet.resolve_batching("auto", "cpu") == "map"


def test_large_minibatches_are_for_one_architecture_after_the_other():
    cifar, imagenet = 64 * 32**2, 128 * 224**2
    chosen = {name: [supernet.resolve_batching("auto", name, pixels) for pixels in (64, cifar, imagenet)]
              for name in ("cpu", "tpu", "gpu", "of another kind")}  # fmt: skip
    assert chosen == {
        "cpu": ["map", "map", "map"],
        "tpu": ["vmap", "map", "map"],
        "gpu": ["vmap", "vmap", "map"],
        "of another kind": ["vmap", "vmap", "vmap"],
    }
    assert supernet.resolve_batching("vmap", "tpu", imagenet) == "vmap"
    assert supernet.resolve_batching("map", "gpu", 64) == "map"


def test_the_default_is_that_of_jax():
    assert resolve_backend() == jax.default_backend()
    assert resolve_backend("tpu") == "tpu"


def test_one_place_asks_for_the_default():
    root = pathlib.Path(supernet.__file__).parents[1]
    asking = [path.name for path in root.rglob("*.py") if "default_backend(" in path.read_text(encoding="utf-8")]
    assert asking == ["backend.py"]
