"""MoARR-style: recommends what a model of all past evaluations expects to enlarge the front of loss and cost.

Paper: Wang et al., "Multi-Objective Neural Architecture Search Based on Diverse Structures and Adaptive
Recommendation", arXiv 2007.02749.

Idea: history is used twice, to predict losses and to breed candidates, and a share of uniform exploration adapts to
whether the recommendations still improve the front.

Faithful: after the abstract and the authors' public code (wangcn0201/MoARR) each architecture is a row of independent
categorical genes, uniform at first, and history proposes candidates for the front of accuracy and cost.

Deviations: The model and the rule of recommendation are filled in: five ridge regressions on single choices and pairs
of choices, each without a fifth of the history, whose spread is the jackknife's standard error; candidates are 1,000
mutants and crossovers of the front, and uniform ones; those picked improve the hypervolume most, one after another, at
the predicted loss less `optimism` standard errors and the exact cost. The share of exploration shrinks by a tenth when
a step improves the front, and grows by a tenth otherwise. Models are fitted again now and then. Losses replace short
trainings, operations of a space replace a library of published cells. The networks for penalties are chosen by the
models' mean.

Limits: On NAS-Bench-201 with flops not shown to beat random search: cells with an error of 90 percent dominate its
fits.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies import base, variation
from jaxnas.strategies.related import archive as archives
from jaxnas.strategies.related import linear_ensemble, pareto
from jaxnas.strategies.shared_model import design as designs

EXPLORATION = (0.1, 0.5)  # least and largest share, the latter to begin with
UNIFORM, CROSSED = 0.25, 0.25  # shares of the pool; the rest are mutants


@flax.struct.dataclass
class State:
    """The archive, its models and the share of exploration.

    Attributes:
      archive: all evaluated architectures; its estimates are the models' mean.
      coefficients: float32 [M, P + 1], of the M models.
      exploration: float32 [], share of a step that is uniform.
      step, next_fit: int32 [], steps told, and the step of the next fit.
    """

    archive: archives.Archive
    coefficients: jax.Array
    exploration: jax.Array
    step: jax.Array
    next_fit: jax.Array


@dataclass(frozen=True)
class MoARR(archives.ModelSettings):
    """Recommendation by hypervolume under an ensemble of linear models.

    Attributes:
      space, penalties, founders, growth, capacity: see `archive.ModelSettings`.
      samples: lambda; a step evaluates S = K lambda architectures. None for steps of about 10.
      cost: scaled cost R(c), the second objective; None for the first cost of the space.
      pool: candidates in a step.
      optimism: standard errors that a predicted loss is lowered by.

    Raises:
      ValueError: if a setting is out of range.
    """

    samples: int | None = None
    step_of: ClassVar[int] = 10
    founders: int = 50
    growth: float = 1.1
    pool: int = 1000
    optimism: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.pool < self.step_samples:
            raise ValueError(f"pool must hold at least one step of {self.step_samples}, got {self.pool}")
        if not self.optimism >= 0:
            raise ValueError(f"optimism must not be negative (0 trusts the mean), got {self.optimism}")

    @property
    def design(self) -> designs.Design:
        """The features of the models."""
        return designs.build(self.space.num_choices)

    def init(self, key: jax.Array) -> State:
        """Nothing evaluated; the key is not used."""
        del key
        return State(
            archive=archives.empty(self.capacity, len(self.space.decisions)),
            coefficients=jnp.zeros((linear_ensemble.MODELS, self.design.size + 1), jnp.float32),
            exploration=jnp.float32(EXPLORATION[1]),
            step=jnp.int32(0),
            next_fit=jnp.int32(self.first_fit),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """What the models recommend, and uniform ones, at first all: int32 [S, D], and the state as it was."""
        pool_key, fresh_key = jax.random.split(key)
        pool, known = self.candidates(pool_key, state.archive), state.archive
        exploration = jnp.where(state.step * self.step_samples < self.founders, 1.0, state.exploration)
        ordered = jax.pure_callback(
            functools.partial(recommend, self.design, self.step_samples, self.optimism),
            jax.ShapeDtypeStruct(pool.shape, jnp.int32),
            *(pool, self.cost(pool), state.coefficients, exploration),
            *(known.archs, known.estimates, known.costs, known.counts),
            vmap_method="sequential",
        )
        return archives.fresh(fresh_key, self.space.num_choices, self.step_samples, ordered, known), state

    def candidates(self, key: jax.Array, archive: archives.Archive) -> jax.Array:
        """The pool: uniform architectures, then crossovers and mutants of the front as the models see it."""
        uniform_key, parent_key, cross_key, mutation_key = jax.random.split(key, 4)
        on_front = pareto.front_members(archives.judged(archive), archive.costs)
        rows = jnp.argsort(~on_front)[jax.random.randint(parent_key, (2, self.pool), 0, jnp.maximum(on_front.sum(), 1))]
        crossed = variation.two_point_crossover(cross_key, *archive.archs[rows], probability=1.0)
        rate = 1 / len(self.space.decisions)
        mutants = variation.mutate(mutation_key, archive.archs[rows[0]], self.space.num_choices, rate)
        uniform = archives.uniform(uniform_key, self.space.num_choices, self.pool)
        share = jnp.linspace(0, 1, self.pool, endpoint=False)[:, None]
        return jnp.where(share < UNIFORM, uniform, jnp.where(share < UNIFORM + CROSSED, crossed, mutants))

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.Info]:
        """Adds what is usable to the archive, adapts the exploration and, on a schedule of steps, fits."""
        told = archives.evaluations(self.cost, archs, losses, costs)
        before, step = state.archive, state.step + 1
        archive = archives.add(before, told.archs, told.losses, told.costs[:, 0])
        enough = archives.enough(archive, told)
        matched = (before.losses <= told.losses[:, None]) & (before.costs <= told.costs)  # [S, N]
        improves = (~matched.any(-1) & told.usable).any()
        exploration = jnp.clip(state.exploration * jnp.where(improves, 0.9, 1.1), *EXPLORATION)
        adapts = told.usable.any() & (step * self.step_samples > self.founders)
        due = step >= state.next_fit
        kept = (state.coefficients, archive.estimates)

        def learn() -> tuple[jax.Array, jax.Array]:
            fitted = linear_ensemble.fit_archive(self.design, archive)
            return jax.tree.map(lambda new, old: jnp.where(enough, new, old), fitted, kept)

        coefficients, estimates = jax.lax.cond(due, learn, lambda: kept)
        return State(
            archive=archive.replace(estimates=estimates),
            coefficients=coefficients,
            exploration=jnp.where(adapts, exploration, state.exploration),
            step=step,
            next_fit=jnp.where(due, self.fit_after(step), state.next_fit),
        ), told.info(self.penalties)

    def modes(self, state: State) -> jax.Array:
        """For each penalty the least f_k of all evaluated architectures, by the models' mean: int32 [K, D]."""
        known, cheapest = state.archive, archives.cheapest(self.space, self.cost)
        return archives.best(archives.judged(known), known.costs, known.archs, self.penalties, cheapest)


