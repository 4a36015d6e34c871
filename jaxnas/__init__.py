"""One-shot neural architecture search that finds several networks of different complexity in one search.

- `elastic(make, inputs, ...)`: any JAX model as a search space; `spaces`: the built-in search spaces.
- `search(space, loss=..., train=..., valid=..., budgets=..., steps=...)`: a whole search in one call, for any model,
  loss and data; `Distillation`: its teachers; `measure_latency`: latency as a cost of a space.
- `load(path)`: trained networks from their files.
- `ImportanceSampling`, `SharedModel`, `strategies`: the search strategies behind `ask` and `tell`; `distribution`,
  `importance`, `asng`, `cost`: their mathematics; `tasks`: tables to search on.
- `Search`: a strategy, a supernet and data of your own, ready to run.
"""

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
