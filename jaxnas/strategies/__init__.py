"""Search strategies on one ask/tell protocol, one file each. `STRATEGIES` names them all."""

from collections.abc import Callable
from typing import Any

from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies.base import Strategy
from jaxnas.strategies.budgeted import WithinBudgets, within_budgets
from jaxnas.strategies.constrained import ConstrainedEvolution
from jaxnas.strategies.evolution import RegularisedEvolution
from jaxnas.strategies.importance_sampling import ImportanceSampling
from jaxnas.strategies.independent import Independent
from jaxnas.strategies.nsga2 import NSGA2
from jaxnas.strategies.random import Random
from jaxnas.strategies.related.moarr import MoARR
from jaxnas.strategies.related.pnag import PNAG
from jaxnas.strategies.related.smem_nas import SMEMNAS
from jaxnas.strategies.shared_model.strategy import SharedModel

# Called with (space, penalties) and the settings of each; every member passes tests/test_strategies.py.
STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "importance": SharedModel,  # the default: the samples of all distributions serve each, through one model
    "importance_plain": ImportanceSampling,  # the paper's form: importance weights
    "independent": Independent,
    "random": Random,
    "evolution": RegularisedEvolution,
    "nsga2": NSGA2,
    "constrained": ConstrainedEvolution,
    "pnag": PNAG,
    "smem_nas": SMEMNAS,
    "moarr": MoARR,
}


def make(name: str, space: SearchSpace, penalties: tuple[float, ...], **settings: Any) -> Strategy:
    """Builds the strategy called `name`.

    Raises:
      ValueError: if there is none of this name (the message lists those there are), or on bad settings.
    """
    if name not in STRATEGIES:
        raise ValueError(f"method {name!r} is not known; choose from {', '.join(STRATEGIES)}")
    return STRATEGIES[name](space, penalties, **settings)


__all__ = [
    "NSGA2",
    "PNAG",
    "SMEMNAS",
    "STRATEGIES",
    "ConstrainedEvolution",
    "ImportanceSampling",
    "Independent",
    "MoARR",
    "Random",
    "RegularisedEvolution",
    "Strategy",
    "WithinBudgets",
    "make",
    "within_budgets",
]
