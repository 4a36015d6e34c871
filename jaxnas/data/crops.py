"""Decoding and cropping of one encoded image on the host, fit for any thread or process.

A JPEG much larger than the crop is decoded at a half, a quarter or an eighth of its size, which libjpeg does without
computing the rest. Pillow decodes, since OpenCV passes truncated files off as images; OpenCV resizes, several times as
fast.
"""

import io

import cv2
import numpy as np
from PIL import Image

cv2.setNumThreads(1)  # images are cropped side by side already, in threads or processes

MIN_SIDE = 8  # pixels; smaller images hold nothing to learn from
MAX_PIXELS = 1 << 28  # beyond, a file is taken for a decompression bomb
SCALE, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # share of the area and aspect ratio of a random crop (ProxylessNAS)
CENTRAL = 0.875  # share of the shorter side that the central crop keeps


class DeadImageError(ValueError):
    """An image cannot be decoded or is too small."""


def decode(encoded: bytes, size: int, generator: np.random.Generator | None) -> np.ndarray:
    """Decodes and crops one image.

    Args:
      encoded: a JPEG or PNG file.
      size: height and width of the result.
      generator: of the random-resized crop (Szegedy et al., arXiv 1409.4842); None for the central crop.

    Returns:
      uint8 [size, size, 3].

    Raises:
      DeadImageError: if it is no image, truncated, or smaller than 8 pixels.
    """
    try:
        image = Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG"))
        width, height = image.size
        if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
            raise DeadImageError(f"{width}x{height} pixels")
        box = central_box(width, height) if generator is None else random_box(generator, width, height)
        # The smallest scale of which the box still has `size` pixels.
        wanted = size / min(box[2] - box[0], box[3] - box[1])
        image.draft("RGB", (int(np.ceil(width * wanted)), int(np.ceil(height * wanted))))
        shrunk = (image.size[0] / width, image.size[1] / height) * 2
        box = tuple(min(edge * scale, limit) for edge, scale, limit in zip(box, shrunk, image.size * 2))
        image = image if image.mode == "RGB" else image.convert("RGB")
        pixels = np.asarray(image)
    except DeadImageError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for broken files.
        raise DeadImageError(" ".join(str(error).split()) or type(error).__name__) from error
    return _resized(pixels, box, size)


def _resized(pixels: np.ndarray, box: tuple[float, ...], size: int) -> np.ndarray:
    """A box of an image, its edges rounded to whole pixels: uint8 [H, W, 3] -> uint8 [size, size, 3]."""
    left, upper = int(box[0]), int(box[1])
    right, lower = max(round(box[2]), left + 1), max(round(box[3]), upper + 1)
    shrinks = max(right - left, lower - upper) >= 2 * size  # then interpolation would skip pixels
    # Fixed-point interpolation, which does not depend on the processor.
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR_EXACT
    return cv2.resize(pixels[upper:lower, left:right], (size, size), interpolation=interpolation)


def random_box(generator: np.random.Generator, width: int, height: int) -> tuple[float, float, float, float]:
    """(left, upper, right, lower) of a random part; of very long images the middle, at the nearest allowed ratio."""
    for _ in range(10):
        area = width * height * generator.uniform(*SCALE)
        ratio = np.exp(generator.uniform(*np.log(RATIO)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            left, upper = generator.uniform(0, width - w), generator.uniform(0, height - h)
            return left, upper, left + w, upper + h
    w, h = min(width, height * RATIO[1]), min(height, width / RATIO[0])
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def central_box(width: int, height: int) -> tuple[float, float, float, float]:
    """(left, upper, right, lower) of the central square."""
    side = CENTRAL * min(width, height)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2
