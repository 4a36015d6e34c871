"""Image files in, classes and probabilities out: a trained network on images as users have them."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from jaxnas.data.crops import decode_crop
from jaxnas.data.decoding import BadImageError, check_background, read_file
from jaxnas.export.saved import Network

BATCH_SIZE = 32  # images at a time; fewer are filled up to a power of two, so that few programs are compiled


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network takes an image for.

    Attributes:
      path: of the image.
      label: the likeliest class.
      class_name: its name, or its number where classes have no names.
      probabilities: float32 [classes], softmax of the logits.
    """

    path: str | os.PathLike[str]
    label: int
    class_name: str
    probabilities: np.ndarray

    @property
    def probability(self) -> float:
        """Of the likeliest class."""
        return float(self.probabilities[self.label])


def classify(
    network: Network, paths: Iterable[str | os.PathLike[str]], background: Sequence[int] | None = None
) -> Iterator[Prediction | BadImageError]:
    """Classifies image files, as the network was tested: the central crop, resized and normalised.

    Args:
      network: from `jaxnas.load`.
      paths: of the images, of any format of `jaxnas.data.decode`.
      background: red, green, blue, on which transparent images are put; None for the network's own.

    Yields:
      For each path in turn a prediction, or the error where the image cannot be read.

    Raises:
      ValueError: if `background` is no colour, or OpenCV is not installed.
    """
    background = network.description.background if background is None else background
    check_background(background)
    remaining = iter(paths)
    while batch := list(itertools.islice(remaining, BATCH_SIZE)):
        images = [_read(network, path, background) for path in batch]
        good = [image for image in images if not isinstance(image, BadImageError)]
        rows = iter(_probabilities(network, good))
        for path, image in zip(batch, images):
            if isinstance(image, BadImageError):
                yield image
                continue
            row = next(rows)
            label = int(row.argmax())
            yield Prediction(path, label, network.description.class_name(label), row)


def _read(network: Network, path: str | os.PathLike[str], background: Sequence[int]) -> np.ndarray | BadImageError:
    given = network.description
    try:
        return decode_crop(read_file(path), given.image_size, None, background, path, central=given.crop)
    except BadImageError as error:
        return error


def _probabilities(network: Network, images: list[np.ndarray]) -> np.ndarray:
    """float32 [N, classes]."""
    if not images:
        return np.zeros((0, network.description.num_classes), np.float32)
    size = 1 << (len(images) - 1).bit_length()
    filled = np.stack(images + [images[0]] * (size - len(images)))
    return np.asarray(jax.nn.softmax(network(filled)))[: len(images)]
