"""The last choice: draw candidates from the distributions, evaluate them all alike, keep the best for each penalty.

The mode of theta_k alone is a weak answer: it is decided by noisy minibatches, each k by its own. Here the modes and a
few more draws of all K distributions are candidates for every k, evaluated once on the same images. The costs of the
networks that minimise L + eps_k R over *one* set of candidates cannot grow with eps_k: if c is chosen for eps and c'
for a larger eps', then L(c) + eps R(c) <= L(c') + eps R(c') and L(c') + eps' R(c') <= L(c) + eps' R(c), and their sum
says (eps' - eps) (R(c') - R(c)) <= 0.
"""

from collections.abc import Sequence

import chex
import jax
import numpy as np

from jaxnas import distribution


def candidates(key: jax.Array, theta: jax.Array, samples: int) -> np.ndarray:
    """The modes of the distributions and draws of each, every architecture once.

    Args:
      key: a JAX random key.
      theta: float [K, D, C].
      samples: draws from each distribution; 0 for the modes alone.

    Returns:
      int32 [N, D] with K <= N <= K (1 + samples) unless modes coincide; the modes come first.

    Raises:
      ValueError: if samples is negative.

    >>> theta = jax.numpy.array([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.3, 0.7]]])
    >>> candidates(jax.random.key(0), theta, 0).tolist()  # both have the same mode
    [[0, 1]]
    """
    chex.assert_rank(theta, 3)
    if samples < 0:
        raise ValueError(f"samples must be 0 (the modes alone) or more draws from each distribution, got {samples}")
    archs = np.asarray(distribution.mode(theta))
    if samples:
        archs = np.concatenate([archs, np.asarray(distribution.sample(key, theta, samples))])
    _, first = np.unique(archs, axis=0, return_index=True)
    return archs[np.sort(first)]


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
    objective = np.where(np.isfinite(losses), losses, np.inf) + np.asarray(penalties, np.float64)[:, None] * costs
    return np.array([np.lexsort((costs, row))[0] for row in objective])
