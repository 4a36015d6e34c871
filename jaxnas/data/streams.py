"""An endless, shuffled stream of image minibatches, read by grain, whose position is one number.

Which images make batch t of the whole job depends on the seed and t alone, not on the number of hosts, devices or
workers: host p of P takes rows p B/P to (p + 1) B/P. A search that saves t continues with the very images it would have
seen, on any other number of devices.
"""

import concurrent.futures
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from jaxnas.data import crops
from jaxnas.data.decoding import WHITE, BadImageError, check_background
from jaxnas.data.parts import Subset
from jaxnas.data.sources import ImageSource

Result = TypeVar("Result")

_LOGGER = logging.getLogger(__name__)
TRIES = 100  # images read in place of a dead one before the data set is given up
NAMED = 3  # dead images named in an error


@functools.cache
def _grain() -> ModuleType:
    """Grain, which is an extra; ValueError in one line if it is not installed."""
    try:
        import grain
    except ImportError as error:
        raise ValueError("images are streamed with grain: pip install 'jaxnas[imagenet]'") from error
    return grain


class DeadImagesError(ValueError):
    """More images than allowed cannot be read."""


@dataclass(frozen=True, eq=False)
class Stream:
    """A shuffled stream over a part of a source.

    Attributes:
      source: of the images.
      subset: which of them.
      size: height and width of the images.
      batch_size: B, of the whole job.
      seed: of the order and the crops.
      augment: random-resized crops and flips; else central crops.
      host: this host's number, and how many there are.
      threads: that decode, where there are no workers.
      workers: processes that decode; 0 for threads of this one.
      max_dead: distinct dead images that are skipped before the stream gives up.
      mirror: whether `augment` flips, see `jaxnas.data.preprocessing.mirrored`.
      background: red, green, blue, on which transparent images are put.
    """

    source: ImageSource
    subset: Subset
    size: int
    batch_size: int
    seed: int
    augment: bool
    host: tuple[int, int] = (0, 1)
    threads: int = 4
    workers: int = 0
    max_dead: int = 100
    mirror: bool = True
    background: tuple[int, int, int] = WHITE

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.host[1]:
            raise ValueError(f"batch_size must be a multiple of the {self.host[1]} hosts, got {self.batch_size}")
        check_background(self.background)
        _grain()
        crops.opencv()
        if not len(self.subset.indices):
            raise ValueError(f"data set {self.source.name} has no image in one of its halves; change valid_fraction")
        given = (self.threads, self.workers, self.max_dead, self.size)
        for name, least, value in zip(("threads", "workers", "max_dead_images", "image_size"), (1, 0, 0, 8), given):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def __len__(self) -> int:
        """Images of one pass."""
        return len(self.subset.indices)

    @functools.cached_property
    def _order(self) -> Any:
        return _grain().MapDataset.range(len(self.subset.indices)).seed(self.seed).shuffle().repeat()

    @functools.cached_property
    def _dead(self) -> set[int]:
        """Dead images met so far, each reported once."""
        return set()

    def example(self, position: int) -> dict[str, np.ndarray]:
        """The image at one position of the endless stream of the whole job.

        Returns:
          image uint8 [size, size, 3]; label int32; flip bool, whether to mirror it (on the device); dead int64 [TRIES],
          the dead images met on the way, padded with -1.
        """

        def read(number: int) -> tuple[np.ndarray, int, bool]:
            generator = np.random.default_rng((self.seed, position, number)) if self.augment else None
            image, label = self._read(number, generator)
            return image, label, generator is not None and generator.random() < 0.5 and self.mirror

        (image, label, flip), dead = self._readable(int(self._order[position]), read)
        padded = np.array(dead + [-1] * (TRIES - len(dead)), np.int64)
        return {
            "image": image,
            "label": np.int32(self.subset.label_map[label]),
            "flip": np.bool_(flip),
            "dead": padded,
        }

    def _readable(self, index: int, read: Callable[[int], Result]) -> tuple[Result, list[int]]:
        """What `read` returns for an image of the subset, or for the next one that is not dead; and the dead before."""
        count, dead = len(self.subset.indices), []
        while len(dead) < min(TRIES, count):
            number = int(self.subset.indices[index])
            try:
                return read(number), dead
            except BadImageError:
                dead.append(number)
                index = (index + 1) % count
        raise DeadImagesError(
            f"{len(dead)} images of {self.source.name} in a row cannot be decoded ({self._reasons(dead)}); "
            "the data set is damaged"
        )

    def _read(self, number: int, generator: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """One image of the source, cropped, and its label."""
        encoded, label = self.source.read(number)
        name = self.source.describe(number)
        return crops.decode_crop(encoded, self.size, generator, self.background, name), label

    def _reason(self, number: int) -> str:
        """File and reason of a bad image. It is read again, since worker processes hand on numbers alone."""
        try:
            self._read(number, None)
        except BadImageError as error:
            return str(error)
        return f"{self.source.describe(number)}: could not be read the first time"

    def _reasons(self, numbers: Sequence[int]) -> str:
        """The first few."""
        return "; ".join(map(self._reason, numbers[:NAMED])) + ("; ..." if numbers[NAMED:] else "")

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Minibatches of this host from batch number `start` on, without end.

        Yields:
          image uint8 [B/P, size, size, 3], label int32 [B/P], flip bool [B/P].

        Raises:
          DeadImagesError: if more than `max_dead` distinct images are dead.
        """
        rows = self.batch_size // self.host[1]
        first = start * self.batch_size + self.host[0] * rows
        grain = _grain()
        examples = grain.MapDataset.source(_Positions(first, rows, self.batch_size)).map(self.example)
        if self.workers:
            from absl import flags

            if not flags.FLAGS.is_parsed():  # grain asks absl's flags, which only absl's own programs parse
                flags.FLAGS.mark_as_parsed()
            options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
            iterable = examples.batch(rows).to_iter_dataset(options)
            iterable = iterable.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        else:
            options = grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=2 * rows)
            iterable = examples.to_iter_dataset(options).batch(rows)
        for batch in iterable:
            self._report(set(batch.pop("dead").ravel().tolist()) - {-1})
            yield batch

    def once(self) -> Iterator[dict[str, np.ndarray]]:
        """Every image of the subset once, in its order, as minibatches of this host; all hosts yield equally many.

        Yields:
          image uint8 [B/P, size, size, 3], label int32 [B/P], weight float32 [B/P], 0 where the minibatch is filled up
          or an image is dead.

        Raises:
          DeadImagesError: if more than `max_dead` distinct images are dead.
        """
        rows = self.batch_size // self.host[1]
        with concurrent.futures.ThreadPoolExecutor(self.threads) as threads:
            for first in range(0, len(self.subset.indices), self.batch_size):
                begin = first + self.host[0] * rows
                numbers = self.subset.indices[begin : begin + rows].tolist()
                read = list(threads.map(self._try_to_read, numbers))
                self._report([number for number, one in zip(numbers, read) if one is None])
                batch = {
                    "image": np.zeros((rows, self.size, self.size, 3), np.uint8),
                    "label": np.zeros(rows, np.int32),
                    "weight": np.zeros(rows, np.float32),
                }
                for row, one in enumerate(read):
                    if one is not None:
                        image, label = one
                        batch["image"][row] = image
                        batch["label"][row] = self.subset.label_map[label]
                        batch["weight"][row] = 1
                yield batch

    def _try_to_read(self, number: int) -> tuple[np.ndarray, int] | None:
        """The central crop of an image, and its label; None if it is dead."""
        try:
            return self._read(number, None)
        except BadImageError:
            return None

    @property
    def dead(self) -> frozenset[int]:
        """Dead images met so far, but for those that an earlier start met."""
        return frozenset(self._dead)

    def _report(self, numbers: Iterable[int]) -> None:
        """Warns of dead images that were not met before; DeadImagesError if they are too many."""
        dead, met = self._dead, self.source.met_bad
        for number in sorted(set(numbers) - dead - getattr(self.source, "known_bad_numbers", frozenset())):
            dead.add(number)
            if number not in met:  # by another stream, such as of another training
                met.add(number)
                reason = self._reason(number)
                _LOGGER.warning("bad image of %s is skipped (%d so far): %s", self.source.name, len(met), reason)
        if len(dead) > self.max_dead:
            raise DeadImagesError(
                f"{len(dead)} images of {self.source.name} cannot be decoded, more than the {self.max_dead} that "
                f"max_dead_images allows ({self._reasons(sorted(dead))}); remove these images, or raise the limit"
            )


@dataclass(frozen=True)
class _Positions:
    """Positions, in the whole job's stream, of one host's images."""

    first: int
    rows: int
    batch_size: int

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> int:
        return self.first + index // self.rows * self.batch_size + index % self.rows
