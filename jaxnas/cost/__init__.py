"""Complexity R(c) of architectures: exact totals in their units, and the scaled cost that a search penalises."""

from jaxnas.cost.additive import AdditiveCost, scale
from jaxnas.cost.interaction import LARGEST_TABLE, InteractionCost
from jaxnas.cost.joint import Cost, JointCost, by_name
from jaxnas.cost.largest import LargestCost
from jaxnas.cost.objectives import least_objective, objective, price

__all__ = [
    "LARGEST_TABLE",
    "AdditiveCost",
    "Cost",
    "InteractionCost",
    "JointCost",
    "LargestCost",
    "by_name",
    "least_objective",
    "objective",
    "price",
    "scale",
]
