"""Many architectures on one minibatch: all at once under `vmap`, or one after the other under `map`.

Under `vmap` all architectures are one large batch, which suits accelerators with small minibatches; build the supernet
with `gather=True`, or a choice becomes a selection among all operations of a layer, every one computed. Under `map`
only the chosen operation is computed, which suits CPUs and large minibatches. Both give the same numbers. A chunk size
bounds the memory of `vmap`: only so many architectures at once, chunk after chunk.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax

from jaxnas.supernet.backend import resolve_backend

BATCHINGS = ("auto", "vmap", "map")
# Pixels of a minibatch on one device, B * H * W, from which "auto" is "map", which reads and writes less and starts
# more kernels. Measured on CPUs. GPU: from times on one H100 (docs/explanation/accelerators.md); a card with slower
# starts or less arithmetic has another. TPU: from what compiled programs would do (benchmarks/README.md).
MAP_FROM_PIXELS = {"cpu": 0, "tpu": 2**14, "gpu": 2**17}

# apply(params, inputs, arch [D]) -> outputs; inputs and outputs are pytrees whose leading axis is that of B examples.
Apply = Callable[[chex.ArrayTree, Any, jax.Array], Any]
# loss(outputs, batch) -> (float32 [], mean over the minibatch; {name: float32 []}, other measures of it)
Loss = Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]


@flax.struct.dataclass
class Evaluation:
    """What S architectures make of one minibatch.

    Attributes:
      loss: float32 [S].
      metrics: {name: float32 [S]}, what the loss function measures beside the loss.
    """

    loss: jax.Array
    metrics: dict[str, jax.Array]


def cross_entropy(
    logits: jax.Array, labels: jax.Array, label_smoothing: float = 0.0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean cross-entropy in nats, and the accuracy in [0, 1].

    Args:
      logits: float [B, classes].
      labels: int [B].
      label_smoothing: share of the target spread evenly over the classes.

    >>> loss, metrics = cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 1]))
    >>> round(float(loss), 4), float(metrics["accuracy"])
    (1.3863, 0.5)
    """
    chex.assert_rank([logits, labels], [2, 1])
    logits = logits.astype(jnp.float32)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), label_smoothing)
    loss = optax.softmax_cross_entropy(logits, targets).mean()
    return loss, {"accuracy": (logits.argmax(-1) == labels).mean(dtype=jnp.float32)}


def check_batching(batching: str) -> None:
    """Raises ValueError if `batching` is none of `BATCHINGS`; unlike the resolution, starts no device."""
    if batching not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, got {batching!r}")


def resolve_batching(batching: str, backend: str | None = None, pixels: int = 0) -> str:
    """Turns "auto" into "map" on CPUs, and on accelerators where minibatches are large; into "vmap" elsewhere.

    Args:
      batching: one of `BATCHINGS`.
      backend: that the program is for; None for JAX's default.
      pixels: of a minibatch on one device, B * H * W; 0 where nothing is known of it.

    Returns:
      "map" or "vmap"; see `MAP_FROM_PIXELS`.

    Raises:
      ValueError: if `batching` is none of `BATCHINGS`.
    """
    check_batching(batching)
    if batching != "auto":
        return batching
    return "map" if pixels >= MAP_FROM_PIXELS.get(resolve_backend(backend), math.inf) else "vmap"


def evaluate(
    apply: Apply,
    params: chex.ArrayTree,
    inputs: Any,
    batch: Any,
    archs: jax.Array,
    loss: Loss = cross_entropy,
    *,
    batching: str = "map",
    chunk_size: int | None = None,
) -> Evaluation:
    """Losses of S architectures on one minibatch.

    Args:
      apply: the supernet for one architecture.
      params: its weights.
      inputs: pytree with leading axis B, what `apply` takes.
      batch: pytree with leading axis B, what `loss` compares outputs with; labels int [B] for `cross_entropy`.
      archs: int32 [S, D].
      loss: see `Loss`.
      batching: "vmap" or "map".
      chunk_size: architectures at once under "vmap"; None for all.

    Returns:
      Evaluation with arrays [S].
    """
    _check(inputs, batch, archs, chunk_size)

    def one(arch: jax.Array) -> Evaluation:
        return measure(loss, apply(params, inputs, arch), batch)

    if resolve_batching(batching) == "map":
        return jax.lax.map(one, archs)
    if chunk_size is None or chunk_size >= len(archs):
        return jax.vmap(one)(archs)
    return jax.lax.map(one, archs, batch_size=chunk_size)


def gradient(
    apply: Apply,
    params: chex.ArrayTree,
    inputs: Any,
    batch: Any,
    archs: jax.Array,
    loss: Loss = cross_entropy,
    *,
    chunk_size: int | None = None,
    batching: str = "map",
) -> tuple[chex.ArrayTree, Evaluation]:
    """Gradient of the mean loss of S architectures with respect to the shared weights (METHOD, step 7).

    Takes what `evaluate` takes; under "map" it holds the activations of one architecture at a time, under "vmap" those
    of `chunk_size` together.

    Returns:
      The gradient, and Evaluation with arrays [S].
    """
    _check(inputs, batch, archs, chunk_size)

    def one(params: chex.ArrayTree, arch: jax.Array) -> tuple[jax.Array, Evaluation]:
        evaluation = measure(loss, apply(params, inputs, arch), batch)
        return evaluation.loss, evaluation

    def of_chunk(params: chex.ArrayTree, chunk: jax.Array) -> tuple[jax.Array, Evaluation]:
        losses, evaluation = jax.vmap(one, (None, 0))(params, chunk)
        return losses.sum() / len(archs), evaluation

    def of_one(params: chex.ArrayTree, arch: jax.Array) -> tuple[jax.Array, Evaluation]:
        value, evaluation = one(params, arch)
        return value / len(archs), evaluation

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


def measure(loss: Loss, outputs: Any, batch: Any) -> Evaluation:
    """What a loss function makes of the outputs of one architecture; ValueError if that is no single number."""
    value, metrics = loss(outputs, batch)
    for name, measured in {"loss": value, **metrics}.items():
        if jnp.shape(measured):
            raise ValueError(
                f"loss must measure a minibatch by single numbers, got {name} of shape {jnp.shape(measured)}; "
                "take the mean over the examples"
            )
    return Evaluation(loss=value, metrics=metrics)


def _check(inputs: Any, batch: Any, archs: jax.Array, chunk_size: int | None) -> None:
    chex.assert_rank(archs, 2)
    chex.assert_equal_shape_prefix(jax.tree.leaves((inputs, batch)), 1)
    if isinstance(chunk_size, str):
        raise ValueError(f"chunk_size must be a number or None, got {chunk_size!r}; jaxnas.search.memory finds one")
