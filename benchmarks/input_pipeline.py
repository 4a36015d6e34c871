"""Images a second of the input stream, decoding and from a cache, against a plain loop over TFDS with Pillow.

    python -m benchmarks.input_pipeline
    python -m benchmarks.input_pipeline --data-dir DIR          ImageNet instead of made images of its usual size

All but the cache read the same array_record files, decode, take a random-resized crop and make uint8 minibatches. The
cached stream makes minibatches of windows of images that were decoded before, and of boxes in them, which the device
resizes (see jaxnas/data/cached_streams.py). They take turns, in one run, and the median of the rounds counts. All files
are in the memory of the system if they fit there: what a disk delivers is another matter (256 KB an image).
"""

import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import cli, make_images
from jaxnas.data import caching, crops, parts, sources
from jaxnas.data.cached_streams import CachedStream
from jaxnas.data.streams import Stream

PLAIN = "plain loop"


@dataclass(frozen=True)
class Config:
    """Time the input stream.

    Attributes:
      data_dir: prepared imagenet2012; made images by default.
      size: height and width of the crops.
      batch_size: images in a minibatch.
      batches: minibatches in a round.
      rounds: how often each is timed.
      threads: that decode in the first form of the stream.
      workers: processes that decode in the second.
      cache_size: pixels of the shorter side of cached images; by default as a search has it.
      cache_batches: minibatches of the cached stream in a round.
      image_cache: folder for the cached images; a temporary one by default.
    """

    data_dir: Path | None = None
    size: int = 224
    batch_size: int = 32
    batches: int = 12
    rounds: int = 5
    threads: int = 4
    workers: int = os.cpu_count() or 1
    cache_size: int | None = None
    cache_batches: int = 60
    image_cache: Path | None = None


def plain_loop(source: sources.TfdsSource, size: int, batch_size: int) -> Iterator[np.ndarray]:
    """Minibatches as one would write them without a library: one image after the other."""
    generator = np.random.default_rng(0)
    while True:
        batch = []
        for index in generator.integers(0, len(source), batch_size):
            encoded, _ = source.read(int(index))
            image = Image.open(BytesIO(encoded)).convert("RGB")
            left, upper, right, lower = map(round, crops.random_box(generator, *image.size))
            image = image.crop((left, upper, right, lower)).resize((size, size), Image.Resampling.BILINEAR)
            batch.append(np.asarray(image))
        yield np.stack(batch)


def rate(batches: Iterator[object], count: int, batch_size: int) -> float:
    """Images a second of the next `count` minibatches."""
    started = time.perf_counter()
    for _ in itertools.islice(batches, count):
        pass
    return count * batch_size / (time.perf_counter() - started)


def main(config: Config) -> None:
    """Prints the rates, and their ratios to that of the plain loop."""
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = config.data_dir
        if data_dir is None:
            data_dir = Path(temporary)
            make_images.main(make_images.Config(out=data_dir, classes=20, images=300, smallest=350, largest=550))
        source = sources.TfdsSource("imagenet2012", data_dir)
        everything, _ = parts.halves(source, 0.1, seed=0)
        stream = functools.partial(
            Stream, source, everything, config.size, config.batch_size, seed=0, augment=True, threads=config.threads
        )
        started = time.perf_counter()
        cache_size = round(config.size / crops.CENTRAL) if config.cache_size is None else config.cache_size
        folder = Path(temporary) / "cache" if config.image_cache is None else config.image_cache
        cache = caching.build(folder, source, cache_size, threads=config.threads)
        print(
            f"cache: {len(source)} images of {cache_size} pixels, {cache.bytes / len(source) / 1e3:.0f} KB each, "
            f"in {time.perf_counter() - started:.1f} s"
        )
        cached = functools.partial(CachedStream, *stream.args, **stream.keywords, cache=cache)
        from_cache = f"cache, {config.threads} threads"
        programs: dict[str, Callable[[], Iterator[object]]] = {
            PLAIN: lambda: plain_loop(source, config.size, config.batch_size),
            f"stream, {config.threads} threads": lambda: stream().batches(0),
            f"stream, {config.workers} workers": lambda: stream(workers=config.workers).batches(0),
            from_cache: lambda: cached().batches(0),
        }
        rates: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(config.rounds):
            for name, make in programs.items():
                batches = make()
                rate(batches, 3, config.batch_size)  # what was read ahead while it started
                count = config.cache_batches if name == from_cache else config.batches
                rates[name].append(rate(batches, count, config.batch_size))
                batches.close()
        medians = {name: statistics.median(values) for name, values in rates.items()}
        for name, value in medians.items():
            spread = f"({min(rates[name]):.0f} to {max(rates[name]):.0f})"
            print(f"{name:18s} {value:6.0f} images/s {spread}, ratio {value / medians[PLAIN]:.2f}")
        decoding = max(value for name, value in medians.items() if name not in (PLAIN, from_cache))
        print(f"cache against decoding: {medians[from_cache] / decoding:.1f} times")


if __name__ == "__main__":
    cli.run(main, Config)
