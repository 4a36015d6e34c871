"""RandAugment's operations against Pillow's, and their random choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from jaxnas.data.randaugment import OPERATIONS, apply, randaugment

IMAGE = np.random.default_rng(0).integers(20, 200, (8, 8, 3), np.uint8)


def one(name, strength, image=IMAGE):
    return np.asarray(jax.jit(apply)(image, jnp.array([OPERATIONS.index(name)]), jnp.array([strength])))


@pytest.mark.parametrize(
    ("name", "strength", "pillow"),
    [
        ("identity", 0.7, lambda image: image),
        ("brightness", 0.5, lambda image: ImageEnhance.Brightness(image).enhance(1.45)),
        ("brightness", -0.5, lambda image: ImageEnhance.Brightness(image).enhance(0.55)),
        ("contrast", 0.5, lambda image: ImageEnhance.Contrast(image).enhance(1.45)),
        ("colour", -0.5, lambda image: ImageEnhance.Color(image).enhance(0.55)),
        ("autocontrast", 0.3, ImageOps.autocontrast),
        ("posterize", 0.5, lambda image: ImageOps.posterize(image, 6)),
        ("solarize", 0.5, lambda image: ImageOps.solarize(image, 128)),
        ("rotate", 1.0, lambda image: image.rotate(-30, fillcolor=(128, 128, 128))),
    ],
)
def test_operations_are_pillows(name, strength, pillow):
    expected = np.asarray(pillow(Image.fromarray(IMAGE))).astype(int)
    difference = np.abs(one(name, strength).astype(int) - expected)
    if name == "rotate":  # where a source lies half-way between pixels, either neighbour is right
        assert (difference.max(-1) > 1).mean() < 0.1
    else:
        assert difference.max() <= 1


def test_translations_move_pixels_and_fill_with_grey():
    moved = one("translate_rows", 0.5)  # 0.45 of half the size: round(1.8) = 2 pixels
    np.testing.assert_array_equal(moved[:6], IMAGE[2:])
    assert (moved[6:] == 128).all()
    np.testing.assert_array_equal(one("translate_columns", -0.5)[:, 2:], IMAGE[:, :6])


def test_geometric_operations_compose_in_order():
    names, strengths = ("rotate", "translate_rows"), jnp.array([1.0, 0.5])
    both = apply(IMAGE, jnp.array([OPERATIONS.index(name) for name in names]), strengths)
    # The output of the second shows the first's output moved: rows shift before they are rotated back.
    assert (np.asarray(both) != one("rotate", 1.0)).any()
    assert np.abs(np.asarray(both)[:5].astype(int) - one("rotate", 1.0)[2:7]).max(-1).astype(bool).mean() < 0.3


def test_images_of_a_minibatch_draw_for_themselves():
    images = jnp.asarray(np.broadcast_to(IMAGE, (64, 8, 8, 3)))
    augment = jax.jit(randaugment)
    first, second = augment(jax.random.key(0), images), augment(jax.random.key(0), images)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == jnp.uint8
    assert len(np.unique(np.asarray(first).reshape(64, -1), axis=0)) > 20


def test_magnitude_is_checked():
    with pytest.raises(ValueError, match="magnitude must be between 0 and 30, got 31"):
        randaugment(jax.random.key(0), jnp.zeros((1, 8, 8, 3), jnp.uint8), magnitude=31)
