"""Populations of architectures that differ in size from generation to generation, in arrays that do not."""

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies import variation
from jaxnas.strategies.related import pareto


@flax.struct.dataclass
class Population:
    """Up to P architectures.

    Attributes:
      archs: int32 [P, D].
      members: bool [P], which rows are in use.
    """

    archs: jax.Array
    members: jax.Array


def nobody(size: int, decisions: int) -> Population:
    """P = `size` free places."""
    return Population(jnp.zeros((size, decisions), jnp.int32), jnp.zeros(size, bool))


def merged(*populations: Population) -> Population:
    """All members in one population, in this order; of equals the first."""
    archs = jnp.concatenate([one.archs for one in populations])
    members = jnp.concatenate([one.members for one in populations])
    same = (archs[:, None] == archs).all(-1) & members
    return Population(archs, members & (same.argmax(-1) == jnp.arange(len(archs))))


def uncrowded(population: Population, objectives: jax.Array, chosen: jax.Array, size: int) -> Population:
    """Of chosen members those of largest crowding distance, as many as there are places: float [P, 2], bool [P]."""
    chex.assert_equal_shape_prefix([population.archs, objectives, chosen], 1)
    order = jnp.argsort(-pareto.crowding(objectives, chosen))[:size]
    return Population(population.archs[order], chosen[order])


def children(
    key: jax.Array, first: Population, second: Population, size: int, num_choices: tuple[int, ...], crossover: float
) -> Population:
    """Offspring of two populations: two-point crossover, then one decision in D is mutated.

    Each parent comes from either population with probability 1/2, as long as both have members.
    """
    row_key, cross_key, mutation_key = jax.random.split(key, 3)
    archs = jnp.concatenate([first.archs, second.archs])
    weights = jnp.concatenate([one.members / jnp.maximum(one.members.sum(), 1) for one in (first, second)])
    parents = archs[jax.random.categorical(row_key, jnp.log(weights), shape=(2, size))]
    crossed = variation.two_point_crossover(cross_key, *parents, probability=crossover)
    born = variation.mutate(mutation_key, crossed, num_choices, 1 / len(num_choices))
    return Population(born, jnp.ones(size, bool))


def by_turns(first: Population, second: Population, rest: Population) -> Population:
    """Members of the first two populations by turns, then those of the third; then the free places."""
    turn = np.concatenate([np.arange(len(one.members)) + 0.5 * i for i, one in enumerate((first, second))])
    order = np.append(np.argsort(turn, kind="stable"), len(turn) + np.arange(len(rest.members)))
    archs = jnp.concatenate([first.archs, second.archs, rest.archs])[order]
    members = jnp.concatenate([first.members, second.members, rest.members])[order]
    ahead = jnp.argsort(~members, stable=True)
    return Population(archs[ahead], members[ahead])
