"""A cache of decoded images: every image of a source once, resized, as uint8 pixels that are read by their number.

    FOLDER/manifest.json                            what the cache is of, see `Contents`; sealed
    FOLDER/images-00003-of-00160.array_record       a shard: images 3 R to 4 R - 1 of the source, one record each
    FOLDER/images-00003-of-00160.json               its bytes and SHA-256, and the shapes of its images; sealed

Shapes are int32 [R, 2], height and width, little-endian, as base64: a start reads those of all images.

A record is a header (height, width, label, bytes of text, each 4 bytes, little-endian), the pixels [H, W, 3], and the
name of the image in UTF-8. An image that cannot be decoded has height 0, and the reason in place of its name. Records
are not compressed, so that reading one is a copy; array_record compares a checksum of each one that is read.

`jaxnas.data.caching` makes such a folder.
"""

import base64
import dataclasses
import functools
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.data.decoding import BadImageError
from jaxnas.data.folder_scan import shown
from jaxnas.data.sources import ImageSource
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_sealed, seal

FORMAT = 1  # of the records and the manifest
MANIFEST = "manifest.json"
# Most images of a shard: 2 GB at 256 pixels; ImageNet has 157 shards, fewer than the files that a process may open.
SHARD_IMAGES = 8192
SHARDS = 64  # of a smaller data set, so that hosts can share the work and a start that was killed has lost little
# A random record is read alone: nothing is read ahead, and no threads of the library are waited for.
READING = "readahead_buffer_size:0,max_parallelism:0"
REMEDY = "delete it, then the next start builds it again"
_HEADER = struct.Struct("<IIiI")


class DamagedCacheError(ValueError):
    """A file of a cache is not what was written; the message names it and the remedy."""


@dataclass(frozen=True)
class Contents:
    """What a cache is of; two caches of equal contents hold the same pixels.

    Attributes:
      source: name of the data set or folder.
      split: of it.
      fingerprint: of the source, see `jaxnas.data.sources.ImageSource`.
      images: how many.
      size: of the shorter side of each image, pixels.
      background: red, green, blue, on which transparent images were put.
    """

    source: str
    split: str
    fingerprint: str
    images: int
    size: int
    background: tuple[int, ...]

    @classmethod
    def of(cls, source: ImageSource, size: int, background: tuple[int, ...]) -> "Contents":
        """What a cache of a source is of."""
        return cls(source.name, source.split, source.fingerprint(), len(source), size, tuple(background))


@dataclass(frozen=True)
class Shard:
    """Some images of a cache, which follow each other.

    Attributes:
      folder: of the cache.
      number: of the shard, from 0.
      count: of all shards.
      images: numbers of its images in the source.
    """

    folder: Path
    number: int
    count: int
    images: range

    @property
    def path(self) -> Path:
        """The file of its records."""
        return self.folder / f"images-{self.number:05}-of-{self.count:05}.array_record"

    @property
    def about(self) -> Path:
        """The file that says what is in `path`, written after it."""
        return self.path.with_suffix(".json")

    @property
    def lock(self) -> str:
        """Name of the file that a process locks while it writes the shard."""
        return f".{self.path.stem}.owner"

    def read_about(self) -> dict[str, Any] | None:
        """What is known of the records; None where there are none yet.

        Raises:
          DamagedCacheError: if the file is damaged, or the records have another length.
        """
        try:
            known = {name: read_sealed(self.about)["records"][name] for name in ("bytes", "sha256", "shapes")}
            shapes = np.frombuffer(base64.b64decode(known["shapes"], validate=True), "<i4").reshape(len(self.images), 2)
            length = self.path.stat().st_size
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DamagedCacheError(f"{shown(self.about)} is damaged ({error}); {REMEDY}") from error
        if length != known["bytes"]:
            raise DamagedCacheError(
                f"{shown(self.path)} is damaged ({length:,} bytes instead of {known['bytes']:,}); {REMEDY}"
            )
        return {**known, "shapes": shapes}


