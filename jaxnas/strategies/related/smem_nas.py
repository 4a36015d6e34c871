"""SMEM-NAS-style: two populations that evolve under the ranking of a learned pairwise comparison.

Paper: "A Pairwise Comparison Relation-assisted Multi-objective Evolutionary Neural Architecture Search Method with
Multi-population Mechanism", arXiv 2407.15600, IEEE TSMC, doi 10.1109/TSMC.2025.3647894.

Idea: a classifier that predicts which of two architectures is more accurate ranks whole populations from few
evaluations. A population of the architectures that are non-dominated in rank and cost evolves together with a second
one of those in uncrowded regions.

Faithful: after published summaries of the paper, of which no code is public: random architectures first; a binary
support vector machine on pairs of encodings; parents from a main and a vice population; non-dominated sorting of all
on the ranking and the cost, whose first front is the next main population, and the most uncrowded of the rest the vice
population; evaluation of some new architectures, and a new fit.

Deviations: The kernel (radial, on both encodings one-hot and in both orders), the score of an architecture (its mean
probability to beat one of the pool, from both orders), crowding as NSGA-II's distance, sizes and operators (those of
NSGANetV2) are filled in. Probabilities are the logistic function of the machine's margin. A fit uses a random sample of
pairs, and follows when the evaluations have grown by a factor. Populations live on from step to step, a few generations
in each. Mutation is categorical. A front larger than its population is cut by crowding. Spaces here have no inert
genes, so encodings need no canonical form. SMEM-NAS has no penalties: the networks for them are chosen by a loss that
is predicted from the ranking, the centred isotonic regression of the measured losses on the scores of all evaluated
architectures.

Limits: On NAS-Bench-201 with flops its K networks were not shown to be better than those of random search: a
regression on scores is smoother than the truth, and the best of a thousand exact measurements is hard to beat.
"""

import functools
from dataclasses import dataclass

import flax.struct
import jax
import jax.numpy as jnp

from jaxnas.strategies import base
from jaxnas.strategies.related import archive as archives
from jaxnas.strategies.related import comparator, pareto
from jaxnas.strategies.related import populations as populations_lib
from jaxnas.strategies.related.populations import Population

CROSSOVER = 0.9


@flax.struct.dataclass
class State:
    """The archive, what compares, and what evolves.

    Attributes:
      archive: all evaluated architectures; its estimates are the ranking, read as a loss.
      comparator: the support vector machine.
      main: the non-dominated in rank and cost.
      vice: the most uncrowded of the others.
      step: int32 [], steps told.
      next_fit: int32 [], the step of the next fit.
      fits: int32 [], fits done.
      key_data: uint32 [2], integers of the random key for fits.
    """

    archive: archives.Archive
    comparator: comparator.Comparator
    main: Population
    vice: Population
    step: jax.Array
    next_fit: jax.Array
    fits: jax.Array
    key_data: jax.Array


