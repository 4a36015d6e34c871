"""PNAG: one generator of architectures for all budgets, taught by a learned comparison of architectures at a budget.

Paper: Guo et al., "Pareto-aware Neural Architecture Generation for Diverse Computational Budgets", arXiv 2210.07634.

Idea: an evaluator learns which of two architectures is better at a budget, and a generator conditioned on the budget
learns by REINFORCE to maximise its score. Sampling then replaces a search for each budget.

Faithful: after the authors' code (guoyongcs/PNAG) the rule that labels pairs, the evaluator's loss over all pairs of a
minibatch at one random budget and its optimiser, an LSTM that decides choice by choice from the embedding of the
budget, its reward, a frozen evaluator, and a prediction of the accuracy that picks among samples.

Deviations: The archive starts with few random architectures and grows by samples of the generator, where the code
trains once on 16,000 that are scored beforehand; all models are therefore fitted again now and then. Costs are exact,
not predicted latencies. REINFORCE uses several samples a step and the mean reward of a budget as baseline, where the
code uses one and none, with a larger learning rate, fewer steps, and a fifth of the code's weight on the entropy.
Evaluator, predictor and LSTM are smaller (128 and 32 units for 512 and 64). Sampled architectures are not evaluated
again. The network for a penalty has the least predicted loss + eps_k R of all architectures evaluated or generated.

Limits: On NAS-Bench-201 with flops not shown to beat random search: cells with an error of 90 percent dominate its
fits. Most samples of a generator can exceed the tightest budget, as in one of four seeds on NAS-Bench-Macro, until a
later fit; the networks returned are always within their budgets.
"""

import functools
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from jaxnas.strategies import base
from jaxnas.strategies.constrained import check_budgets, scaled_budgets
from jaxnas.strategies.related import archive as archives
from jaxnas.strategies.related import budget_evaluator, neural

FOR_EACH_BUDGET = 8  # samples in a step of the generator
ENTROPY = 0.2  # its weight, relative to the reward


@flax.struct.dataclass
class State:
    """The archive, the three networks, and what the generator made of them.

    Attributes:
      archive: all evaluated architectures; its estimates are the predictor's.
      generator: its parameters.
      generated: int32 [G, D], its samples for all budgets.
      generated_losses: float32 [G], predicted; infinite before the first fit.
      generated_costs: float32 [G], exact.
      step, next_fit, fits: int32 [], steps told, the step of the next fit, fits done.
      key_data: uint32 [2], of the random key for training.
    """

    archive: archives.Archive
    generator: Any
    generated: jax.Array
    generated_losses: jax.Array
    generated_costs: jax.Array
    step: jax.Array
    next_fit: jax.Array
    fits: jax.Array
    key_data: jax.Array


