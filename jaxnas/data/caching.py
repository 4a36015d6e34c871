"""Makes a cache of decoded images (`jaxnas.data.cached_images`), or what is missing of one.

Any number of processes, on one host or on many that share the folder, may build one cache at once: each takes the next
shard that is missing and that no other has locked, and waits at the end for the shards of the others, or takes them
over from processes that ended. A shard appears whole or not at all, so that a killed build goes on where it was.
"""

import base64
import concurrent.futures
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxnas.data import cached_images, crops
from jaxnas.data.cached_images import Contents, ImageCache, Shard
from jaxnas.data.decoding import WHITE, BadImageError, naming
from jaxnas.data.folder_scan import shown
from jaxnas.data.sources import ImageSource
from jaxnas.results.files import OF_THE_DISK, replacing, write_json
from jaxnas.results.json_files import seal
from jaxnas.results.ownership import OwnedError, owned

WRITING = "group_size:1,uncompressed"  # each record alone, as it is read
BLOCK = 64  # images that are decoded side by side and then written: bounds the memory
WAITING_SECONDS = 1.0  # between two looks at shards that other processes write
TELLING_SECONDS = 10.0  # between two lines of progress


def build(
    folder: Path,
    source: ImageSource,
    size: int,
    background: tuple[int, int, int] = WHITE,
    threads: int = 8,
    announce: Callable[[str], None] = lambda text: None,
    shard_images: int | None = None,
) -> ImageCache:
    """Makes the cache of a source, or what is missing of it; returns when it is complete.

    Args:
      folder: for the cache alone.
      source: of the images.
      size: of the shorter side, pixels.
      background: red, green, blue, on which transparent images are put.
      threads: that decode.
      announce: called with lines of progress, for people.
      shard_images: images of a shard of a new cache; by default `cached_images.usual_shard_images`.

    Raises:
      ValueError: if the folder holds something else, or cannot be made.
      DamagedCacheError: if a file in it is damaged.
      OSError: naming the file, if the disk is full or broken.
    """
    contents = Contents.of(source, size, background)
    each = _begin(folder, contents, shard_images or cached_images.usual_shard_images(contents.images))
    missing = [shard for shard in cached_images.shards(folder, contents.images, each) if shard.read_about() is None]
    if not missing:
        return ImageCache(folder, contents)
    count, left = missing[0].count, sum(len(shard.images) for shard in missing)
    announce(
        f"image cache {shown(folder)}: {left:,} of {contents.images:,} images are decoded once and kept, the shorter "
        f"side of {size} pixels, about {left * size * size * 4 / 1e9:.1f} GB"
    )
    began = told = time.monotonic()
    written = 0
    while missing:
        before = written
        for shard in missing:
            try:
                with owned(folder, shard.lock):
                    if shard.read_about() is None:  # by another process, meanwhile
                        _write(shard, source, size, background, threads)
                        written += len(shard.images)
                    (folder / shard.lock).unlink(missing_ok=True)
            except OwnedError:
                continue
            if time.monotonic() - told > TELLING_SECONDS:
                told = time.monotonic()
                announce(f"image cache: shard {shard.number + 1} of {count}, {written / (told - began):,.0f} images/s")
        missing = [shard for shard in missing if shard.read_about() is None]
        if missing and written == before:
            time.sleep(WAITING_SECONDS)
    cache = ImageCache(folder, contents)
    bad = f", without {cache.bad:,} that cannot be decoded" if cache.bad else ""
    announce(f"image cache {shown(folder)}: complete, {contents.images:,} images{bad} in {cache.bytes / 1e9:.2f} GB")
    return cache


def decode_for_cache(encoded: bytes, size: int, background: tuple[int, int, int] = WHITE) -> np.ndarray:
    """One image as a cache keeps it.

    Resized by Pillow's bicubic filter, which averages where it shrinks. A JPEG of more than twice the size is decoded
    at a half, a quarter or an eighth, to twice the size at least.

    Args:
      encoded: the bytes of the file.
      size: of the shorter side.
      background: on which transparent images are put.

    Returns:
      uint8 [H, W, 3].

    Raises:
      BadImageError: if it cannot be decoded, or is smaller than 8 pixels.
    """
    with naming(None):
        image = crops.opened(encoded)
        width, height = image.size
        scale = size / min(width, height)
        width, height = round(width * scale), round(height * scale)
        image.shrink(2 * width, 2 * height)
        pixels = image.pixels(background)
        if pixels.shape[:2] == (height, width):
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _begin(folder: Path, contents: Contents, shard_images: int) -> int:
    """Writes the manifest, or compares the one that is there; returns the images of a shard."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while (each := cached_images.read_manifest(folder, contents)) is None:
            try:
                with owned(folder):
                    if cached_images.read_manifest(folder, contents) is None:
                        cached_images.write_manifest(folder, contents, shard_images)
            except OwnedError:  # by another process that begins it
                time.sleep(WAITING_SECONDS)
        return each
    except OSError as error:
        if error.errno in OF_THE_DISK:
            raise
        raise ValueError(
            f"image_cache {shown(folder)} cannot be made: {error.strerror}; choose another folder"
        ) from error


def _write(shard: Shard, source: ImageSource, size: int, background: tuple[int, int, int], threads: int) -> None:
    """Writes a shard, which this process owns."""
    from array_record.python.array_record_module import ArrayRecordWriter  # here, because it is slow to import

    for stale in shard.folder.glob(f".{shard.path.stem}-*"):  # of a process that was killed
        stale.unlink(missing_ok=True)
    shapes = []
    with replacing(shard.path) as temporary:
        writer = ArrayRecordWriter(str(temporary), WRITING)
        try:
            for record, shape in _records(shard.images, source, size, background, threads):
                with _disk_errors(shard.path):
                    writer.write(record)
                shapes.append(shape)
        finally:
            with _disk_errors(shard.path):
                writer.close()
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        text = base64.b64encode(np.array(shapes, "<i4").tobytes()).decode()
        about = {"bytes": temporary.stat().st_size, "sha256": digest, "shapes": text}
    write_json(shard.about, seal({"records": about}))


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turns the RuntimeError that array_record raises on a full or broken disk into an OSError that names the file."""
    try:
        yield
    except RuntimeError as error:
        number = next((each for each in OF_THE_DISK if os.strerror(each) in str(error)), errno.EIO)
        raise OSError(number, os.strerror(number), str(path)) from error


def _records(
    numbers: range, source: ImageSource, size: int, background: tuple[int, int, int], threads: int
) -> Iterator[tuple[bytes, list[int]]]:
    """The records of images in their order, and height and width of each; 0 where it cannot be decoded."""

    def make(number: int) -> tuple[bytes, list[int]]:
        label = -1
        try:
            encoded, label = source.read(number)
            pixels = decode_for_cache(encoded, size, background)
        except BadImageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in OF_THE_DISK:
                raise error.__cause__ from error  # the image may be whole
            return cached_images.to_record(None, label, error.reason), [0, 0]
        return cached_images.to_record(pixels, label, source.describe(number)), list(pixels.shape[:2])

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for begin in range(0, len(numbers), BLOCK):
            yield from pool.map(make, numbers[begin : begin + BLOCK])
