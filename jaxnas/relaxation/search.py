"""Running a relaxed search: minibatches from arrays on the device, many steps as one program, one run for each target.

loss = search.supernet_loss(supernet)
method = relaxation.Darts(space, Settings(steps=300))
found = search.search(method, loss, params, (images, labels), (images, labels), penalties, key)
found.archs                                                                                    # int32 [K, D]
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data
from jaxnas.relaxation import base
from jaxnas.runtime import loop, programs


@dataclass(frozen=True)
class Found:
    """What K runs found.

    Attributes:
      archs: int32 [K, D], the networks.
      alpha: float32 [K, D, C], 0 in the padding.
      losses: `base.Losses` with arrays [K, T], of all T steps.
      params: K trees, the trained weights of the mixtures.
    """

    archs: np.ndarray
    alpha: np.ndarray
    losses: base.Losses
    params: tuple[chex.ArrayTree, ...]


@flax.struct.dataclass
class _Run:
    """A run between two programs: the method's state and the places in both splits; None where there are no images."""

    state: base.State
    keys: jax.Array
    train: data.Cursor | None
    valid: data.Cursor | None


def supernet_loss(supernet: nn.Module) -> base.Loss:
    """Mean cross-entropy, in nats, of a supernet's mixture on a batch (images float [B, H, W, 3], labels int [B])."""

    def loss(params: chex.ArrayTree, weights: jax.Array, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        images, labels = batch
        logits = supernet.apply({"params": params}, images, weights, method="apply_mixture")
        return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()

    return loss


def search(
    method: base.Relaxation,
    loss: base.Loss,
    params: chex.ArrayTree,
    train: Any,
    valid: Any,
    targets: Sequence[base.Target],
    key: jax.Array,
    batch_size: int = 64,
    steps_per_dispatch: int = 50,
) -> Found:
    """One run for each target, one after the other, all from the same weights and minibatches; compiled once.

    Args:
      method: a member of `RELAXATIONS`; its settings say how many steps a run has.
      loss: what is descended; keep one object for several calls, or each of them compiles.
      params: weights at the start; an empty tree for a table.
      train: tree of arrays with a leading axis of examples, such as (images, labels); None where the loss needs none.
      valid: likewise, for alpha.
      targets: K penalties, strengths or budgets, whatever the method takes.
      key: a JAX random key.
      batch_size: B, examples in a minibatch of each split.
      steps_per_dispatch: steps in one program on the device.

    Returns:
      Found.

    Raises:
      ValueError: if there is no target, or one that cannot be met, or a split is smaller than a minibatch.
      NonFiniteLossError: naming the target and the first step (from 1) with a loss that is not finite.
    """
    if not len(targets):
        raise ValueError("targets must hold at least one penalty or budget, got none")
    alpha_key, data_key = jax.random.split(key)
    states = [method.init(alpha_key, params, target) for target in targets]  # says at once what cannot be met
    archs, alphas, losses, trained = [], [], [], []
    for target, state in zip(targets, states):
        keys = jax.random.split(data_key)
        cursors = [_start(key, split, batch_size) for key, split in zip(keys, (train, valid))]
        # The first program's donated arrays must not be the caller's.
        run = _Run(jax.tree.map(jnp.copy, state), keys, *cursors)
        state, history = _run_to_end(method, loss, run, train, valid, target, batch_size, steps_per_dispatch)
        archs.append(method.derive(state, target))
        alphas.append(np.asarray(state.alpha))
        losses.append(history)
        trained.append(state.params)
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *losses)
    return Found(np.stack(archs), np.stack(alphas), stacked, tuple(trained))


def _run_to_end(
    method: base.Relaxation,
    loss: base.Loss,
    run: _Run,
    train: Any,
    valid: Any,
    target: base.Target,
    batch_size: int,
    length: int,
) -> tuple[base.State, base.Losses]:
    """The state after the last step, and the losses of all T steps, numpy [T]."""
    total = method.settings.steps
    advice = f"for target {target}; lower the learning rate ({method.settings.learning_rate})"

    def dispatch(run: _Run, step: int) -> tuple[_Run, base.Losses, bool]:
        count = min(length, total - step)
        run, losses = _run_steps(method, loss, run, train, valid, jnp.int32(count), batch_size, length)
        return run, jax.tree.map(lambda leaf: np.asarray(leaf)[:count], losses), False

    runs, losses = zip(*loop.run_programs(run, 0, total, dispatch, advice=lambda _: advice))
    return runs[-1].state, jax.tree.map(lambda *parts: np.concatenate(parts), *losses)


def _start(key: jax.Array, split: Any, batch_size: int) -> data.Cursor | None:
    if split is None:
        return None
    sizes = {len(leaf) for leaf in jax.tree.leaves(split)}
    if len(sizes) != 1 or not 1 <= batch_size <= min(sizes):
        raise ValueError(f"batch_size must be between 1 and the examples of a split, {sorted(sizes)}, got {batch_size}")
    return data.start(key, sizes.pop())


def _next(key: jax.Array, cursor: data.Cursor | None, split: Any, batch_size: int) -> tuple[Any, data.Cursor | None]:
    if cursor is None:
        return None, None
    indices, cursor = data.next_indices(key, cursor, batch_size)
    return jax.tree.map(lambda leaf: leaf[indices], split), cursor


@functools.partial(jax.jit, static_argnums=(0, 1, 6, 7), donate_argnums=2)
def _run_steps(
    method: base.Relaxation,
    loss: base.Loss,
    run: _Run,
    train: Any,
    valid: Any,
    count: jax.Array,
    batch_size: int,
    length: int,
) -> tuple[_Run, base.Losses]:
    """The first `count` of `length` steps."""

    def step(run: _Run) -> tuple[_Run, base.Losses]:
        train_batch, train_cursor = _next(run.keys[0], run.train, train, batch_size)
        valid_batch, valid_cursor = _next(run.keys[1], run.valid, valid, batch_size)
        state, losses = method.step(run.state, loss, train_batch, valid_batch)
        return run.replace(state=state, train=train_cursor, valid=valid_cursor), losses

    return programs.first_steps(step, run, count, length)
