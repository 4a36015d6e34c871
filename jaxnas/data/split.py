"""Host-side preparation: the halves on which weights and distributions learn, and smaller images."""

import dataclasses

import numpy as np

from jaxnas.data.datasets import ImageDataset
from jaxnas.data.examples import Examples
from jaxnas.data.partition import stratified_partition

# Images shrunk at a time, so that the wider sums stay in cache.
RESIZE_BLOCK = 256


def split(dataset: ImageDataset, valid_fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Divides the training images in two, class by class: weights learn on one part, distributions on the other.

    The test images take no part. The same arguments always give the same parts.

    Args:
      dataset: the data set.
      valid_fraction: share of each class that goes into the second part, in (0, 1).
      seed: of the random choice.

    Returns:
      (train, valid), disjoint, together all of the training images, each in the data set's order.

    Raises:
      ValueError: if `valid_fraction` is outside of (0, 1) or leaves a class without examples in one of the parts.
    """
    train, valid = stratified_partition(dataset.train_labels, valid_fraction, seed)
    return (
        Examples(dataset.train_images[train], dataset.train_labels[train]),
        Examples(dataset.train_images[valid], dataset.train_labels[valid]),
    )


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Shrinks square images by an integer factor, averaging over areas, rounded to the nearest value (halves up).

    Args:
      images: uint8 [N, H, H, 3].
      size: height and width of the result; a divisor of H.

    Returns:
      uint8 [N, size, size, 3]; `images` itself where `size` is H.

    Raises:
      ValueError: if the images are not uint8 [N, H, H, 3] or `size` does not divide H.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2]:
        raise ValueError(f"images must be square, uint8 [N, H, H, 3], got {images.dtype} {list(images.shape)}")
    height = images.shape[1]
    if not 1 <= size <= height or height % size:
        divisors = ", ".join(str(divisor) for divisor in range(1, height + 1) if height % divisor == 0)
        raise ValueError(f"size must divide the images' height {height} (one of {divisors}), got {size}")
    factor = height // size
    if factor == 1:
        return images
    area = factor * factor
    small = np.empty((len(images), size, size, images.shape[3]), np.uint8)
    for begin in range(0, len(images), RESIZE_BLOCK):
        block = images[begin : begin + RESIZE_BLOCK]
        total = np.full((len(block), *small.shape[1:]), area // 2, np.uint32)
        for row in range(factor):
            for column in range(factor):
                total += block[:, row::factor, column::factor]
        small[begin : begin + len(block)] = total // area
    return small


def resize_dataset(dataset: ImageDataset, size: int) -> ImageDataset:
    """The data set with all images shrunk by `resize`; its normalisation stays."""
    images = {name: resize(getattr(dataset, name), size) for name in ("train_images", "test_images")}
    return dataclasses.replace(dataset, **images)
