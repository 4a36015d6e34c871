"""Which architectures share a step of the weights, and which of them teaches the others.

By the sandwich rule (Yu & Huang, arXiv 1903.05134; BigNAS, arXiv 2003.11142) the most expensive and the cheapest
network of the space are trained in every step: the performance of all others lies between theirs. The other networks of
a step are drawn as without the rule, and the number of all is the same. If the most expensive network of a step teaches
the others, it comes first (`jaxnas.supernet.distillation`).
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.cost import Cost, JointCost, LargestCost
from jaxnas.search.settings import SearchSettings
from jaxnas.strategies.base import Strategy, costs_of


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that is trained already, whose outputs are part of the loss of every network of a step.

    Attributes:
      apply: (params, inputs as the supernet gets them) -> outputs, in the form of the supernet's.
      params: its weights, which stay as they are.
    """

    apply: Callable[[chex.ArrayTree, Any], Any]
    params: chex.ArrayTree


def step_archs(
    strategy: Strategy, settings: SearchSettings, state: Any, key: jax.Array, subset_key: jax.Array, sort: bool
) -> jax.Array:
    """The architectures of a step of the weights.

    Args:
      strategy: what proposes them.
      settings: how many, and whether by the sandwich rule.
      state: of the strategy.
      key: random key of the proposals.
      subset_key: random key of those that are taken.
      sort: put the most expensive first and the cheapest last, if the sandwich rule does not.

    Returns:
      int32 [n, D]; by the sandwich rule the most expensive network of the space, the cheapest, and n - 2 others.
    """
    archs, _ = strategy.ask(key, state)
    if settings.weight_samples is not None:
        archs = jax.random.permutation(subset_key, archs)[: settings.weight_samples]
    if settings.sandwich:
        return archs.at[:2].set(jnp.asarray(extremes(strategy), jnp.int32))
    return archs[jnp.argsort(-costs_of(_searched(strategy), archs)[:, 0])] if sort else archs


def extremes(strategy: Strategy) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The most expensive and the cheapest architecture of the space, by the first cost of the search.

    Raises:
      ValueError: if the cost is one of which that is not known.
    """
    cost = _searched(strategy)
    if not isinstance(cost, Cost):
        raise ValueError(
            f"sandwich needs a cost of the space, whose dearest and cheapest networks are known, got "
            f"{type(cost).__name__}; leave it out"
        )
    return cost.dearest, cost.cheapest


def _searched(strategy: Strategy) -> Any:
    """The cost searched for, the first of several; of a largest part also what is within its budget."""
    cost = strategy.cost.costs[0] if isinstance(strategy.cost, JointCost) else strategy.cost
    if isinstance(cost, LargestCost):
        return dataclasses.replace(cost, fixed=min(map(min, cost.table)))
    return cost


def check(strategy: Strategy, settings: SearchSettings, teacher: Teacher | None) -> None:
    """Raises ValueError if a search cannot have steps like these."""
    drawn = strategy.step_samples
    taken = drawn if settings.weight_samples is None else settings.weight_samples
    if taken > drawn:
        raise ValueError(
            f"weight_samples must be at most {drawn}, as many as the strategy draws in a step, got {taken}; "
            "raise samples, or leave weight_samples out for all of them"
        )
    if settings.sandwich:
        if taken == 1:
            raise ValueError("weight_samples must be at least 2 with sandwich, the dearest and the cheapest, got 1")
        extremes(strategy)
    if teacher is not None and not settings.distillation:
        raise ValueError("distillation must be positive with a teacher, the share of the loss that it has, got 0.0")
    if settings.distillation and teacher is None and taken == 1:
        raise ValueError(
            "weight_samples must be at least 2 with distillation, where the dearest network of a step teaches the "
            "others, got 1"
        )
