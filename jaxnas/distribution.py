"""Products of categorical distributions over architectures.

A distribution is an array of probabilities `theta [D, C]`: decision `d` takes choice `c` with probability
`theta[d, c]`, independently of the others. Decisions may have fewer than C choices; the rest is padding and has
probability 0. K distributions are one array `theta [K, D, C]`.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np


def valid_choices(num_choices: Sequence[int]) -> np.ndarray:
    """Which entries of `theta` are choices and which are padding.

    Args:
      num_choices: C_d for each of the D decisions, each at least 1.

    Returns:
      bool [D, C] with C = max(num_choices).

    Raises:
      ValueError: if there is no decision, or one without a choice.

    >>> valid_choices([2, 3]).tolist()
    [[True, True, False], [True, True, True]]
    """
    counts = np.asarray(num_choices)
    if counts.ndim != 1 or counts.size == 0 or counts.min() < 1:
        raise ValueError(f"num_choices must name at least one choice for each decision, got {tuple(num_choices)}")
    return np.arange(counts.max()) < counts[:, None]


def uniform(num_choices: Sequence[int]) -> jax.Array:
    """The uniform distribution, float32 [D, C].

    >>> uniform([2, 4]).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    """
    valid = valid_choices(num_choices)
    return jnp.asarray(valid / valid.sum(-1, keepdims=True), jnp.float32)


def sample(key: jax.Array, theta: jax.Array, samples: int) -> jax.Array:
    """Draws `samples` architectures from each of the K distributions.

    Args:
      key: a JAX random key.
      theta: float [K, D, C].
      samples: lambda, the number of architectures drawn from each distribution.

    Returns:
      int32 [S, D], S = K * samples; the samples of distribution k are rows k * samples ... (k + 1) * samples - 1.

    >>> theta = jnp.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]])  # K = 2, both certain
    >>> sample(jax.random.key(0), theta, 2).tolist()
    [[0, 1], [0, 1], [1, 1], [1, 1]]
    """
    chex.assert_rank(theta, 3)
    k, d, _ = theta.shape
    archs = jax.random.categorical(key, jnp.log(theta), shape=(samples, k, d))
    return jnp.swapaxes(archs, 0, 1).reshape(k * samples, d).astype(jnp.int32)


def one_hot(archs: jax.Array, max_choices: int) -> jax.Array:
    """Architectures [S, D] as float32 indicators [S, D, C]."""
    chex.assert_rank(archs, 2)
    return jax.nn.one_hot(archs, max_choices, dtype=jnp.float32)


def log_prob(theta: jax.Array, archs: jax.Array) -> jax.Array:
    """Log-probability of every architecture under every distribution.

    Args:
      theta: float [K, D, C].
      archs: int [S, D].

    Returns:
      float [K, S]; -inf where an architecture takes a choice of probability 0.

    >>> theta = jnp.array([[[0.5, 0.5], [0.25, 0.75]]])
    >>> print(np.exp(log_prob(theta, jnp.array([[0, 0], [1, 1]]))).round(3))
    [[0.125 0.375]]
    """
    chex.assert_rank([theta, archs], [3, 2])
    chex.assert_equal(theta.shape[1], archs.shape[1])
    decisions = jnp.arange(archs.shape[1])
    return jnp.log(theta)[:, decisions, archs].sum(-1)


def mode(theta: jax.Array) -> jax.Array:
    """The most probable architecture of each distribution: [..., D, C] -> int32 [..., D].

    >>> mode(jnp.array([[0.2, 0.8], [0.6, 0.4]])).tolist()
    [1, 0]
    """
    return jnp.argmax(theta, axis=-1).astype(jnp.int32)


def entropy(theta: jax.Array) -> jax.Array:
    """Entropy in nats: [..., D, C] -> [...].

    >>> float(entropy(uniform([2, 4])) / jnp.log(2))  # one bit and two
    3.0
    """
    return jax.scipy.special.entr(theta).sum((-2, -1))


def convergence(theta: jax.Array) -> jax.Array:
    """Mean over decisions of the largest probability, in (0, 1]: [..., D, C] -> [...]; 1 is a single architecture.

    >>> float(convergence(jnp.array([[0.5, 0.5], [0.0, 1.0]])))
    0.75
    """
    return theta.max(-1).mean(-1)


def natural_gradient(theta: jax.Array, archs: jax.Array, weights: jax.Array) -> jax.Array:
    """Estimates the natural gradient of the expected utility in expectation parameters.

    G_k = sum_i weights[k, i] (onehot(c_i) - theta_k) / S   (METHOD, step 5; Akimoto et al., arXiv 1905.08537, eq. 8)

    Args:
      theta: float [K, D, C].
      archs: int [S, D].
      weights: float [K, S], importance weight times utility of each sample for each distribution.

    Returns:
      float [K, D, C]; rows sum to 0, padding is 0.

    >>> theta = jnp.array([[[0.5, 0.5]]])
    >>> natural_gradient(theta, jnp.array([[0], [1]]), jnp.array([[1.0, -1.0]])).tolist()  # the first was better
    [[[0.5, -0.5]]]
    """
    chex.assert_rank([theta, archs, weights], [3, 2, 2])
    chex.assert_shape(weights, (theta.shape[0], archs.shape[0]))
    indicators = one_hot(archs, theta.shape[-1])
    weighted_sum = jnp.einsum("ks,sdc->kdc", weights, indicators)
    return (weighted_sum - weights.sum(-1)[:, None, None] * theta) / archs.shape[0]
