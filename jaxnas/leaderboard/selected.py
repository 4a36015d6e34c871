"""Selection steps on a problem, within the cost that all methods have."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import selection
from jaxnas.leaderboard.supernet_problem import Outcome, SupernetProblem
from jaxnas.selection import dc_nas, stage_wise
from jaxnas.spaces.mbconv import SKIP
from jaxnas.tasks.tabular import TabularTask

CHEAP_SHARE = 0.5  # of the evaluations, spent on one for each candidate
CLUSTERS = 8


def dc_nas_on_table(task: TabularTask, penalties: Sequence[float], evaluations: int, seed: int) -> np.ndarray:
    """DC-NAS-style selection from uniform candidates: int32 [K, D].

    The cheap score is one noisy evaluation, the accurate one the mean of as many as are left for each winner.
    """
    generator = np.random.default_rng(seed)
    archs = np.unique(task.space.sample_uniform(generator, max(1, int(CHEAP_SHARE * evaluations))), axis=0)
    clusters = min(CLUSTERS, len(archs), max(1, (evaluations - len(archs)) // len(penalties)))

    def measured(some: np.ndarray, times: int) -> np.ndarray:
        noise = generator.normal(size=len(some)) * task.noise / np.sqrt(times)
        return task.error[task.rows(some)] + noise

    def accurate(some: np.ndarray) -> np.ndarray:
        return measured(some, max(1, (evaluations - len(archs)) // len(some)))

    found = dc_nas.select(
        jax.random.key(seed),
        archs,
        dc_nas.one_hot(archs, task.space),
        lambda some: measured(some, 1),
        accurate,
        clusters,
        penalties,
        task.cost.scaled[task.rows(archs)],
    )
    return found.archs


def dc_nas_on_supernet(problem: SupernetProblem) -> Outcome:
    """The same on a supernet: represented by how training moved the parameters, judged accurately on more images."""
    search = problem.search
    space, size = search.strategy.space, search.settings.valid_batch_size
    generator = np.random.default_rng(problem.seed)
    archs = np.unique(space.sample_uniform(generator, int(CHEAP_SHARE * problem.evaluations)), axis=0)
    start = search.init(problem.seed).params
    change = dc_nas.parameter_change(jax.random.key(problem.seed), space, start, problem.supernet.params)
    spent = 0.0

    def losses(some: np.ndarray, minibatches: int) -> np.ndarray:
        nonlocal spent
        spent += len(some) * minibatches
        order = generator.permutation(len(search.valid))
        parts = [order[i * size : (i + 1) * size] for i in range(minibatches)]
        return np.mean([_losses(problem, some, jnp.asarray(part)) for part in parts], axis=0)

    def accurate(some: np.ndarray) -> np.ndarray:
        affordable = int(problem.evaluations - spent) // len(some)
        return losses(some, max(1, min(affordable, len(search.valid) // size)))

    costs = np.asarray(problem.cost(jnp.asarray(archs)))
    found = dc_nas.select(
        jax.random.key(problem.seed),
        archs,
        change[np.arange(len(space.decisions)), archs],
        lambda some: losses(some, 1),
        accurate,
        min(CLUSTERS, len(archs), max(1, int(problem.evaluations - len(archs)) // len(problem.penalties))),
        problem.penalties,
        costs,
    )
    return Outcome(found.archs, problem.training + spent)


def _losses(problem: SupernetProblem, archs: np.ndarray, indices: jax.Array, at_once: int = 16) -> np.ndarray:
    """Losses on one minibatch, so many architectures in a program that there is one program."""
    padded = np.concatenate([archs, np.repeat(archs[:1], -len(archs) % at_once, axis=0)]).astype(np.int32)
    minibatch = problem.search.valid.take(indices)
    parts = [
        np.asarray(problem.search.evaluate_batch(problem.supernet.params, minibatch, jnp.asarray(part)).loss)
        for part in padded.reshape(-1, at_once, archs.shape[1])
    ]
    return np.concatenate(parts)[: len(archs)]


def stage_wise_on_supernet(problem: SupernetProblem) -> Outcome:
    """A growth with every operation on features of a minibatch; of all candidates the best for each penalty."""
    search = problem.search
    space, size = search.strategy.space, search.settings.valid_batch_size
    everywhere = min(len(layer.operations) - (SKIP in layer.operations) for layer in space.layers)
    picked = jax.random.permutation(jax.random.key(problem.seed), len(search.valid))[:size]
    minibatch = search.valid.take(picked)
    images = search.prepare(minibatch, None)

    @jax.jit
    def program(params: chex.ArrayTree, images: jax.Array, arch: jax.Array) -> Sequence[jax.Array]:
        return search.supernet.apply({"params": params}, images, arch, method="apply_with_features")[1]

    def features_of(arch: np.ndarray) -> Sequence[jax.Array]:
        return program(problem.supernet.params, images, jnp.asarray(arch))

    archs, networks = [], 0
    for operation in range(everywhere):
        grown, count = stage_wise.search(space, features_of, np.asarray(minibatch.labels), operation)
        archs.append(grown)
        networks += count
    archs = np.unique(np.concatenate(archs), axis=0)
    minibatches = max(1, min(int(problem.evaluations - networks) // len(archs), len(search.valid) // size))
    losses = np.mean(
        [_losses(problem, archs, jnp.arange(i * size, (i + 1) * size)) for i in range(minibatches)], axis=0
    )
    chosen = selection.least_objective(losses, np.asarray(problem.cost(jnp.asarray(archs))), problem.penalties)
    return Outcome(archs[chosen], problem.training + networks + minibatches * len(archs))
