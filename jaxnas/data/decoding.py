"""One decoder for all images: what a viewer shows, as uint8 [H, W, 3].

Streams, data sets in memory and prediction all decode here, with Pillow: OpenCV decodes truncated files as if they were
whole. Two optimisations change no pixel. A whole JPEG without markers that need Pillow goes through OpenCV, if present,
which takes a tenth of the time for small images. A JPEG that a stream needs at a fraction of its size is decoded at a
half, a quarter or an eighth, which libjpeg does without computing the rest.
"""

import functools
import io
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image, JpegImagePlugin

from jaxnas.data.pixels import keep_high_byte, orientation, oriented, rgb

Color = tuple[int, int, int]

WHITE: Color = (255, 255, 255)
MAX_PIXELS = 178_956_970  # beyond, Pillow itself refuses to decode: half a gigabyte as RGB
MAX_BYTES = 1 << 30  # of a file; no image within MAX_PIXELS needs as many
# Formats that are read, by Pillow's names, and the suffixes of their files. DIB and others without a clear header are
# left out: a file is recognised by its first bytes, whatever its suffix.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".pjpeg", ".pjp", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf"),
    "AVIF": (".avif",),
}


class BadImageError(ValueError):
    """An image cannot be read.

    Attributes:
      reason: why, in a few words.
      name: of the file; None where the bytes came from elsewhere.
    """

    def __init__(self, reason: str, name: str | os.PathLike[str] | None = None):
        super().__init__(reason, name)  # both, so that the error survives the way from another process
        self.reason, self.name = reason, name

    def __str__(self) -> str:
        return self.reason if self.name is None else f"{printable(os.fspath(self.name))}: {self.reason}"


def printable(name: str) -> str:
    """A file name for messages: bytes that are no UTF-8 and control characters as escapes."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes, in lower case, of the formats that this installation of Pillow reads."""
    return frozenset(suffix for name in _readable() for suffix in FORMATS[name])


@functools.cache
def _readable() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def is_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (16 bytes at least) is an image of a known format.

    The formats of PPM have a mark of two letters, too short to tell them from text: they need their suffix.
    """
    return (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a"))
        or head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"))
        or (head[4:12] in (b"ftypavif", b"ftypavis") and "AVIF" in _readable())
    )


def decode(
    encoded: bytes,
    *,
    background: Sequence[int] = WHITE,
    max_pixels: int = MAX_PIXELS,
    name: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Decodes an image as a viewer shows it.

    Reads JPEG, PNG, WebP, BMP, TIFF, GIF, PPM and its relatives, JPEG 2000 and, with a recent Pillow, AVIF. Of an
    animation or a file of several pages it is the first. The orientation that EXIF or TIFF name is applied. Embedded
    colour profiles are not.

    Grey of more than 8 bits keeps its range. 16 bits: value / 257, rounded; 12 bits: value / 4095. Of 32-bit integers
    and floating-point values the range [low, high] becomes [0, 255]: the one that the file declares (TIFF's
    SMinSampleValue and SMaxSampleValue); otherwise [0, 1] where all values lie in it; otherwise [0, 255] or [0, 65535]
    where all lie in it and are whole numbers or reach its upper half; otherwise from the smallest to the largest value
    of the image. NaN becomes low.

    Args:
      encoded: the bytes of the file.
      background: red, green, blue in [0, 255], the ground on which transparent images are put.
      max_pixels: an image of more is refused before it is decoded. Pillow's own limit, the default, holds besides.
      name: of the file, for the error.

    Returns:
      uint8 [H, W, 3]. The three channels of a grey image are equal where the ground is grey.

    Raises:
      BadImageError: if it is no image of these formats, damaged, truncated, or has more than `max_pixels` pixels.
      ValueError: if `background` is no colour.
    """
    check_background(background)
    with naming(name):
        pixels = _decode_plain_jpeg(encoded, max_pixels)
        return pixels if pixels is not None else EncodedImage(encoded, max_pixels).pixels(background)


def check_background(background: Sequence[int]) -> None:
    """Raises ValueError if `background` is no colour."""
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise ValueError(f"background must be three values in [0, 255], red, green and blue, got {background!r}")


