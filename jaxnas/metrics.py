"""How good found networks are, and how sure a difference is. All on the host, in float64.

Regret is against the true optimum and is known on tables only; hypervolume and attainment need true errors and costs;
Kendall's tau compares a score with the truth; the tests are paired over seeds.
"""

from collections.abc import Sequence

import moarchiving
import numpy as np
import scipy.stats

# Hypervolume is measured against error 1.1 and R 1.1, whatever the table. Both lie in [0, 1], so that every network
# counts, even the most expensive (R = 1): at (1, 1) it would be worth nothing.
REFERENCE_POINT = (1.1, 1.1)


def relative_regret(objective: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Regret of found architectures divided by the regret of the average architecture.

    (f_k(found) - min f_k) / (mean f_k - min f_k): 0 is the optimum, 1 no better than an architecture drawn at random.

    Args:
      objective: float [K, N], true f_k of all N architectures.
      rows: int [..., K], the row found for each penalty.

    Returns:
      float [..., K]; 0 where all architectures are equally good.

    >>> relative_regret(np.array([[0.1, 0.2, 0.3]]), np.array([[0], [1]])).round(3).tolist()  # two searches, K = 1
    [[0.0], [1.0]]
    """
    spread = objective.mean(-1) - objective.min(-1)
    return regret(objective, rows) / np.where(spread > 0, spread, 1.0)


def regret(objective: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """f_k(found) - min f_k: objective [K, N] and rows [..., K] to [..., K].

    >>> regret(np.array([[0.1, 0.2, 0.3]]), np.array([2])).round(3).tolist()
    [0.2]
    """
    penalties = np.arange(objective.shape[0])
    return objective[penalties, rows] - objective.min(-1)


def hypervolume(error: np.ndarray, cost: np.ndarray, reference: Sequence[float] = REFERENCE_POINT) -> np.ndarray:
    """Area of the (error, R) plane that a set of K networks dominates, up to the reference point.

    Args:
      error: float [..., K], true errors.
      cost: float [..., K], scaled costs R.
      reference: worst error and worst R that count.

    Returns:
      float [...].

    >>> hypervolume(np.array([0.1, 0.6]), np.array([0.6, 0.1])).round(3).tolist()  # two overlapping boxes of 0.5
    0.75
    """
    points = np.stack([error, cost], axis=-1)
    sets = points.reshape(-1, *points.shape[-2:])
    volumes = [
        float(moarchiving.get_mo_archive(front.tolist(), reference_point=list(reference)).hypervolume) for front in sets
    ]
    return np.asarray(volumes).reshape(points.shape[:-2])


def pareto_front(costs: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Which points no other point dominates: none is as cheap and as good, and better in one of the two.

    Equal points do not dominate each other. A point with a NaN or an infinite value is never on the front, and has no
    influence on the others.

    Args:
      costs: float [N], less is better.
      errors: float [N], less is better.

    Returns:
      bool [N].

    >>> pareto_front(np.array([1, 2, 3, 2]), np.array([0.5, 0.3, 0.4, 0.3])).tolist()
    [True, True, False, True]
    """
    costs, errors = np.asarray(costs, np.float64), np.asarray(errors, np.float64)
    if costs.ndim != 1 or costs.shape != errors.shape:
        raise ValueError(f"costs and errors must both be [N], got {costs.shape} and {errors.shape}")
    finite = np.flatnonzero(np.isfinite(costs) & np.isfinite(errors))
    order = finite[np.lexsort((errors[finite], costs[finite]))]
    first = np.searchsorted(costs[order], costs[order])  # the best of those that cost the same
    least_cheaper = np.concatenate([[np.inf], np.minimum.accumulate(errors[order])])[first]
    front = np.zeros(len(costs), bool)
    front[order] = (errors[order] == errors[order][first]) & (errors[order] < least_cheaper)
    return front


def attainment(error: np.ndarray, cost: np.ndarray, budgets: Sequence[float]) -> np.ndarray:
    """The smallest error that a set of K networks attains within each budget.

    Args:
      error: float [..., K].
      cost: float [..., K].
      budgets: G largest allowed costs.

    Returns:
      float [..., G]; infinite where no network is within the budget.

    >>> attainment(np.array([0.1, 0.3]), np.array([0.9, 0.2]), budgets=[0.1, 0.5, 1.0]).tolist()
    [inf, 0.3, 0.1]
    """
    within = np.asarray(cost)[..., None, :] <= np.asarray(budgets)[:, None]
    return np.where(within, np.asarray(error)[..., None, :], np.inf).min(-1)


def kendall_tau(score: np.ndarray, truth: np.ndarray) -> float:
    """Kendall's tau-b of two rankings of the same networks; NaN where one of them is constant.

    >>> round(kendall_tau(np.array([1, 2, 3, 4]), np.array([1, 2, 4, 3])), 3)  # one of six pairs is the wrong way round
    0.667
    """
    return float(scipy.stats.kendalltau(score, truth).statistic)


def binned_kendall_tau(score: np.ndarray, truth: np.ndarray, complexity: np.ndarray, bins: int = 2) -> list[float]:
    """Kendall's tau within bins of networks of like complexity, cheapest first.

    Overall tau flatters a score that merely follows complexity; within a bin there is little of it to follow.

    Args:
      score: float [N].
      truth: float [N].
      complexity: float [N], such as multiply-adds.
      bins: number of bins, of equal size up to 1; 2 are the cheaper and the more expensive half.

    Raises:
      ValueError: if there are fewer than two networks for a bin.
    """
    if bins < 1 or len(score) < 2 * bins:
        raise ValueError(f"bins must be from 1 to half of the {len(score)} networks, got {bins}")
    members = np.array_split(np.argsort(complexity, kind="stable"), bins)
    return [kendall_tau(np.asarray(score)[bin_], np.asarray(truth)[bin_]) for bin_ in members]


def evaluations_to_reach(evaluations: Sequence[int], curve: np.ndarray, level: float) -> float:
    """The first recorded count of evaluations at which a mean regret curve is at or below a level.

    Args:
      evaluations: E recorded counts, ascending.
      curve: float [E], regret averaged over seeds and penalties.
      level: regret to reach.

    Returns:
      One of the counts; infinite if the curve never gets there.

    >>> evaluations_to_reach([250, 1000, 4000], np.array([0.3, 0.2, 0.1]), 0.25)
    1000.0
    """
    reached = np.flatnonzero(np.asarray(curve) <= level)
    return float(evaluations[reached[0]]) if len(reached) else float("inf")


def paired_wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test over paired seeds: float [M], float [M]; 1 if all are equal."""
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if not np.any(difference):
        return 1.0
    return float(scipy.stats.wilcoxon(difference).pvalue)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction for a family of tests: the adjusted p-values, float [T], in the order given.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted
