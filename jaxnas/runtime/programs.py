"""Many steps as one program on the device."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

State = TypeVar("State")
Measured = TypeVar("Measured")


def first_steps(
    step: Callable[[State], tuple[State, Measured]], state: State, count: jax.Array, length: int
) -> tuple[State, Measured]:
    """The first `count` of `length` steps: a fixed length needs one compiled program, whatever the count.

    Args:
      step: state -> (state of the same structure, what the step measures: a pytree of arrays).
      state: before the first step.
      count: int32 [], steps to take, at most `length`.
      length: static; with 1 the step is always taken.

    Returns:
      The state after `count` steps, and what they measured with a leading axis [length], 0 beyond the first `count`.
    """
    if length == 1:
        state, measured = step(state)
        return state, jax.tree.map(lambda leaf: leaf[None], measured)
    # Traced once, here: the branch that does nothing needs the shapes of what the other one measures.
    leaves, structure = jax.tree.flatten(state)
    traced, (_, shapes) = jax.make_jaxpr(step, return_shape=True)(state)
    nothing = jax.tree.leaves(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes))
    take = jaxpr_as_fun(traced)

    def body(leaves: list[jax.Array], active: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        taken = jax.lax.cond(active, lambda leaves: take(*leaves), lambda leaves: [*leaves, *nothing], leaves)
        return taken[: len(leaves)], taken[len(leaves) :]

    leaves, measured = jax.lax.scan(body, leaves, jnp.arange(length) < count)
    return jax.tree.unflatten(structure, leaves), jax.tree.unflatten(jax.tree.structure(shapes), measured)