@dataclass(frozen=True)
class PNAG(archives.ModelSettings):
    """Pareto-aware architecture generation, as ask and tell.

    Attributes:
      space, penalties, founders, growth, capacity: see `archive.ModelSettings`.
      samples: lambda, samples of the generator for each budget in a step.
      cost: scaled cost R(c); None for the first cost of the space.
      budgets: the largest cost of each of the K networks, in the unit of `cost`. None for evenly spaced ones, from the
        most expensive network for the smallest penalty down to a K-th of the span for the largest.
      width, hidden: hidden units of evaluator and predictor, and of the generator's LSTM.
      tries: samples for each architecture to evaluate; the first new ones are taken.

    Raises:
      ValueError: if a setting is out of range.
    """

    budgets: tuple[float, ...] | None = None
    width: int = 128
    hidden: int = 32
    tries: int = 4

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "budgets", check_budgets(self.cost, self.budgets, self.penalties))
        base.check_positive(self, "width", "hidden", "tries")

    @property
    def scaled_budgets(self) -> tuple[float, ...]:
        """The budgets on the scale of R."""
        return scaled_budgets(self.cost, self.budgets, self.penalties)

    @property
    def generator(self) -> neural.Generator:
        """The generator's shapes."""
        return neural.Generator.of_choices(
            [each.choices for each in self.space.decisions], len(self.penalties), self.hidden
        )

    def init(self, key: jax.Array) -> State:
        """An empty archive and an untrained generator; the key is kept for training."""
        decisions, size = len(self.space.decisions), len(self.penalties) * FOR_EACH_BUDGET
        unknown = jnp.full(size, jnp.inf, jnp.float32)
        return State(
            archive=archives.empty(self.capacity, decisions),
            generator=self.generator.init(key),
            generated=jnp.zeros((size, decisions), jnp.int32),
            generated_losses=unknown,
            generated_costs=unknown,
            step=jnp.int32(0),
            next_fit=jnp.int32(self.first_fit),
            fits=jnp.int32(0),
            key_data=jax.random.key_data(key),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """New samples of the generator for every budget, uniform ones at first: int32 [S, D], and the state."""
        founder_key, sample_key, fresh_key = jax.random.split(key, 3)
        size = self.step_samples
        budgets = jnp.arange(size * self.tries) % len(self.penalties)
        generated, _, _ = self.generator.sample(
            state.generator, self.generator.noise(sample_key, (len(budgets),)), budgets
        )
        founders = archives.uniform(founder_key, self.space.num_choices, len(generated))
        candidates = jnp.where(state.fits > 0, generated, founders)
        return archives.fresh(fresh_key, self.space.num_choices, size, candidates, state.archive), state

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.Info]:
        """Adds what is usable to the archive and, on a schedule of steps, trains the networks."""
        told = archives.evaluations(self.cost, archs, losses, costs)
        step = state.step + 1
        due = step >= state.next_fit
        state = state.replace(archive=archives.add(state.archive, told.archs, told.losses, told.costs[:, 0]), step=step)
        enough = archives.enough(state.archive, told)
        # The archive stays outside of the branches, which would copy it in every step.
        names = ("generator", "generated", "generated_losses", "generated_costs")
        kept = (state.archive.estimates, *(getattr(state, name) for name in names))
        fit = jax.custom_batching.sequential_vmap(self.fit)  # small products of matrices are slower in batches

        def learn(state: State) -> tuple[Any, ...]:
            return jax.tree.map(lambda new, old: jnp.where(enough, new, old), fit(state), kept)

        estimates, *values = jax.lax.cond(due, learn, lambda _: kept, state)
        return state.replace(
            archive=state.archive.replace(estimates=estimates),
            next_fit=jnp.where(due, self.fit_after(step), state.next_fit),
            fits=state.fits + (due & enough),
            **dict(zip(names, values)),
        ), told.info(self.penalties)

    def fit(self, state: State) -> tuple[Any, ...]:
        """Trains; returns estimates [N], the generator, and its architectures with their losses and costs."""
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        evaluator_key, predictor_key, train_key, sample_key = jax.random.split(key, 4)
        archive, num_choices, budgets = state.archive, self.space.num_choices, len(self.penalties)
        evaluator = budget_evaluator.train(evaluator_key, archive, self.scaled_budgets, num_choices, self.width)
        conditions = jnp.tile(jnp.arange(budgets), FOR_EACH_BUDGET)

        def reward(archs: jax.Array, at: jax.Array) -> jax.Array:
            return budget_evaluator.scores(evaluator, archs, at, num_choices, budgets)

        generator = neural.reinforce(self.generator, state.generator, reward, train_key, conditions, ENTROPY)
        noise = self.generator.noise(sample_key, conditions.shape)
        generated, _, _ = self.generator.sample(generator, noise, conditions)
        archs = jnp.concatenate([archive.archs, generated])
        predicted = neural.predicted_losses(predictor_key, archive, archs, num_choices, self.width)
        estimates, generated_losses = jnp.split(predicted, [len(archive.archs)])
        estimates = jnp.where(archive.counts > 0, estimates, jnp.inf)
        return estimates, generator, generated, generated_losses, self.cost(generated)

    def modes(self, state: State) -> jax.Array:
        """For each penalty the least predicted f_k of all that was evaluated or generated, int32 [K, D]."""
        return archives.best(*self._candidates(state), self.penalties, archives.cheapest(self.space, self.cost))

    def within_budgets(self, state: State) -> jax.Array:
        """Within each budget the least predicted loss of all that was evaluated or generated, int32 [K, D].

        No budget is ever exceeded: costs are exact, and the cheapest architecture is known.
        """
        cheapest = archives.cheapest(self.space, self.cost)
        return archives.best_within(*self._candidates(state), self.scaled_budgets, cheapest)

    def _candidates(self, state: State) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Losses, costs and architectures to answer with."""
        known = (archives.judged(state.archive), state.archive.costs, state.archive.archs)
        made = (state.generated_losses, state.generated_costs, state.generated)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), known, made)
