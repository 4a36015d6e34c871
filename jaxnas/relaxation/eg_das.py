"""EG-DAS-style: gradients find blocks that are accurate and cheap, evolution assembles networks of them.

Paper: Zhang et al., "Enhanced Gradient for Differentiable Architecture Search", arXiv 2103.12529.

Idea: a relaxed search with a gradient that also points to cheap blocks produces a library of blocks; an evolutionary
multi-objective search combines them into networks.

Faithful: two stages, block-level by gradient relaxation and network-level by an evolutionary search on error and size
(abstract). No code of the paper was found.

Deviations: The formula of the enhanced gradient was not found; its stand-in adds, for each decision, the gradients of
the validation loss and of the expected cost, each divided by its norm, the second times a strength. Settings of both
stages are this library's. Blocks are the operations found for a stage of an MBConv space, or the cells of a cell space.
Stage two is NSGA-II with uniform crossover and scores networks with the weights of a supernet, or by a table. A space
of one level alone is searched by stage two without a library.

Limits: On NAS-Bench-201, and on Macro at noise 0.01, not shown to beat random search: a table has one level, so only
stage two runs, NSGA-II with uniform crossover, which separates choices that belong together.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost import AdditiveCost
from jaxnas.relaxation import base
from jaxnas.relaxation.darts import check_strengths
from jaxnas.relaxation.library import Library, every_choice
from jaxnas.spaces import SearchSpace
from jaxnas.strategies import NSGA2
from jaxnas.strategies import base as strategies

STRENGTHS = (0.0, 0.1, 0.3, 1.0)  # lambda: one block-level search each
LEAST_NORM = 1e-3  # norms below it are not brought up to 1: they vanish where a decision is made


def enhanced_gradient(loss_gradient: jax.Array, cost_gradient: jax.Array, strength: jax.Array) -> jax.Array:
    """g_d / max(|g_d|, floor) + lambda h_d / max(|h_d|, floor) of two gradients [D, C]: float32 [D, C].

    >>> print(np.asarray(enhanced_gradient(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]]), 0.5), float).round(2))
    [[0.6 1.3]]
    """
    chex.assert_equal_shape([loss_gradient, cost_gradient])
    return _unit_rows(loss_gradient) + strength * _unit_rows(cost_gradient)


def _unit_rows(gradient: jax.Array) -> jax.Array:
    return gradient / jnp.maximum(jnp.linalg.norm(gradient, axis=-1, keepdims=True), LEAST_NORM)


@dataclass(frozen=True)
class EGDAS:
    """Stage one, the search for blocks; its target is the strength lambda of the costs' gradient, see `STRENGTHS`.

    Attributes:
      space: the search space.
      settings: length and optimisers.
      costs: J additive costs, whose scaled sum is steered by; None for the first of the space.
    """

    TARGET: ClassVar[str] = "strengths"

    space: SearchSpace
    settings: base.Settings
    costs: tuple[AdditiveCost, ...] | None = None

    def __post_init__(self):
        object.__setattr__(self, "costs", base.default_costs(self.space, self.costs))
        if not self.costs:
            raise ValueError(f"costs must hold at least one: space {self.space.name!r} has none of its own")

    def init(self, key: jax.Array, params: chex.ArrayTree, target: float = 0.0) -> base.State:
        """The state before the first step; ValueError if the strength is negative or not finite."""
        return base.init(key, params, check_strengths("target", target, 1)[0], self.space, self.settings)

    def step(self, state: base.State, loss: base.Loss, train: Any, valid: Any) -> tuple[base.State, base.Losses]:
        """One alpha step along the enhanced gradient on the validation batch, then one weight step."""

        def gradient(alpha: jax.Array, of_alpha: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
            def cost(alpha: jax.Array) -> jax.Array:
                return base.expected_costs(alpha, self.costs, self.space.num_choices).sum()

            value, direction = jax.value_and_grad(of_alpha)(alpha)
            return value, enhanced_gradient(direction, jax.grad(cost)(alpha), state.target)

        return base.step(state, self.space, self.settings, loss, train, valid, gradient)

    def derive(self, state: base.State, target: float = 0.0) -> np.ndarray:
        """The largest alpha of each decision, int32 [D]; the target plays no part any more."""
        del target
        return base.most_likely(state, self.space)


@flax.struct.dataclass
class AssemblyState:
    """State of NSGA-II over genomes, and the genomes int32 [S, G] that were asked about last."""

    inner: Any
    genomes: jax.Array


@dataclass(frozen=True)
class Assembly(strategies.Strategy):
    """Stage two, an ask/tell strategy: NSGA-II over a library's genomes, uniform crossover, a population of about 40.

    Attributes:
      space: the search space, of architectures.
      penalties: eps_k; they play no part in the search, only in picking its K networks.
      samples: lambda; None for a population of about 40.
      cost: scaled cost R(c) of architectures; None for the first cost of the space.
      library: what networks are assembled of; None for all choices.
    """

    space: SearchSpace
    penalties: tuple[float, ...]
    samples: int | None = None
    cost: strategies.Cost | None = None
    library: Library | None = None

    def __post_init__(self):
        if self.library is None:
            object.__setattr__(self, "library", every_choice(self.space))
        if self.cost is None:
            object.__setattr__(self, "cost", strategies.default_cost(self.space))
        object.__setattr__(self, "penalties", self._inner.penalties)
        object.__setattr__(self, "samples", self._inner.samples)

    @functools.cached_property
    def _inner(self) -> NSGA2:
        cost = _GenomeCost(self.library, self.cost)
        return NSGA2(self.library.space, tuple(self.penalties), self.samples, cost, crossover="uniform")

    def init(self, key: jax.Array) -> AssemblyState:
        """No population yet."""
        shape = (self.step_samples, len(self.library.space.decisions))
        return AssemblyState(self._inner.init(key), jnp.zeros(shape, jnp.int32))

    def ask(self, key: jax.Array, state: AssemblyState) -> tuple[jax.Array, AssemblyState]:
        """Architectures of the offspring, int32 [S, D], and the state that knows their genomes."""
        genomes, inner = self._inner.ask(key, state.inner)
        return self.library.decode(genomes), AssemblyState(inner, genomes)

    def tell(
        self, state: AssemblyState, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[AssemblyState, strategies.Info]:
        """Takes the losses of what was asked about last, float [S]."""
        chex.assert_shape(archs, (len(state.genomes), len(self.space.decisions)))
        inner, info = self._inner.tell(state.inner, state.genomes, losses, costs)
        return state.replace(inner=inner), info

    def modes(self, state: AssemblyState) -> jax.Array:
        """The best measured architecture for each penalty, int32 [K, D]."""
        return self.library.decode(self._inner.modes(state.inner))


@dataclass(frozen=True)
class _GenomeCost:
    library: Library
    cost: strategies.Cost

    def __call__(self, genomes: jax.Array) -> jax.Array:
        return self.cost(self.library.decode(genomes))
