"""Which examples make the next minibatch: a shuffled pass over the data, as a pure function of a small state.

The stream depends on the key and the cursor's position alone, so a search that saves its cursor continues with the very
minibatches that it would have seen, and nothing else of the input pipeline has to be saved.
"""

import chex
import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Cursor:
    """Where a pass over N examples stands.

    Attributes:
      order: int32 [N], permutation of the current epoch.
      position: int32 [], examples of this epoch already handed out.
      epoch: int32 [], passes begun before this one.
    """

    order: jax.Array
    position: jax.Array
    epoch: jax.Array


def start(key: jax.Array, num_examples: int) -> Cursor:
    """The cursor before the first minibatch.

    Args:
      key: the data key. Keep it for data alone: the shuffle of epoch e is drawn from `fold_in(key, e)`.
      num_examples: N.
    """
    if num_examples < 1:
        raise ValueError(f"num_examples must be at least 1, got {num_examples}")
    first = jnp.int32(0)
    return Cursor(order=_shuffle(key, first, num_examples), position=jnp.int32(0), epoch=first)


def next_indices(key: jax.Array, cursor: Cursor, batch_size: int) -> tuple[jax.Array, Cursor]:
    """Indices of the next minibatch.

    An epoch hands out floor(N / B) B distinct examples once each; the N mod B left over at its end, others in each
    epoch, are skipped so that all minibatches have one shape. Then the order is drawn again.

    Args:
      key: the data key that the cursor was started with, the same at every call.
      cursor: over N examples.
      batch_size: B, static, at most N.

    Returns:
      int32 [B] distinct indices in [0, N), and the next cursor.

    Raises:
      ValueError: if `batch_size` is not in [1, N].
    """
    chex.assert_rank([cursor.order, cursor.position, cursor.epoch], [1, 0, 0])
    num_examples = len(cursor.order)
    if not 1 <= batch_size <= num_examples:
        raise ValueError(f"batch_size must be between 1 and the number of examples, {num_examples}, got {batch_size}")

    def reshuffled(cursor: Cursor) -> Cursor:
        epoch = cursor.epoch + 1
        return Cursor(order=_shuffle(key, epoch, num_examples), position=jnp.int32(0), epoch=epoch)

    exhausted = cursor.position + batch_size > num_examples
    cursor = jax.lax.cond(exhausted, reshuffled, lambda cursor: cursor, cursor)
    indices = jax.lax.dynamic_slice(cursor.order, (cursor.position,), (batch_size,))
    return indices, cursor.replace(position=cursor.position + batch_size)


def _shuffle(key: jax.Array, epoch: jax.Array, num_examples: int) -> jax.Array:
    """The order of one epoch, int32 [N]."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), jnp.arange(num_examples, dtype=jnp.int32))
