"""Crossover and mutation of architectures, as evolutionary strategies use them, over whole populations."""

import chex
import jax
import jax.numpy as jnp
import numpy as np


def two_point_crossover(key: jax.Array, first: jax.Array, second: jax.Array, probability: float = 0.9) -> jax.Array:
    """Takes a random stretch of decisions from the second parent, the others from the first.

    Args:
      key: a JAX random key.
      first: int [S, D].
      second: int [S, D].
      probability: of crossing at all; otherwise the child is the first parent.

    Returns:
      int [S, D].
    """
    chex.assert_rank([first, second], 2)
    chex.assert_equal_shape([first, second])
    cut_key, cross_key = jax.random.split(key)
    size, decisions = first.shape
    cuts = jnp.sort(jax.random.randint(cut_key, (size, 2), 0, decisions + 1), axis=-1)
    position = jnp.arange(decisions)
    inside = (position >= cuts[:, :1]) & (position < cuts[:, 1:])
    crossed = jax.random.bernoulli(cross_key, probability, (size, 1))
    return jnp.where(inside & crossed, second, first)


def mutate(key: jax.Array, archs: jax.Array, num_choices: tuple[int, ...], probability: float) -> jax.Array:
    """Changes each decision, with a probability, to another of its choices: int [S, D] -> int [S, D]."""
    chex.assert_shape(archs, (None, len(num_choices)))
    counts = np.asarray(num_choices)
    change_key, shift_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, archs.shape, 1, np.maximum(counts, 2))
    changes = jax.random.bernoulli(change_key, probability, archs.shape)
    return jnp.where(changes, (archs + shift) % counts, archs)
