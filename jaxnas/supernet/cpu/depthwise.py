"""Depthwise convolution of a block of channels, and its two derivatives, as sums of shifted products.

XLA's CPU compiler fuses such a sum into one loop over memory. A block holds few channels, so that the taps of a kernel
and the pixels they meet stay in a core's first cache. Every function works with images that are padded already: the
caller pads once and uses the result several times.
"""

import functools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Products of one output. With more than 56 LLVM goes over from vectors to scalars; half of that is as fast and compiles
# sooner, a quarter is slower.
PRODUCTS = 28
# Numbers, padded input and gradient together, of the images whose kernel gradient is summed at a time: a second cache.
CACHED = 1 << 18
# Independent sums of the kernel gradient. XLA does not split a loop nest with a carry over threads, but runs
# computations that do not depend on each other side by side; each one more is compiled apart. Measured on two cores.
PARALLEL = 2


@dataclass(frozen=True)
class Geometry:
    """What a program of blocks is compiled for.

    Attributes:
      kernels: sizes of the kernels to choose from, odd.
      stride: distance between outputs.
      block: channels of a block.
    """

    kernels: tuple[int, ...]
    stride: int
    block: int

    @property
    def reach(self) -> int:
        """Pixels beyond the image that the largest kernel meets, and so the padding of the input."""
        return max(self.kernels) // 2

    @property
    def margins(self) -> tuple[int, int]:
        """Padding of the outputs' gradient, before and behind, that the transposed convolution meets."""
        return self.reach // self.stride, (self.stride - 1 + self.reach) // self.stride


def per_kernel(function: Callable[..., jax.Array], index: jax.Array, geometry: Geometry, *args: Any) -> jax.Array:
    """`function(*args, size=...)` for the kernel size with this index; only that one is computed."""
    branches = [functools.partial(function, size=size) for size in geometry.kernels]
    return branches[0](*args) if len(branches) == 1 else lax.switch(index, branches, *args)


def divisor(number: int, limit: int) -> int:
    """The largest divisor of a positive number that is at most `limit`, and at least 1."""
    return max(size for size in range(1, number + 1) if number % size == 0 and size <= max(1, limit))


def pad(x: jax.Array, low: int, high: int) -> jax.Array:
    """Zeros around images: [B, H, W, c] -> [B, low + H + high, low + W + high, c]."""
    # Without the barrier the padding is computed again for every tap.
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (low, high), (low, high), (0, 0))))


def window(x: jax.Array, corner: tuple[int, int], shape: tuple[int, int], stride: int = 1) -> jax.Array:
    """A part of images: [B, H, W, c] -> [B, *shape, c], from `corner` on."""
    (row, column), (height, width) = corner, shape
    stop = (x.shape[0], row + (height - 1) * stride + 1, column + (width - 1) * stride + 1, x.shape[3])
    return lax.slice(x, (0, row, column, 0), stop, (1, stride, stride, 1))


def convolve(
    padded: jax.Array,
    kernel: jax.Array,
    origin: jax.Array,
    *,
    size: int,
    geometry: Geometry,
    shape: tuple[int, int],
) -> jax.Array:
    """The convolution less a constant.

    Args:
      padded: float32 [B, H + 2 reach, W + 2 reach, c].
      kernel: float32 [k, k, c], k the largest size.
      origin: float32 [c], subtracted from the result.
      size: how many rows and columns of taps, in the middle of the kernel, are used.
      geometry: static sizes.
      shape: height and width of the result.

    Returns:
      float32 [B, *shape, c].
    """
    edge = geometry.reach - size // 2
    taps = range(edge, edge + size)
    # Row by row: one chain of 49 additions would wait for each of them.
    rows = [
        _sum(_scaled(window(padded, (row, column), shape, geometry.stride), kernel, row, column) for column in taps)
        for row in taps
    ]
    return _sum(rows) - origin


