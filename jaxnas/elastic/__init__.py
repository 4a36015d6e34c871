"""Any JAX model, unchanged, as a search space.

`elastic(make, inputs, width=(16, 32, 64))` finds from the shapes of the model which slice of its parameters each choice
keeps, checks that masking the rest computes the same function as the smaller model, and counts the costs of each
architecture.
"""

from jaxnas.callables import make_callable
from jaxnas.elastic.space import Check, ElasticSpace, Supernet, elastic

__all__ = ["Check", "ElasticSpace", "Supernet", "elastic"]

make_callable(__name__, "jaxnas.elastic.space:elastic")  # jaxnas.elastic(...)
