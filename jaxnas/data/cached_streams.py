"""A stream of images from a cache: nothing is decoded, so that threads of one process read as fast as memory allows.

Crops are made on the host, from the uint8 pixels of the cache, with the order and the random boxes of the stream that
decodes; only the resolution that they are cut from differs. Mirroring and normalisation are the device's, as there.
Crops on the device were decided against: boxes of all sizes would have to travel as squares of the largest one, and on a
processor, resizing them there takes ten times as long as OpenCV.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jaxnas.data import crops
from jaxnas.data.cached_images import ImageCache
from jaxnas.data.decoding import BadImageError
from jaxnas.data.streams import Stream


@dataclass(frozen=True, eq=False)
class CachedStream(Stream):
    """A `Stream` whose images come from a cache.

    Attributes:
      cache: of the source. Only threads read it, whatever `workers`.
    """

    cache: ImageCache = dataclasses.field(kw_only=True)

    def _read(self, number: int, generator: np.random.Generator | None) -> tuple[np.ndarray, int]:
        """One image of the cache, cropped, and its label."""
        try:
            pixels, label, _ = self.cache.read(number)
        except BadImageError as error:
            raise BadImageError(error.reason, self.source.describe(number)) from error
        return crops.crop(pixels, self.size, generator), label

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """See `Stream.batches`. The next minibatch is read while one is used."""
        waiting: collections.deque = collections.deque()
        with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
            try:
                for number in itertools.count(start):
                    waiting.append(self._begin(pool, number))
                    if len(waiting) > 1:
                        batch, parts = waiting.popleft()
                        self._report(set().union(*(part.result() for part in parts)))
                        yield batch
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _begin(
        self, pool: concurrent.futures.Executor, number: int
    ) -> tuple[dict[str, np.ndarray], list[concurrent.futures.Future]]:
        """A minibatch that threads fill, each some rows of it, and what tells the dead images that they met."""
        rows = self.batch_size // self.host[1]
        first = number * self.batch_size + self.host[0] * rows
        batch = {
            "image": np.empty((rows, self.size, self.size, 3), np.uint8),
            "label": np.empty(rows, np.int32),
            "flip": np.empty(rows, np.bool_),
        }

        def fill(part: range) -> set[int]:
            dead: set[int] = set()
            for row in part:
                example = self.example(first + row)
                dead.update(example.pop("dead").tolist())
                for name, value in example.items():
                    batch[name][row] = value
            return dead - {-1}

        each = -(-rows // self.threads)
        parts = [range(begin, min(begin + each, rows)) for begin in range(0, rows, each)]
        return batch, [pool.submit(fill, part) for part in parts]
