"""Strategies side by side on a table: the same seeds and counts of evaluations, judged by `jaxnas.tasks.judge`."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxnas import metrics, strategies
from jaxnas.strategies.base import Strategy
from jaxnas.tasks import judge
from jaxnas.tasks.judge import MEASURES, Comparison, Result
from jaxnas.tasks.tabular import TabularTask, search_seeds

# Separate searches lose by a wrong lambda more than anyone: they are given the best of these.
INDEPENDENT_SAMPLES = (2, 4, 8)
TESTED_AT = (250, 1000, 4000)  # evaluations at which a method is tested against the others
REACHED_AT = (2000, 4000)  # evaluations of independent searches whose regret is to be reached with fewer


@dataclass(frozen=True)
class Reach:
    """Evaluations that a method needs for what independent searches reach.

    Attributes:
      method: name of the method.
      at: evaluations of the independent searches.
      level: their mean relative regret there, with the lambda that is best there.
      samples: that lambda.
      evaluations: first recorded count at which the method is at or below it; None if it never is.
      ratio: evaluations / at; None if it never is.
    """

    method: str
    at: int
    level: float
    samples: int
    evaluations: int | None
    ratio: float | None


def recorded_counts(evaluations: int, planned: Mapping[str, Strategy]) -> tuple[int, ...]:
    """The counts at which networks are recorded: dense early, where curves fall, and always the last.

    Multiples of 25 to 500, of 50 to 1000, of 100 to 2000, of 250 to 10,000, of 2,500 beyond; from one step of the
    strategy whose steps are largest, to `evaluations`.

    Raises:
      ValueError: if the evaluations do not suffice for one step.
    """
    first = max(method.step_samples for method in planned.values())
    if evaluations < first:
        raise ValueError(
            f"evaluations must be at least one step of every method, which is {first} here "
            f"(penalties times samples), got {evaluations}"
        )
    grid = [*range(25, 500, 25), *range(500, 1000, 50), *range(1000, 2000, 100), *range(2000, 10_000, 250)]
    grid += range(10_000, evaluations, 2_500)
    return tuple(count for count in grid if first <= count < evaluations) + (evaluations,)


def plan(names: Sequence[str], task: TabularTask, penalties: Sequence[float], evaluations: int) -> dict[str, Strategy]:
    """The strategies to run: each by its name, independent searches as "independent@2", "independent@4" and so on.

    Raises:
      ValueError: if a name is unknown or given twice, or if a setting is out of range.
    """
    if not names:
        raise ValueError(f"methods must name at least one of {', '.join(strategies.STRATEGIES)}, got none")
    planned = {}
    for name in names:
        if name in planned or f"{name}@{INDEPENDENT_SAMPLES[0]}" in planned:
            raise ValueError(f"methods must differ, got {name!r} twice")
        if name != "independent":
            planned[name] = strategies.make(name, task.space, tuple(penalties), cost=task.cost)
            continue
        for samples in INDEPENDENT_SAMPLES:
            # The smallest one stays, to be refused by name where even it needs too many evaluations.
            if samples == INDEPENDENT_SAMPLES[0] or samples * len(penalties) <= evaluations:
                settings = {"samples": samples, "cost": task.cost}
                planned[f"{name}@{samples}"] = strategies.make(name, task.space, tuple(penalties), **settings)
    return planned


def run(task: TabularTask, method: Strategy, recorded: Sequence[int], seeds: int, first_seed: int = 0) -> Result:
    """Searches with all seeds, and judges what was found by the table."""
    started = time.perf_counter()
    archs = search_seeds(task, method, recorded, seeds, first_seed)  # [M, E, K, D]
    wall_seconds = time.perf_counter() - started
    return judge.judge(
        task,
        method.penalties,
        archs,
        recorded,
        spent=float(recorded[-1]),
        wall_seconds=wall_seconds,
        samples=method.samples,
    )


def run_all(
    problems: Sequence[TabularTask],
    planned: Sequence[Mapping[str, Strategy]],
    recorded: Sequence[int],
    seeds: int,
    first_seed: int = 0,
) -> dict[str, Result]:
    """Runs what `plan` made for each of some problems with the same space.

    Returns:
      The results by name, the seeds of the first problem first; if independent searches are among them, "independent"
      is the one whose lambda has the smallest regret at the end.
    """
    results = {
        name: judge.join([run(task, plan[name], recorded, seeds, first_seed) for task, plan in zip(problems, planned)])
        for name in planned[0]
    }
    sweep = _independent(results)
    if sweep:
        best = min(sweep, key=lambda name: sweep[name].mean_regret[-1])
        results = {"independent": sweep[best], **results}
    return results


def _independent(results: Mapping[str, Result]) -> dict[str, Result]:
    return {name: result for name, result in results.items() if name.startswith("independent@")}


def _others(results: Mapping[str, Result]) -> dict[str, Result]:
    return {name: result for name, result in results.items() if not name.startswith("independent")}


def compare(method: str, results: Mapping[str, Result]) -> list[Comparison]:
    """Tests a method against every other at the counts of `TESTED_AT`, in regret and hypervolume: one Holm family.

    Independent searches enter once for each count and measure, with the lambda that is best there.
    """
    recorded, sweep = results[method].evaluations, _independent(results)
    single = [name for name in _others(results) if name != method]
    pairs = []
    for measure, sign in MEASURES.items():
        for count in (count for count in TESTED_AT if count in recorded):
            means = {
                name: sign * result.per_seed(measure)[:, recorded.index(count)].mean() for name, result in sweep.items()
            }
            best = [min(means, key=means.__getitem__)] if means else []
            pairs += [(method, baseline, measure, count) for baseline in [*single, *best]]
    return judge.compare(results, pairs)


def reaches(results: Mapping[str, Result]) -> list[Reach]:
    """How many evaluations every method needs for the regret of independent searches at the counts of `REACHED_AT`."""
    sweep = _independent(results)
    recorded = next(iter(results.values())).evaluations
    found = []
    for count in (count for count in REACHED_AT if sweep and count in recorded):
        e = recorded.index(count)
        best = min(sweep.values(), key=lambda result: result.mean_regret[e])
        level = float(best.mean_regret[e])
        for name, result in _others(results).items():
            needed = metrics.evaluations_to_reach(recorded, result.mean_regret, level)
            reached = np.isfinite(needed)
            evaluations, ratio = (int(needed), needed / count) if reached else (None, None)
            found.append(Reach(name, count, level, best.samples, evaluations, ratio))
    return found


def mean_curves(results: Mapping[str, Result]) -> dict[str, np.ndarray]:
    """Mean regret [E] by method; of independent searches the least over lambda at each count."""
    curves = {name: result.mean_regret for name, result in _others(results).items()}
    sweep = [result.mean_regret for result in _independent(results).values()]
    return {**curves, "independent": np.min(sweep, axis=0)} if sweep else curves
