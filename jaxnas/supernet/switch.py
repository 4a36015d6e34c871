"""A choice among operations that a supernet can differentiate cheaply.

Differentiating a plain `switch` stores the residuals of every branch. Here they are the inputs alone, and the backward
pass computes the chosen branch again.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

Params = dict[str, Any]

# (parameters of all branches, x) -> y; every branch of a choice gives the same shape.
Branch = Callable[[Params, jax.Array], jax.Array]
# In the order of the choice indices. Keep one tuple for equal choices (build it in a cached function): JAX then traces
# their branches once.
Branches = tuple[Branch, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def switch_with_recompute(branches: Branches, choice: jax.Array, params: Params, x: jax.Array) -> jax.Array:
    """The chosen branch of x.

    Args:
      branches: the choices; one branch alone is applied whatever the choice.
      choice: int32 [], index of the branch.
      params: parameters of all branches.
      x: float [B, H, W, channels].

    Returns:
      float [B, H', W', channels'], the chosen branch's output. Parameters of other branches get gradient 0.
    """
    return switch(choice, branches, params, x)


def switch(choice: jax.Array, functions: Sequence[Callable[..., Any]], *operands: Any) -> Any:
    """The chosen function of the operands; one function alone is applied whatever the choice."""
    return functions[0](*operands) if len(functions) == 1 else jax.lax.switch(choice, functions, *operands)


def _backward_branch(branch: Branch, params: Params, x: jax.Array, gradient: jax.Array):
    _, vjp = jax.vjp(branch, params, x)
    return vjp(gradient)


def _forward(branches: Branches, choice: jax.Array, params: Params, x: jax.Array):
    return switch_with_recompute(branches, choice, params, x), (choice, params, x)


def _backward(branches: Branches, residuals, gradient: jax.Array):
    functions = [functools.partial(_backward_branch, branch) for branch in branches]
    choice, params, x = residuals
    return None, *switch(choice, functions, params, x, gradient)


switch_with_recompute.defvjp(_forward, _backward)
