"""The best architecture seen so far for each penalty: the answer of strategies that have no distribution."""

import chex
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Incumbents:
    """Best of all evaluated architectures, judged by the losses as they were measured, noise included.

    Attributes:
      objective: float32 [K], the smallest measured f_k; infinite before the first evaluation.
      archs: int32 [K, D], the architectures that had it.
    """

    objective: jax.Array
    archs: jax.Array


def empty(distributions: int, decisions: int) -> Incumbents:
    """No architecture seen: K infinite objectives, and zeros [K, D] for architectures."""
    return Incumbents(jnp.full(distributions, jnp.inf, jnp.float32), jnp.zeros((distributions, decisions), jnp.int32))


def update(incumbents: Incumbents, archs: jax.Array, objective: jax.Array) -> Incumbents:
    """Keeps the better of what was known and what was measured now.

    Args:
      incumbents: the best so far.
      archs: int32 [S, D], evaluated now.
      objective: float32 [K, S], their measured f_k.

    Returns:
      The best of both; of equals, the one seen first.
    """
    chex.assert_rank([archs, objective], 2)
    best = jnp.argmin(objective, axis=-1)  # [K]
    value = jnp.take_along_axis(objective, best[:, None], axis=-1)[:, 0]
    better = value < incumbents.objective
    return Incumbents(
        objective=jnp.where(better, value, incumbents.objective),
        archs=jnp.where(better[:, None], archs[best], incumbents.archs),
    )
