"""One network teaches others: its outputs are a part of their loss (Hinton et al., arXiv 1503.02531).

In place, the first of S architectures that share weights teaches the others on each minibatch, as in universally
slimmable networks (arXiv 1903.05134) and BigNAS (arXiv 2003.11142). No gradient goes through what is taught.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.supernet import batching as batching_lib
from jaxnas.supernet.batching import Apply, Evaluation, Loss

# soft_loss(outputs, targets) -> float [], mean over the minibatch; targets are the outputs of a teacher.
SoftLoss = Callable[[Any, Any], jax.Array]

_PLAIN = "loss without the teacher"  # among the metrics of a taught loss


def divergence(logits: jax.Array, targets: jax.Array, temperature: float) -> jax.Array:
    """How far a network's outputs are from a teacher's: float32 [], mean over all but the last axis, in nats.

    The Kullback-Leibler divergence of the two softened distributions, times temperature^2, which keeps the size of its
    gradient (Hinton et al., arXiv 1503.02531).

    Args:
      logits: float [B, ..., classes].
      targets: the teacher's, of the same shape.
      temperature: that both are divided by.

    >>> round(float(divergence(jnp.array([[0.0, 0.0]]), jnp.log(jnp.array([[0.8, 0.2]])), 1.0)), 4)
    0.1927
    """
    chex.assert_equal_shape([logits, targets])
    student, teacher = (jax.nn.log_softmax(each.astype(jnp.float32) / temperature) for each in (logits, targets))
    return temperature**2 * (jnp.exp(teacher) * (teacher - student)).sum(-1).mean()


def of_logits(temperature: float) -> SoftLoss:
    """The divergence at a temperature, of models whose outputs are one array of logits.

    Raises:
      ValueError: when it is called with other outputs.
    """

    def soft_loss(outputs: Any, targets: Any) -> jax.Array:
        is_array = jax.tree.structure(outputs) == jax.tree.structure(0)
        is_float = is_array and jnp.issubdtype(outputs.dtype, jnp.floating)
        if not (is_float and outputs.ndim > 1 and outputs.shape[-1] > 1):
            shapes = jax.tree.map(jnp.shape, outputs)
            raise ValueError(
                "soft_loss must be given for a model whose outputs are no logits [B, ..., classes] of two classes or "
                f"more, got {shapes}"
            )
        if jnp.shape(targets) != outputs.shape:
            raise ValueError(
                f"teacher must put out what the model does, of shape {outputs.shape}, got {jnp.shape(targets)}"
            )
        return divergence(outputs, targets, temperature)

    return soft_loss


def taught(loss: jax.Array, distance: jax.Array, share: float | jax.Array) -> jax.Array:
    """What a network with a teacher descends: its own loss, and a share of its distance from the teacher's outputs."""
    return (1 - share) * loss + share * distance


def gradient(
    apply: Apply,
    params: chex.ArrayTree,
    inputs: Any,
    batch: Any,
    archs: jax.Array,
    loss: Loss,
    *,
    soft_loss: SoftLoss,
    share: float,
    targets: Any = None,
    batching: str = "map",
    chunk_size: int | None = None,
) -> tuple[chex.ArrayTree, Evaluation]:
    """Gradient of the mean loss of S architectures with a teacher, as `batching.gradient` without.

    Args:
      apply: the supernet for one architecture.
      params: its weights.
      inputs: pytree with leading axis B, what `apply` takes.
      batch: pytree with leading axis B, what `loss` compares outputs with.
      archs: int32 [S, D].
      loss: see `batching.Loss`.
      soft_loss: see `SoftLoss`.
      share: of `soft_loss` in the loss of those that are taught.
      targets: outputs of another teacher, which teaches all; None where the first architecture teaches the others.
      batching: "vmap" or "map".
      chunk_size: architectures at once under "vmap"; None for all.

    Returns:
      The gradient, and Evaluation with arrays [S] of the losses without a teacher.
    """
    options = {"batching": batching, "chunk_size": chunk_size}
    if targets is not None or len(archs) == 1:
        if targets is not None:
            loss = _with_targets(loss, soft_loss, share, jax.lax.stop_gradient(targets))
        return _plain(batching_lib.gradient(apply, params, inputs, batch, archs, loss, **options))
    if batching_lib.resolve_batching(batching) == "map":
        return _one_by_one(apply, params, inputs, archs, batch, loss, soft_loss, share)

    def of_teacher(params: chex.ArrayTree) -> tuple[jax.Array, tuple[Evaluation, Any]]:
        outputs = apply(params, inputs, archs[0])
        evaluation = batching_lib.measure(loss, outputs, batch)
        return evaluation.loss, (evaluation, outputs)

    def of_other(params: chex.ArrayTree, inputs: Any, arch: jax.Array) -> tuple[Any, jax.Array]:
        return apply(params, inputs, arch), (arch == archs[0]).all()

    by_teacher, (first, targets) = jax.grad(of_teacher, has_aux=True)(params)
    loss = _of_others(loss, soft_loss, share, jax.lax.stop_gradient(targets))
    by_others, others = _plain(batching_lib.gradient(of_other, params, inputs, batch, archs[1:], loss, **options))
    part = 1 / len(archs)
    total = jax.tree.map(lambda one, mean: part * one + (1 - part) * mean, by_teacher, by_others)
    return total, jax.tree.map(lambda one, rest: jnp.concatenate([one[None], rest]), first, others)


