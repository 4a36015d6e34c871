"""Where methods stand on one problem: what they found, judged by true errors, with paired tests against random search.

A problem is a table of true errors and costs: a published one, or all networks of a space scored by a supernet that no
method has touched. All measures are of the K networks that a method names, never of what it measured itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxnas import metrics
from jaxnas.tasks.tabular import TabularTask

BUDGETS = (0.25, 0.5, 0.75, 1.0)  # quantiles of the costs of all networks of the space
FLOOR = "random"  # what every method has to beat
MEASURES = {"regret": 1.0, "hypervolume": -1.0}  # name -> sign: smaller is better, or larger


@dataclass(frozen=True)
class Found:
    """What one method found with M seeds.

    Attributes:
      archs: int [M, K, D], a network for each penalty.
      spent: what each search cost, in the problem's unit.
      wall_seconds: time of all searches, compiling included.
    """

    archs: np.ndarray
    spent: float
    wall_seconds: float


@dataclass(frozen=True)
class Standing:
    """One method on one problem.

    Attributes:
      regret: float [M], relative regret, mean over penalties.
      hypervolume: float [M], of the K networks.
      attainment: float [M, 4], the least error within the budgets; infinite where no network keeps one.
      archs: int [M, K, D].
      spent: what each search cost, in the problem's unit.
      wall_seconds: time of all searches.
      p_regret: of the paired test against random search, Holm-corrected over the problem; None for random search.
      p_hypervolume: the same for the hypervolume.
    """

    regret: np.ndarray
    hypervolume: np.ndarray
    attainment: np.ndarray
    archs: np.ndarray
    spent: float
    wall_seconds: float
    p_regret: float | None = None
    p_hypervolume: float | None = None


def budgets(task: TabularTask) -> np.ndarray:
    """The budgets of a problem as scaled costs R, float [4]."""
    return np.quantile(task.cost.scaled, BUDGETS)


def judge(task: TabularTask, penalties: Sequence[float], found: Mapping[str, Found]) -> dict[str, Standing]:
    """Judges what methods found by true errors, and tests each against random search.

    Args:
      task: the true errors and costs of all networks; its noise plays no part.
      penalties: eps_k.
      found: by the method's name; all with the same seeds.

    Returns:
      The standings, least median regret first.
    """
    objective, limits = task.objective(penalties), budgets(task)
    measured = {}
    for name, each in found.items():
        rows = task.rows(each.archs)  # [M, K]
        error, cost = task.error[rows], task.cost.scaled[rows]
        measured[name] = {
            "regret": metrics.relative_regret(objective, rows).mean(-1),
            "hypervolume": metrics.hypervolume(error, cost),
            "attainment": metrics.attainment(error, cost, limits),
        }
    corrected = _tests(measured)
    standings = {
        name: Standing(
            **measured[name],
            archs=each.archs,
            spent=each.spent,
            wall_seconds=each.wall_seconds,
            p_regret=corrected.get((name, "regret")),
            p_hypervolume=corrected.get((name, "hypervolume")),
        )
        for name, each in found.items()
    }
    return dict(sorted(standings.items(), key=lambda item: float(np.median(item[1].regret))))


def _tests(measured: Mapping[str, Mapping[str, np.ndarray]]) -> dict[tuple[str, str], float]:
    """Holm-corrected p-values of all methods and measures against random search, as one family."""
    if FLOOR not in measured:
        return {}
    tests = [(name, measure) for name in measured if name != FLOOR for measure in MEASURES]
    p_values = [metrics.paired_wilcoxon(measured[name][measure], measured[FLOOR][measure]) for name, measure in tests]
    return dict(zip(tests, metrics.holm(p_values).tolist())) if tests else {}


def beats_random(standing: Standing, floor: Standing, measure: str, level: float = 0.05) -> bool:
    """Whether the median is better than that of random search, and the difference is significant."""
    p_value = getattr(standing, f"p_{measure}")
    better = MEASURES[measure] * (np.median(getattr(standing, measure)) - np.median(getattr(floor, measure))) < 0
    return bool(p_value is not None and p_value < level and better)


def as_json(standings: Mapping[str, Standing], **settings: Any) -> dict[str, Any]:
    """A problem's part of result.json; infinite attainments become None."""
    return {
        **settings,
        "methods": {
            name: {
                "relative_regret": each.regret,
                "hypervolume": each.hypervolume,
                "attainment": each.attainment,
                "encodings": each.archs,
                "spent": each.spent,
                "wall_seconds": each.wall_seconds,
                "p_regret": each.p_regret,
                "p_hypervolume": each.p_hypervolume,
            }
            for name, each in standings.items()
        },
    }


def from_json(content: Mapping[str, Any]) -> dict[str, Standing]:
    """The standings that `as_json` wrote."""
    standings = {}
    for name, each in content["methods"].items():
        attainment = np.array(each["attainment"], np.float64)  # None becomes NaN
        standings[name] = Standing(
            regret=np.array(each["relative_regret"]),
            hypervolume=np.array(each["hypervolume"]),
            attainment=np.where(np.isnan(attainment), np.inf, attainment),
            archs=np.array(each["encodings"]),
            spent=each["spent"],
            wall_seconds=each["wall_seconds"],
            p_regret=each["p_regret"],
            p_hypervolume=each["p_hypervolume"],
        )
    return standings