def recommend(
    design, picks, optimism, pool, pool_costs, coefficients, exploration, archs, estimates, costs, counts
) -> np.ndarray:
    """The pool in another order, on the host: first what enlarges the front most, then its uniform part.

    A share `exploration` of the S = `picks` is left to the uniform part. The pool is int [M, D], coefficients are float
    [models, P + 1], what belongs to the archive is int [N, D] and three times [N]; returns int32 [M, D].
    """
    pool, archs = np.asarray(pool, np.int32), np.asarray(archs, np.int32)[np.asarray(counts) > 0]
    estimates, costs = (np.asarray(values, np.float64)[: len(archs)] for values in (estimates, costs))
    picks -= round(float(exploration) * picks)
    if picks == 0:
        return pool
    seen = {row.tobytes() for row in archs}
    new = {row.tobytes(): place for place, row in enumerate(pool) if row.tobytes() not in seen}
    new = np.fromiter(new.values(), int)
    if len(new) == 0:
        return pool
    missing = ~np.isfinite(estimates)
    with archives.one_thread():
        if missing.any():
            estimates[missing] = linear_ensemble.predict(design, coefficients, archs[missing])[0]
        mean, error = linear_ensemble.predict(design, coefficients, pool[new])
    chosen = new[pareto.greedy(mean - optimism * error, np.asarray(pool_costs)[new], estimates, costs, picks)]
    return np.concatenate([pool[chosen], np.delete(pool, chosen, axis=0)])
