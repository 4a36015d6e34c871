"""One step of the training of a discrete network, whatever its images come from and on however many devices.

Minibatch gradient descent with running batch norm, cosine schedule, label smoothing, drop path and an exponential
moving average of the weights. As in a search, all that the next step depends on is in the state, and every random
number comes from its key and its step.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data
from jaxnas.search.recipes import RetrainSettings
from jaxnas.supernet.optimizers import moving_average, sgd

Tree = TypeVar("Tree")


@flax.struct.dataclass
class RetrainState:
    """All that the next step depends on.

    Attributes:
      step: int32 [], steps done.
      key: random key, constant; step t uses fold_in(key, t).
      variables: "params" and "batch_stats" of the network.
      average: their exponential moving average.
      optimizer: state of the optax chain.
      data_key: random key, constant, of the order of the images; None, as is the cursor, where they are streamed, and
        their position follows from `step`.
      cursor: position in the training images.
    """

    step: jax.Array
    key: jax.Array
    variables: chex.ArrayTree
    average: chex.ArrayTree
    optimizer: optax.OptState
    data_key: jax.Array | None = None
    cursor: data.Cursor | None = None


@flax.struct.dataclass
class Score:
    """Mean cross-entropy and accuracy, float32 [] each."""

    loss: jax.Array
    accuracy: jax.Array

    @property
    def finite(self) -> np.ndarray:
        """Whether the loss is finite, bool []."""
        return np.isfinite(self.loss)


def first_state(
    network: nn.Module,
    settings: RetrainSettings,
    total_steps: int,
    image_size: int,
    keys: tuple[jax.Array, jax.Array],
    params: chex.ArrayTree | None = None,
    **fields: Any,
) -> RetrainState:
    """The state before the first step.

    Args:
      network: what is trained.
      settings: how.
      total_steps: of the whole training.
      image_size: height and width of images.
      keys: random keys of the steps and of the first weights.
      params: first weights; None for random ones.
      **fields: others of the state.
    """
    step_key, params_key = keys
    variables = _init_variables(network, image_size, params_key)
    if params is not None:
        chex.assert_trees_all_equal_shapes(params, variables["params"])
        variables = {**variables, "params": jax.tree.map(jnp.asarray, params)}
    return RetrainState(
        step=jnp.int32(0),
        key=step_key,
        variables=variables,
        average=jax.tree.map(jnp.copy, variables),
        optimizer=make_optimizer(settings, total_steps).init(variables["params"]),
        **fields,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_variables(network: nn.Module, image_size: int, key: jax.Array) -> chex.ArrayTree:
    return dict(network.init(key, jnp.zeros((1, image_size, image_size, 3))))


def make_optimizer(settings: RetrainSettings, total_steps: int) -> optax.GradientTransformation:
    """The optax chain of a training."""
    return sgd(
        settings.learning_rate,
        steps=total_steps,
        warmup=settings.warmup,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )


def descend(
    network: nn.Module,
    settings: RetrainSettings,
    total_steps: int,
    state: RetrainState,
    images: jax.Array,
    labels: jax.Array,
    dropout_key: jax.Array,
    average: Callable[[Tree], Tree] = lambda tree: tree,
) -> tuple[RetrainState, Score]:
    """One step on augmented images [B, H, W, 3]; `average` is the mean over devices, each with its own images."""

    def loss(params: chex.ArrayTree) -> tuple[jax.Array, tuple[jax.Array, chex.ArrayTree]]:
        variables = {**state.variables, "params": params}
        rngs = {"dropout": dropout_key}
        logits, updates = network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), settings.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), (logits, updates)

    (value, (logits, updates)), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables["params"])
    score = Score(value, (logits.argmax(-1) == labels).mean())
    gradient, updates, score = average((gradient, updates, score))
    optimizer = make_optimizer(settings, total_steps)
    change, optimizer = optimizer.update(gradient, state.optimizer, state.variables["params"])
    variables = {"params": optax.apply_updates(state.variables["params"], change), **updates}
    state = state.replace(
        step=state.step + 1,
        variables=variables,
        average=moving_average(state.average, variables, state.step, settings.average),
        optimizer=optimizer,
    )
    return state, score


def totals(
    network: nn.Module, variables: chex.ArrayTree, images: jax.Array, labels: jax.Array, weights: jax.Array
) -> jax.Array:
    """Sums over test images of cross-entropy, hits and images: float32 [3].

    Args:
      network: what is tested.
      variables: "params" and "batch_stats".
      images: float [B, H, W, 3], normalised.
      labels: int [B].
      weights: float32 [B], 0 for what fills the minibatch up.
    """
    logits = network.apply(variables, images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (jnp.stack([losses, logits.argmax(-1) == labels, jnp.ones_like(losses)]) * weights).sum(-1)
