"""Statistics of losses that are robust to single outliers: over usable values alone, and without a heavy tail.

Where all values are usable and none is far from the others, these are the plain statistics, bit for bit.
"""

import flax.struct
import jax
import jax.numpy as jnp

# Losses farther from the median than so many times nearly all others are count as the farthest of the others: one of
# 1e6 would lift the mean of its step, and with it all that is measured against the mean. While samples are uniform, the
# worst cells of NAS-Bench-201 are at 7 times that distance, the worst networks of NAS-Bench-Macro at 13.
HEAVY_TAIL = 20.0
NEARLY_ALL = 0.9  # of the losses; of three or more, at least one may be heavy


@flax.struct.dataclass
class Scale:
    """Where losses lie.

    Attributes:
      median: float32 [].
      width: float32 [], the distance from the median within which nearly all lie; 1 where nearly all are equal.
      least: float32 [], the least loss that is not heavy.
      largest: float32 [], the largest.
    """

    median: jax.Array
    width: jax.Array
    least: jax.Array
    largest: jax.Array

    def cap(self, losses: jax.Array) -> jax.Array:
        """Losses, heavy ones moved to the nearest of the others: float [...] -> float [...]."""
        losses = jnp.where(losses > self.median + HEAVY_TAIL * self.width, self.largest, losses)
        return jnp.where(losses < self.median - HEAVY_TAIL * self.width, self.least, losses)


def scale(losses: jax.Array, usable: jax.Array) -> Scale:
    """The scale of the usable losses: float [N], bool [N].

    >>> losses = jnp.array([0.0, 1.0, 2.0, 3.0, 1e6])
    >>> found = scale(losses, jnp.ones(5, bool))
    >>> print(found.median, found.width, found.cap(losses))
    2.0 2.0 [0. 1. 2. 3. 3.]
    """
    median = quantile(losses, usable, 0.5)
    width = quantile(jnp.abs(losses - median), usable, NEARLY_ALL, interpolate=False)
    known = jnp.isfinite(median)
    median, width = jnp.where(known, median, 0.0), jnp.where(known & (width > 0), width, 1.0)
    others = usable & (jnp.abs(losses - median) <= HEAVY_TAIL * width)
    least, largest = jnp.where(others, losses, jnp.inf).min(), jnp.where(others, losses, -jnp.inf).max()
    return Scale(median, width, least, largest)


def quantile(values: jax.Array, usable: jax.Array, level: float, interpolate: bool = True) -> jax.Array:
    """A quantile over the usable values of the last axis: float [..., N], bool [..., N] -> float [...].

    Infinite where none is usable. Without interpolation it is the next smaller value.

    >>> print(quantile(jnp.array([3.0, 1.0, jnp.nan, 2.0]), jnp.array([True, True, False, True]), 0.25))
    1.5
    """
    ascending = jnp.sort(jnp.where(usable, values, jnp.inf), axis=-1)
    place = jnp.float32(level) * jnp.maximum(usable.sum(-1) - 1, 0).astype(jnp.float32)
    low = jnp.floor(place)

    def at(index: jax.Array) -> jax.Array:
        index = jnp.broadcast_to(index.astype(jnp.int32), ascending.shape[:-1])
        return jnp.take_along_axis(ascending, index[..., None], axis=-1)[..., 0]

    if not interpolate:
        return at(low)
    share = place - low
    return jnp.where(share > 0, at(low) * (1 - share) + at(jnp.ceil(place)) * share, at(low))


def mean(values: jax.Array, usable: jax.Array, axis: int) -> jax.Array:
    """The mean of the usable values along an axis, which is kept; 0 where there is none.

    >>> print(mean(jnp.array([1.0, jnp.inf, 2.0]), jnp.array([True, False, True]), 0))
    [1.5]
    """
    # The plain mean, then over the share that counts: exactly the plain mean where all do.
    share = usable.mean(axis, dtype=jnp.float32, keepdims=True)
    return jnp.where(usable, values, 0.0).mean(axis, keepdims=True) / jnp.where(share > 0, share, 1.0)


def variance(values: jax.Array, usable: jax.Array) -> jax.Array:
    """The variance of the usable values along the first axis: float [N, ...], bool [N, ...] -> float [...]."""
    return mean(jnp.square(jnp.where(usable, values, 0.0) - mean(values, usable, 0)), usable, 0)[0]
