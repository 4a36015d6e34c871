"""What methods found on a problem with known answers, judged by true errors and costs, and paired tests between them.

A problem is a table of true errors and costs: a published one, or all networks of a space scored by a supernet that no
method has touched. All measures are of the K networks that a method names, never of what it measured itself.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxnas import metrics
from jaxnas.tasks.tables import Table
from jaxnas.tasks.tabular import TabularTask

BUDGETS = (0.25, 0.5, 0.75, 1.0)  # of the attainment: quantiles of the costs of all networks of the space
MEASURES = {"relative_regret": 1.0, "hypervolume": -1.0}  # name -> sign: 1 where smaller is better, -1 where larger is


@dataclass(frozen=True)
class Result:
    """What M searches of one method found, judged at E recorded counts of evaluations.

    Attributes:
      evaluations: [E], ascending counts of evaluations.
      relative_regret: float64 [M, K, E].
      hypervolume: float64 [M, E], of the K networks' true errors and R.
      attainment: float64 [M, G], the least true error within each budget at the end; infinite where no network is.
      encodings: int [M, K, D], the networks at the end.
      spent: what one search cost, in the problem's unit.
      wall_seconds: time of all searches, compiling included.
      samples: lambda; None for a method without.
      distance: float64 [M, E], of the K networks' true errors to the least true error that costs no more, mean over K.
    """

    evaluations: tuple[int, ...]
    relative_regret: np.ndarray
    hypervolume: np.ndarray
    attainment: np.ndarray
    encodings: np.ndarray
    spent: float
    wall_seconds: float
    samples: int | None = None
    distance: np.ndarray | None = None

    @property
    def mean_regret(self) -> np.ndarray:
        """Relative regret averaged over seeds and penalties, [E]."""
        return self.relative_regret.mean((0, 1))

    def per_seed(self, measure: str) -> np.ndarray:
        """One of `MEASURES` for each seed, the regret as its mean over penalties: float64 [M, E]."""
        return self.relative_regret.mean(1) if measure == "relative_regret" else self.hypervolume

    def at_end(self, measure: str) -> np.ndarray:
        """The same at the last count: float64 [M]."""
        return self.per_seed(measure)[:, -1]


@dataclass(frozen=True)
class Comparison:
    """One paired test of a method against a baseline.

    Attributes:
      method: name of the method.
      baseline: name of the baseline, with its lambda where that was chosen for this count.
      measure: one of `MEASURES`.
      evaluations: the count of evaluations.
      method_average: average over seeds (of the mean over penalties) of the method.
      baseline_average: the same of the baseline.
      better: whether the method's average is better.
      p_value: two-sided, Wilcoxon's signed-rank test over seeds.
      p_holm: corrected for all tests of the family.
    """

    method: str
    baseline: str
    measure: str
    evaluations: int
    method_average: float
    baseline_average: float
    better: bool
    p_value: float
    p_holm: float


def budgets(task: TabularTask) -> np.ndarray:
    """The budgets of a problem as scaled costs R, float [G]."""
    return np.quantile(task.cost.scaled, BUDGETS)


def judge(
    task: TabularTask,
    penalties: Sequence[float],
    archs: np.ndarray,
    evaluations: Sequence[int],
    *,
    spent: float,
    wall_seconds: float,
    samples: int | None = None,
) -> Result:
    """Judges the networks that a method found.

    Args:
      task: the true errors and costs of all networks; its noise plays no part.
      penalties: eps_k.
      archs: int [M, E, K, D], the networks of each seed at each count.
      evaluations: E ascending counts.
      spent: see `Result`.
      wall_seconds: see `Result`.
      samples: see `Result`.
    """
    rows = task.rows(archs)  # [M, E, K]
    error, cost = task.true_error[rows], task.cost.scaled[rows]
    return Result(
        evaluations=tuple(evaluations),
        relative_regret=np.swapaxes(metrics.relative_regret(task.objective(penalties), rows), 1, 2),
        hypervolume=metrics.hypervolume(error, cost),
        attainment=metrics.attainment(error[:, -1], cost[:, -1], budgets(task)),
        encodings=archs[:, -1],
        spent=spent,
        wall_seconds=wall_seconds,
        samples=samples,
        distance=distance_to_front(task, rows).mean(-1),
    )


def join(results: Sequence[Result]) -> Result:
    """The searches of one method on several problems as one result, in order."""
    first, seconds = results[0], sum(result.wall_seconds for result in results)
    per_seed = ("relative_regret", "hypervolume", "attainment", "encodings", "distance")
    known = [name for name in per_seed if getattr(first, name) is not None]
    joined = {name: np.concatenate([getattr(result, name) for result in results]) for name in known}
    return dataclasses.replace(first, **joined, wall_seconds=seconds)


def distance_to_front(task: TabularTask, rows: np.ndarray) -> np.ndarray:
    """How far networks are from the least true error that costs no more: int [...] -> float64 [...], 0 at the best."""
    order = np.argsort(task.cost.scaled, kind="stable")
    least = np.minimum.accumulate(task.true_error[order])
    affordable = np.searchsorted(task.cost.scaled[order], task.cost.scaled[rows], side="right")
    return task.true_error[rows] - least[affordable - 1]


def compare(
    results: Mapping[str, Result],
    pairs: Sequence[tuple[str, str, str, int]],
    average: Callable[[np.ndarray], np.floating] = np.mean,
) -> list[Comparison]:
    """Tests methods against baselines, as one family for Holm's correction.

    Args:
      results: by the method's name; all with the same seeds.
      pairs: (method, baseline, measure, count of evaluations) of each test.
      average: over seeds, float [M] -> float: decides which of the two is better.
    """
    found = []
    for method, baseline, measure, count in pairs:
        ours, theirs = (
            results[name].per_seed(measure)[:, results[name].evaluations.index(count)] for name in (method, baseline)
        )
        averages = float(average(ours)), float(average(theirs))
        better = MEASURES[measure] * (averages[0] - averages[1]) < 0
        p_value = metrics.paired_wilcoxon(ours, theirs)
        found.append(Comparison(method, baseline, measure, count, *averages, better, p_value, p_value))
    corrected = metrics.holm([each.p_value for each in found])
    return [dataclasses.replace(each, p_holm=float(p)) for each, p in zip(found, corrected)]


def least_error_within(table: Table, budgets: np.ndarray) -> np.ndarray:
    """The least true error of the networks of a table that cost no more than each budget.

    Args:
      table: true errors and costs.
      budgets: float [...], in the unit of the table's costs.

    Returns:
      float64 [...]; infinite where no network keeps the budget.
    """
    budgets = np.asarray(budgets, np.float64)
    return metrics.attainment(table.error, table.cost, budgets.ravel()).reshape(budgets.shape)


def rank_correlations(losses: np.ndarray, errors: np.ndarray, costs: np.ndarray) -> dict[str, float]:
    """Kendall's tau of N scores with true errors, overall and in each half by cost, and that of the cost alone."""
    cheap, dear = metrics.binned_kendall_tau(losses, errors, costs)
    return {
        "overall": metrics.kendall_tau(losses, errors),
        "cheaper_half": cheap,
        "dearer_half": dear,
        "cost_alone": metrics.kendall_tau(-costs, errors),
    }
