"""No search: the same K architectures in every step, so that a search trains them together and learns nothing else."""

from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnas.cost import AdditiveCost
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import base
from jaxnas.strategies.base import DistributionInfo, DistributionStrategy


@flax.struct.dataclass
class State:
    """Nothing changes.

    Attributes:
      theta: float32 [K, D, C], 1 for the choices of each architecture.
    """

    theta: jax.Array


@dataclass(frozen=True)
class Fixed(DistributionStrategy):
    """Asks for K architectures, each once a step.

    Attributes:
      space: with a cost.
      archs: K of them, D choices each.
    """

    space: SearchSpace
    archs: tuple[tuple[int, ...], ...]

    samples = 1

    def __post_init__(self):
        if not self.archs:
            raise ValueError("archs must hold at least one architecture, got none")
        for arch in self.archs:
            self.space.validate(arch)

    @property
    def penalties(self) -> tuple[float, ...]:
        """0 for each of the K architectures."""
        return (0.0,) * len(self.archs)

    @property
    def cost(self) -> AdditiveCost:
        """The first cost of the space."""
        return base.default_cost(self.space)

    def init(self, key: jax.Array) -> State:
        """The state of every step."""
        del key
        return State(jax.nn.one_hot(jnp.asarray(self.archs), self.space.max_choices, dtype=jnp.float32))

    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """The architectures, int32 [K, D]."""
        del key
        return jnp.asarray(self.archs, jnp.int32), state

    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, DistributionInfo]:
        """The same state; each loss counts for its own architecture."""
        told = base.evaluations(self.cost, archs, losses, costs)
        weights = jnp.diag(told.usable.astype(jnp.float32))
        objective = told.objective(base.initial_penalties(self.penalties))
        return state, DistributionInfo(objective, told.ignored, weights, told.usable.astype(jnp.float32))

    def modes(self, state: Any) -> jax.Array:
        """The architectures, int32 [K, D]."""
        del state
        return jnp.asarray(self.archs, jnp.int32)
