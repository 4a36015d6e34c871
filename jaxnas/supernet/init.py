"""Initial weights, declared as a tree of shapes and drawn at once.

A supernet has hundreds of small arrays; drawing each one apart makes a program of hundreds of random generators that
takes longer to compile than the network. One draw, cut into pieces, has the same distribution.
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Array:
    """An array to be initialised: normal with mean `mean` and standard deviation `deviation`."""

    shape: tuple[int, ...]
    mean: float
    deviation: float


@dataclass(frozen=True)
class Stack:
    """Arrays along a new first axis of one, each padded with zeros to the largest.

    Attributes:
      parts: the arrays, of one rank.
      centred: of so many of their axes the padding is on both sides, of the others behind.
    """

    parts: tuple[Array, ...]
    centred: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return len(self.parts), *(max(sizes) for sizes in zip(*(part.shape for part in self.parts), strict=True))

    def padding(self, part: Array) -> list[tuple[int, int]]:
        """Zeros before and after a part along each axis."""
        missing = [size - own for size, own in zip(self.shape[1:], part.shape)]
        return [(n // 2, n - n // 2) if axis < self.centred else (0, n) for axis, n in enumerate(missing)]


def he_normal(*shape: int, fan_in: int) -> Array:
    """Normal weights with standard deviation sqrt(2 / fan_in) (He et al., arXiv 1502.01852)."""
    return Array(shape, 0.0, math.sqrt(2 / fan_in))


def normal(*shape: int, deviation: float) -> Array:
    """Normal weights with mean 0."""
    return Array(shape, 0.0, deviation)


def constant(value: float, *shape: int) -> Array:
    """All entries `value`."""
    return Array(shape, value, 0.0)


def norm(*shape: int) -> dict[str, Array]:
    """Batch norm's scale 1 and bias 0; the last axis is the channels, axes before it stack layers."""
    return {"scale": constant(1.0, *shape), "bias": constant(0.0, *shape)}


def conv(size: int, in_channels: int, out_channels: int, *, stack: tuple[int, ...] = ()) -> dict[str, Array]:
    """A full convolution with batch norm: kernel [size, size, in, out], or [in, out] if the size is 1.

    Axes in `stack` come first in every array: as many layers of one shape.
    """
    window = () if size == 1 else (size, size)
    kernel = he_normal(*stack, *window, in_channels, out_channels, fan_in=size**2 * in_channels)
    return {"kernel": kernel, **norm(*stack, out_channels)}


def no_conv() -> dict[str, Array]:
    """In a stack, the row of a convolution that is not there."""
    return {"kernel": constant(0.0, 1, 1), "scale": constant(0.0, 1), "bias": constant(0.0, 1)}


def classifier(features: int, num_classes: int) -> dict[str, Array]:
    """A linear layer whose first logits are small, so that all architectures start near the uniform prediction."""
    return {"kernel": normal(features, num_classes, deviation=0.01), "bias": constant(0.0, num_classes)}


def draw(key: jax.Array, arrays: Any) -> Any:
    """Draws a tree of float32 arrays.

    Args:
      key: a JAX random key.
      arrays: a tree whose leaves are `Array` or `Stack`.

    Returns:
      The same tree with arrays of the declared shapes.
    """
    leaves, structure = jax.tree.flatten(arrays)
    parts = [part for leaf in leaves for part in (leaf.parts if isinstance(leaf, Stack) else [leaf])]
    random = [part for part in parts if part.deviation > 0]
    flat, numpy = jax.random.normal(key, (sum(math.prod(part.shape) for part in random),)), jnp
    if not isinstance(flat, jax.core.Tracer):
        flat, numpy = np.asarray(flat), np  # cut on the host, where a slice of every new size compiles nothing
    pieces = iter(_cut(flat, random))
    drawn = iter([next(pieces) if part.deviation > 0 else numpy.full(part.shape, part.mean) for part in parts])

    def whole(leaf: Array | Stack) -> jax.Array | np.ndarray:
        if isinstance(leaf, Array):
            return next(drawn)
        return numpy.stack([numpy.pad(next(drawn), leaf.padding(part)) for part in leaf.parts])

    return jax.tree.unflatten(structure, [jnp.asarray(whole(leaf), jnp.float32) for leaf in leaves])


def as_params(module: nn.Module, arrays: dict[str, Any]) -> dict[str, Any]:
    """A dictionary of arrays as parameters of a Flax module, by the same names."""
    if not module.is_initializing():  # `param` would trace the drawing of all weights to compare their shapes
        return module.variables["params"]
    return {name: module.param(name, draw, declared) for name, declared in arrays.items()}


def _cut(flat: jax.Array | np.ndarray, parts: list[Array]) -> list[jax.Array | np.ndarray]:
    pieces, start = [], 0
    for part in parts:
        size = math.prod(part.shape)
        pieces.append(part.mean + part.deviation * flat[start : start + size].reshape(part.shape))
        start += size
    return pieces
