"""Several costs of one space: at once, or one of them by its name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxnas.cost.additive import AdditiveCost
from jaxnas.cost.interaction import InteractionCost
from jaxnas.cost.largest import LargestCost

Cost = AdditiveCost | InteractionCost | LargestCost


@dataclass(frozen=True)
class JointCost:
    """Several costs at once.

    Attributes:
      costs: J costs of one space.

    >>> both = JointCost((AdditiveCost("a", "units", 0, ((0, 1),)), AdditiveCost("b", "units", 0, ((1, 0),))))
    >>> both([[0], [1]]).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """

    costs: tuple[Cost, ...]

    def __call__(self, archs: jax.Array) -> jax.Array:
        """Scaled costs, jit-compilable: int [S, D] -> float32 [S, J], each in [0, 1]."""
        return jnp.stack([cost(archs) for cost in self.costs], axis=-1)

    def expected(self, theta: jax.Array) -> jax.Array:
        """Exact mean of the scaled costs under distributions: float [K, D, C] -> float32 [K, J]."""
        return jnp.stack([cost.expected(theta) for cost in self.costs], axis=-1)


def by_name(costs: Sequence[Cost], name: str) -> Cost:
    """The cost called `name`.

    Raises:
      ValueError: if there is none; the message lists those there are.

    >>> by_name([AdditiveCost("params", "parameters", 0, ((1, 2),))], "params").unit
    'parameters'
    """
    known: Mapping[str, Cost] = {cost.name: cost for cost in costs}
    if name not in known:
        raise ValueError(f"cost {name!r} is not known here; choose one of {', '.join(known)}")
    return known[name]
