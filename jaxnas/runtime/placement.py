"""Where the programs of a search run: on one device, or on all devices of all processes.

On many devices the state is replicated and a minibatch is spread: a program works on its device's part and averages
over devices, so every device holds the same state. Both placements have the same methods, so that a search is written
once.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import flax.struct
import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from jaxnas.runtime import devices

Tree = TypeVar("Tree")


@dataclass(frozen=True)
class OneDevice:
    """JAX's default device.

    Attributes:
      count: devices.
      shared: whether other processes take part.
      meant: another device that programs are compiled for and do not run on; None for JAX's default.
    """

    count = 1
    shared = False
    meant: Any | None = None

    def put(self, tree: Tree) -> Tree:
        """Arrays as programs take them: here as they are."""
        return tree

    def shapes(self, tree: Tree) -> Tree:
        """What programs take in place of arrays of one device, to be lowered and not run: `jax.ShapeDtypeStruct`."""
        place = None if self.meant is None else SingleDeviceSharding(self.meant)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    def get(self, tree: Tree) -> Tree:
        """Arrays that a program returned: here as they are, to be donated to the next program."""
        return tree

    def spread(self, batch: Tree) -> Tree:
        """Minibatches [A, B, ...] on the device."""
        return jax.device_put(batch)

    def scalar(self, value: np.generic) -> np.generic:
        """A number as programs take it."""
        return value

    def wait(self, array: jax.Array) -> None:
        """Waits for an array that a program returned."""
        array.block_until_ready()

    def compile(self, function: Callable[..., Any], donate: bool = False) -> Callable[..., Any]:
        """Compiles a program.

        Args:
          function: of arrays that `put`, `spread` or `scalar` made or another program returned, and of a last, static
            argument. It may call `part` and `average`.
          donate: whether the first argument's buffers are reused for the result.
        """
        last = function.__code__.co_argcount - 1
        return jax.jit(function, static_argnums=last, donate_argnums=(0,) if donate else ())

    def part(self, tree: Tree) -> Tree:
        """Within a program, this device's part of arrays [B, ...] that all devices hold."""
        return tree

    def average(self, tree: Tree) -> Tree:
        """Within a program, the mean over devices."""
        return tree


@dataclass(frozen=True)
class AllDevices:
    """All devices of all processes; see `OneDevice` for the methods that say nothing else here.

    Attributes:
      meant: devices that programs are compiled for and do not run on; None for those that are there.
    """

    meant: tuple[Any, ...] | None = None

    @property
    def count(self) -> int:
        """Devices of all processes together."""
        return devices.device_count() if self.meant is None else len(self.meant)

    @property
    def shared(self) -> bool:
        """Whether other processes take part."""
        return devices.process()[1] > 1

    def put(self, tree: Tree) -> Tree:
        """A copy on every device, with a leading axis over them."""
        return devices.replicate(_pack(tree))

    def shapes(self, tree: Tree) -> Tree:
        """Likewise, with a leading axis over the devices."""
        packed = jax.eval_shape(_pack, tree)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((self.count, *leaf.shape), leaf.dtype), packed)

    def get(self, tree: Tree) -> Tree:
        """The first device's copy, which outlives the donation of the original."""
        return _unpack(devices.unreplicate(tree))

    def spread(self, batch: Tree) -> Tree:
        """Parts [local devices, A, R / local devices, ...] of this process's minibatches [A, R, ...]."""
        return devices.spread(batch)

    def scalar(self, value: np.generic) -> np.ndarray:
        """A number for every device."""
        return devices.on_each(value)

    def wait(self, array: jax.Array) -> None:
        """Waits for an array that a program returned; raises as soon as a local device has failed."""
        devices.wait(array)

    def compile(self, function: Callable[..., Any], donate: bool = False) -> Callable[..., Any]:
        """Compiles a program for every device."""

        @functools.wraps(function)
        def packed(*arguments: Any) -> Any:
            return _pack(function(*_unpack(arguments[:-1]), arguments[-1]))

        return devices.on_devices(packed, function.__code__.co_argcount - 1, donate, self.meant)

    def part(self, tree: Tree) -> Tree:
        """Within a program, this device's part of arrays [B, ...] that all devices hold."""

        def cut(leaf: jax.Array) -> jax.Array:
            rows = leaf.shape[0] // self.count
            return jax.lax.dynamic_slice_in_dim(leaf, devices.index() * rows, rows)

        return jax.tree.map(cut, tree)

    def average(self, tree: Tree) -> Tree:
        """Within a program, the mean over devices."""
        return devices.average(tree)


Placement = OneDevice | AllDevices
ONE_DEVICE, ALL_DEVICES = OneDevice(), AllDevices()


@flax.struct.dataclass
class _KeyData:
    """What is inside a typed random key: pmap would fetch the key itself to the host at every call."""

    data: jax.Array
    generator: str = flax.struct.field(pytree_node=False)


def _pack(tree: Tree) -> Tree:
    """Data in place of typed random keys."""

    def pack(leaf: Any) -> Any:
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            return _KeyData(jax.random.key_data(leaf), str(jax.random.key_impl(leaf)))
        return leaf

    return jax.tree.map(pack, tree)


def _unpack(tree: Tree) -> Tree:
    """Typed random keys in place of their data."""

    def unpack(leaf: Any) -> Any:
        return jax.random.wrap_key_data(leaf.data, impl=leaf.generator) if isinstance(leaf, _KeyData) else leaf

    return jax.tree.map(unpack, tree, is_leaf=lambda leaf: isinstance(leaf, _KeyData))
