"""The optimiser of a network's weights, of a supernet and of a network alone."""

import chex
import jax
import jax.numpy as jnp
import optax


def sgd(
    learning_rate: float,
    *,
    steps: int,
    warmup: float,
    momentum: float,
    weight_decay: float,
    clip_norm: float,
    final_learning_rate: float = 0.0,
) -> optax.GradientTransformation:
    """SGD with momentum, linear warm-up, cosine schedule, weight decay of kernels, and clipping.

    Args:
      learning_rate: its peak.
      steps: after which the learning rate is the final one.
      warmup: share of the steps in which it rises from 0.
      momentum: of SGD.
      weight_decay: added to the gradient of every parameter whose name is "kernel".
      clip_norm: largest global norm of the gradient.
      final_learning_rate: where the cosine ends.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else learning_rate,
        peak_value=learning_rate,
        warmup_steps=int(warmup * steps),
        decay_steps=steps,
        end_value=final_learning_rate,
    )

    def are_kernels(params: chex.ArrayTree) -> chex.ArrayTree:
        return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)

    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.add_decayed_weights(weight_decay, mask=are_kernels),
        optax.sgd(schedule, momentum=momentum),
    )


def is_kernel(path: tuple) -> bool:
    """Whether the parameter at a path of a tree is called "kernel", as those of convolutions and dense layers are."""
    return bool(path) and getattr(path[-1], "key", getattr(path[-1], "name", None)) == "kernel"


def moving_average(average: chex.ArrayTree, params: chex.ArrayTree, step: jax.Array, kept: float) -> chex.ArrayTree:
    """An exponential moving average of weights after one more step.

    Early averages would keep too much of the first weights, so the share that is kept grows to its final value (as
    TensorFlow's `ExponentialMovingAverage` does).

    Args:
      average: before the step.
      params: after it.
      step: int32 [], steps done before it.
      kept: share of itself that the average keeps in a step, at most.
    """
    share = 1 - jnp.minimum(kept, (1 + step) / (10 + step))
    return optax.incremental_update(params, average, share.astype(jnp.float32))
