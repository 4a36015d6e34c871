"""RandAugment inside jit (Cubuk et al., arXiv 1909.13719): random operations of one strength, for each image its own.

Geometric operations are matrices, so those of an image are multiplied and its pixels are moved once, to the nearest
neighbour. Strengths are those of the paper's published policy space, where a magnitude of 30 is the strongest.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

STRONGEST = 30
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2 luma, as Pillow's

Operation = Callable[[jax.Array, jax.Array], jax.Array]


def _blend(image: jax.Array, other: jax.Array, strength: jax.Array) -> jax.Array:
    """Away from `other` for positive strengths, towards it for negative ones."""
    return jnp.clip(other + (1 + 0.9 * strength) * (image - other), 0, 255)


def _contrast(image: jax.Array, strength: jax.Array) -> jax.Array:
    return _blend(image, (image @ _GREY).mean(), strength)


def _autocontrast(image: jax.Array, strength: jax.Array) -> jax.Array:
    del strength
    low, high = image.min((0, 1)), image.max((0, 1))
    return jnp.where(high > low, (image - low) * (255 / jnp.maximum(high - low, 1)), image)


def _posterize(image: jax.Array, strength: jax.Array) -> jax.Array:
    step = 2 ** jnp.round(4 * jnp.abs(strength))
    return jnp.floor(image / step) * step


def _solarize(image: jax.Array, strength: jax.Array) -> jax.Array:
    return jnp.where(image >= 256 * (1 - jnp.abs(strength)), 255 - image, image)


# (image float [H, W, 3] of 0 to 255, strength in [-1, 1]) -> image
PHOTOMETRIC: dict[str, Operation] = {
    "identity": lambda image, strength: image,
    "brightness": lambda image, strength: _blend(image, jnp.zeros_like(image), strength),
    "contrast": _contrast,
    "colour": lambda image, strength: _blend(image, (image @ _GREY)[..., None], strength),
    "autocontrast": _autocontrast,
    "posterize": _posterize,
    "solarize": _solarize,
}


def _matrix(rows: list[list[jax.Array | float]]) -> jax.Array:
    return jnp.array([[jnp.float32(value) for value in row] for row in [*rows, [0, 0, 1]]])


def _rotation(strength: jax.Array) -> jax.Array:
    angle = jnp.deg2rad(30.0) * strength
    return _matrix([[jnp.cos(angle), -jnp.sin(angle), 0], [jnp.sin(angle), jnp.cos(angle), 0]])


# strength in [-1, 1] -> matrix [3, 3] from output (row, column, 1) to input, in units of half the image's size
GEOMETRIC: dict[str, Callable[[jax.Array], jax.Array]] = {
    "rotate": _rotation,
    "shear_rows": lambda strength: _matrix([[1, 0.3 * strength, 0], [0, 1, 0]]),
    "shear_columns": lambda strength: _matrix([[1, 0, 0], [0.3 * strength, 1, 0]]),
    "translate_rows": lambda strength: _matrix([[1, 0, 0.9 * strength], [0, 1, 0]]),
    "translate_columns": lambda strength: _matrix([[1, 0, 0], [0, 1, 0.9 * strength]]),
}

OPERATIONS = (*PHOTOMETRIC, *GEOMETRIC)


def randaugment(key: jax.Array, images: jax.Array, *, operations: int = 2, magnitude: float = 9) -> jax.Array:
    """Applies random operations to each image.

    Args:
      key: for this minibatch alone.
      images: uint8 [B, H, W, 3].
      operations: how many, drawn uniformly from `OPERATIONS` with replacement.
      magnitude: of all of them, 0 to 30; signs are drawn.

    Returns:
      uint8 [B, H, W, 3]; pixels from outside of an image are grey.

    Raises:
      ValueError: if the magnitude is out of range.
    """
    chex.assert_rank(images, 4)
    chex.assert_type(images, jnp.uint8)
    if not 0 <= magnitude <= STRONGEST:
        raise ValueError(f"magnitude must be between 0 and {STRONGEST}, got {magnitude}")
    choice_key, sign_key = jax.random.split(key)
    shape = (len(images), operations)
    choices = jax.random.randint(choice_key, shape, 0, len(OPERATIONS))
    strengths = jax.random.rademacher(sign_key, shape, jnp.float32) * (magnitude / STRONGEST)
    return jax.vmap(apply)(images, choices, strengths)


def apply(image: jax.Array, choices: jax.Array, strengths: jax.Array) -> jax.Array:
    """The given operations of one image.

    Args:
      image: uint8 [H, W, 3].
      choices: int [N] into `OPERATIONS`.
      strengths: float [N] in [-1, 1].

    Returns:
      uint8 [H, W, 3].
    """
    pixels, matrix = image.astype(jnp.float32), jnp.eye(3)
    photometric, geometric = tuple(PHOTOMETRIC.values()), tuple(GEOMETRIC.values())
    for choice, strength in zip(choices, strengths):
        moves = choice >= len(photometric)
        pixels = jax.lax.switch(jnp.where(moves, 0, choice), photometric, pixels, strength)
        move = jax.lax.switch(jnp.maximum(choice - len(photometric), 0), geometric, strength)
        matrix = matrix @ jnp.where(moves, move, jnp.eye(3))
    return jnp.round(_moved(pixels, matrix)).astype(jnp.uint8)


def _moved(pixels: jax.Array, matrix: jax.Array) -> jax.Array:
    """Output (row, column) shows what the input has at matrix @ (row, column, 1), with the origin in the middle."""
    size = jnp.array(pixels.shape[:2])
    middle, half = (size - 1) / 2, size / 2
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, pixels.shape[:2]), indexing="ij"), -1)
    sources = ((grid - middle) / half) @ matrix[:2, :2].T + matrix[:2, 2]
    rows, columns = jnp.moveaxis(jnp.round(sources * half + middle).astype(jnp.int32), -1, 0)
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    return jnp.where(inside[..., None], pixels.at[rows, columns].get(mode="clip"), 128.0)