@dataclass(frozen=True)
class SMEMNAS(archives.ModelSettings):
    """Evolution of two populations under a pairwise comparison.

    Attributes:
      space, penalties, founders, growth, capacity: see `archive.ModelSettings`.
      samples: lambda; a step evaluates S = K lambda new architectures, half from either population.
      cost: scaled cost R(c), the second objective; None for the first cost of the space.
      population: P, the most that the main population holds, and the offspring of a generation.
      vice: the most that the vice population holds; 0 for a single population.
      generations: in a step.
      pairs: of architectures that a fit compares.

    Raises:
      ValueError: if a setting is out of range.
    """

    growth: float = 1.5
    population: int = 40
    vice: int = 40
    generations: int = 2
    pairs: int = 1000

    def __post_init__(self):
        super().__post_init__()
        base.check_positive(self, "population", "generations", "pairs")
        if not 0 <= self.vice <= self.population:
            raise ValueError(f"vice must be from 0 to the population of {self.population}, got {self.vice}")

    def init(self, key: jax.Array) -> State:
        """Nothing evaluated, no population; the key is kept for fits."""
        decisions = len(self.space.decisions)

        return State(
            archive=archives.empty(self.capacity, decisions),
            comparator=comparator.untrained(self.pairs, decisions),
            main=populations_lib.nobody(self.population, decisions),
            vice=populations_lib.nobody(self.vice, decisions),
            step=jnp.int32(0),
            next_fit=jnp.int32(self.first_fit),
            fits=jnp.int32(0),
            key_data=jax.random.key_data(key),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Some generations; then new architectures of both populations, int32 [S, D], uniform ones at first."""
        founder_key, generation_key, fresh_key = jax.random.split(key, 3)

        size, num_choices = self.population, self.space.num_choices

        def generation(index: jax.Array, populations: tuple[Population, ...]) -> tuple[Population, ...]:
            main, vice, _ = populations
            key = jax.random.fold_in(generation_key, index)
            children = populations_lib.children(key, main, vice, size, num_choices, CROSSOVER)
            return *self.survive(state.comparator, main, vice, children), children

        evolved = (state.main, state.vice, populations_lib.nobody(size, len(num_choices)))
        evolved = jax.lax.fori_loop(0, jnp.where(state.fits > 0, self.generations, 0), generation, evolved)
        offered = populations_lib.by_turns(*evolved)
        founders = archives.uniform(founder_key, num_choices, len(offered.members))
        candidates = jnp.where(offered.members[:, None], offered.archs, founders)
        asked = archives.fresh(fresh_key, num_choices, self.step_samples, candidates, state.archive)
        return asked, state.replace(main=evolved[0], vice=evolved[1])

    def survive(
        self, judge: comparator.Comparator, main: Population, vice: Population, children: Population
    ) -> tuple[Population, Population]:
        """The next main and vice population: the first front of all in rank and cost, and the uncrowded of the rest."""
        union = populations_lib.merged(main, vice, children)
        scores = comparator.scores(judge, union.archs, union.archs, union.members, self.space.num_choices)
        objectives = jnp.stack([-scores, self.cost(union.archs)], axis=-1)
        front = pareto.non_dominated(objectives, union.members)
        return (
            populations_lib.uncrowded(union, objectives, front, self.population),
            populations_lib.uncrowded(union, objectives, union.members & ~front, self.vice),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.Info]:
        """Adds what is usable to the archive and, on a schedule of steps, learns to compare."""
        told = archives.evaluations(self.cost, archs, losses, costs)
        step = state.step + 1
        archive = archives.add(state.archive, told.archs, told.losses, told.costs[:, 0])
        enough = archives.enough(archive, told)
        due = step >= state.next_fit
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), step)
        kept = (state.comparator, archive.estimates)

        def learn() -> tuple[comparator.Comparator, jax.Array]:
            fitted = comparator.fit(key, archive, self.space.num_choices, self.pairs)
            return jax.tree.map(lambda new, old: jnp.where(enough, new, old), fitted, kept)

        judge, estimates = jax.lax.cond(due, learn, lambda: kept)
        rows = jnp.arange(self.population + self.vice) % self.capacity
        founders = Population(archive.archs[rows], archive.counts[rows] > 0)
        first = due & enough & (state.fits == 0)  # the first populations are the first architectures
        cut = self.population
        main = jax.tree.map(lambda new, old: jnp.where(first, new[:cut], old), founders, state.main)
        vice = jax.tree.map(lambda new, old: jnp.where(first, new[cut:], old), founders, state.vice)
        return State(
            archive=archive.replace(estimates=estimates),
            comparator=judge,
            main=main,
            vice=vice,
            step=step,
            next_fit=jnp.where(due, self.fit_after(step), state.next_fit),
            fits=state.fits + (due & enough),
            key_data=state.key_data,
        ), told.info(self.penalties)

    def modes(self, state: State) -> jax.Array:
        """For each penalty the least f_k of what was evaluated, by the ranking read as a loss: int32 [K, D]."""
        known, cheapest = state.archive, archives.cheapest(self.space, self.cost)
        return archives.best(archives.judged(known), known.costs, known.archs, self.penalties, cheapest)
