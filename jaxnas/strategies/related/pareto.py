"""Sets of architectures under two objectives, both to be small: fronts, crowding, improvement of the hypervolume."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import metrics


def non_dominated(objectives: jax.Array, candidates: jax.Array) -> jax.Array:
    """Which candidates no other candidate dominates (the first front): float [U, 2], bool [U] -> bool [U].

    >>> points = jnp.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    >>> non_dominated(points, jnp.array([True, True, True, False])).tolist()
    [True, True, False, False]
    """
    chex.assert_rank([objectives, candidates], [2, 1])
    one, other = objectives[:, None], objectives[None]
    dominates = (one <= other).all(-1) & (one < other).any(-1) & candidates[:, None]  # [by, of]
    return candidates & ~dominates.any(0)


def front_members(losses: jax.Array, costs: jax.Array) -> jax.Array:
    """Which of many points are on their front, of equal points one; infinite losses never: float [N] x 2 -> bool [N].

    >>> front_members(jnp.array([0.5, 0.2, 0.3, jnp.inf]), jnp.array([0.0, 0.5, 1.0, 0.0])).tolist()
    [True, True, False, False]
    """
    chex.assert_rank([losses, costs], 1)
    order = jnp.lexsort((losses, costs))
    ordered = losses[order]
    least_before = jnp.concatenate([jnp.full(1, jnp.inf, losses.dtype), jax.lax.cummin(ordered)[:-1]])
    return jnp.zeros(len(losses), bool).at[order].set(ordered < least_before)


def crowding(objectives: jax.Array, candidates: jax.Array) -> jax.Array:
    """Crowding distance among the candidates (Deb et al., NSGA-II, 2002): float [U, 2], bool [U] -> float [U].

    Infinite for the extremes of an objective, -1 for what is no candidate.

    >>> points = jnp.array([[0.0, 1.0], [0.25, 0.5], [1.0, 0.0], [9.0, 9.0]])
    >>> crowding(points, jnp.array([True, True, True, False])).tolist()
    [inf, 2.0, inf, -1.0]
    """
    chex.assert_rank([objectives, candidates], [2, 1])
    last = candidates.sum() - 1
    place = jnp.arange(len(candidates))
    distance = jnp.zeros(len(candidates), jnp.float32)
    for values in objectives.T:
        order = jnp.argsort(jnp.where(candidates, values, jnp.inf))
        ordered = values[order]
        span = jnp.maximum(ordered[last] - ordered[0], jnp.finfo(jnp.float32).tiny)
        gaps = (jnp.roll(ordered, -1) - jnp.roll(ordered, 1)) / span
        gaps = jnp.where((place == 0) | (place >= last), jnp.inf, gaps)
        distance += jnp.zeros_like(distance).at[order].set(gaps)
    return jnp.where(candidates, distance, -1.0)


def front(losses: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """The non-dominated points, by ascending cost, of equal points one; on the host: float [N], float [N] -> int [F].

    >>> front(np.array([0.5, 0.2, 0.3]), np.array([0.0, 0.5, 1.0])).tolist()
    [0, 1]
    """
    members = np.flatnonzero(metrics.pareto_front(costs, losses))
    _, first = np.unique(costs[members], return_index=True)  # members of equal cost are equal points
    return members[first]


def improvement(
    losses: np.ndarray, costs: np.ndarray, front_losses: np.ndarray, front_costs: np.ndarray, reference: float
) -> np.ndarray:
    """By how much each point, added alone, would raise the hypervolume of a front; on the host.

    Args:
      losses: float [M].
      costs: float [M].
      front_losses: float [F], descending.
      front_costs: float [F], ascending.
      reference: worst loss and worst cost that count.

    Returns:
      float [M].

    >>> improvement(np.array([0.5, 0.9]), np.array([0.0, 0.9]), np.array([0.8]), np.array([0.5]), 1.0).round(3).tolist()
    [0.4, 0.0]
    """
    # Over the stretch of costs from one point of the front to the next the least loss is constant.
    starts = np.concatenate([[-np.inf], front_costs])
    ends = np.append(front_costs, reference)
    levels = np.concatenate([[reference], np.minimum(front_losses, reference)])
    width = np.maximum(np.minimum(ends, reference) - np.maximum(starts, costs[:, None]), 0)
    return (width * np.maximum(levels - losses[:, None], 0)).sum(-1)


def greedy(
    losses: np.ndarray, costs: np.ndarray, front_losses: np.ndarray, front_costs: np.ndarray, picks: int
) -> np.ndarray:
    """Picks candidates one by one, each for the largest improvement of the hypervolume; on the host.

    Objectives are scaled first, so that those of the front and of the candidates span 0 to 1; the reference is 1.1.

    Args:
      losses: float [M], of the candidates.
      costs: float [M].
      front_losses: float [N], of what is known already, dominated or not; N may be 0.
      front_costs: float [N].
      picks: how many at most.

    Returns:
      int [P], P <= picks: as soon as nothing improves it ends.
    """
    scaled = []
    for values, known in ((losses, front_losses), (costs, front_costs)):
        both = np.concatenate([values, known])
        span = np.ptp(both)
        scaled.append((both - both.min()) / (span if span > 0 else 1.0))
    all_losses, all_costs = scaled
    count, chosen = len(losses), []
    alive = np.arange(count)  # what improves nothing now will improve nothing later
    known = np.arange(count, len(all_losses))
    while len(chosen) < picks and len(alive):
        known = known[front(all_losses[known], all_costs[known])]
        gain = improvement(all_losses[alive], all_costs[alive], all_losses[known], all_costs[known], 1.1)
        if gain.max() <= 0:
            break
        best = alive[gain.argmax()]
        chosen.append(int(best))
        known = np.append(known, best)
        alive = alive[(gain > 0) & (alive != best)]
    return np.asarray(chosen, int)