def decode_file(
    path: str | os.PathLike[str], *, background: Sequence[int] = WHITE, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes the image in a file, as `decode`; the error names the file, whatever is wrong with it."""
    return decode(read_file(path), background=background, max_pixels=max_pixels, name=path)


def read_file(path: str | os.PathLike[str], name: str | os.PathLike[str] | None = None) -> bytes:
    """The bytes of a file that should be an image. Never waits: a pipe is refused before it is opened.

    Args:
      path: of the file.
      name: for the error; by default the path.

    Raises:
      BadImageError: if it is a pipe, a device, a socket or a folder, larger than 1 GiB, or cannot be read.
    """
    with naming(path if name is None else name):
        status = os.stat(path)
        problem = not_a_file(status.st_mode)
        if problem is not None:
            raise BadImageError(problem)
        if status.st_size > MAX_BYTES:
            raise BadImageError(f"{status.st_size:,} bytes, more than the {MAX_BYTES:,} that an image may have")
        return Path(path).read_bytes()


def not_a_file(mode: int) -> str | None:
    """What a `st_mode` is instead of a regular file; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISDIR, "folder"))
    return f"a {next((kind for test, kind in kinds if test(mode)), 'device')}, not a file"


@contextmanager
def naming(name: str | os.PathLike[str] | None) -> Iterator[None]:
    """Turns whatever goes wrong while an image is read or decoded into a `BadImageError` that names the file."""
    try:
        yield
    except BadImageError as error:
        raise BadImageError(error.reason, name if error.name is None else error.name) from error.__cause__
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):  # its text is the address of a buffer
            reason = "no image of a known format"
        raise BadImageError(reason, name) from error
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise BadImageError(" ".join(str(error).split()) or type(error).__name__, name) from error


class EncodedImage:
    """An image whose header is read, and whose pixels are not decoded yet. Use it inside `naming`.

    Args:
      encoded: the bytes of the file.
      max_pixels: see `decode`.
    """

    def __init__(self, encoded: bytes, max_pixels: int = MAX_PIXELS):
        if not encoded:
            raise BadImageError("an empty file")
        try:
            self._image = Image.open(io.BytesIO(encoded), formats=_readable())
        except Image.UnidentifiedImageError as error:
            if not is_image(encoded[:16]):
                raise
            raise BadImageError("damaged, or a kind of image that Pillow does not read") from error
        width, height = self._image.size
        if width * height > max_pixels:
            raise BadImageError(f"{width}x{height} pixels, more than the {max_pixels:,} that an image may have")
        if self._image.format == "TIFF":  # Pillow turns it as it loads it
            self._image.load()
        if self._image.format == "PNG" and encoded[24] == 16:  # bits, in the header that begins each PNG
            keep_high_byte(self._image)
        self._orientation = orientation(self._image)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as shown."""
        width, height = self._image.size
        return (height, width) if self._orientation >= 5 else (width, height)

    def shrink(self, width: int, height: int) -> None:
        """Lets a JPEG be decoded at a smaller scale, with at least `width` x `height` pixels as shown."""
        if isinstance(self._image, JpegImagePlugin.JpegImageFile):
            # Another mode than its own would be decoded into; "RGB" asks for none.
            self._image.draft("RGB", (height, width) if self._orientation >= 5 else (width, height))

    def pixels(self, background: Sequence[int] = WHITE) -> np.ndarray:
        """Decodes: uint8 [H, W, 3], as shown."""
        self._image.load()
        return oriented(rgb(self._image, background), self._orientation)


def _decode_plain_jpeg(encoded: bytes, max_pixels: int) -> np.ndarray | None:
    """A JPEG by OpenCV, to the very pixels that Pillow decodes; None if Pillow has to look at it.

    Both use libjpeg-turbo. Other kinds are left to Pillow: with EXIF (orientation), Adobe's marker (CMYK) or several
    pictures, or without the marker of the end, which OpenCV does not miss.
    """
    opencv = _opencv()
    if opencv is None or not encoded.startswith(b"\xff\xd8\xff") or not encoded.endswith(b"\xff\xd9"):
        return None
    position = 2
    while position + 10 <= len(encoded) and encoded[position] == 0xFF:
        marker, length = encoded[position + 1], int.from_bytes(encoded[position + 2 : position + 4])
        if marker in (0xC0, 0xC2):  # a frame, baseline or progressive: precision, height, width, components
            precision, components = encoded[position + 4], encoded[position + 9]
            height, width = (int.from_bytes(encoded[at : at + 2]) for at in (position + 5, position + 7))
            if precision != 8 or components not in (1, 3) or not 0 < width * height <= max_pixels:
                return None
            flags = opencv.IMREAD_COLOR | opencv.IMREAD_IGNORE_ORIENTATION
            pixels = opencv.imdecode(np.frombuffer(encoded, np.uint8), flags)
            whole = pixels is not None and pixels.shape == (height, width, 3)
            return np.ascontiguousarray(pixels[..., ::-1]) if whole else None
        if marker not in (0xE0, 0xDB, 0xC4, 0xDD, 0xFE):  # JFIF, tables, restart interval, comment
            return None
        position += 2 + length
    return None


@functools.cache
def _opencv() -> ModuleType | None:
    try:
        import cv2  # an extra; slow to import
    except ImportError:
        return None
    return cv2
