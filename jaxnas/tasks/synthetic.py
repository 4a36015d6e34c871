"""Random tables for tests and examples: additive effects of decisions, and interactions of pairs of neighbours."""

import math
from collections.abc import Sequence

import numpy as np

from jaxnas.spaces.base import architectures
from jaxnas.tasks.tables import Table


def synthetic_table(num_choices: Sequence[int], seed: int = 0, interaction: float = 0.3) -> Table:
    """A table whose more expensive choices tend to have smaller errors, as in real search spaces.

    Args:
      num_choices: C_d of each decision.
      seed: seed of the random effects.
      interaction: size of the effects of pairs of neighbouring decisions, next to 1 for single decisions.

    Returns:
      A table of prod_d C_d rows, errors in [0, 1] and an additive cost.

    >>> table = synthetic_table((2, 3), seed=1)
    >>> table.error.shape, bool(table.error.min() == 0), bool(table.error.max() == 1)
    ((6,), True, True)
    """
    rng = np.random.default_rng(seed)
    choices = architectures(num_choices, np.arange(math.prod(num_choices)))
    error, cost = np.zeros(len(choices)), np.zeros(len(choices))
    for d, count in enumerate(num_choices):
        price = np.sort(rng.uniform(size=count))
        cost += price[choices[:, d]]
        error += (rng.normal(scale=0.5, size=count) - 2 * price)[choices[:, d]]
    for d in range(1, len(num_choices)):
        pair = rng.normal(scale=interaction, size=(num_choices[d - 1], num_choices[d]))
        error += pair[choices[:, d - 1], choices[:, d]]
    span = np.ptp(error)
    return Table.from_arrays(choices, (error - error.min()) / (span if span > 0 else 1.0), cost)
