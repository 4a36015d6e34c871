"""The relaxed choice: instead of one operation of a decision, a weighted sum of all of them.

Every decision's output is sum_c weights[d, c] op_c(x), the weights exactly as given: they need not sum to 1, and 0
drops an operation. With one-hot weights it is the supernet of one architecture. Methods that follow gradients through
the choice (DARTS, arXiv 1806.09055) differentiate it with respect to the weights. All operations are computed, and all
their activations held for the derivative, so that a step costs about as much as one of C architectures.
"""

import chex
import jax

from jaxnas.supernet.switch import Branches, Params


def apply_branches(branches: Branches, weights: jax.Array, params: Params, x: jax.Array) -> jax.Array:
    """The weighted sum of a choice's branches.

    Args:
      branches: the C_d choices of this decision.
      weights: float [C], C >= C_d; what lies beyond C_d is padding and ignored.
      params: parameters of all branches.
      x: float [B, H, W, channels].

    Returns:
      float [B, H', W', channels'].
    """
    chex.assert_rank([weights, x], [1, 4])
    if len(weights) < len(branches):
        raise ValueError(f"weights must have an entry for each of the {len(branches)} choices, got {len(weights)}")
    outputs = [branch(params, x) for branch in branches]
    return sum(weights[choice].astype(x.dtype) * output for choice, output in enumerate(outputs))
