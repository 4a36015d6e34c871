"""The examples: masked networks are the extracted ones, costs are counted exactly, and each search runs.

Spaces of two are checked on a few architectures; the slow tests take all four, as many as one should, and the searches.
"""

import pathlib

import numpy as np
import pytest

from examples import cifar_vit, diabetes_mlp, digits_cnn, stdlib_language_model

DATA = pathlib.Path(__file__).parents[1].parent / "shared" / "tfds"
RANDOM_IMAGES = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
SPACES = {
    "diabetes_mlp": lambda: diabetes_mlp.space(diabetes_mlp.data()[0][0]),
    "digits_cnn": lambda: digits_cnn.space(digits_cnn.data()[0][0]),
    "stdlib_language_model": lambda: stdlib_language_model.space(stdlib_language_model.data(100_000)[0]),
    "cifar_vit": lambda: cifar_vit.space(RANDOM_IMAGES),
}


def assert_exact(space, compared, counted):
    archs = space.sample_uniform(np.random.default_rng(11), counted)
    assert space.check(archs[:compared]).largest < 1e-5
    for name in ("macs", "params"):
        assert space.cost(name).total(archs).tolist() == [space.count(name, arch) for arch in archs]


def test_the_regression_is_exact():
    assert_exact(SPACES["diabetes_mlp"](), compared=3, counted=6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
def test_every_example_is_exact(name):
    assert_exact(SPACES[name](), compared=20, counted=50)


def check_family(family):
    budgets = [(member.costs, member.budgets) for member in family]
    assert all(costs[name] <= budget for costs, allowed in budgets for name, budget in allowed.items())
    assert family[-1].loss <= family[0].loss


@pytest.mark.slow
@pytest.mark.parametrize("example", [diabetes_mlp, digits_cnn, stdlib_language_model])
def test_a_search_keeps_its_budgets_and_larger_networks_are_better(example):
    check_family(example.main())


@pytest.mark.slow
def test_the_vision_transformer_on_real_images():
    if not DATA.exists():
        pytest.skip("needs ../shared/tfds, which is not part of the repository")
    check_family(cifar_vit.main(str(DATA)))
