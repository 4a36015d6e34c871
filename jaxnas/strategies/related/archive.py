"""All architectures that a search has evaluated, each once, as a state of fixed size; and new ones to evaluate.

What model-based strategies share: they learn from everything that was measured, they must not waste an evaluation on
what they know, and they answer by their model's losses rather than by single noisy measurements, whose least is a lucky
one (the winner's curse).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import threadpoolctl

from jaxnas import distribution
from jaxnas.cost import objective
from jaxnas.spaces.base import SearchSpace, architectures
from jaxnas.strategies import base, robust
from jaxnas.strategies.constrained import ROUNDING

ENUMERATED = 2**16  # architectures: the cheapest of so many is found by looking at all
UNIFORM_TRIES = 4  # draws for each architecture that is lacking, before the space is walked through


@flax.struct.dataclass
class Archive:
    """Up to N evaluated architectures, in the order of their first evaluation; when full, the oldest makes room.

    Attributes:
      archs: int32 [N, D], all different.
      losses: float32 [N], the mean of the measured losses; infinite in free places.
      costs: float32 [N], scaled costs R, exact; infinite in free places.
      counts: int32 [N], how often each was measured; 0 in free places.
      estimates: float32 [N], the losses as the method's model sees them; infinite where it has not looked yet.
      added: int32 [], architectures ever added, those forgotten included.
    """

    archs: jax.Array
    losses: jax.Array
    costs: jax.Array
    counts: jax.Array
    estimates: jax.Array
    added: jax.Array


@dataclass(frozen=True)
class ModelSettings(base.Settings):
    """The settings of strategies that fit a model to an archive now and then.

    Attributes:
      space, samples, cost: see `base.Settings`.
      penalties: eps_k; they play no part in the search, only in picking its K networks.
      founders: uniform architectures that the search begins with.
      growth: a fit follows when the number of steps has grown by this factor.
      capacity: evaluated architectures that are remembered; when there are more, the oldest are forgotten.

    Raises:
      ValueError: if a setting is out of range.
    """

    founders: int = 100
    growth: float = 2.0
    capacity: int = 4096

    def __post_init__(self):
        super().__post_init__()
        if self.founders < 2:
            raise ValueError(f"founders must be at least 2 architectures to compare, got {self.founders}")
        if not self.growth >= 1:
            raise ValueError(f"growth must be at least 1 (1 fits at every step), got {self.growth}")
        if self.capacity < max(self.step_samples, self.founders):
            raise ValueError(
                f"capacity must hold the founders ({self.founders}) and one step of {self.step_samples} architectures, "
                f"got {self.capacity}"
            )

    @property
    def first_fit(self) -> int:
        """The step of the first fit."""
        return -(-self.founders // self.step_samples)

    def fit_after(self, step: jax.Array) -> jax.Array:
        """The step of the fit after the one at `step`, int32 []: ever later, as there is ever less news."""
        return jnp.maximum(jnp.ceil(step * self.growth).astype(jnp.int32), step + 1)


def empty(capacity: int, decisions: int) -> Archive:
    """Nothing evaluated; N = `capacity`."""
    nothing = jnp.full(capacity, jnp.inf, jnp.float32)
    archs = jnp.zeros((capacity, decisions), jnp.int32)
    return Archive(archs, nothing, nothing, jnp.zeros(capacity, jnp.int32), nothing, jnp.int32(0))


def evaluations(cost: base.Cost, archs: Any, losses: Any, costs: Any) -> base.Evaluations:
    """`base.evaluations` for a strategy with an archive, which cannot take measured costs."""
    base.refuse_measured_costs(costs, "what was never evaluated is compared with what was")
    return base.evaluations(cost, archs, losses)


def add(archive: Archive, archs: jax.Array, losses: jax.Array, costs: jax.Array) -> Archive:
    """Enters one step; a repeated measurement of an architecture is averaged with those before.

    Args:
      archive: what was known.
      archs: int [S, D].
      losses: float [S]; an architecture whose loss is not finite is not entered.
      costs: float [S], their R.
    """
    chex.assert_rank([archs, losses, costs], [2, 1, 1])
    chex.assert_equal_shape([losses, costs])
    chex.assert_shape(archs, (len(losses), archive.archs.shape[1]))
    usable = jnp.isfinite(losses)

    def enter(i: jax.Array, archive: Archive) -> Archive:
        same = (archive.archs == archs[i]).all(-1) & (archive.counts > 0)
        known = same.any()
        place = jnp.where(known, same.argmax(), archive.added % len(archive.losses))
        count = jnp.where(known, archive.counts[place], 0)
        before = jnp.where(known, archive.losses[place], 0.0)
        estimate = jnp.where(known, archive.estimates[place], jnp.inf)
        place = jnp.where(usable[i], place, len(archive.losses))  # beyond the archive: dropped
        return Archive(
            archs=archive.archs.at[place].set(archs[i].astype(jnp.int32), mode="drop"),
            losses=archive.losses.at[place].set((before * count + losses[i]) / (count + 1), mode="drop"),
            costs=archive.costs.at[place].set(costs[i], mode="drop"),
            counts=archive.counts.at[place].set(count + 1, mode="drop"),
            estimates=archive.estimates.at[place].set(estimate, mode="drop"),
            added=archive.added + (~known & usable[i]).astype(jnp.int32),
        )

    return jax.lax.fori_loop(0, len(losses), enter, archive)


def best(
    values: jax.Array, costs: jax.Array, archs: jax.Array, penalties: Sequence[float], last: jax.Array
) -> jax.Array:
    """The architecture of least value + eps_k R for each k.

    Args:
      values: float [N], losses measured or estimated; infinite for what is no candidate.
      costs: float [N].
      archs: int32 [N, D].
      penalties: K coefficients.
      last: int32 [D], the answer where there is no candidate.

    Returns:
      int32 [K, D].
    """
    usable = jnp.isfinite(values)
    values, costs = jnp.where(usable, values, jnp.inf), jnp.where(usable, costs, 0.0)
    chosen = objective(values, jnp.asarray(penalties, jnp.float32), costs).argmin(-1)
    return jnp.where(usable.any(), archs[chosen], last)


def best_within(
    values: jax.Array, costs: jax.Array, archs: jax.Array, budgets: Sequence[float], last: jax.Array
) -> jax.Array:
    """As `best`, but of least value within each of K budgets: where nothing is within one, int32 [D] `last` is."""
    fitting = costs <= jnp.asarray(budgets, jnp.float32)[:, None] + ROUNDING
    values = jnp.where(fitting, values, jnp.inf)
    return jnp.where(jnp.isfinite(values).any(-1, keepdims=True), archs[values.argmin(-1)], last)


def lessons(archive: Archive) -> jax.Array:
    """The losses that a model learns from, a heavy tail cut off (`robust`): float [N], infinite in free places."""
    live = archive.counts > 0
    return jnp.where(live, robust.scale(archive.losses, live).cap(archive.losses), jnp.inf)


def enough(archive: Archive, told: base.Evaluations) -> jax.Array:
    """Whether a fit may change anything: the step has news, and two architectures are known; bool []."""
    return told.usable.any() & ((archive.counts > 0).sum() > 1)


def judged(archive: Archive) -> jax.Array:
    """The losses to answer by: the model's of what it has seen, the measured ones before the first fit: float [N]."""
    return jnp.where(jnp.isfinite(archive.estimates).any(), archive.estimates, archive.losses)


