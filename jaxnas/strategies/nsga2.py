"""NSGA-II on the two objectives loss and cost, by pymoo.

Paper: Deb, Pratap, Agarwal, Meyarivan: "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE TEVC 2002;
pymoo: Blank and Deb, arXiv 2002.04504.

Idea: One population approximates the whole front of loss and cost, by non-dominated sorting and crowding.

Faithful: pymoo's own selection, two-point crossover and survival.

Deviations: A mutation resets a decision to a uniform choice, as choices have no order; each penalty picks its network
from all that was evaluated.

Limits: On NAS-Bench-201 not shown to beat random search after 1,000 evaluations: most cells are good, so random search
does well and differences in regret are small. Under noise the luckiest measurements survive.

pymoo's algorithms are mutable Python objects. Here the state is the population as arrays, and pymoo is called on it
through `jax.pure_callback`, seeded from the key: `ask` and `tell` stay pure, and a search stays one scan.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies import base, incumbents, variation

POPULATION = 40  # NSGANetV2's (arXiv 2007.10396); 20 and 80 were no better at 1000 evaluations of NAS-Bench-Macro

CROSSOVERS = ("two_point", "uniform")


@flax.struct.dataclass
class State:
    """The population and the best architectures so far.

    Attributes:
      archs: int32 [S, D], the population that survived.
      objectives: float32 [S, M], its measured loss and its R, or what was measured in place of R.
      generation: int32 [], 0 before anything was evaluated.
      incumbents: the best measured architecture for each penalty.
    """

    archs: jax.Array
    objectives: jax.Array
    generation: jax.Array
    incumbents: incumbents.Incumbents


@dataclass(frozen=True)
class NSGA2(base.Settings):
    """NSGA-II: crossover (0.9), one decision in D mutated, no duplicates, a population of one step's size.

    Attributes:
      space: the search space.
      penalties: eps_k; used only to choose the K networks from all that was evaluated.
      samples: lambda; population and offspring are S = K * lambda. None for a population of about 40.
      cost: scaled cost R(c), the second objective; None for the first cost of the space.
      objectives: M, more than 2 where `tell` is given a loss and M - 1 measured costs.
      crossover: "two_point", or "uniform", which takes each decision from either parent.

    Raises:
      ValueError: if a setting is out of range.
    """

    samples: int | None = None
    step_of: ClassVar[int] = POPULATION
    objectives: int = 2
    crossover: str = "two_point"

    def __post_init__(self):
        super().__post_init__()
        if self.objectives < 2:
            raise ValueError(f"objectives must be at least 2, the loss and a cost, got {self.objectives}")
        if self.crossover not in CROSSOVERS:
            raise ValueError(f"crossover must be one of {', '.join(CROSSOVERS)}, got {self.crossover!r}")

    def init(self, key: jax.Array) -> State:
        """No population; the key is not used."""
        del key
        size, decisions = self.step_samples, len(self.space.decisions)
        return State(
            archs=jnp.zeros((size, decisions), jnp.int32),
            objectives=jnp.zeros((size, self.objectives), jnp.float32),
            generation=jnp.int32(0),
            incumbents=incumbents.empty(len(self.penalties), decisions),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Offspring of the population, uniform samples at first: int32 [S, D], and the state as it was."""
        shape = jax.ShapeDtypeStruct(state.archs.shape, jnp.int32)
        offspring = functools.partial(_offspring, self.space.num_choices, self.crossover)
        arguments = (jax.random.bits(key), state.archs, state.objectives, state.generation)
        return jax.pure_callback(offspring, shape, *arguments, vmap_method="sequential"), state

    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.Info]:
        """Lets the best of parents and offspring survive.

        Args:
          state: the state that `ask` was given.
          archs: int32 [S, D].
          losses: float [S].
          costs: float [S, M - 1], measured in place of R; None for R.
        """
        return self._learn(state, base.evaluations(self.cost, archs, losses, costs))

    @functools.partial(jax.jit, static_argnums=0)
    def _learn(self, state: State, told: base.Evaluations) -> tuple[State, base.Info]:
        chex.assert_shape(told.costs, (len(told.archs), self.objectives - 1))
        objectives = jnp.concatenate([told.losses[:, None], told.costs], axis=-1)
        survive = functools.partial(_survive, self.space.num_choices)
        shape = jax.ShapeDtypeStruct((len(told.archs),), jnp.int32)
        all_archs = jnp.concatenate([told.archs, state.archs])
        all_objectives = jnp.concatenate([objectives, state.objectives])
        arguments = (all_archs, all_objectives, state.generation)
        survivors = jax.pure_callback(survive, shape, *arguments, vmap_method="sequential")
        info = told.info(self.penalties)
        return State(
            archs=all_archs[survivors],
            objectives=all_objectives[survivors],
            # What follows counts on a population: without one, the next step asks for uniform samples again.
            generation=state.generation + told.usable.any(),
            incumbents=incumbents.update(state.incumbents, told.archs, info.objective),
        ), info

    def modes(self, state: State) -> jax.Array:
        """The best measured architecture for each penalty, int32 [K, D]."""
        return state.incumbents.archs


