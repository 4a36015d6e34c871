"""Any JAX model, unchanged, as a search space.

`elastic(make, inputs, width=(16, 32, 64))` finds from the shapes of the model which slice of its parameters each choice
keeps, proves that masking the rest is the same as the smaller model, and counts what each architecture costs.
"""

from jaxnas.callables import make_callable
from jaxnas.elastic.space import Check, ElasticSpace, Supernet, elastic

__all__ = ["Check", "ElasticSpace", "Supernet", "elastic"]

make_callable(__name__, "jaxnas.elastic.space:elastic")  # jaxnas.elastic(...)
