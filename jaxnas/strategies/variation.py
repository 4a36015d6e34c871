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
    change_key, choice_key = jax.random.split(key)
    changes = jax.random.bernoulli(change_key, probability, archs.shape)
    return change(choice_key, archs, changes, num_choices)


def mutate_one(key: jax.Array, archs: jax.Array, num_choices: tuple[int, ...]) -> jax.Array:
    """Changes one decision of each architecture to another of its choices: int [S, D] -> int [S, D].

    The decision is uniform among those with at least two choices; where there is none, the architectures stay.
    """
    chex.assert_shape(archs, (None, len(num_choices)))
    counts = np.asarray(num_choices)
    decision_key, choice_key = jax.random.split(key)
    can_change = jnp.asarray(np.where((counts > 1) | (counts.max() == 1), 0.0, -np.inf), jnp.float32)
    decision = jax.random.categorical(decision_key, can_change, shape=(len(archs), 1))
    return change(choice_key, archs, jnp.arange(len(counts)) == decision, num_choices)


def change(key: jax.Array, archs: jax.Array, changes: jax.Array, num_choices: tuple[int, ...]) -> jax.Array:
    """Sets the chosen decisions to uniform choices other than the present ones.

    Args:
      key: a JAX random key.
      archs: int [..., D].
      changes: bool [..., D], the decisions to change. One with a single choice keeps it.
      num_choices: C_d for each decision.

    Returns:
      int [..., D].
    """
    chex.assert_equal_shape([archs, changes])
    chex.assert_axis_dimension(archs, -1, len(num_choices))
    counts = np.asarray(num_choices)
    shift = jax.random.randint(key, archs.shape, 1, np.maximum(counts, 2))
    return jnp.where(changes, ((archs + shift) % counts).astype(archs.dtype), archs)


def reset(
    generator: np.random.Generator, archs: np.ndarray, num_choices: tuple[int, ...], probability: float
) -> np.ndarray:
    """Draws each decision again, with a probability, the present choice included; on the host: int [S, D] -> [S, D]."""
    fresh = generator.integers(np.asarray(num_choices), size=archs.shape)
    return np.where(generator.random(archs.shape) < probability, fresh, archs)
