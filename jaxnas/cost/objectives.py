"""The objectives of METHOD: losses and costs as one number for each penalty."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

Array = np.ndarray | jax.Array | Sequence[float]


def price(penalties: Array, costs: Array) -> Array:
    """What the objectives add to the loss, sum_j eps_kj R_j(c).

    Args:
      penalties: eps, float [K] for one cost, [K, J] for J costs.
      costs: scaled costs R, float [...] for one cost, [..., J] for J costs.

    Returns:
      float [K, ...]; of JAX where one of them is, else of numpy.

    >>> price(np.array([[0.1, 0.0], [0.1, 1.0]]), np.array([1.0, 0.5])).tolist()
    [0.1, 0.6]
    """
    numpy = jnp if isinstance(penalties, jax.Array) or isinstance(costs, jax.Array) else np
    costs = numpy.asarray(costs)
    penalties = numpy.asarray(penalties, costs.dtype if numpy is jnp else np.float64)
    if penalties.ndim == 1:
        penalties, costs = penalties[:, None], costs[..., None]
    penalties = penalties.reshape(len(penalties), *[1] * (costs.ndim - 1), -1)
    return (penalties * costs).sum(-1)  # no matmul, which accelerators round


def objective(losses: Array, penalties: Array, costs: Array) -> Array:
    """The objectives of METHOD, f_k(c) = L(c) + sum_j eps_kj R_j(c), of evaluated architectures.

    Args:
      losses: L, float [...].
      penalties: eps, float [K] for one cost, [K, J] for J costs.
      costs: scaled costs R, float [...] for one cost, [..., J] for J costs.

    Returns:
      float [K, ...]; of JAX where one of them is, else of numpy.

    >>> objective(np.array([0.5, 0.25]), [0.0, 1.0], np.array([0.0, 1.0])).tolist()
    [[0.5, 0.25], [0.5, 1.25]]
    """
    return losses + price(penalties, costs)


def least_objective(losses: np.ndarray, costs: np.ndarray, penalties: Sequence[float]) -> np.ndarray:
    """The candidate with the least L + eps_k R for each k; of equals the cheaper, so that costs never grow with eps.

    Args:
      losses: float [N], measured on the same images; a loss that is not finite is never chosen.
      costs: float [N], scaled costs R.
      penalties: eps_k, K of them.

    Returns:
      int [K], indices of candidates.

    Raises:
      ValueError: if no loss is finite.

    >>> least_objective(np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.4, 0.0]), penalties=[0.05, 0.3, 1.0]).tolist()
    [0, 1, 2]
    """
    losses, costs = np.asarray(losses, np.float64), np.asarray(costs, np.float64)
    chex.assert_rank([losses, costs], 1)
    chex.assert_equal_shape([losses, costs])
    if not np.isfinite(losses).any():
        raise ValueError(f"losses must hold a finite number to choose by, got none among {len(losses)}")
    values = objective(np.where(np.isfinite(losses), losses, np.inf), penalties, costs)
    return np.array([np.lexsort((costs, row))[0] for row in values])
