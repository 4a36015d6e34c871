"""What methods that follow gradients through a relaxed choice have in common: protocol, state, the two steps.

A network's choices are relaxed to weights [D, C], the softmax of each row of alpha; a loss is a callable

    loss(params, weights [D, C], batch) -> float32 []

such as `search.supernet_loss` of a supernet's mixture or `tasks.RelaxedTable` of a table. Optimisers are those of DARTS
(Liu, Simonyan, Yang: "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv 1806.09055) as they stand in the
public code of DARTS-PT for NAS-Bench-201.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import distribution
from jaxnas.cost import AdditiveCost, JointCost
from jaxnas.spaces.base import SearchSpace
from jaxnas.supernet.optimizers import sgd

# (params, weights [D, C], batch) -> float32 []; differentiable in the first two.
Loss = Callable[[chex.ArrayTree, jax.Array, Any], jax.Array]
# What a method looks for one network by: a penalty, a strength or budgets; each method says which.
Target = Any


@dataclass(frozen=True)
class Settings:
    """Length of a search and its optimisers.

    Attributes:
      steps: of the search; the cosine of the weights' learning rate ends with it.
      learning_rate: of the weights, by SGD; peak of the cosine.
      final_learning_rate: where the cosine ends.
      momentum: of SGD.
      weight_decay: added to the gradient of convolution and classifier kernels.
      clip_norm: largest global norm of the weights' gradient.
      alpha_learning_rate: of alpha, by Adam, which moves no entry by much more than this in a step. The default is
        for ten thousand steps and more; with a thousand, 3e-3 does better on NAS-Bench-Macro's table.
      alpha_betas: decay rates of Adam's moments.
      alpha_weight_decay: added to the gradient of alpha.
      alpha_scale: standard deviation of alpha before the first step.

    Raises:
      ValueError: if there is no step, or a rate is not positive.
    """

    steps: int
    learning_rate: float = 0.025
    final_learning_rate: float = 0.001
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip_norm: float = 5.0
    alpha_learning_rate: float = 3e-4
    alpha_betas: tuple[float, float] = (0.5, 0.999)
    alpha_weight_decay: float = 1e-3
    alpha_scale: float = 1e-3

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        for name in ("learning_rate", "alpha_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @functools.cached_property
    def params_optimizer(self) -> optax.GradientTransformation:
        """SGD of the supernet's weights."""
        return sgd(
            self.learning_rate,
            steps=self.steps,
            warmup=0.0,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            final_learning_rate=self.final_learning_rate,
        )

    @functools.cached_property
    def alpha_optimizer(self) -> optax.GradientTransformation:
        """Adam of alpha."""
        first, second = self.alpha_betas
        return optax.chain(
            optax.add_decayed_weights(self.alpha_weight_decay),
            optax.adam(self.alpha_learning_rate, b1=first, b2=second),
        )


@flax.struct.dataclass
class State:
    """All that the next step depends on, but for the batches.

    Attributes:
      step: int32 [], steps done.
      params: weights of the supernet.
      alpha: float32 [D, C], 0 in the padding.
      params_optimizer: state of the weights' optimiser.
      alpha_optimizer: state of alpha's optimiser.
      target: float32 array of the method's target, so that one program serves all K targets.
    """

    step: jax.Array
    params: chex.ArrayTree
    alpha: jax.Array
    params_optimizer: optax.OptState
    alpha_optimizer: optax.OptState
    target: jax.Array


@flax.struct.dataclass
class Losses:
    """Losses of one step, before its updates: float32 []; `valid` is NaN where alpha is not learnt.

    Attributes:
      train: on the training batch, of the weights' step.
      valid: on the validation batch, of alpha's step.
    """

    train: jax.Array
    valid: jax.Array

    @property
    def finite(self) -> np.ndarray:
        """Whether the training loss is finite, bool []."""
        return np.isfinite(self.train)


class Relaxation(Protocol):
    """What every method offers: a frozen, hashable dataclass of settings; all that changes is in the state.

    Attributes:
      space: the search space.
      costs: J additive costs.
      settings: length and optimisers.
    """

    space: SearchSpace
    costs: tuple[AdditiveCost, ...]
    settings: Settings

    def init(self, key: jax.Array, params: chex.ArrayTree, target: Target) -> State:
        """The state before the first step; ValueError if the target cannot be met."""

    def step(self, state: State, loss: Loss, train: Any, valid: Any) -> tuple[State, Losses]:
        """One step of alpha on a validation batch and one of the weights on a training batch; pure, jit-compilable."""

    def derive(self, state: State, target: Target) -> np.ndarray:
        """The network found, on the host: int32 [D]."""