def usual_shard_images(images: int) -> int:
    """How many images a shard has in a cache of so many."""
    return min(max(-(-images // SHARDS), 16), SHARD_IMAGES)


def shards(folder: Path, images: int, each: int) -> list[Shard]:
    """All shards of a cache, `each` images in all but the last."""
    count = -(-images // each)
    return [Shard(folder, n, count, range(n * each, min((n + 1) * each, images))) for n in range(count)]


def read_manifest(folder: Path, wanted: Contents) -> int | None:
    """Images of a shard of the cache in a folder; None where there is no cache yet.

    Raises:
      ValueError: if the folder holds a cache of something else, naming the differences, or other files.
      DamagedCacheError: if its manifest is damaged.
    """
    path = folder / MANIFEST
    try:
        document = read_sealed(path)
    except FileNotFoundError:
        others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if path.exists():  # since another process began the cache
            return read_manifest(folder, wanted)
        if others:
            raise ValueError(
                f"image_cache {shown(folder)} holds {others[0]!r} and no {MANIFEST}; give a folder for the cache alone"
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise DamagedCacheError(
            f"{shown(path)} is damaged ({error}); delete its folder, then it is built again"
        ) from error
    if not isinstance(document, Mapping) or document.get("format") != FORMAT:
        raise ValueError(
            f"image_cache {shown(folder)} is not of format {FORMAT}, which is read here; choose another folder, or "
            "delete it"
        )
    there, here = document.get("contents", {}), _to_json(wanted)
    different = [
        f"{name} ({there.get(name)!r} there, {here[name]!r} now)" for name in here if there.get(name) != here[name]
    ]
    if different:
        raise ValueError(
            f"image_cache {shown(folder)} holds other images, different in {', '.join(different)}; "
            "choose another folder, or delete it"
        )
    return int(document["shard_images"])


def write_manifest(folder: Path, contents: Contents, shard_images: int) -> None:
    """Begins a cache with so many images in a shard."""
    document = {"format": FORMAT, "contents": _to_json(contents), "shard_images": shard_images}
    write_json(folder / MANIFEST, seal(document))


def _to_json(contents: Contents) -> dict[str, Any]:
    return {**dataclasses.asdict(contents), "background": list(contents.background)}


def to_record(pixels: np.ndarray | None, label: int, text: str) -> bytes:
    """The record of an image uint8 [H, W, 3] with its name; or, without pixels, with the reason that there are none."""
    height, width = (0, 0) if pixels is None else pixels.shape[:2]
    encoded = text.encode("utf-8", "backslashreplace")
    return _HEADER.pack(height, width, label, len(encoded)) + (b"" if pixels is None else pixels.tobytes()) + encoded


def from_record(record: bytes) -> tuple[np.ndarray | None, int, str]:
    """What `to_record` was given, the pixels as a view of the record; ValueError if it is no record."""
    height, width, label, length = _HEADER.unpack_from(record)
    end = _HEADER.size + 3 * height * width
    if len(record) != end + length:
        raise ValueError(f"a record of {len(record)} bytes instead of {end + length}")
    text = record[end:].decode()
    if not height:
        return None, label, text
    pixels = np.frombuffer(record, np.uint8, 3 * height * width, _HEADER.size)
    return pixels.reshape(height, width, 3), label, text


class ImageCache:
    """The images of a cache by their number in the source, from any thread.

    Args:
      folder: of the cache.
      wanted: what it must be of.

    Raises:
      ValueError: if it is of something else, or not complete.
      DamagedCacheError: if a file is damaged.
    """

    def __init__(self, folder: Path, wanted: Contents):
        self.contents = wanted
        each = read_manifest(folder, wanted) if folder.is_dir() else None
        self._shards = [] if each is None else shards(folder, wanted.images, each)
        self._each = each or 1
        self._about = [shard.read_about() for shard in self._shards]
        if each is None or None in self._about:
            raise ValueError(
                f"image_cache {shown(folder)} is not complete; the search builds it: start it with --image-cache"
            )
        self._readers: list[Any] = [None] * len(self._shards)
        self._lock = threading.Lock()

    @functools.cached_property
    def shapes(self) -> np.ndarray:
        """Height and width of each image, int32 [N, 2]; 0 where it could not be decoded."""
        return np.concatenate([about["shapes"] for about in self._about])

    @property
    def bad(self) -> int:
        """How many images could not be decoded."""
        return int((self.shapes[:, 0] == 0).sum())

    @functools.cached_property
    def bytes(self) -> int:
        """Of all records."""
        return sum(about["bytes"] for about in self._about)

    def read(self, number: int) -> tuple[np.ndarray, int, str]:
        """An image uint8 [H, W, 3], its label and its name.

        Raises:
          BadImageError: if it could not be decoded.
          DamagedCacheError: if the record is not what was written.
        """
        shard = self._shards[number // self._each]
        try:
            pixels, label, text = from_record(self._reader(shard).read([number - shard.images.start])[0])
        except (ValueError, RuntimeError, IndexError, OSError, struct.error) as error:
            reason = " ".join(str(error).split())
            raise DamagedCacheError(f"{shown(shard.path)} is damaged ({reason:.200}); {REMEDY}") from error
        if pixels is None:
            raise BadImageError(text)
        return pixels, label, text

    def _reader(self, shard: Shard) -> Any:
        """Opened at its first use, by one thread."""
        if self._readers[shard.number] is None:
            from array_record.python.array_record_module import ArrayRecordReader  # here, because it is slow to import

            with self._lock:
                if self._readers[shard.number] is None:
                    self._readers[shard.number] = ArrayRecordReader(str(shard.path), READING)
        return self._readers[shard.number]
