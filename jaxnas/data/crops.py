"""One image, encoded or decoded, cropped on the host, fit for any thread or process.

A JPEG much larger than the crop is decoded at a smaller scale, see `jaxnas.data.decoding`. OpenCV resizes, several
times as fast as Pillow.
"""

import functools
from collections.abc import Sequence
from types import ModuleType

import numpy as np

from jaxnas.data.decoding import WHITE, BadImageError, EncodedImage, naming

MIN_SIDE = 8  # pixels; smaller images hold nothing to learn from
SCALE, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)  # share of the area and aspect ratio of a random crop (ProxylessNAS)
TRIES = 10  # boxes drawn before the middle is taken
DRAWS = 2 * TRIES + 2  # random numbers for a box of `random_boxes`
CENTRAL = 0.875  # share of the shorter side that the central crop keeps


@functools.cache
def opencv() -> ModuleType:
    """OpenCV, which is an extra; ValueError in one line if it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ValueError("images are resized with OpenCV: pip install 'jaxnas[imagenet]'") from error
    cv2.setNumThreads(1)  # images are cropped side by side already, in threads or processes
    return cv2


def decode_crop(
    encoded: bytes,
    size: int,
    generator: np.random.Generator | None,
    background: Sequence[int] = WHITE,
    name: str | None = None,
    central: float = CENTRAL,
) -> np.ndarray:
    """Decodes and crops one image.

    Args:
      encoded: the bytes of the file, in any format of `jaxnas.data.decode`.
      size: height and width of the result.
      generator: of the random-resized crop (Szegedy et al., arXiv 1409.4842); None for the central crop.
      background: red, green, blue, on which transparent images are put.
      name: of the file, for the error.
      central: share of the shorter side that the central crop keeps.

    Returns:
      uint8 [size, size, 3].

    Raises:
      BadImageError: if it cannot be decoded, or is smaller than 8 pixels.
      ValueError: if OpenCV is not installed.
    """
    opencv()
    with naming(name):
        image = opened(encoded)
        width, height = image.size
        box = central_box(width, height, central) if generator is None else random_box(generator, width, height)
        # The smallest scale of which the box still has `size` pixels.
        wanted = size / min(box[2] - box[0], box[3] - box[1])
        image.shrink(int(np.ceil(width * wanted)), int(np.ceil(height * wanted)))
        pixels = image.pixels(background)
        shown = pixels.shape[1::-1] * 2
        box = tuple(min(edge * (now / was), now) for edge, now, was in zip(box, shown, (width, height) * 2))
        return _resized(pixels, box, size)


def opened(encoded: bytes) -> EncodedImage:
    """An image whose header is read; BadImageError if it is smaller than 8 pixels. Use it inside `naming`."""
    image = EncodedImage(encoded)
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadImageError(f"{width}x{height} pixels, less than {MIN_SIDE}")
    return image


def crop(pixels: np.ndarray, size: int, generator: np.random.Generator | None, central: float = CENTRAL) -> np.ndarray:
    """Crops an image that is decoded already, as `decode_crop` does.

    Args:
      pixels: uint8 [H, W, 3].
      size: height and width of the result.
      generator: of the random-resized crop; None for the central crop.
      central: share of the shorter side that the central crop keeps.

    Returns:
      uint8 [size, size, 3].
    """
    height, width = pixels.shape[:2]
    box = central_box(width, height, central) if generator is None else random_box(generator, width, height)
    return _resized(pixels, box, size)


def _resized(pixels: np.ndarray, box: tuple[float, ...], size: int) -> np.ndarray:
    """A box of an image, its edges rounded to whole pixels: uint8 [H, W, 3] -> uint8 [size, size, 3]."""
    left, upper = int(box[0]), int(box[1])
    right, lower = max(round(box[2]), left + 1), max(round(box[3]), upper + 1)
    shrinks = max(right - left, lower - upper) >= 2 * size  # then interpolation would skip pixels
    # Fixed-point interpolation, which does not depend on the processor.
    interpolation = opencv().INTER_AREA if shrinks else opencv().INTER_LINEAR_EXACT
    return opencv().resize(pixels[upper:lower, left:right], (size, size), interpolation=interpolation)


def random_box(generator: np.random.Generator, width: int, height: int) -> tuple[float, float, float, float]:
    """(left, upper, right, lower) of a random part; of very long images the middle, at the nearest allowed ratio."""
    for _ in range(TRIES):
        area = width * height * generator.uniform(*SCALE)
        ratio = np.exp(generator.uniform(*np.log(RATIO)))
        w, h = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if w <= width and h <= height:
            left, upper = generator.uniform(0, width - w), generator.uniform(0, height - h)
            return left, upper, left + w, upper + h
    w, h = min(width, height * RATIO[1]), min(height, width / RATIO[0])
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


def central_box(width: int, height: int, central: float = CENTRAL) -> tuple[float, float, float, float]:
    """(left, upper, right, lower) of the central square, whose side is a share of the shorter side."""
    side = central * min(width, height)
    return (width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2


def random_boxes(draws: np.ndarray, shapes: np.ndarray, largest: int) -> np.ndarray:
    """`random_box` of many images at once, with edges of at most `largest` pixels.

    Args:
      draws: float [B, DRAWS], uniform in [0, 1).
      shapes: int [B, 2], height and width of each image.
      largest: pixels that a box may be high and wide.

    Returns:
      float [B, 4]: upper, left, lower and right edge.
    """
    chosen = np.arange(len(shapes))
    room = np.minimum(shapes, largest).T  # [2, B]
    area = shapes.prod(1)[:, None] * (SCALE[0] + (SCALE[1] - SCALE[0]) * draws[:, :TRIES])
    low, high = np.log(RATIO)
    ratio = np.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
    heights, widths = np.sqrt(area / ratio), np.sqrt(area * ratio)  # [B, TRIES]
    fits = (heights <= room[0][:, None]) & (widths <= room[1][:, None])
    first = fits.argmax(1)
    middle = np.minimum(room[0], room[1] / RATIO[0]), np.minimum(room[1], room[0] * RATIO[1])
    sides = np.where(fits.any(1), (heights[chosen, first], widths[chosen, first]), middle)  # [2, B]
    place = np.where(fits.any(1), draws[:, 2 * TRIES :].T, 0.5)
    corners = place * (shapes.T - sides)
    return np.concatenate([corners, corners + sides]).T


def central_boxes(shapes: np.ndarray, central: float = CENTRAL) -> np.ndarray:
    """`central_box` of many images: int [B, 2], height and width -> float [B, 4], upper, left, lower, right."""
    sides = np.broadcast_to(central * shapes.min(1), (2, len(shapes)))
    return np.concatenate([(shapes.T - sides) / 2, (shapes.T + sides) / 2]).T


def windows(boxes: np.ndarray, shapes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Square parts of images, of whole pixels, around boxes.

    Args:
      boxes: float [B, 4], upper, left, lower, right, of at most `size` pixels an edge.
      shapes: int [B, 2], height and width of each image, at least `size`.
      size: height and width of the parts.

    Returns:
      (int [B, 2], row and column of each part's first pixel; float [B, 4], the boxes in their parts. Where a box as
      long as the part lies between pixels, it loses less than a pixel.)
    """
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = np.clip(np.round(middle - size / 2), 0, shapes - size).astype(np.int64)
    return corners, np.clip(boxes - np.tile(corners, 2), 0, size)
