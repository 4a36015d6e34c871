"""A user's data, inputs and loss in the forms that a search takes."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.search.sources import InMemory, Source, Streamed

# loss(outputs, batch) -> float [], or that and {name: float []}
UserLoss = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class WithMetrics:
    """A user's loss as a search takes it: always with a dictionary of other measures, and in float32.

    Attributes:
      loss: (outputs, batch) to the mean loss of the batch, or to that and {name: mean}.
      name: of the argument, for messages.
    """

    loss: UserLoss
    name: str = "loss"

    def __call__(self, outputs: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss and the other measures of a batch; ValueError if the loss is no single number."""
        value = self.loss(outputs, batch)
        value, metrics = value if isinstance(value, tuple) else (value, {})
        if jnp.shape(value) != ():
            raise ValueError(
                f"{self.name} must return one number, the mean over the batch, got an array of shape "
                f"{jnp.shape(value)}; end it with .mean()"
            )
        return jnp.asarray(value, jnp.float32), {name: jnp.asarray(one, jnp.float32) for name, one in metrics.items()}


@dataclass(frozen=True)
class Prepare:
    """A batch to what a search gives its supernet: the model's inputs, and in training a random key for each example.

    Attributes:
      inputs: batch to the inputs of the model; None for the first of a tuple or the entry "inputs" of a dictionary.
    """

    inputs: Callable[[Any], Any] | None

    def of(self, batch: Any) -> Any:
        """The inputs of the model."""
        if self.inputs is not None:
            return self.inputs(batch)
        if isinstance(batch, tuple) and batch:
            return batch[0]
        if isinstance(batch, Mapping) and "inputs" in batch:
            return batch["inputs"]
        raise ValueError(
            "inputs must say which part of a batch is the model's inputs, such as lambda batch: batch['image']; "
            "without it a batch is a tuple whose first is that, or a dictionary with the entry 'inputs'"
        )

    def __call__(self, batch: Any, key: jax.Array | None) -> dict[str, Any]:
        """What `jaxnas.search.steps.Prepare` asks for."""
        inputs = self.of(batch)
        if key is None:
            return {"inputs": inputs}
        return {"inputs": inputs, "keys": jax.random.split(key, len(jax.tree.leaves(inputs)[0]))}


class Batches:
    """An iterable of batches as a stream without end, see `jaxnas.search.sources.Stream`.

    Args:
      batches: that can be iterated again, such as a list or a grain DataLoader.
      name: of the argument, for messages.
    """

    def __init__(self, batches: Iterable[Any], name: str):
        if isinstance(batches, Iterator):
            raise ValueError(
                f"{name} must be arrays or batches that can be iterated again, such as a list or a DataLoader, "
                f"got {type(batches).__name__}, which ends after one pass"
            )
        self._batches, self._name = batches, name
        first = next(iter(batches), None)
        if first is None:
            raise ValueError(f"{name} must hold at least one batch, got none")
        self.batch_size = len(jax.tree.leaves(first)[0])

    def __len__(self) -> int:
        """Examples of one pass; of a pass without a known length enough for an evaluation."""
        count = len(self._batches) if hasattr(self._batches, "__len__") else Streamed.evaluation_batches
        return count * self.batch_size

    def batches(self, start: int) -> Iterator[Any]:
        """Minibatches from number `start` on; a smaller one at the end of a pass is left out."""
        place = 0
        while True:
            before = place
            for batch in self._batches:
                if len(jax.tree.leaves(batch)[0]) == self.batch_size:
                    if place >= start:
                        yield jax.tree.map(np.asarray, batch)
                    place += 1
            if place == before:
                raise ValueError(f"{self._name} must hold at least one batch in every pass, got none")


def source_of(data: Any, name: str) -> Source:
    """Arrays as a source in memory, anything else as a stream of batches.

    Args:
      data: a pytree of arrays (leading axis: examples), or an iterable of batches.
      name: of the argument, for messages.

    Raises:
      ValueError: if it is neither, or empty.
    """
    in_memory = isinstance(data, tuple | Mapping) or hasattr(data, "dtype") or dataclasses.is_dataclass(data)
    if in_memory:
        return InMemory(data)
    if not isinstance(data, Iterable):
        raise ValueError(f"{name} must be arrays or an iterable of batches, got {type(data).__name__}")
    return Streamed(Batches(data, name))


def batch_size_of(source: Source, batch_size: int) -> int:
    """Examples of a minibatch: `batch_size` from memory, at most all; as a stream has them."""
    return min(batch_size, len(source)) if isinstance(source, InMemory) else source.stream.batch_size


def minibatches(source: Source, batch_size: int) -> Iterator[Any]:
    """Minibatches without end, from memory in a random order that is always the same."""
    if isinstance(source, Streamed):
        yield from source.batches(0)
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(source))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            yield source.take(order[start : start + batch_size])


def fingerprint(source: Source) -> str:
    """What tells data in memory from other data; of a stream, which may shuffle, the shapes of a batch alone."""
    in_memory = isinstance(source, InMemory)
    tree = source.examples if in_memory else next(source.batches(0))
    digest = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        if in_memory:
            digest.update(leaf.view(np.uint8).data)
    return digest.hexdigest()[:16]
