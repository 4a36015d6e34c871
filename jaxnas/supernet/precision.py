"""Computing in bfloat16: parameters, statistics of batch norm and losses stay float32.

On accelerators it halves the memory of activations and speeds up matrix products. On CPUs there is nothing to gain:
MBConvs by blocks compute in float32 whatever they are given.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.supernet.batching import Apply
from jaxnas.supernet.optimizers import is_kernel

PRECISIONS = ("float32", "bfloat16")


def check(precision: str) -> None:
    """Raises ValueError if `precision` is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def compute_in(precision: str, apply: Apply) -> Apply:
    """A supernet that computes in `precision`.

    Kernels and inputs are rounded; scales and biases of batch norm are not, nor is the gradient of any parameter added
    up in another type than its own.

    Args:
      precision: one of `PRECISIONS`.
      apply: (float32 params, inputs, arch [D]) -> outputs.

    Returns:
      The same function with float32 outputs.
    """
    check(precision)
    if precision == "float32":
        return apply
    dtype = jnp.dtype(precision)

    def rounded(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if is_kernel(path) else leaf

    def apply_rounded(params: chex.ArrayTree, inputs: Any, arch: jax.Array) -> Any:
        params = jax.tree_util.tree_map_with_path(rounded, params)
        return _cast(apply(params, _cast(inputs, dtype), arch), jnp.float32)

    return apply_rounded


def _cast(tree: Any, dtype: jnp.dtype) -> Any:
    """All floating-point arrays of a tree in another type; others, such as tokens and masks, as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree)