def uniform(key: jax.Array, num_choices: tuple[int, ...], samples: int) -> jax.Array:
    """Uniform architectures, int32 [samples, D]."""
    return distribution.sample(key, distribution.uniform(num_choices)[None], samples)


def fresh(
    key: jax.Array, num_choices: tuple[int, ...], samples: int, candidates: jax.Array, archive: Archive
) -> jax.Array:
    """The first candidates that are neither in the archive nor twice among themselves: int [M, D] -> int32 [S, D].

    Where they are too few, uniform ones that are new make up the number; where the whole space is known, candidates
    come again. So nothing is evaluated twice while there is something new (and the archive remembers it).
    """
    shape = jax.ShapeDtypeStruct((samples, len(num_choices)), jnp.int32)
    call = functools.partial(_fresh, num_choices, samples)
    arguments = (jax.random.bits(key), candidates, archive.archs, archive.counts)
    return jax.pure_callback(call, shape, *arguments, vmap_method="sequential")


def _fresh(num_choices, samples, seed, candidates, archs, counts) -> np.ndarray:
    """`fresh` on the host."""
    candidates = np.asarray(candidates, np.int32)
    known = {row.tobytes() for row in np.asarray(archs, np.int32)[np.asarray(counts) > 0]}
    space = math.prod(num_choices)
    chosen: dict[bytes, np.ndarray] = {}

    def take(rows: np.ndarray) -> None:
        for row in rows:
            name = row.tobytes()
            if len(chosen) < samples and name not in known:
                chosen.setdefault(name, row)

    take(candidates)
    if len(chosen) < samples:
        rng = np.random.default_rng(int(seed))
        take(rng.integers(num_choices, size=(UNIFORM_TRIES * samples, len(num_choices)), dtype=np.int32))
        if len(chosen) < samples and space <= 2 * (len(known) + samples):  # hardly anything is new: look everywhere
            rows = (rng.integers(space) + np.arange(space)) % space
            take(architectures(num_choices, rows))
        known = set()
        take(candidates)
    rows = np.asarray([*chosen.values()], np.int32).reshape(-1, len(num_choices))
    return np.resize(np.concatenate([rows, candidates]) if len(rows) < samples else rows, (samples, len(num_choices)))


@functools.cache
def _threads() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def one_thread():
    """A context for linear algebra on the host: where XLA's threads are busy, those of a BLAS wait for each other."""
    return _threads().limit(limits=1, user_api="blas")


@functools.cache
def cheapest(space: SearchSpace, cost: Callable[[jax.Array], jax.Array]) -> np.ndarray:
    """The architecture of least R, int32 [D]: the answer before anything is known, and within every budget.

    Small spaces are looked through. In large ones one decision is improved after another, until none can be: exact for
    additive costs.
    """

    def costs_of(archs: np.ndarray) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            return np.asarray(cost(jnp.asarray(archs, jnp.int32)))

    if space.size <= ENUMERATED:
        archs = space.enumerate()
        return archs[costs_of(archs).argmin()]
    arch, improved = np.zeros(len(space.num_choices), np.int32), True
    while improved:
        before = costs_of(arch[None])[0]
        for decision, count in enumerate(space.num_choices):
            others = np.repeat(arch[None], count, axis=0)
            others[:, decision] = np.arange(count)
            arch = others[costs_of(others).argmin()]
        improved = costs_of(arch[None])[0] < before
    return arch
