"""Every method that needs nothing but losses, on a table of true errors."""

import time
from collections.abc import Sequence

import numpy as np

from jaxnas import strategies
from jaxnas.leaderboard.selected import dc_nas_on_table
from jaxnas.relaxation import Assembly
from jaxnas.strategies.base import Strategy
from jaxnas.tasks import comparison
from jaxnas.tasks.judge import Result, judge
from jaxnas.tasks.tabular import TabularTask


def methods() -> tuple[str, ...]:
    """The names of all methods that a table can be searched with.

    Those that follow gradients, or read features, find neither in a table. Of EG-DAS-style its second stage, the
    evolutionary search, can be run, over all choices instead of a library of blocks.
    """
    return (*strategies.STRATEGIES, "eg_das", "dc_nas")


def run(
    task: TabularTask,
    names: Sequence[str],
    penalties: Sequence[float],
    evaluations: int,
    seeds: int,
    first_seed: int = 0,
) -> dict[str, Result]:
    """Searches with every method, and judges what it found.

    Each has `evaluations` noisy evaluations for all its K networks together.

    Args:
      task: the table, with its evaluation noise.
      names: of `methods()`. Independent searches are given the lambda that is best for them, by the true regret.
      penalties: eps_k.
      evaluations: of one search.
      seeds: M searches.
      first_seed: the first of the seeds.

    Raises:
      ValueError: on an unknown method, or if the evaluations do not suffice for one step of a method.
    """
    of_strategies = [name for name in names if name in strategies.STRATEGIES]
    planned: dict[str, Strategy] = comparison.plan(of_strategies, task, penalties, evaluations) if of_strategies else {}
    if "eg_das" in names:
        planned["eg_das"] = Assembly(task.space, tuple(penalties), cost=task.cost)
    if planned:
        comparison.recorded_counts(evaluations, planned)  # refuses too few evaluations before any search
    results = comparison.run_all([task], [planned], (evaluations,), seeds, first_seed)
    found = {name: results[name] for name in names if name in results}
    if "dc_nas" in names:
        started = time.perf_counter()
        archs = [dc_nas_on_table(task, penalties, evaluations, seed) for seed in range(first_seed, first_seed + seeds)]
        seconds = time.perf_counter() - started
        networks = np.stack(archs)[:, None]  # [M, 1, K, D]
        found["dc_nas"] = judge(
            task, penalties, networks, (evaluations,), spent=float(evaluations), wall_seconds=seconds
        )
    return found
