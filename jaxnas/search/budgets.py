"""Budgets as they are given to a command: numbers of one cost, or several costs by name."""

import math
from collections.abc import Mapping, Sequence

from jaxnas.spaces import memory

COSTS = ("macs", "params", "latency", *memory.NAMES)  # that need no name of a device


def parse(texts: Sequence[str], cost: str) -> tuple[dict[str, float], ...]:
    """Reads budgets, one text for each network.

    All networks have budgets of the same costs, unless devices are named, which are all names other than `COSTS`: then
    each network has the budgets that its own text names.

    Args:
      texts: such as "30e6", "macs=60e6,params=1e6" or "phone=5e-3,params=1e6".
      cost: what a number alone is a budget of.

    Raises:
      ValueError: if a text is no budget, or not all name the same costs.

    >>> parse(["30e6", "60e6"], "macs")
    ({'macs': 30000000.0}, {'macs': 60000000.0})
    >>> parse(["macs=60e6,params=1e6"], "macs")
    ({'macs': 60000000.0, 'params': 1000000.0},)
    >>> parse(["phone=5e-3", "server=1e-3"], "macs")
    ({'phone': 0.005}, {'server': 0.001})
    """
    budgets = tuple(_parse_one(text, cost) for text in texts)
    if not budgets:
        raise ValueError("budgets must name at least one, such as 30e6, got none")
    named = dict.fromkeys(name for budget in budgets for name in budget)
    for budget in budgets:
        if named.keys() <= set(COSTS) and budget.keys() != budgets[0].keys():
            raise ValueError(
                f"budgets must all name the same costs, got {', '.join(budgets[0])} and then {', '.join(budget)}"
            )
    return tuple({name: budget[name] for name in named if name in budget} for budget in budgets)


def to_texts(budgets: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """Budgets as `parse` reads them, with every cost by its name.

    >>> to_texts(({"macs": 60e6, "params": 1e6},))
    ('macs=60000000.0,params=1000000.0',)
    """
    return tuple(",".join(f"{name}={value!r}" for name, value in budget.items()) for budget in budgets)


def in_words(budgets: Mapping[str, float]) -> str:
    """Budgets of one network, for people.

    >>> in_words({"macs": 60e6, "params": 1e6})
    'macs <= 6e+07, params <= 1e+06'
    """
    return ", ".join(f"{name} <= {value:,.6g}" for name, value in budgets.items())


def _parse_one(text: str, cost: str) -> dict[str, float]:
    budget = {}
    for part in text.split(","):
        name, equals, number = part.partition("=")
        name, number = (name.strip(), number) if equals else (cost, name)
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"budgets must be positive numbers such as 30e6 or macs=60e6,params=1e6, got {text!r}")
        if name in budget:
            raise ValueError(f"budgets must name a cost once each, got {text!r}")
        budget[name] = value
    return budget