@functools.cache
def _pymoo(num_choices: tuple[int, ...], objectives: int):
    """The problem and the mutation for pymoo, which takes half a second to import: only when NSGA-II runs."""
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem

    class Reset(Mutation):
        """Sets a decision in D to a uniform choice."""

        def _do(self, problem, X, *args, random_state=None, **kwargs):  # noqa: N803 (pymoo's name)
            return variation.reset(random_state, X, num_choices, 1 / len(num_choices))

    upper = np.asarray(num_choices) - 1
    return Problem(n_var=len(num_choices), n_obj=objectives, xl=np.zeros_like(upper), xu=upper, vtype=int), Reset()


def _offspring(
    num_choices: tuple[int, ...],
    crossover: str,
    seed: np.ndarray,
    archs: np.ndarray,
    objectives: np.ndarray,
    generation: np.ndarray,
) -> np.ndarray:
    """One round of pymoo's selection, crossover and mutation, on the host: int32 [S, D]."""
    from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.pntx import TwoPointCrossover
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    problem, mutation = _pymoo(num_choices, objectives.shape[1])
    size, first = len(archs), int(generation) == 0
    algorithm = PymooNSGA2(
        pop_size=size,
        sampling=IntegerRandomSampling() if first else _evaluated(archs, objectives),
        crossover={"two_point": TwoPointCrossover, "uniform": UniformCrossover}[crossover](prob=0.9),
        mutation=mutation,
        output=None,
    )
    algorithm.setup(problem, termination=NoTermination(), seed=int(seed))
    children = algorithm.ask()
    if not first:
        algorithm.tell(infills=children)  # the parents, evaluated already
        children = algorithm.ask()
    # In a space hardly larger than the population there are not S that are new: uniform ones make up the number.
    filling = algorithm.random_state.integers(np.asarray(num_choices), size=(size, len(num_choices)))
    found = children.get("X") if children is not None and len(children) else filling[:0]
    return np.concatenate([found, filling])[:size].astype(np.int32)


def _survive(
    num_choices: tuple[int, ...], archs: np.ndarray, objectives: np.ndarray, generation: np.ndarray
) -> np.ndarray:
    """Rows of the S that survive, by rank and crowding, on the host; offspring come first: int32 [S].

    What was not measured survives only where nothing else is there. Where less than S rows were measured, they come
    again and again: a population is of one size.
    """
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    archs, objectives = np.asarray(archs), np.asarray(objectives)  # indexing a JAX array here would deadlock
    size = len(archs) // 2
    rows = np.flatnonzero(np.isfinite(objectives).all(1))
    if int(generation) == 0:
        rows = rows[rows < size]  # there are no parents yet
        if len(rows) == 0:
            return np.arange(size, 2 * size, dtype=np.int32)  # the state as it was
    if len(rows) <= size:
        return np.resize(rows, size).astype(np.int32)
    population = _evaluated(archs[rows], objectives[rows])
    population.set("row", rows)
    problem, _ = _pymoo(num_choices, objectives.shape[1])
    survivors = RankAndCrowding().do(problem, population, n_survive=size, random_state=np.random.default_rng(0))
    return survivors.get("row").astype(np.int32)


def _evaluated(archs: np.ndarray, objectives: np.ndarray):
    """The form that pymoo wants of evaluated architectures."""
    from pymoo.core.population import Population

    population = Population.new(X=np.asarray(archs, np.int64))
    population.set("F", np.asarray(objectives, np.float64))
    return population
