"""A supernet recorded completely: the loss of every network of its space on several validation minibatches.

Searches on a recording cost nothing but the strategy: 32 seeds of every method take seconds, and see what a search on
the supernet itself would see. Each step meets one common real minibatch out of the first half of the recording, and
regret is taken against the mean over the other half, which no search has seen.

The file, an npz of plain arrays:

    losses    float16 [M, N]   cross-entropy in nats about each minibatch's mean
    means     float32 [M]      that mean
    correct   uint16 [M, N]    images classified correctly
    images    int []           B, images of a minibatch

N networks are in lexicographic order of their choices.
"""

import dataclasses
import os
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import data
from jaxnas.results.files import replacing
from jaxnas.results.npz import read_arrays
from jaxnas.supernet import enumeration
from jaxnas.tasks.supernet import FrozenSupernet
from jaxnas.tasks.tables import Table
from jaxnas.tasks.tabular import TabularTask


@dataclass(frozen=True, eq=False)
class Recording:
    """Losses of N networks on M minibatches of B images.

    Attributes:
      losses: float32 [M, N], in nats.
      accuracy: float32 [M, N], in [0, 1].
      images: B.
    """

    losses: np.ndarray
    accuracy: np.ndarray
    images: int

    def write(self, path: str | os.PathLike) -> None:
        """Writes the npz file."""
        means = self.losses.mean(1)
        correct = np.rint(self.accuracy * self.images).astype(np.uint16)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                losses=(self.losses - means[:, None]).astype(np.float16),
                means=means.astype(np.float32),
                correct=correct,
                images=np.int64(self.images),
            )

    @classmethod
    def read(cls, path: str | os.PathLike) -> "Recording":
        """Reads what `write` wrote.

        Raises:
          OSError: if the file cannot be opened.
          ValueError: if it holds no recording.
        """
        try:
            names = ("losses", "means", "correct", "images")
            losses, means, correct, images = read_arrays(path, names).values()
            if [array.dtype.kind for array in (losses, means, correct, images)] != ["f", "f", "u", "i"] or images.ndim:
                raise ValueError("losses and means must be of floats, correct and images of integers")
            if losses.ndim != 2 or correct.shape != losses.shape or means.shape != losses.shape[:1]:
                raise ValueError(f"losses {losses.shape}, correct {correct.shape} and means {means.shape} do not match")
            losses = losses.astype(np.float32) + means.astype(np.float32)[:, None]
            if not np.isfinite(losses).all() or int(images) < 1 or correct.max(initial=0) > int(images):
                raise ValueError("losses must be finite, images positive, and correct at most as many")
        except OSError:
            raise
        except ValueError as error:
            raise ValueError(
                f"{path} is no recording of a supernet: {error}; see experiments.record_supernet"
            ) from error
        return cls(losses, (correct / int(images)).astype(np.float32), int(images))


def record(supernet: FrozenSupernet, minibatches: int, seed: int = 0) -> Recording:
    """Records a trained supernet on disjoint random minibatches of its validation split.

    Args:
      supernet: the trained supernet.
      minibatches: M.
      seed: of the choice of images.

    Raises:
      ValueError: if the split has too few images for M disjoint minibatches.
    """
    search = supernet.search
    size, available = search.settings.valid_batch_size, len(search.valid)
    if minibatches < 2 or minibatches * size > available:
        raise ValueError(
            f"minibatches must be from 2 to {available // size} ({available} images, {size} in each), got {minibatches}"
        )

    @jax.jit
    def measure(params: chex.ArrayTree, minibatch: data.Examples) -> tuple[jax.Array, jax.Array]:
        def read(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
            loss, metrics = search.loss(logits, minibatch)
            return loss, metrics["accuracy"]

        images = search.prepare(minibatch, None)
        return enumeration.map_networks(params, images, search.supernet.space, read)

    chosen = np.random.default_rng(seed).permutation(available)[: minibatches * size].reshape(minibatches, size)
    measured = [jax.device_get(measure(supernet.params, search.valid.take(jnp.asarray(indices)))) for indices in chosen]
    losses, accuracy = (np.stack(parts) for parts in zip(*measured))
    return Recording(losses, accuracy, size)


@dataclass(frozen=True, eq=False)
class RecordedTask(TabularTask):
    """A recorded supernet to search on. Build it with `of_recording`.

    `error` is the mean loss over the minibatches that no search sees, in nats.

    Attributes:
      minibatches: float32 [M / 2, N], losses on the minibatches that searches see.
      published: float64 [N], the error of each network trained alone.
    """

    minibatches: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    published: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def true_error(self) -> np.ndarray:
        """The published errors."""
        return self.published

    @classmethod
    def of_recording(cls, recording: Recording, table: Table, name: str = "recorded") -> "RecordedTask":
        """The task of a recording whose networks are the rows of a table.

        Raises:
          ValueError: if the table has another number of networks.
        """
        if recording.losses.shape[1] != len(table.error):
            raise ValueError(
                f"recording has {recording.losses.shape[1]} networks, the table {len(table.error)}; "
                "give the table of the space that was recorded"
            )
        task = TabularTask.from_table(table, name=name)
        half = len(recording.losses) // 2
        return cls(
            task.space,
            recording.losses[half:].mean(0, dtype=np.float64),
            task.cost,
            minibatches=recording.losses[:half],
            published=table.error,
        )

    def evaluate(self, key: jax.Array, archs: jax.Array) -> jax.Array:
        """Losses on one random minibatch that all architectures have in common: int [S, D] -> float32 [S]."""
        minibatch = jax.random.randint(key, (), 0, len(self.minibatches))
        return jnp.asarray(self.minibatches)[minibatch][self.index(archs)]
