"""One-shot neural architecture search that finds several networks of different complexity in one search."""

from jaxnas import asng, cost, distribution, elastic, importance, search, spaces, strategies, tasks
from jaxnas.family.distilling import Distillation
from jaxnas.family.loading import load
from jaxnas.family.measuring import measure_latency
from jaxnas.search.search import Search
from jaxnas.strategies import ImportanceSampling, SharedModel
from jaxnas.version import __version__

__all__ = [
    "Distillation",
    "ImportanceSampling",
    "Search",
    "SharedModel",
    "__version__",
    "asng",
    "cost",
    "distribution",
    "elastic",
    "importance",
    "load",
    "measure_latency",
    "search",
    "spaces",
    "strategies",
    "tasks",
]
