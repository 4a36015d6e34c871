"""The ask/tell protocol of all search strategies."""

import math
from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp

from jaxnas.spaces.base import SearchSpace

# Scaled cost R(c): int [S, D] -> float32 [S] in [0, 1], or [S, J] of J costs; jit-compilable and hashable.
Cost = Callable[[jax.Array], jax.Array]


class Strategy(Protocol):
    """What every strategy offers.

    A strategy is a frozen, hashable dataclass of settings; all that changes is in the state, a pytree of arrays. `ask`
    and `tell` are pure, so that a whole search can be one `jax.lax.scan` and its seeds one `jax.vmap`.

    Attributes:
      space: the search space.
      penalties: eps_k, one for each of the K networks looked for.
      samples: lambda; a step asks for S = K * lambda architectures.
      cost: scaled cost R(c).
    """

    space: SearchSpace
    penalties: tuple[float, ...]
    samples: int
    cost: Cost

    def init(self, key: jax.Array) -> Any:
        """The state before the first step."""

    def ask(self, key: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Architectures to evaluate, int32 [S, D], and the next state."""

    def tell(self, state: Any, archs: jax.Array, losses: jax.Array) -> tuple[Any, Any]:
        """Takes the losses, float32 [S], of the architectures; returns the next state and diagnostics.

        Strategies that learn from evaluated architectures alone also take float32 [S, 1 + J]: the losses, and J costs
        in [0, 1] that were measured with them and stand in place of `cost(archs)`; see `losses_and_costs`.
        """

    def modes(self, state: Any) -> jax.Array:
        """The K networks found so far, int32 [K, D], in the order of the penalties."""


def complete(strategy: Strategy, population: int | None = None) -> None:
    """Completes and checks the settings that all strategies share; for the `__post_init__` of a frozen dataclass.

    Penalties become a tuple of floats, and the first cost of the space the cost where none is given.

    Args:
      strategy: the strategy.
      population: architectures that a step asks for where `samples` is None, at least.

    Raises:
      ValueError: naming the argument, its value and what would be right.
    """
    object.__setattr__(strategy, "penalties", tuple(float(penalty) for penalty in strategy.penalties))
    check_penalties(strategy.penalties)
    if strategy.samples is None and population is not None:
        object.__setattr__(strategy, "samples", math.ceil(population / len(strategy.penalties)))
    check_settings(strategy.space, strategy.penalties, strategy.samples)
    if strategy.cost is None:
        object.__setattr__(strategy, "cost", default_cost(strategy.space))


def check_settings(space: SearchSpace, penalties: tuple[float, ...], samples: int) -> None:
    """Checks the settings that all strategies share.

    Raises:
      ValueError: naming the argument, its value and what would be right.
    """
    if not space.decisions:
        raise ValueError(f"space {space.name!r} has no decision; there is nothing to search")
    check_penalties(penalties)
    if samples < 1:
        raise ValueError(f"samples must be at least 1 architecture for each distribution, got {samples}")
    if samples * len(penalties) < 2:
        raise ValueError(f"samples must be at least 2 with a single penalty: one loss has no rank, got {samples}")


def check_positive(strategy: Strategy, *names: str) -> None:
    """Raises ValueError unless these settings of a strategy are at least 1."""
    for name in names:
        if getattr(strategy, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(strategy, name)}")


def check_penalties(penalties: tuple[float, ...]) -> None:
    """Raises ValueError unless there is at least one penalty and all are finite and not negative."""
    if not penalties:
        raise ValueError("penalties must name at least one coefficient, such as 0.02 0.1 0.3, got none")
    for penalty in penalties:
        if not math.isfinite(penalty) or penalty < 0:
            raise ValueError(f"penalties must be finite and not negative, got {penalty}")


def initial_penalties(penalties: tuple[float, ...]) -> jax.Array:
    """Penalties as part of a state, where a strategy around this one may adapt them: float32 [K, 1], one cost each."""
    return jnp.asarray(penalties, jnp.float32)[:, None]


def costs_of(cost: Cost, archs: jax.Array) -> jax.Array:
    """The costs of architectures, also where there is one alone: int [S, D] -> float32 [S, J]."""
    costs = cost(archs)
    return costs[:, None] if costs.ndim == 1 else costs


def losses_and_costs(cost: Cost, archs: jax.Array, losses: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two parts of what `tell` is given, for a strategy that takes measured costs.

    Args:
      cost: scaled cost R(c), used where none was measured.
      archs: int32 [S, D].
      losses: float32 [S], or [S, 1 + J]: vector objectives, the loss and J measured costs.

    Returns:
      float32 [S] and float32 [S, J].
    """
    chex.assert_rank([archs, losses], [2, {1, 2}])
    chex.assert_equal_shape_prefix([archs, losses], 1)
    if losses.ndim == 1:
        return losses, costs_of(cost, archs)
    if losses.shape[1] < 2:
        raise ValueError(f"losses must be [S], or [S, 1 + J] with J measured costs, got shape {losses.shape}")
    return losses[:, 0], losses[:, 1:]


def refuse_measured_costs(losses: jax.Array, why: str) -> None:
    """Raises ValueError on vector objectives, for a strategy that must know the cost of what was not evaluated."""
    if losses.ndim == 2:
        raise ValueError(f"losses must be [S] here, got shape {losses.shape}: measured costs cannot serve, since {why}")


def price(penalties: jax.Array, costs: jax.Array) -> jax.Array:
    """What the objectives add to the loss, sum_j eps_kj R_j: float [K, J], [..., J] -> [K, ...]."""
    penalties = penalties.reshape(len(penalties), *[1] * (costs.ndim - 1), -1)
    return (penalties * costs).sum(-1)  # no matmul, which accelerators round


def default_cost(space: SearchSpace) -> Cost:
    """The first cost of the space.

    Raises:
      ValueError: if the space has no cost.
    """
    if not space.costs:
        raise ValueError(f"cost must be given: space {space.name!r} has no cost of its own")
    return space.costs[0]
