"""DARTS: descend the loss of a mixture of operations with respect to the mixture's weights.

Paper: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv 1806.09055.

Idea: relax every choice to a softmax over alpha, train alpha on validation images and the weights on training images
in turn, and keep the largest alpha of each decision.

Faithful: first-order alternation of one alpha step and one weight step; Adam with betas 0.5 and 0.999 and weight decay
1e-3 for alpha, SGD with momentum, cosine to 0.001 and clipping at 5 for the weights, alpha started at 1e-3 N(0, 1), as
in the public code of DARTS-PT for NAS-Bench-201; the argmax of each row is the network. `learn_alpha=False` is that
code's "blank" variant.

Deviations: The supernet's batch norm has a learnt scale and shift. Weight decay is for kernels alone. The penalty on
the expected cost, eps E[R], is an addition of this library that makes one network for each eps; eps = 0 is DARTS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost import AdditiveCost
from jaxnas.relaxation import base
from jaxnas.spaces.base import SearchSpace


@dataclass(frozen=True)
class Darts:
    """First-order DARTS; its target is the penalty eps on the expected scaled cost, or one for each of the J costs.

    Attributes:
      space: the search space.
      settings: length and optimisers.
      costs: J additive costs that the penalty is on; None for the first of the space.
      learn_alpha: whether alpha is updated; without it the supernet is trained as a fixed, even mixture.
    """

    TARGET: ClassVar[str] = "penalties"

    space: SearchSpace
    settings: base.Settings
    costs: tuple[AdditiveCost, ...] | None = None
    learn_alpha: bool = True

    def __post_init__(self):
        object.__setattr__(self, "costs", base.default_costs(self.space, self.costs))

    def init(self, key: jax.Array, params: chex.ArrayTree, target: float | tuple[float, ...] = 0.0) -> base.State:
        """The state before the first step.

        Args:
          key: of alpha's start.
          params: weights of the supernet; an empty tree for a table.
          target: eps, for all costs or J of them.

        Raises:
          ValueError: if a penalty is negative or not finite, or there is no cost to put it on.
        """
        penalties = check_strengths("target", target, len(self.costs))
        return base.init(key, params, penalties, self.space, self.settings)

    def step(self, state: base.State, loss: base.Loss, train: Any, valid: Any) -> tuple[base.State, base.Losses]:
        """One alpha step on the validation batch, then one weight step on the training batch."""

        def gradient(alpha: jax.Array, of_alpha: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
            def penalised(alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
                value = of_alpha(alpha)
                if not self.costs:
                    return value, value
                expected = base.expected_costs(alpha, self.costs, self.space.num_choices)
                return value + (state.target * expected).sum(), value

            (_, value), direction = jax.value_and_grad(penalised, has_aux=True)(alpha)
            return value, direction

        rule = gradient if self.learn_alpha else None
        return base.step(state, self.space, self.settings, loss, train, valid, rule)

    def derive(self, state: base.State, target: float | tuple[float, ...] = 0.0) -> np.ndarray:
        """The largest alpha of each decision, int32 [D]; the target plays no part any more."""
        del target
        return base.most_likely(state, self.space)


def check_strengths(name: str, values: float | tuple[float, ...], count: int) -> jax.Array:
    """One number for each of `count` costs, float32 [J]; ValueError unless finite, not negative, and J or 1 of them."""
    array = np.atleast_1d(np.asarray(values, np.float64))
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name} must be finite and not negative, got {values}")
    if not count and array.any():
        raise ValueError(f"{name} must be 0 without a cost, got {values}; give costs")
    if len(array) not in (1, count):
        raise ValueError(f"{name} must be one number or one for each of the {count} costs, got {values}")
    return jnp.asarray(np.broadcast_to(array, (count,)), jnp.float32)
