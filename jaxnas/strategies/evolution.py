"""Regularised evolution.

Paper: Real, Aggarwal, Huang, Le: "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, arXiv
1802.01548.

Idea: Keep a population as a queue: the winner of a tournament is mutated, and the oldest member is removed, however
good it is.

Faithful: Queue, tournaments among a sample, one mutation for each child, removal by age.

Deviations: All penalties share one queue, since a measured loss gives f_k for every k, and each has its own
tournaments; separate queues would need K times the evaluations only to be filled.

Limits: Not shown to beat random search at noise 0.03, which is as large as the relevant differences: the winner of a
tournament, and the network kept for each penalty, is then the luckiest measurement.
"""

import functools
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp

from jaxnas import cost as cost_lib
from jaxnas import distribution
from jaxnas.strategies import base, incumbents, variation

POPULATION = 50


@flax.struct.dataclass
class State:
    """The queue and the best architectures so far.

    Attributes:
      archs: int32 [P, D], the last P evaluated architectures, as a ring.
      losses: float32 [P], their measured losses.
      evaluated: int32 [], architectures evaluated so far.
      incumbents: the best measured architecture for each penalty.
    """

    archs: jax.Array
    losses: jax.Array
    evaluated: jax.Array
    incumbents: incumbents.Incumbents


@dataclass(frozen=True)
class RegularisedEvolution(base.Settings):
    """Regularised evolution with one shared queue and tournaments for each penalty.

    Attributes:
      space: the search space.
      penalties: eps_k, one for each of the K networks; each has its own tournaments.
      samples: lambda, children for each penalty in a step.
      cost: scaled cost R(c); None for the first cost of the space.
      population: P, length of the queue, filled with uniform samples first; at least S. None for 50, or S if larger.
      tournament: candidates in a tournament, drawn with replacement. On the public tables a queue of 50 and tournaments
        of 10 are better than the paper's 100 and 25, at all numbers of evaluations.

    Raises:
      ValueError: if a setting is out of range.
    """

    samples: int = 2
    population: int | None = None
    tournament: int = 10

    def __post_init__(self):
        super().__post_init__()
        if self.population is None:
            object.__setattr__(self, "population", max(POPULATION, self.step_samples))
        if self.population < self.step_samples:
            raise ValueError(
                f"population must hold at least one step of {self.step_samples} architectures "
                f"(penalties times samples), got {self.population}"
            )
        if self.tournament < 1:
            raise ValueError(f"tournament must have at least 1 candidate, got {self.tournament}")

    def init(self, key: jax.Array) -> State:
        """An empty queue; the key is not used."""
        del key
        decisions = len(self.space.decisions)
        return State(
            archs=jnp.zeros((self.population, decisions), jnp.int32),
            losses=jnp.full(self.population, jnp.inf, jnp.float32),
            evaluated=jnp.int32(0),
            incumbents=incumbents.empty(len(self.penalties), decisions),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Children of tournament winners, once the queue is full: int32 [S, D], and the state as it was."""
        uniform_key, tournament_key, mutation_key = jax.random.split(key, 3)
        k, size = len(self.penalties), self.step_samples
        theta = distribution.uniform(self.space.num_choices)
        founders = distribution.sample(uniform_key, theta[None], size)

        candidates = jax.random.randint(tournament_key, (k, self.samples, self.tournament), 0, self.population)
        costs = base.costs_of(self.cost, state.archs)
        fitness = cost_lib.objective(state.losses, base.initial_penalties(self.penalties), costs)  # [K, P]
        fitness = jax.vmap(lambda row, index: row[index])(fitness, candidates)  # [K, lambda, tournament]
        winners = jnp.take_along_axis(candidates, fitness.argmin(-1)[..., None], axis=-1)
        children = variation.mutate_one(mutation_key, state.archs[winners.reshape(size)], self.space.num_choices)
        return jnp.where(state.evaluated >= self.population, children, founders), state

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.Info]:
        """Queues what was measured, int32 [S, D] and float [S]; ignored samples never enter the queue."""
        base.refuse_measured_costs(costs, "the queue keeps losses and computes costs again")
        told = base.evaluations(self.cost, archs, losses)
        info = told.info(self.penalties)
        places = (state.evaluated + jnp.cumsum(told.usable) - 1) % self.population
        places = jnp.where(told.usable, places, self.population)  # beyond the queue: dropped
        return State(
            archs=state.archs.at[places].set(told.archs, mode="drop"),
            losses=state.losses.at[places].set(told.losses, mode="drop"),
            evaluated=state.evaluated + told.usable.sum(dtype=jnp.int32),
            incumbents=incumbents.update(state.incumbents, told.archs, info.objective),
        ), info

    def modes(self, state: State) -> jax.Array:
        """The best measured architecture for each penalty, int32 [K, D]."""
        return state.incumbents.archs
