"""A stream of images from a cache: nothing is decoded or resized on the host.

An image travels to the device as a square window of the cached pixels with a box in it; there the box is resized to the
image that the network sees (`jaxnas.data.boxes`), mirrored and normalised. Resizing on the host instead, as the stream
that decodes does it, takes longer than reading and copying the window (0.2 and 0.15 ms for an image of 224 pixels on a
shared CPU core, where decoding takes 2 ms). Where the device is a processor, resizing
is its work, 0.65 ms on two such cores: the network takes many times as long.

What is random in minibatch t of the whole job is drawn at once, from the seed and t.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxnas.data import crops
from jaxnas.data.cached_images import ImageCache
from jaxnas.data.decoding import BadImageError
from jaxnas.data.streams import Stream

_ORDER, _CROPS = 0, 1  # what random numbers are for


@dataclass(frozen=True, eq=False)
class CachedStream(Stream):
    """A `Stream` whose images come from a cache, and whose minibatches hold windows and boxes.

    Attributes:
      cache: of the source. Only threads read it, whatever `workers`.
    """

    cache: ImageCache = dataclasses.field(kw_only=True)

    def _read(self, number: int, generator: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """One image of the cache, cropped on the host, and its label."""
        pixels, label = self._cached(number)
        return crops.crop(pixels, self.size, generator), label

    def _cached(self, number: int) -> tuple[np.ndarray, int]:
        try:
            pixels, label, _ = self.cache.read(number)
        except BadImageError as error:
            raise BadImageError(error.reason, self.source.describe(number)) from error
        return pixels, label

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """Minibatches of this host from batch number `start` on, without end. The next one is read while one is used.

        Yields:
          image uint8 [B/P, W, W, 3], W the size of the cache; box float32 [B/P, 4], upper, left, lower and right edge
          in it; label int32 [B/P], flip bool [B/P].

        Raises:
          DeadImagesError: if more than `max_dead` distinct images are dead.
          DamagedCacheError: if a file of the cache is damaged.
        """
        waiting: collections.deque = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            try:
                for number in itertools.count(start):
                    waiting.append(self._begin(pool, number))
                    if len(waiting) > 1:
                        batch, dead, parts = waiting.popleft()
                        self._report(dead)
                        for part in parts:
                            part.result()
                        yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _begin(
        self, pool: concurrent.futures.Executor, number: int
    ) -> tuple[dict[str, np.ndarray], set[int], list[concurrent.futures.Future]]:
        """A minibatch, the dead images in its place, and what waits for the threads that fill it with pixels."""
        rows, window = self.batch_size // self.host[1], self.cache.contents.size
        first = self.host[0] * rows
        generator = np.random.default_rng((self.seed, _CROPS, number))
        draws = generator.random((self.batch_size, crops.DRAWS + 1))[first : first + rows]
        found = [self._readable(index, self._check) for index in self._indices(number * self.batch_size + first, rows)]
        numbers = [chosen for chosen, _ in found]
        shapes = self.cache.shapes[numbers]
        boxes = crops.random_boxes(draws[:, :-1], shapes, window) if self.augment else crops.central_boxes(shapes)
        corners, boxes = crops.windows(boxes, shapes, window)
        batch = {
            "image": np.empty((rows, window, window, 3), np.uint8),
            "box": boxes.astype(np.float32),
            "label": np.empty(rows, np.int32),
            "flip": (draws[:, -1] < 0.5) & (self.augment and self.mirror),
        }

        def fill(part: range) -> None:
            # One image after the other, so that the memory of its record is used again while the processor has it at
            # hand.
            for row in part:
                (upper, left), (pixels, label) = corners[row].tolist(), self._cached(numbers[row])
                batch["image"][row] = pixels[upper : upper + window, left : left + window]
                batch["label"][row] = self.subset.label_map[label]

        each = -(-rows // self.threads)
        parts = [range(begin, min(begin + each, rows)) for begin in range(0, rows, each)]
        return batch, {dead for _, met in found for dead in met}, [pool.submit(fill, part) for part in parts]

    def _check(self, number: int) -> int:
        """The number of an image that could be decoded; BadImageError of one that could not."""
        if not self.cache.shapes[number, 0]:
            raise BadImageError("could not be decoded")
        return number

    def _indices(self, position: int, count: int) -> list[int]:
        """Into the subset, of so many positions of the endless stream of the whole job."""
        length, found = len(self.subset.indices), []
        while count:
            epoch, begin = divmod(position, length)
            found += self._permutation(epoch)[begin : begin + count].tolist()
            taken = min(count, length - begin)
            position, count = position + taken, count - taken
        return found

    @functools.cached_property
    def _permutations(self) -> dict[int, np.ndarray]:
        """The order of the epochs that are under way."""
        return {}

    def _permutation(self, epoch: int) -> np.ndarray:
        kept = self._permutations
        if epoch not in kept:
            for old in [other for other in kept if other < epoch - 1]:
                del kept[old]
            kept[epoch] = np.random.default_rng((self.seed, _ORDER, epoch)).permutation(len(self.subset.indices))
        return kept[epoch]