def default_costs(space: SearchSpace, costs: Sequence[AdditiveCost] | None) -> tuple[AdditiveCost, ...]:
    """The costs given, or the first of the space, or none if it has none; ValueError unless they are additive."""
    costs = space.costs[:1] if costs is None else tuple(costs)
    for cost in costs:
        if not isinstance(cost, AdditiveCost):
            raise ValueError(
                f"costs must be AdditiveCost, got {type(cost).__name__}; a table's is tasks.additive_cost(table, name)"
            )
        if tuple(len(row) for row in cost.table) != space.num_choices:
            raise ValueError(f"cost {cost.name!r} must have the choices of space {space.name!r}, {space.num_choices}")
    return costs


def init(key: jax.Array, params: chex.ArrayTree, target: jax.Array, space: SearchSpace, settings: Settings) -> State:
    """A state with alpha drawn close to 0."""
    valid = distribution.valid_choices(space.num_choices)
    alpha = settings.alpha_scale * jax.random.normal(key, valid.shape) * valid
    return State(
        step=jnp.int32(0),
        params=params,
        alpha=alpha,
        params_optimizer=settings.params_optimizer.init(params),
        alpha_optimizer=settings.alpha_optimizer.init(alpha),
        target=jnp.asarray(target, jnp.float32),
    )


def probabilities(alpha: jax.Array, num_choices: Sequence[int]) -> jax.Array:
    """Softmax over the choices of each decision, 0 in the padding: float [D, C] -> [D, C].

    >>> probabilities(jnp.zeros((2, 2)), [2, 1]).tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    chex.assert_rank(alpha, 2)
    return jax.nn.softmax(jnp.where(distribution.valid_choices(num_choices), alpha, -jnp.inf), axis=-1)


def expected_costs(alpha: jax.Array, costs: tuple[AdditiveCost, ...], num_choices: Sequence[int]) -> jax.Array:
    """E[R_j] = sum_d p_d . c_jd of the scaled costs under p = softmax(alpha): [D, C] -> float32 [J]."""
    return JointCost(costs).expected(probabilities(alpha, num_choices)[None])[0]


def step(
    state: State,
    space: SearchSpace,
    settings: Settings,
    loss: Loss,
    train: Any,
    valid: Any,
    alpha_gradient: Callable[[jax.Array, Callable[[jax.Array], jax.Array]], tuple[jax.Array, jax.Array]] | None,
) -> tuple[State, Losses]:
    """One step of alpha, then one of the weights under the new alpha: first-order DARTS's alternation.

    Args:
      state: before the step.
      space: the search space.
      settings: of the optimisers.
      loss: see `Loss`.
      train: batch for the weights.
      valid: batch for alpha.
      alpha_gradient: (alpha [D, C], its loss: [D, C] -> []) -> (the loss, the direction [D, C] that Adam descends);
        None leaves alpha as it is.
    """
    valid_loss = jnp.float32(jnp.nan)
    if alpha_gradient is not None:

        def of_alpha(alpha: jax.Array) -> jax.Array:
            return loss(state.params, probabilities(alpha, space.num_choices), valid)

        valid_loss, gradient = alpha_gradient(state.alpha, of_alpha)
        updates, alpha_optimizer = settings.alpha_optimizer.update(gradient, state.alpha_optimizer, state.alpha)
        state = state.replace(alpha=optax.apply_updates(state.alpha, updates), alpha_optimizer=alpha_optimizer)
    weights = probabilities(state.alpha, space.num_choices)
    train_loss, gradient = jax.value_and_grad(loss)(state.params, weights, train)
    if jax.tree.leaves(state.params):  # a table has no weights
        updates, params_optimizer = settings.params_optimizer.update(gradient, state.params_optimizer, state.params)
        state = state.replace(params=optax.apply_updates(state.params, updates), params_optimizer=params_optimizer)
    return state.replace(step=state.step + 1), Losses(train=train_loss, valid=valid_loss)


def most_likely(state: State, space: SearchSpace) -> np.ndarray:
    """The choice with the largest alpha of every decision: int32 [D]."""
    valid = distribution.valid_choices(space.num_choices)
    return np.where(valid, np.asarray(state.alpha), -np.inf).argmax(-1).astype(np.int32)
