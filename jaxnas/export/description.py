"""The description of a trained network: the values of `network.json`, and their checks."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas import data
from jaxnas.data.decoding import WHITE, check_background
from jaxnas.spaces import SPACES, SearchSpace


@dataclasses.dataclass(frozen=True)
class NetworkDescription:
    """Description of a trained network.

    Attributes:
      space: name of its search space.
      encoding: its D choice indices.
      width: factor on the channels of the space.
      image_size: height and width of its images, pixels.
      num_classes: number of outputs.
      dataset: name of the data set that it was trained on.
      mean: mean of each channel, of values scaled to [0, 1], to normalise images with.
      std: standard deviation of each channel, likewise.
      test_accuracy: in [0, 1]; None if unknown.
      trained_with: settings of the training.
      versions: versions of the software that trained it.
      class_names: names of the outputs; empty if classes have no names.
      crop: side of the central square that the network gets, as a fraction of the image's shorter side, in (0, 1].
      background: red, green, blue in [0, 255], the background of transparent images.
    """

    space: str
    encoding: tuple[int, ...]
    width: float
    image_size: int
    num_classes: int
    dataset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    test_accuracy: float | None = None
    trained_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    crop: float = 1.0
    background: tuple[int, int, int] = WHITE

    def class_name(self, label: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[label] if self.class_names else str(label)

    def build_space(self) -> SearchSpace:
        """The search space at this width, image size and number of classes; ValueError if it is not known."""
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, got {self.space!r}")
        return SPACES[self.space](width=self.width, image_size=self.image_size, num_classes=self.num_classes)

    def preprocess(self, images: chex.Array) -> jax.Array:
        """Normalised images for the network: uint8 [B, H, W, 3] -> float32 [B, H, W, 3].

        Raises:
          ValueError: if the images have another type or size.
        """
        images = jnp.asarray(images)
        size = self.image_size
        if images.dtype != jnp.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be uint8 [B, {size}, {size}, 3], got {images.dtype} {list(images.shape)}")
        return data.normalize(images, self.mean, self.std)


def parse_description(document: Mapping[str, Any], path: pathlib.Path) -> NetworkDescription:
    """The description of a network that stands in a file; ValueError in one line if it is none."""
    try:
        names = [field.name for field in dataclasses.fields(NetworkDescription)]
        fields = {name: document[name] for name in names if name in document}
        for name, check in _CHECKS.items():
            if name in fields and not check(fields[name]):
                raise ValueError(f"{name} is {fields[name]!r:.60}, which is out of range or of the wrong type")
        sequences = ("encoding", "mean", "std", "class_names", "background")
        fields |= {name: tuple(fields[name]) for name in sequences if name in fields}
        description = NetworkDescription(**fields)
        _check_numbers(description)
        description.build_space().validate(description.encoding)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} describes no network: {error}") from error
    return description


def _is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and least <= value <= most


def _is_integer(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(_is_number(each, 0, 1e6) for each in value)


# What the values of network.json may be; sizes beyond these ask for more memory than there is.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "space": lambda value: isinstance(value, str),
    "encoding": lambda value: isinstance(value, list) and all(_is_integer(each, -(2**31), 2**31 - 1) for each in value),
    "width": lambda value: _is_number(value, 1e-3, 1e3),
    "image_size": lambda value: _is_integer(value, 1, 10_000),
    "num_classes": lambda value: _is_integer(value, 1, 1_000_000),
    "dataset": lambda value: isinstance(value, str),
    "mean": _is_channels,
    "std": _is_channels,
    "test_accuracy": lambda value: value is None or _is_number(value, 0, 1),
    "trained_with": lambda value: isinstance(value, dict),
    "versions": lambda value: isinstance(value, dict) and _is_texts(list(value.values())),
    "class_names": _is_texts,
    "crop": lambda value: _is_number(value),
    "background": lambda value: isinstance(value, list) and all(_is_integer(each, 0, 255) for each in value),
}


def _check_numbers(description: NetworkDescription) -> None:
    names, count = description.class_names, description.num_classes
    if names and len(names) != count:
        raise ValueError(f"class_names must be {count} texts or none, is {names!r:.60}")
    if not 0 < description.crop <= 1:
        raise ValueError(f"crop must be in (0, 1], is {description.crop!r}")
    check_background(description.background)
    if min(description.std) <= 0:
        raise ValueError(f"std must be positive, is {description.std!r}")
