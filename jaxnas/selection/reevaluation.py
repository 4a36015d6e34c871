"""The last choice: draw candidates from the distributions, evaluate them all alike, keep the best for each penalty.

The mode of theta_k alone is a weak answer: it is decided by noisy minibatches, each k by its own. Here the modes and a
few more draws of all K distributions are candidates for every k, evaluated once on the same images. The costs of the
networks that minimise L + eps_k R over *one* set of candidates cannot grow with eps_k: if c is chosen for eps and c'
for a larger eps', then L(c) + eps R(c) <= L(c') + eps R(c') and L(c') + eps' R(c') <= L(c) + eps' R(c), and their sum
says (eps' - eps) (R(c') - R(c)) <= 0.
"""

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