def _one_by_one(
    apply: Apply,
    params: chex.ArrayTree,
    inputs: Any,
    archs: jax.Array,
    batch: Any,
    loss: Loss,
    soft_loss: SoftLoss,
    share: float,
) -> tuple[chex.ArrayTree, Evaluation]:
    """The teacher is the first of the loop, so that a program holds one copy of the network."""

    def objective(
        params: chex.ArrayTree, arch: jax.Array, targets: Any, first: jax.Array
    ) -> tuple[jax.Array, tuple[Evaluation, Any]]:
        outputs = apply(params, inputs, arch)
        targets = jax.tree.map(lambda own, known: jnp.where(first, own, known), outputs, targets)
        targets = jax.lax.stop_gradient(targets)
        evaluation = batching_lib.measure(loss, outputs, batch)
        distance = soft_loss(_stopped(outputs, (arch == archs[0]).all()), targets)
        learnt = taught(evaluation.loss, distance, jnp.where(first, 0.0, share))
        return learnt / len(archs), (evaluation, targets)

    def add(
        carry: tuple[chex.ArrayTree, Any], arch_and_first: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[chex.ArrayTree, Any], Evaluation]:
        total, targets = carry
        arch, first = arch_and_first
        by_arch, (evaluation, targets) = jax.grad(objective, has_aux=True)(params, arch, targets, first)
        return (jax.tree.map(jnp.add, total, by_arch), targets), evaluation

    shapes = jax.eval_shape(functools.partial(apply, params), inputs, archs[0])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (params, shapes))
    (total, _), evaluation = jax.lax.scan(add, zeros, (archs, jnp.arange(len(archs)) == 0))
    return total, evaluation


def _with_targets(loss: Loss, soft_loss: SoftLoss, share: float, targets: Any) -> Loss:
    """The loss of those that are taught; the loss without the teacher is among its metrics."""

    def of(outputs: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        value, metrics = loss(outputs, batch)
        return taught(value, soft_loss(outputs, targets), share), {**metrics, _PLAIN: value}

    return of


def _of_others(loss: Loss, soft_loss: SoftLoss, share: float, targets: Any) -> Loss:
    """As `_with_targets`, of outputs and whether they are of the teacher's own architecture."""

    def of(outputs_and_same: tuple[Any, jax.Array], batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs, same = outputs_and_same
        apart = _with_targets(loss, lambda own, known: soft_loss(_stopped(own, same), known), share, targets)
        return apart(outputs, batch)

    return of


def _stopped(outputs: Any, same: jax.Array) -> Any:
    """Outputs without a gradient where they are of the teacher's own architecture.

    A distance is least there, but not all have a derivative: that of a norm is NaN.
    """
    return jax.tree.map(lambda leaf: jnp.where(same, jax.lax.stop_gradient(leaf), leaf), outputs)


def _plain(result: tuple[chex.ArrayTree, Evaluation]) -> tuple[chex.ArrayTree, Evaluation]:
    """The gradient, and what was measured without the teacher."""
    gradients, evaluation = result
    metrics = dict(evaluation.metrics)
    loss = metrics.pop(_PLAIN, evaluation.loss)
    return gradients, Evaluation(loss, metrics)
