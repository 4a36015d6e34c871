"""Computing in bfloat16: parameters, statistics of batch norm and losses stay float32.

On accelerators it halves the memory of activations and speeds up matrix products. On CPUs there is nothing to gain:
MBConvs by blocks compute in float32 whatever they are given.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

PRECISIONS = ("float32", "bfloat16")


def check(precision: str) -> None:
    """Raises ValueError if `precision` is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def compute_in(
    precision: str, apply: Callable[[chex.ArrayTree, jax.Array, jax.Array], jax.Array]
) -> Callable[[chex.ArrayTree, jax.Array, jax.Array], jax.Array]:
    """A supernet that computes in `precision`.

    Kernels and images are rounded; scales and biases of batch norm are not, nor is the gradient of any parameter added
    up in another type than its own.

    Args:
      precision: one of `PRECISIONS`.
      apply: (float32 params, images [B, H, W, 3], arch [D]) -> logits [B, classes].

    Returns:
      The same function with float32 logits.
    """
    check(precision)
    if precision == "float32":
        return apply
    dtype = jnp.dtype(precision)

    def rounded(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    def apply_rounded(params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> jax.Array:
        params = jax.tree_util.tree_map_with_path(rounded, params)
        return apply(params, images.astype(dtype), arch).astype(jnp.float32)

    return apply_rounded
