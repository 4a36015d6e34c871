"""What `apply_with_features` gives, for both kinds of supernets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnas import spaces, supernet

SPACES = {
    "mbconv": (spaces.nasbench_macro(width=0.125, image_size=16), (2, 5, 8)),
    "cell": (spaces.nasbench201(channels=4, cells=2, image_size=8), (2, 4, 6)),
}


@functools.cache
def problem(name):
    space, _ = SPACES[name]
    module = supernet.build(space)
    images = jax.random.normal(jax.random.key(1), (4, space.image_size, space.image_size, 3))
    return space, module, module.init_params(jax.random.key(0)), images


@functools.cache
def result(name):
    space, module, params, images = problem(name)
    archs = jnp.asarray(space.sample_uniform(np.random.default_rng(0), 3))

    def apply(params, images, arch):
        return module.apply({"params": params}, images, arch, method="apply_with_features")

    return archs, jax.jit(jax.vmap(apply, (None, None, 0)))(params, images, archs)


@pytest.mark.parametrize("name", ["cell", pytest.param("mbconv", marks=pytest.mark.slow)])
def test_logits_are_those_without_features(name):
    _, module, params, images = problem(name)
    archs, (logits, _) = result(name)
    plain = jax.jit(lambda arch: module.apply({"params": params}, images, arch))
    for arch, row in zip(archs, logits):
        np.testing.assert_allclose(row, plain(arch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPACES)
def test_the_head_s_features_give_the_logits_and_stages_end_where_the_size_changes(name):
    space, _, params, _ = problem(name)
    archs, (logits, features) = result(name)
    classifier = params["classifier"]
    pooled = features[-1].mean((2, 3))
    np.testing.assert_allclose(pooled @ classifier["kernel"] + classifier["bias"], logits, rtol=1e-4, atol=1e-5)
    ends = spaces.stage_ends(space)
    assert ends == SPACES[name][1]
    assert len(features) == ends[-1] + 2  # the stem before them and the head after them
    assert all(feature.shape[:2] == (len(archs), 4) for feature in features)
    sizes = [feature.shape[2] for feature in features[1:-1]]
    for end in ends[:-1]:
        assert sizes[end - 1] == 2 * sizes[end]


def test_a_skipped_layer_passes_its_input_on():
    space, module, params, images = problem("mbconv")
    skipped = [d for d, layer in enumerate(space.layers) if layer.keeps_shape][0]
    arch = jnp.full(len(space.layers), space.decisions[0].choices.index("skip"), jnp.int32)
    _, features = jax.jit(lambda arch: module.apply({"params": params}, images, arch, method="apply_with_features"))(
        arch
    )
    np.testing.assert_array_equal(features[skipped + 1], features[skipped])


def test_a_space_without_supernet_has_no_stages():
    with pytest.raises(ValueError, match="no supernet"):
        spaces.stage_ends(spaces.SearchSpace("flat", (spaces.Decision("a", ("x", "y")),)))
