"""Many architectures on one minibatch: all at once under `vmap`, or one after the other under `map`.

Under `vmap` all architectures are one large batch, which suits accelerators; build the supernet with `gather=True`, or
a choice becomes a selection among all operations of a layer, every one computed. Under `map` only the chosen operation
is computed, which suits CPUs. Both give the same numbers. A chunk size bounds the memory of `vmap`: only so many
architectures at once, chunk after chunk.
"""

import functools
from collections.abc import Callable

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

BATCHINGS = ("auto", "vmap", "map")

# apply(params, images [B, H, W, 3], arch [D]) -> logits [B, classes]
Apply = Callable[[chex.ArrayTree, jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Evaluation:
    """What S architectures make of one minibatch.

    Attributes:
      loss: float32 [S], mean cross-entropy in nats.
      accuracy: float32 [S], in [0, 1].
    """

    loss: jax.Array
    accuracy: jax.Array


def check_batching(batching: str) -> None:
    """Raises ValueError if `batching` is none of `BATCHINGS`; unlike the resolution, starts no device."""
    if batching not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, got {batching!r}")


def resolve_batching(batching: str) -> str:
    """Turns "auto" into "map" on CPUs, where it was measured faster, and "vmap" elsewhere.

    Raises:
      ValueError: if `batching` is none of `BATCHINGS`.
    """
    check_batching(batching)
    if batching == "auto":
        return "map" if jax.default_backend() == "cpu" else "vmap"
    return batching


def evaluate(
    apply: Apply,
    params: chex.ArrayTree,
    images: jax.Array,
    labels: jax.Array,
    archs: jax.Array,
    *,
    batching: str = "map",
    chunk_size: int | None = None,
) -> Evaluation:
    """Losses and accuracies of S architectures on one minibatch.

    Args:
      apply: the supernet for one architecture.
      params: its weights.
      images: float [B, H, W, 3].
      labels: int [B].
      archs: int32 [S, D].
      batching: "vmap" or "map".
      chunk_size: architectures at once under "vmap"; None for all.

    Returns:
      Evaluation with arrays [S].
    """
    chex.assert_rank([images, labels, archs], [4, 1, 2])

    def one(arch: jax.Array) -> Evaluation:
        return _evaluate_one(apply, params, images, labels, arch, 0.0)

    if resolve_batching(batching) == "map":
        return jax.lax.map(one, archs)
    if chunk_size is None or chunk_size >= len(archs):
        return jax.vmap(one)(archs)
    return jax.lax.map(one, archs, batch_size=chunk_size)


def gradient(
    apply: Apply,
    params: chex.ArrayTree,
    images: jax.Array,
    labels: jax.Array,
    archs: jax.Array,
    *,
    batching: str = "map",
    chunk_size: int | None = None,
    label_smoothing: float = 0.0,
) -> tuple[chex.ArrayTree, Evaluation]:
    """Gradient of the mean loss of S architectures with respect to the shared weights (METHOD, step 7).

    Args:
      apply: the supernet for one architecture.
      params: its weights.
      images: float [B, H, W, 3].
      labels: int [B].
      archs: int32 [S, D].
      batching: "vmap" or "map"; under "map" the activations of one architecture at a time are held.
      chunk_size: architectures at once under "vmap", whose activations are held together; None for all.
      label_smoothing: share of the target spread evenly over the classes.

    Returns:
      The gradient, and Evaluation with arrays [S].
    """
    chex.assert_rank([images, labels, archs], [4, 1, 2])

    def one(params: chex.ArrayTree, arch: jax.Array) -> tuple[jax.Array, Evaluation]:
        evaluation = _evaluate_one(apply, params, images, labels, arch, label_smoothing)
        return evaluation.loss, evaluation

    def of_chunk(params: chex.ArrayTree, chunk: jax.Array) -> tuple[jax.Array, Evaluation]:
        losses, evaluation = jax.vmap(one, (None, 0))(params, chunk)
        return losses.sum() / len(archs), evaluation

    def of_one(params: chex.ArrayTree, arch: jax.Array) -> tuple[jax.Array, Evaluation]:
        loss, evaluation = one(params, arch)
        return loss / len(archs), evaluation

    def add(total: chex.ArrayTree, part: jax.Array, function: Callable) -> tuple[chex.ArrayTree, Evaluation]:
        grads, evaluation = jax.grad(function, has_aux=True)(params, part)
        return jax.tree.map(jnp.add, total, grads), evaluation

    zero = jax.tree.map(jnp.zeros_like, params)
    if resolve_batching(batching) == "map":
        return jax.lax.scan(functools.partial(add, function=of_one), zero, archs)
    if chunk_size is None or chunk_size >= len(archs):
        return jax.grad(of_chunk, has_aux=True)(params, archs)
    whole = len(archs) // chunk_size * chunk_size
    chunks = archs[:whole].reshape(-1, chunk_size, archs.shape[1])
    total, evaluation = jax.lax.scan(functools.partial(add, function=of_chunk), zero, chunks)
    evaluation = jax.tree.map(lambda leaf: leaf.reshape(-1), evaluation)
    if whole == len(archs):
        return total, evaluation
    total, rest = add(total, archs[whole:], of_chunk)
    return total, jax.tree.map(lambda *parts: jnp.concatenate(parts), evaluation, rest)


def _evaluate_one(
    apply: Apply, params: chex.ArrayTree, images: jax.Array, labels: jax.Array, arch: jax.Array, label_smoothing: float
) -> Evaluation:
    logits = apply(params, images, arch).astype(jnp.float32)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    return Evaluation(loss=loss, accuracy=(logits.argmax(-1) == labels).mean(dtype=jnp.float32))
