"""Importance weights of samples drawn from a mixture, and statistics under them."""

import chex
import jax
import jax.numpy as jnp

from jaxnas import distribution

BEST_QUANTILE = 0.25  # ASNG-NAS: the best quarter has utility +1, the worst -1 (arXiv 1905.08537, section 4.2)


def mixture_log_weights(theta: jax.Array, archs: jax.Array) -> jax.Array:
    """Log importance weights against the mixture of K products of categoricals in equal shares.

    Args:
      theta: float [K, D, C].
      archs: int [S, D], drawn from the mixture.

    Returns:
      float [K, S], log w_k(c_i) <= log K.

    >>> import numpy as np
    >>> theta = jnp.array([[[0.5, 0.5]], [[0.25, 0.75]]])
    >>> print(np.exp(mixture_log_weights(theta, jnp.array([[0], [1]]))).round(3))
    [[1.333 0.8  ]
     [0.667 1.2  ]]
    """
    return balance_heuristic(distribution.log_prob(theta, archs), jnp.full(len(theta), 1 / len(theta), theta.dtype))


def balance_heuristic(log_p: jax.Array, shares: jax.Array) -> jax.Array:
    """Log importance weights against a mixture of K laws of any kind.

    w_k(c) = p_k(c) / q(c) with q = sum_j a_j p_j: the balance heuristic of Veach and Guibas (1995), never a ratio of
    two single laws, so that 0 <= w_k <= 1 / a_k however far they have parted.

    Args:
      log_p: float [K, S], log p_k(c_i).
      shares: float [K], a_k, positive with sum 1.

    Returns:
      float [K, S], log w_k(c_i) <= -log a_k.
    """
    chex.assert_rank([log_p, shares], [2, 1])
    chex.assert_equal(len(log_p), len(shares))
    return log_p - jax.nn.logsumexp(log_p + jnp.log(shares)[:, None], axis=0)


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
    """(sum w)^2 / sum w^2 over the last axis: [K, S] -> [K], from 1 to S, 0 without weights.

    Noisy for small S: log it, but do not control a search by it.

    >>> print(effective_sample_size(jnp.log(jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]]))).round(3))
    [4. 2.]
    """
    size = jnp.exp(2 * jax.nn.logsumexp(log_weights, axis=-1) - jax.nn.logsumexp(2 * log_weights, axis=-1))
    return jnp.where((log_weights > -jnp.inf).any(-1), size, 0.0)


