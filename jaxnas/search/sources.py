"""Where the minibatches of a search come from: arrays in memory, or a stream.

A minibatch is any pytree of arrays whose leading axis is that of its examples.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

PREFETCHED = 2  # steps whose minibatches wait on the devices


@dataclass(frozen=True, eq=False)
class InMemory:
    """Examples that stay on the device for the whole search; the place in them is part of the search's state.

    Attributes:
      examples: pytree of arrays, leading axis N.
    """

    examples: Any

    def __post_init__(self):
        object.__setattr__(self, "examples", jax.tree.map(jnp.asarray, self.examples))
        lengths = {leaf.shape[0] if leaf.shape else 0 for leaf in jax.tree.leaves(self.examples)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"examples must be arrays of one length, at least 1, got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(jax.tree.leaves(self.examples)[0])

    def take(self, indices: jax.Array) -> Any:
        """The minibatch of some examples: int [B] -> pytree with leading axis B."""
        return jax.tree.map(lambda leaf: leaf[indices], self.examples)

    def sample(self, key: jax.Array, batch_size: int) -> Any:
        """A random minibatch of distinct examples."""
        return self.take(jax.random.choice(key, len(self), (batch_size,), replace=False))


@dataclass(frozen=True, eq=False)
class OnHost:
    """Examples in the memory of the host that are visited once, such as test images.

    Attributes:
      examples: pytree of numpy arrays, leading axis N.
      batch_size: most examples of a minibatch.
    """

    examples: Any
    batch_size: int = 500

    def once(self, devices: int = 1) -> Iterator[tuple[Any, np.ndarray]]:
        """All examples in their order.

        Args:
          devices: minibatches are filled up with zeros to a multiple of it.

        Yields:
          A minibatch [B, ...], and float32 [B]: 1, or 0 where it is filled up.
        """
        count = len(jax.tree.leaves(self.examples)[0])
        for begin in range(0, count, self.batch_size):
            part = jax.tree.map(lambda leaf, begin=begin: leaf[begin : begin + self.batch_size], self.examples)
            rows = min(self.batch_size, count - begin)
            more = -rows % devices
            filled = jax.tree.map(lambda leaf, more=more: np.pad(leaf, ((0, more), *[(0, 0)] * (leaf.ndim - 1))), part)
            yield filled, np.repeat(np.array([1, 0], np.float32), (rows, more))


class Stream(Protocol):
    """An endless stream of minibatches, whose position is one number.

    Attributes:
      batch_size: examples of a minibatch of the whole job.
    """

    batch_size: int

    def __len__(self) -> int:
        """Examples of one pass."""

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches from number `start` on: pytrees of numpy arrays, this process's part of each."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """A stream, read ahead in a thread; the place in it follows from the number of steps done.

    Attributes:
      stream: its minibatches are the parts that `settings.accumulate` names.
      evaluation_batches: minibatches that an evaluation of the whole source uses at most.
      convert: what is applied to each minibatch on the host.
    """

    stream: Stream
    evaluation_batches: int = 50
    convert: Callable[[Any], Any] = lambda batch: batch

    def __post_init__(self):
        if self.evaluation_batches < 1:
            raise ValueError(f"evaluation_batches must be at least 1, got {self.evaluation_batches}")

    def __len__(self) -> int:
        """Examples of one pass."""
        return len(self.stream)

    def batches(self, start: int) -> Iterator[Any]:
        """This process's part of the minibatches from number `start` on."""
        return map(self.convert, self.stream.batches(start))

    def once(self, devices: int = 1) -> Iterator[tuple[Any, np.ndarray]]:
        """This process's part of the minibatches of one pass, as the stream's `once` gives them.

        Args:
          devices: divide the batch size of the stream.

        Yields:
          A minibatch [B/P, ...], and float32 [B/P]: 1, or 0 where it is filled up or an image cannot be read.
        """
        del devices
        for batch in self.stream.once():
            weights = batch.pop("weight")
            yield self.convert(batch), weights

    def shapes(self, parts: int, devices: int) -> Any:
        """Of the minibatches [A, B, ...] that a device gets in a step, by the first one of the stream.

        Args:
          parts: A, minibatches of a step.
          devices: of this process.
        """

        def shape(leaf: np.ndarray) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((parts, len(leaf) // devices, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(shape, next(self.batches(0)))

    def sample(self, key: jax.Array, batch_size: int) -> Any:
        """A random minibatch of the first pass."""
        count = batch_size // self.stream.batch_size
        if not count or batch_size % self.stream.batch_size:
            raise ValueError(
                f"batch_size must be a multiple of the stream's {self.stream.batch_size}, got {batch_size}"
            )
        start = int(jax.random.randint(key, (), 0, max(len(self) // batch_size, 1))) * count
        return jax.tree.map(lambda *parts: np.concatenate(parts), *itertools.islice(self.batches(start), count))


Source = InMemory | Streamed


class Feed:
    """Minibatches of a stream on the devices, read ahead in a thread.

    Args:
      source: the stream.
      place: puts minibatches [A, R, ...] on the devices, without running a program there.
      first: number of the first minibatch.
      parts: A, minibatches of a step.
      count: steps.
    """

    def __init__(self, source: Streamed, place: Callable[[Any], Any], first: int, parts: int, count: int):
        self._queue: queue.Queue = queue.Queue(PREFETCHED)
        self._closed = threading.Event()
        self._arguments = source, place, first, parts, count
        self._thread: threading.Thread | None = None

    def take(self) -> Any:
        """The minibatches of the next step; raises what went wrong in the thread."""
        if self._thread is None:  # at the first use: a phase may begin hours later
            self._thread = threading.Thread(target=self._fill, args=self._arguments, daemon=True, name="minibatches")
            self._thread.start()
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _fill(self, source: Streamed, place: Callable[[Any], Any], first: int, parts: int, count: int) -> None:
        try:
            batches = source.batches(first)
            for _ in range(count):
                taken = list(itertools.islice(batches, parts))
                if len(taken) < parts:
                    raise ValueError("stream must have minibatches without end, and ended before the search")
                if not self._put(place(jax.tree.map(lambda *leaves: np.stack(leaves), *taken))):
                    return
        except BaseException as error:
            self._put(error)

    def _put(self, item: object) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