def convolve_transposed(
    gradient: jax.Array, kernel: jax.Array, *, size: int, geometry: Geometry, shape: tuple[int, int]
) -> jax.Array:
    """Derivative of `convolve` with respect to the unpadded input.

    Args:
      gradient: float32 [B, H' + sum(margins), W' + sum(margins), c], of the result, padded by `margins`.
      kernel: float32 [k, k, c].
      size: rows and columns of taps.
      geometry: static sizes.
      shape: height and width of the input.

    Returns:
      float32 [B, *shape, c].
    """
    stride, low = geometry.stride, geometry.margins[0]
    edge = geometry.reach - size // 2
    height, width = (-(-length // stride) for length in shape)

    def meets(phase: int) -> list[tuple[int, int]]:
        """Taps that meet every `stride`-th pixel from `phase` on, each with the first output that it has part in."""
        distances = [(tap, phase + geometry.reach - tap) for tap in range(edge, edge + size)]
        return [(tap, distance // stride + low) for tap, distance in distances if distance % stride == 0]

    def image(row_phase: int, column_phase: int) -> jax.Array:
        """Gradient of the pixels of one phase, free of products with the zeros between two outputs."""
        rows = [
            _sum(
                _scaled(window(gradient, (row, column), (height, width)), kernel, i, j)
                for j, column in meets(column_phase)
            )
            for i, row in meets(row_phase)
        ]
        return _sum(rows)

    if stride == 1:
        return image(0, 0)
    phases = range(stride)
    rows = [jnp.stack([image(row, column) for column in phases], 3) for row in phases]
    grid = jnp.stack(rows, 2).reshape(gradient.shape[0], height * stride, width * stride, -1)
    return grid[:, : shape[0], : shape[1]]


def kernel_gradient(
    padded: jax.Array, gradient: jax.Array, *, size: int, geometry: Geometry, shape: tuple[int, int]
) -> jax.Array:
    """Derivative of `convolve` with respect to the kernel.

    A variadic reduction reads its input once for all taps of a row, but is compiled to scalar code unless it is so
    short that it is unrolled: then the loop over channels around it becomes vector code. So most of the sum is written
    out as products, two or a few lines are left to the reduction, and a plain sum adds up the rest.

    Args:
      padded: float32 [B, H + 2 reach, W + 2 reach, c], the input.
      gradient: float32 [B, H' + sum(margins), W' + sum(margins), c], of the result.
      size: rows and columns of taps.
      geometry: static sizes.
      shape: H' and W'.

    Returns:
      float32 [k, k, c].
    """
    (batch, *_, channels), (height, width) = gradient.shape, shape
    stride, low, edge = geometry.stride, geometry.margins[0], geometry.reach - size // 2
    run = divisor(width, PRODUCTS // size)
    parallel = PARALLEL if batch % PARALLEL == 0 else 1
    numbers = math.prod(padded.shape[1:]) + math.prod(gradient.shape[1:])
    images = divisor(batch // parallel, CACHED // numbers)
    lines = images * height
    few = next(count for count in (2, 3, 5, 7, lines) if lines % count == 0)

    def pixels(x: jax.Array, corner: tuple[jax.Array | int, ...], row_stride: int, column_stride: int) -> jax.Array:
        """Every `run`-th pixel of the lines of a few images, from a corner on."""
        extent = ((height - 1) * row_stride + 1, (width // run - 1) * column_stride + 1)
        sizes = (images, *extent, channels)
        return lax.slice(_dynamic_slice(x, corner, sizes), (0,) * 4, sizes, (1, row_stride, column_stride, 1))

    def of_row(image: jax.Array, row: jax.Array) -> jax.Array:
        """[size, c], for one row of taps and a few images from one on."""
        top = row + np.uint32(edge)

        def products(tap: int) -> jax.Array:
            # Each term slices for itself: a slice that several share would be copied.
            terms = [
                lax.mul(
                    pixels(padded, (image, top, edge + tap + shift * stride, 0), stride, run * stride),
                    pixels(gradient, (image, low, low + shift, 0), 1, run),
                )
                for shift in range(run)
            ]
            sums = [_sum(terms[start : start + 4]) for start in range(0, run, 4)]
            return _sum(sums).reshape(-1, few, width // run, channels)

        zeros = (jnp.float32(0),) * size
        partial = lax.reduce(tuple(products(tap) for tap in range(size)), zeros, _add, (1,))
        return jnp.stack([sums.reshape(-1, channels).sum(0) for sums in lax.optimization_barrier(partial)])

    def add_row(index: jax.Array, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        index = index.astype(jnp.uint32)
        image, row = index // size * images, index % size
        return tuple(
            _add_at(total, row, of_row(image + np.uint32(batch // parallel * number), row))
            for number, total in enumerate(totals)
        )

    totals = (jnp.zeros((size, size, channels), gradient.dtype),) * parallel
    totals = lax.fori_loop(0, batch // parallel // images * size, add_row, totals)
    return jnp.pad(sum(totals), ((edge, edge), (edge, edge), (0, 0)))


def _dynamic_slice(x: jax.Array, corner: tuple[jax.Array | int, ...], sizes: tuple[int, ...]) -> jax.Array:
    """A part of an array from a corner on, of which some numbers are uint32 of the running program."""
    # All unsigned: signed numbers JAX looks at one by one, and converts them in the program, in thousands of slices.
    return lax.dynamic_slice(x, [n if isinstance(n, jax.Array) else np.uint32(n) for n in corner], sizes)


def _add_at(total: jax.Array, row: jax.Array, part: jax.Array) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(total, lax.dynamic_slice_in_dim(total, row, 1) + part, row, 0)


def _scaled(images: jax.Array, kernel: jax.Array, row: int, column: int) -> jax.Array:
    """Images times one tap of a kernel [k, k, c]."""
    # Primitives here and in `_sum`: NumPy's operators take four times as long to trace, and there are thousands.
    tap = lax.slice(kernel, (row, column, 0), (row + 1, column + 1, kernel.shape[2]))
    return lax.mul(images, lax.broadcast_in_dim(tap, images.shape, (1, 2, 3)))


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(lax.add, terms)


def _add(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(map(lax.add, left, right))
