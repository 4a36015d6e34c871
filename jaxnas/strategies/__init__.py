"""Search strategies on one ask/tell protocol, one file each. `STRATEGIES` names them all."""

from collections.abc import Callable, Collection
from typing import Any

from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies.base import DistributionStrategy, Strategy
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
    "shared_model": SharedModel,  # one model learns from the samples of all distributions; the default
    "importance_sampling": ImportanceSampling,  # the paper's form: importance weights
    "independent": Independent,
    "random": Random,
    "evolution": RegularisedEvolution,
    "nsga2": NSGA2,
    "constrained": ConstrainedEvolution,
    "pnag": PNAG,
    "smem_nas": SMEMNAS,
    "moarr": MoARR,
}


# Names that methods had, and those that they have: a name says which algorithm runs.
RENAMED = {
    "importance": "shared_model",
    "importance_plain": "importance_sampling",
    "introspectable_importance": "introspectable_importance_sampling",
}


def check_name(name: str, known: Collection[str] = STRATEGIES.keys()) -> None:
    """Checks the name of a method.

    Args:
      name: the name that was given.
      known: the names to choose from.

    Raises:
      ValueError: if it is none of them. The message lists them, or gives the new name of a method that was renamed.

    >>> check_name("importance_plain")
    Traceback (most recent call last):
      ...
    ValueError: method 'importance_plain' is now called 'importance_sampling'
    """
    if name in known:
        return
    if name in RENAMED:
        raise ValueError(f"method {name!r} is now called {RENAMED[name]!r}")
    if name in STRATEGIES:
        raise ValueError(f"method must be one of {', '.join(known)}, got {name!r}")
    raise ValueError(f"method {name!r} is not known; choose from {', '.join(known)}")


def distribution_strategies() -> tuple[str, ...]:
    """The names of the methods that a search on a supernet can use: those of type `DistributionStrategy`.

    >>> distribution_strategies()
    ('shared_model', 'importance_sampling')
    """
    return tuple(
        name
        for name, method in STRATEGIES.items()
        if isinstance(method, type) and issubclass(method, DistributionStrategy)
    )


def make(name: str, space: SearchSpace, penalties: tuple[float, ...], **settings: Any) -> Strategy:
    """Builds the strategy called `name`.

    Args:
      name: a key of `STRATEGIES`.
      space: the search space.
      penalties: eps_k, one for each of the K networks.
      **settings: further settings of the strategy, such as `samples` or `cost`.

    Raises:
      ValueError: if there is none of this name (see `check_name`), or on bad settings.
    """
    check_name(name)
    return STRATEGIES[name](space, penalties, **settings)


__all__ = [
    "NSGA2",
    "PNAG",
    "SMEMNAS",
    "STRATEGIES",
    "ConstrainedEvolution",
    "DistributionStrategy",
    "ImportanceSampling",
    "Independent",
    "MoARR",
    "Random",
    "RegularisedEvolution",
    "SharedModel",
    "Strategy",
    "WithinBudgets",
    "check_name",
    "distribution_strategies",
    "make",
    "within_budgets",
]
