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
from jaxnas.leaderboard.standings import Found
from jaxnas.leaderboard.supernet_problem import Arena, Outcome

Method = Callable[[Arena], Outcome]


def _strategy(name: str, arena: Arena) -> Outcome:
    """A search by ask and tell on the trained supernet."""
    space = arena.search.strategy.space
    method = strategies.make(name, space, arena.penalties, cost=arena.cost)
    step = method.samples * len(arena.penalties)
    evaluations = arena.evaluations // step * step
    return Outcome(arena.supernet.run(method, evaluations, arena.seed), arena.training + evaluations)


def _introspectable(name: str, arena: Arena) -> Outcome:
    """A search in which introspectability stands in place of the cost."""
    method = strategies.make(name, arena.search.strategy.space, arena.penalties, cost=arena.cost)
    step = method.samples * len(arena.penalties)
    evaluations = arena.evaluations // step * step
    archs = arena.supernet.run(method, evaluations, arena.seed, arena.supernet.losses_and_introspectability)
    return Outcome(archs, arena.training + evaluations)


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


def run(arenas: Sequence[Arena], names: Sequence[str], progress: Callable[[str], None]) -> dict[str, Found]:
    """Runs every method on every arena.

    Args:
      arenas: M of them, each with a supernet of its own.
      names: of `methods()`.
      progress: told the name of each method that is about to run.
    """
    known, found = methods(), {}
    for name in names:
        progress(name)
        started = time.perf_counter()
        outcomes = [known[name](arena) for arena in arenas]
        found[name] = Found(
            archs=np.stack([outcome.archs for outcome in outcomes]),
            spent=float(np.mean([outcome.spent for outcome in outcomes])),
            wall_seconds=time.perf_counter() - started,
        )
    return found
