"""The ask/tell protocol of all search strategies."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost import least_objective, objective
from jaxnas.spaces.base import SearchSpace

# Scaled cost R(c): int [S, D] -> float32 [S] in [0, 1], or [S, J] of J costs; jit-compilable and hashable.
Cost = Callable[[jax.Array], jax.Array]

LARGEST_PENALTY = 1e30  # times a cost, and summed, it is still a float32


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

    @property
    def step_samples(self) -> int:
        """S = K lambda, the architectures that a step asks for."""
        return len(self.penalties) * self.samples

    def init(self, key: jax.Array) -> Any:
        """The state before the first step."""

    def ask(self, key: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        """Architectures to evaluate, int32 [S, D], and the next state."""

    def tell(
        self, state: Any, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[Any, "Info"]:
        """Learns from losses; returns the next state and the diagnostics of the step.

        Samples whose loss or cost is not finite are ignored. A step without a usable sample changes only counters of
        steps and what is scheduled by them: no distribution, model, population or incumbent.

        Args:
          state: the state that `ask` returned with the architectures.
          archs: int [S, D].
          losses: float [S], smaller is better; a list is accepted.
          costs: float [S, J], J costs in [0, 1] that were measured with the losses and replace `cost(archs)`. Only
            strategies that need no cost of other architectures accept them; others raise ValueError.
        """

    def modes(self, state: Any) -> jax.Array:
        """The K networks found so far, int32 [K, D], in the order of the penalties."""


@flax.struct.dataclass
class Info:
    """Diagnostics of one `tell`.

    Attributes:
      objective: float32 [K, S], f_k(c_i) = L(c_i) + eps_k R(c_i); infinite for ignored samples.
      ignored: int32 [], samples of this step whose loss or cost is not finite.
    """

    objective: jax.Array
    ignored: jax.Array


@flax.struct.dataclass
class DistributionInfo(Info):
    """Diagnostics of one `tell` of a strategy with distributions.

    Attributes:
      weights: float32 [K, S], importance weights w_k(c_i), 0 where ignored; at most K under equal shares.
      ess: float32 [K], their effective sample size; 0 where every sample is ignored.
    """

    weights: jax.Array
    ess: jax.Array


class DistributionStrategy(Strategy):
    """A strategy that keeps K distributions and weights every sample for each, as a search on a supernet needs.

    Such a strategy inherits from this class. Its states have `theta`, float32 [K, D, C], and its `tell` returns a
    `DistributionInfo`. Only a strategy for budgets instead of penalties overrides the methods below.
    """

    @property
    def budgets_by_name(self) -> tuple[dict[str, float], ...] | None:
        """Budgets of each of the K networks, by the names of costs and in their units; None without budgets."""
        return None

    def fits(self, archs: np.ndarray) -> np.ndarray:
        """Whether architectures keep the budgets of each network, all without any: int [..., D] -> bool [K, ...]."""
        return np.ones((len(self.penalties), *np.shape(archs)[:-1]), bool)

    def penalties_in_use(self, state: Any) -> tuple[float, ...]:
        """The penalty of each of the K networks in a state: eps_k on the first cost."""
        del state
        return self.penalties

    def select(self, state: Any, archs: np.ndarray, losses: np.ndarray) -> np.ndarray:
        """Which of N candidates is the answer for each of the K networks; all compete for every one.

        Args:
          state: at the end of the search.
          archs: int [N, D].
          losses: float [M, N], of the candidates on the same M minibatches; one that is not finite is never chosen.

        Returns:
          int [K], indices of candidates.

        Raises:
          ValueError: if there is no candidate with a finite loss to choose.
        """
        del state
        return least_objective(losses.mean(0), self.cost(archs), self.penalties)


@flax.struct.dataclass
class Evaluations:
    """What one `tell` is given, checked and in the types that states have; `evaluations` makes it.

    Attributes:
      archs: int32 [S, D].
      losses: float32 [S]; infinite where not usable, so that no comparison prefers such a sample.
      costs: float32 [S, J], R(c) or what was measured in its place; 0 where not usable.
      usable: bool [S], whether loss and costs are finite.
    """

    archs: jax.Array
    losses: jax.Array
    costs: jax.Array
    usable: jax.Array

    @property
    def ignored(self) -> jax.Array:
        """How many samples are not usable, int32 []."""
        return (~self.usable).sum(dtype=jnp.int32)

    def objective(self, penalties: jax.Array) -> jax.Array:
        """f_k of the samples under penalties float [K] or [K, J]: float32 [K, S], infinite where not usable."""
        return objective(self.losses, penalties, self.costs)

    def info(self, penalties: tuple[float, ...]) -> Info:
        """The diagnostics of a strategy that has none of its own."""
        return Info(self.objective(initial_penalties(penalties)), self.ignored)


@functools.partial(jax.jit, static_argnums=0)
def evaluations(cost: Cost, archs: Any, losses: Any, costs: Any = None) -> Evaluations:
    """Checks what `tell` is given.

    A program of its own: the one after it is the same, and rounds alike, wherever the costs come from.

    Args:
      cost: scaled cost R(c), used where none was measured.
      archs: int [S, D].
      losses: float [S].
      costs: float [S, J], measured in place of R, or None.
    """
    archs, losses = jnp.asarray(archs, jnp.int32), jnp.asarray(losses, jnp.float32)
    chex.assert_rank([archs, losses], [2, 1])
    chex.assert_equal_shape_prefix([archs, losses], 1)
    costs = costs_of(cost, archs) if costs is None else jnp.asarray(costs, jnp.float32)
    chex.assert_rank(costs, 2)
    chex.assert_equal_shape_prefix([archs, costs], 1)
    usable = jnp.isfinite(losses) & jnp.isfinite(costs).all(-1)
    return Evaluations(archs, jnp.where(usable, losses, jnp.inf), jnp.where(usable[:, None], costs, 0.0), usable)


@dataclass(frozen=True)
class Settings(Strategy):
    """The settings that all strategies share, completed and checked; a strategy with more is a subclass.

    Attributes:
      space: the search space.
      penalties: eps_k, one for each of the K networks looked for.
      samples: lambda; a step asks for S = K lambda architectures. None for at least `step_of` of them, where a subclass
        has it.
      cost: scaled cost R(c); None for the first cost of the space.

    Raises:
      ValueError: if a setting is out of range.
    """

    space: SearchSpace
    penalties: tuple[float, ...]
    samples: int = 4
    cost: Cost | None = None
    step_of: ClassVar[int | None] = None

    def __post_init__(self):
        object.__setattr__(self, "penalties", tuple(float(penalty) for penalty in self.penalties))
        check_penalties(self.penalties)
        if not self.space.decisions:
            raise ValueError(f"space {self.space.name!r} has no decision; there is nothing to search")
        if self.samples is None and self.step_of is not None:
            object.__setattr__(self, "samples", math.ceil(self.step_of / len(self.penalties)))
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1 architecture for each distribution, got {self.samples}")
        if self.step_samples < 2:
            raise ValueError(
                f"samples must be at least 2 with a single penalty: one loss has no rank, got {self.samples}"
            )
        if self.cost is None:
            object.__setattr__(self, "cost", default_cost(self.space))


def check_positive(strategy: Strategy, *names: str) -> None:
    """Raises ValueError unless these settings of a strategy are at least 1."""
    for name in names:
        if getattr(strategy, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(strategy, name)}")


def check_penalties(penalties: tuple[float, ...]) -> None:
    """Raises ValueError unless there is at least one penalty and all are from 0 to `LARGEST_PENALTY`."""
    if not penalties:
        raise ValueError("penalties must name at least one coefficient, such as 0.02 0.1 0.3, got none")
    for penalty in penalties:
        if not math.isfinite(penalty) or penalty < 0:
            raise ValueError(f"penalties must be finite and not negative, got {penalty}")
        if penalty > LARGEST_PENALTY:
            raise ValueError(
                f"penalties must be at most {LARGEST_PENALTY:g}, as costs decide alone then, got {penalty}"
            )


def initial_penalties(penalties: tuple[float, ...]) -> jax.Array:
    """Penalties as part of a state, where a strategy around this one may adapt them: float32 [K, 1], one cost each."""
    return jnp.asarray(penalties, jnp.float32)[:, None]


def costs_of(cost: Cost, archs: jax.Array) -> jax.Array:
    """The costs of architectures, also where there is one alone: int [S, D] -> float32 [S, J]."""
    costs = jnp.asarray(cost(archs), jnp.float32)
    return costs[:, None] if costs.ndim == 1 else costs


def refuse_measured_costs(costs: Any, why: str) -> None:
    """Raises ValueError on measured costs, for a strategy that must know the cost of what was not evaluated."""
    if costs is not None:
        raise ValueError(f"costs must be None here: measured costs cannot serve, since {why}")


def default_cost(space: SearchSpace) -> Cost:
    """The first cost of the space.

    Raises:
      ValueError: if the space has no cost.
    """
    if not space.costs:
        raise ValueError(f"cost must be given: space {space.name!r} has no cost of its own")
    return space.costs[0]