def _in_order(objective: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The order of each row, smallest first, int32 [K, S], and where a value differs from the one before, bool [K, S].

    A comparison of an objective with itself is not safe inside a program: XLA may compute L + eps R once for each side
    of the comparison, one of them with a fused multiply-add, and a sample is then not as good as itself. A sort writes
    its values down once, and a value is compared only with its neighbours in the sorted row.
    """
    positions = jax.lax.broadcasted_iota(jnp.int32, objective.shape, 1)
    ascending, order = jax.lax.sort((objective, positions), dimension=1, num_keys=1)
    differs = ascending[:, 1:] != ascending[:, :-1]
    return order, jnp.pad(differs, [(0, 0), (1, 0)])


def dense_ranks(objective: jax.Array) -> jax.Array:
    """Ranks from 0, smallest first, that ties share: float [K, S] -> int32 [K, S].

    >>> print(dense_ranks(jnp.array([[0.3, 0.1, 0.3, 0.2]])))
    [[2 0 2 1]]
    """
    chex.assert_rank(objective, 2)
    order, differs = _in_order(objective)
    ranks = jnp.cumsum(differs, axis=1, dtype=jnp.int32)
    return jnp.take_along_axis(ranks, _places(order), axis=1)


def _places(order: jax.Array) -> jax.Array:
    """Where each sample stands in its sorted row: the inverse of a permutation, int32 [K, S]."""
    rows = jnp.arange(len(order))[:, None]
    positions = jax.lax.broadcasted_iota(jnp.int32, order.shape, 1)
    return jnp.zeros_like(order).at[rows, order].set(positions, unique_indices=True)


def weighted_quantiles(objective: jax.Array, log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The interval of weighted quantiles that each sample occupies, best (smallest) first.

    A sort and sums along it: O(K S log S) time and O(K S) memory.

    Args:
      objective: float [K, S], smaller is better.
      log_weights: float [K, S]; -inf for a sample that takes no part. One in each row has to.

    Returns:
      (lower, upper), each [K, S]: the normalised weight of the samples that are strictly better, and of those that are
      at least as good. Tied samples share one interval.

    >>> lower, upper = weighted_quantiles(jnp.array([[0.3, 0.1]]), jnp.zeros((1, 2)))
    >>> print(lower, upper)
    [[0.5 0. ]] [[1.  0.5]]
    """
    chex.assert_rank([objective, log_weights], 2)
    chex.assert_equal_shape([objective, log_weights])
    order, differs = _in_order(objective)
    positions = jax.lax.broadcasted_iota(jnp.int32, objective.shape, 1)
    weights = jnp.take_along_axis(jax.nn.softmax(log_weights, axis=-1), order, axis=1)
    # Of the samples up to and with each one; the first of those that are tied begins the interval, the last ends it.
    until = jnp.cumsum(weights, axis=1)
    before = jnp.pad(until[:, :-1], [(0, 0), (1, 0)])
    first = jax.lax.cummax(jnp.where(differs, positions, 0), axis=1)
    ends = jnp.pad(differs[:, 1:], [(0, 0), (0, 1)], constant_values=True)
    last = jax.lax.cummin(jnp.where(ends, positions, positions.shape[1] - 1), axis=1, reverse=True)
    place = _places(order)
    lower = jnp.take_along_axis(before, jnp.take_along_axis(first, place, axis=1), axis=1)
    upper = jnp.take_along_axis(until, jnp.take_along_axis(last, place, axis=1), axis=1)
    return lower, jnp.maximum(lower, upper)  # sums in blocks may fall by a rounding


def weighted_quantile_utility(objective: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Utility of each sample for each distribution: best quarter +1, worst quarter -1, 0 between (METHOD, step 4).

    A sample has weight, so it occupies an interval of quantiles and not a point; its utility is the mean of the step
    function over this interval. Ties share, a heavy sample that straddles a boundary gets a part, and the weighted
    mean is 0 by construction. Only the order of the objective counts, not its scale.

    Args:
      objective: float [K, S], f_k(c_i) = L(c_i) + eps_k R(c_i); smaller is better.
      log_weights: float [K, S]; -inf for a sample that takes no part, whose objective may then be infinite.

    Returns:
      float [K, S] in [-1, 1]; exactly 0 for a distribution that sees only ties, or nothing. A sample that takes no
      part has the value of its quantile.

    >>> print(weighted_quantile_utility(jnp.array([[0.3, 0.1, 0.2, 0.4]]), jnp.zeros((1, 4))).round(3))
    [[ 0.  1.  0. -1.]]
    """
    counts = log_weights > -jnp.inf
    log_weights = jnp.where(counts.any(-1, keepdims=True), log_weights, 0.0)
    lower, upper = weighted_quantiles(objective, log_weights)

    def integral(quantile: jax.Array) -> jax.Array:
        return jnp.minimum(quantile, BEST_QUANTILE) - jnp.maximum(quantile - (1 - BEST_QUANTILE), 0)

    width = upper - lower
    tiny = jnp.finfo(objective.dtype).eps
    mean_over_interval = (integral(upper) - integral(lower)) / jnp.maximum(width, tiny)
    at_point = jnp.where(lower < BEST_QUANTILE, 1.0, jnp.where(lower >= 1 - BEST_QUANTILE, -1.0, 0.0))
    utility = jnp.where(width > tiny, mean_over_interval, at_point)
    ranks = dense_ranks(objective)  # the same sort as in the quantiles: a program does it once
    all_tied = jnp.where(counts, ranks, -1).max(-1) <= jnp.where(counts, ranks, ranks.shape[1]).min(-1)
    return jnp.where(all_tied[:, None], 0.0, utility)
