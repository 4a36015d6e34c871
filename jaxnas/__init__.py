"""One-shot neural architecture search that finds several networks of different complexity in one search."""

from jaxnas import asng, cost, distribution, importance, spaces, strategies, tasks
from jaxnas.export import load
from jaxnas.strategies import ImportanceSampling
from jaxnas.version import __version__

__all__ = [
    "ImportanceSampling",
    "__version__",
    "asng",
    "cost",
    "distribution",
    "importance",
    "load",
    "spaces",
    "strategies",
    "tasks",
]
