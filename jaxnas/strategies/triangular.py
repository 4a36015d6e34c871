"""Inverse of a triangular matrix by matrix products, for `shared_model_posterior.py`.

XLA's batched triangular solve on CPUs is not LAPACK's and took most of a fit.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

LARGEST_TILE = 16  # side of the tiles on the diagonal that are inverted row by row


def invert_lower(lower: jax.Array) -> jax.Array:
    """Inverse of a lower triangular matrix [P, P] without zeros on its diagonal.

    The tiles on the diagonal are inverted by forward substitution, all at once; then pairs of neighbours are merged,
    [[A, 0], [B, C]]^-1 = [[A^-1, 0], [-C^-1 B A^-1, C^-1]], until one is left.
    """
    side = len(lower)
    chex.assert_shape(lower, (side, side))
    if side == 0:
        return lower
    tiles = 1
    while -(-side // tiles) > LARGEST_TILE:
        tiles *= 2
    width = -(-side // tiles)
    size = tiles * width
    lower = jnp.eye(size, dtype=lower.dtype).at[:side, :side].set(lower)
    inverse = _invert_tiles(_tiles(lower, width)[np.arange(tiles), np.arange(tiles)])
    while width < size:
        even = np.arange(0, size // width, 2)
        corner = -inverse[1::2] @ _tiles(lower, width)[even + 1, even] @ inverse[0::2]
        top = jnp.concatenate([inverse[0::2], jnp.zeros_like(corner)], axis=2)
        bottom = jnp.concatenate([corner, inverse[1::2]], axis=2)
        inverse, width = jnp.concatenate([top, bottom], axis=1), 2 * width
    return inverse[0, :side, :side]


def _tiles(matrix: jax.Array, width: int) -> jax.Array:
    """[P, P] -> [P / width, P / width, width, width]."""
    count = len(matrix) // width
    return matrix.reshape(count, width, count, width).swapaxes(1, 2)


def _invert_tiles(lower: jax.Array) -> jax.Array:
    """Forward substitution, row by row: [N, width, width] -> [N, width, width]."""
    identity = np.eye(lower.shape[-1], dtype=np.float32)
    rows = []
    for index, unit in enumerate(identity):
        row = jnp.broadcast_to(unit, lower.shape[:-1])
        if rows:
            row = row - jnp.einsum("tj,tjk->tk", lower[:, index, :index], jnp.stack(rows, axis=1))
        rows.append(row / lower[:, index, index, None])
    return jnp.stack(rows, axis=1)
