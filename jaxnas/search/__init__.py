"""A search: its settings, its steps, its loop, its answer, and the training of the networks it found."""

from jaxnas.callables import make_callable

make_callable(__name__, "jaxnas.family.finding:search")  # jaxnas.search(...)
