"""From a loaded Pillow image of any mode to what a viewer shows: uint8 [H, W, 3]."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

_WIDE_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SMALLEST, _LARGEST = 258, 262, 340, 341  # tags of TIFF
_ORIENTATION = 274  # tag of EXIF and TIFF


def orientation(image: Image.Image) -> int:
    """1 to 8, as EXIF counts; 1 (as stored) where it is not declared or its block is damaged, as viewers take it."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, 3] as an orientation says that they are shown."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # rows upside down
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def keep_high_byte(image: Image.Image) -> None:
    """Brings the transparent colour of an image with colours of 16 bits to the 8 bits that Pillow keeps of them."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def rgb(image: Image.Image, background: Sequence[int]) -> np.ndarray:
    """A loaded image of any mode as uint8 [H, W, 3], on a ground where it is transparent."""
    if image.mode in _WIDE_GREY:
        values = np.asarray(image)
        pixels = np.repeat(_eight_bits(values, image)[..., None], 3, axis=-1)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            pixels[values == transparent] = background
        return pixels
    palette_alpha = image.palette is not None and image.palette.mode.endswith("A")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info or palette_alpha:
        if image.mode == "La":
            image = image.convert("LA")
        layers = np.asarray(image if image.mode == "RGBA" else image.convert("RGBA")).astype(np.uint16)
        colour, alpha = layers[..., :3], layers[..., 3:]
        return ((colour * alpha + np.asarray(background, np.uint16) * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _eight_bits(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Grey of more than 8 bits as uint8, by the rules that `decoding.decode` states."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF"):
        low, high = 0, 4095 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535
    else:
        low, high = _range(values, tags.get(_SMALLEST), tags.get(_LARGEST))
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    grey = np.floor(np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey  # 0: white is the smallest value


def _range(values: np.ndarray, smallest: object, largest: object) -> tuple[float, float]:
    """The values that become black and white."""
    declared = [value[0] if isinstance(value, tuple) else value for value in (smallest, largest)]
    if all(isinstance(value, int | float) for value in declared) and declared[0] < declared[1]:
        return float(declared[0]), float(declared[1])
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    whole = (finite == np.rint(finite)).all()
    for top in (255.0, 65535.0):
        if low >= 0 and high <= top and (whole or high > top / 2):
            return 0.0, top
    if low < high:
        return low, high
    around = max(1.0, abs(low))  # 1 is nothing beside a large value
    return low - around, high + around
