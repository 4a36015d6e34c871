"""Search strategies on one ask/tell protocol, one file each."""

from jaxnas.strategies.base import Strategy
from jaxnas.strategies.importance_sampling import ImportanceSampling

__all__ = ["ImportanceSampling", "Strategy"]

STRATEGIES = {"importance": ImportanceSampling}
