"""Networks for budgets, costs and devices that a search never heard of, from the evaluations that it kept.

A model of the loss is fitted to the evaluations (`jaxnas.selection.loss_model`), and its minimum within the budgets is
found exactly: by enumeration where the space is small, else as an integer programme (`jaxnas.knapsack`). No network is
evaluated again. Of N networks the model takes the one that looks best, so that it is a little worse than it looks; how
far off its loss may be is in the interval.

On a supernet the network of least loss is often one whose weights happen to go together well
(`jaxnas.selection.main_effects`). Where evaluations of uniformly drawn networks are known, their main effects have half
a say: the minimum is that of the mean of both. What it gains on recorded supernets: docs/how-to/pick.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats

from jaxnas import knapsack
from jaxnas.cost import Cost, by_name
from jaxnas.results.evaluations import Evaluations
from jaxnas.selection import loss_model, main_effects
from jaxnas.selection.loss_model import LossModel
from jaxnas.selection.main_effects import MainEffects
from jaxnas.spaces.base import SearchSpace

LARGEST_ENUMERATED = 2**17  # networks
COVERAGE = 0.8  # of the intervals
FRONT = 24  # budgets between the cheapest and the most expensive network, where a space is too large for all


@dataclass(frozen=True)
class Pick:
    """A network for budgets.

    Attributes:
      budgets: the largest costs by name; empty for none.
      encoding: choice of each of the D decisions.
      description: the network in words.
      costs: all costs by name, in their units.
      expected_loss: on a validation minibatch, with the supernet's weights at the end of the search.
      interval: in which the loss lies with a probability of 80 %, as far as the model knows.
    """

    budgets: Mapping[str, float]
    encoding: tuple[int, ...]
    description: str
    costs: Mapping[str, float]
    expected_loss: float
    interval: tuple[float, float]


def pick(
    space: SearchSpace,
    evaluations: Evaluations,
    budgets: Sequence[Mapping[str, float]],
    costs: Sequence[Cost] | None = None,
    uniform: Evaluations | None = None,
) -> list[Pick]:
    """The network of least expected loss within each of the budgets.

    Args:
      space: the search space.
      evaluations: of a search on it, by any strategy.
      budgets: the largest costs by name, in their units; different ones may name different costs.
      costs: what the names mean; None for the costs of the space.
      uniform: of uniformly drawn networks on the supernet of the search, whose main effects have half a say.

    Raises:
      ValueError: if a cost is not known, no network is within a budget, or the evaluations are too few or of another
        space.
    """
    costs = space.costs if costs is None else tuple(costs)
    wanted = reachable(costs, budgets)
    model = loss_model.fit(space, evaluations)
    minimum = Minimum(space, _agreeing(space, model, uniform))
    archs = [minimum.within(chosen, limits) for chosen, limits in wanted]
    return described(space, model, archs, budgets, costs)


def front(
    space: SearchSpace,
    evaluations: Evaluations,
    cost: str,
    costs: Sequence[Cost] | None = None,
    uniform: Evaluations | None = None,
) -> list[Pick]:
    """The networks that no other one beats in expected loss and cost, from the cheapest on.

    Args:
      space: the search space.
      evaluations: of a search on it.
      cost: the name of the cost.
      costs: as of `pick`.
      uniform: as of `pick`; what no other one beats is then the mean of loss and main effects.

    Returns:
      All of them in a space that is small enough to enumerate, else those for `FRONT` budgets; the budget of each is
      its own cost.

    Raises:
      ValueError: as `pick`.
    """
    costs = space.costs if costs is None else tuple(costs)
    chosen = by_name(costs, cost)
    model = loss_model.fit(space, evaluations)
    minimum = Minimum(space, _agreeing(space, model, uniform))
    if minimum.archs is None:
        limits = np.linspace(float(chosen.lowest), float(chosen.highest), FRONT).tolist()
        archs = np.stack([minimum.within([chosen], [limit]) for limit in limits])
        losses = minimum.model.mean(archs)
    else:
        archs, losses = minimum.archs, minimum.losses
    totals = chosen.total(archs)
    order = np.lexsort((losses, totals))
    ahead = np.append(np.inf, np.minimum.accumulate(losses[order])[:-1])
    archs = archs[order[losses[order] < ahead]]
    return described(space, model, archs, [{cost: float(total)} for total in chosen.total(archs)], costs)


def reachable(costs: Sequence[Cost], budgets: Sequence[Mapping[str, float]]) -> list[tuple[list[Cost], list[float]]]:
    """The costs that each of the budgets names, and its limits.

    Raises:
      ValueError: if a cost is not known, or no network is within one of the limits.
    """
    wanted = [([by_name(costs, name) for name in budget], list(budget.values())) for budget in budgets]
    for chosen, limits in wanted:
        knapsack.check_reachable(chosen, limits)
    return wanted


def described(
    space: SearchSpace,
    model: LossModel,
    archs: Sequence[np.ndarray],
    budgets: Sequence[Mapping[str, float]],
    costs: Sequence[Cost],
) -> list[Pick]:
    """What the model says of networks [N, D], each for one of N budgets."""
    if not len(archs):
        return []
    archs = np.asarray(archs)
    return as_picks(space, archs, budgets, costs, *model.estimate(archs))


def as_picks(
    space: SearchSpace,
    archs: np.ndarray,
    budgets: Sequence[Mapping[str, float]],
    costs: Sequence[Cost],
    mean: np.ndarray,
    deviation: np.ndarray,
) -> list[Pick]:
    """Networks [N, D], each for one of N budgets, with the mean and the deviation of what is known of their losses."""
    reach = scipy.stats.norm.ppf((1 + COVERAGE) / 2) * deviation
    return [
        Pick(
            dict(budget),
            tuple(arch.tolist()),
            space.describe(arch),
            {cost.name: _plain(cost.total(arch)) for cost in costs},
            float(loss),
            (float(loss - far), float(loss + far)),
        )
        for arch, budget, loss, far in zip(archs, budgets, mean, reach, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Agreement:
    """The mean of what a model of the loss and main effects say of a network.

    Attributes:
      model: of the loss.
      effects: on the supernet of the same search.
    """

    model: LossModel
    effects: MainEffects

    def mean(self, archs: np.ndarray) -> np.ndarray:
        """Int [N, D] -> float64 [N]."""
        return (self.model.mean(archs) + self.effects(archs)) / 2

    def tables(self) -> tuple[np.ndarray, list]:
        """What each choice, and each two of a pair, add; as of `LossModel.tables`."""
        single, pairs = self.model.tables()
        effects, _ = self.effects.tables()
        return (single + effects) / 2, [(decisions, table / 2) for decisions, table in pairs]


def _agreeing(space: SearchSpace, model: LossModel, uniform: Evaluations | None) -> LossModel | Agreement:
    if uniform is None:
        return model
    return Agreement(model, main_effects.fit(space.num_choices, uniform.archs, uniform.losses))


class Minimum:
    """The minimum of a model within budgets.

    Args:
      space: the search space.
      model: of the loss of its networks.
    """

    def __init__(self, space: SearchSpace, model: LossModel | MainEffects | Agreement):
        self.model = model
        self.archs = space.enumerate() if space.size <= LARGEST_ENUMERATED else None
        self.losses = None if self.archs is None else model.mean(self.archs)

    def within(self, costs: Sequence[Cost], budgets: Sequence[float]) -> np.ndarray:
        """The network of least loss, int [D]."""
        return self.best_within(costs, budgets, 1)[0]

    def best_within(self, costs: Sequence[Cost], budgets: Sequence[float], count: int) -> np.ndarray:
        """The networks of least loss, the best first; fewer than `count` where no more are within: int [N, D].

        Raises:
          ValueError: if no network is within the budgets.
        """
        if self.archs is None:
            return self._solved(costs, budgets, count)
        fitting = knapsack.within(self.archs, costs, budgets) if costs else np.ones(len(self.archs), bool)
        if not fitting.any():
            wanted = ", ".join(f"{cost.name} <= {budget:g}" for cost, budget in zip(costs, budgets))
            raise ValueError(f"budgets {wanted} cannot be met by one architecture together; raise one of them")
        rows = np.flatnonzero(fitting)
        return self.archs[rows[np.argsort(self.losses[rows], kind="stable")[:count]]]

    def _solved(self, costs: Sequence[Cost], budgets: Sequence[float], count: int) -> np.ndarray:
        single, tables = self.model.tables()
        pairs = [(ds, -table) for ds, table in tables]
        found: list[np.ndarray] = []
        while len(found) < count:
            excluded = np.stack(found) if found else None
            try:
                found.append(knapsack.largest_sum(-single, costs, budgets, pairs=pairs, excluded=excluded))
            except ValueError:
                if not found:
                    raise
                break  # there are no more within the budgets
        return np.stack(found)


def _plain(total: Any) -> float:
    return total.item() if hasattr(total, "item") else total
