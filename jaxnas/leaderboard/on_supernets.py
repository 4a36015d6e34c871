"""Every method on one supernet, at equal total cost.

A method that only samples architectures uses the supernet that was trained for all and spends its evaluations on it.
One that trains weights of its own may spend the same total: training and evaluations together.
"""

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np

from jaxnas import strategies
from jaxnas.leaderboard import relaxed, selected
from jaxnas.leaderboard.supernet_problem import Outcome, SupernetProblem
from jaxnas.tasks.judge import Result, judge
from jaxnas.tasks.tabular import TabularTask

Method = Callable[[SupernetProblem], Outcome]


def _strategy(name: str, problem: SupernetProblem) -> Outcome:
    """A search by ask and tell on the trained supernet."""
    space = problem.search.strategy.space
    method = strategies.make(name, space, problem.penalties, cost=problem.cost)
    step = method.step_samples
    evaluations = problem.evaluations // step * step
    return Outcome(problem.supernet.run(method, evaluations, problem.seed), problem.training + evaluations)


def _introspectable(name: str, problem: SupernetProblem) -> Outcome:
    """A search in which introspectability stands in place of the cost."""
    method = strategies.make(name, problem.search.strategy.space, problem.penalties, cost=problem.cost)
    step = method.step_samples
    evaluations = problem.evaluations // step * step
    archs = problem.supernet.run(method, evaluations, problem.seed, problem.supernet.losses_and_introspectability)
    return Outcome(archs, problem.training + evaluations)


def methods() -> dict[str, Method]:
    """All methods, by name."""
    return {
        **{name: functools.partial(_strategy, name) for name in strategies.STRATEGIES},
        "introspectable_nsga2": functools.partial(_introspectable, "nsga2"),
        "introspectable_importance_sampling": functools.partial(_introspectable, "importance_sampling"),
        "darts": relaxed.darts,
        "rc_darts": relaxed.rc_darts,
        "eg_das": relaxed.eg_das,
        "darts_pt": relaxed.darts_pt,
        "dc_nas": selected.dc_nas_on_supernet,
        "stage_wise": selected.stage_wise_on_supernet,
    }


def run(
    problems: Sequence[SupernetProblem], names: Sequence[str], truth: TabularTask, progress: Callable[[str], None]
) -> dict[str, Result]:
    """Runs every method on every problem, and judges what it found.

    Args:
      problems: M of them, each with a supernet of its own, and the same penalties and evaluations.
      names: of `methods()`.
      truth: true errors and costs of all networks, see `supernet_problem.score_all`.
      progress: told the name of each method that is about to run.
    """
    known, found = methods(), {}
    for name in names:
        progress(name)
        started = time.perf_counter()
        outcomes = [known[name](problem) for problem in problems]
        found[name] = judge(
            truth,
            problems[0].penalties,
            np.stack([outcome.archs for outcome in outcomes])[:, None],  # [M, 1, K, D]
            (problems[0].evaluations,),
            spent=float(np.mean([outcome.spent for outcome in outcomes])),
            wall_seconds=time.perf_counter() - started,
        )
    return found
