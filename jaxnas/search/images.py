"""What a search assumes of its minibatches unless it is told otherwise: labelled images, and cross-entropy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas import data
from jaxnas.data.boxes import resize_boxes
from jaxnas.supernet import batching


def as_examples(batch: Mapping[str, Any], size: int | None = None) -> data.Examples:
    """A minibatch of a `jaxnas.data.streams.Stream` in the form that steps take; `size` of its images."""
    return data.Examples(batch["image"], batch["label"], batch.get("flip"), batch.get("box"), size)


def shown(batch: data.Examples) -> jax.Array:
    """Images uint8 [B, H, W, 3]: the boxes of those of the minibatch, where it has any, mirrored where it is to be."""
    images, flips = batch.images, batch.flips
    if batch.boxes is not None:
        images = resize_boxes(images, batch.boxes, batch.size)
    return images if flips is None else jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)


@dataclass(frozen=True)
class PrepareImages:
    """Normalised images of a minibatch, mirrored where its `flips` say so, cropped and masked in training.

    Attributes:
      mean: of the channels, in [0, 1]; by default the middle, where no data set is known.
      std: of the channels, likewise; by default a quarter.
      crop_padding: zero padding before a random crop, pixels.
      mirror: whether training mirrors images at random, beside `flips`.
      cutout: side of the square that is masked in training, pixels; 0 for none.
    """

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.25, 0.25, 0.25)
    crop_padding: int = 0
    mirror: bool = False
    cutout: int = 0

    def __call__(self, batch: data.Examples, key: jax.Array | None) -> jax.Array:
        """Float [B, H, W, 3]; augmented if there is a key."""
        images = data.normalize(shown(batch), self.mean, self.std)
        if key is None:
            return images
        return data.augment(key, images, crop_padding=self.crop_padding, flip=self.mirror, cutout=self.cutout)


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of logits [B, classes] with the labels of a minibatch, and accuracy.

    Attributes:
      label_smoothing: share of the target spread evenly over the classes.
    """

    label_smoothing: float = 0.0

    def __call__(self, logits: jax.Array, batch: data.Examples) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss in nats, float32 [], and {"accuracy": float32 []}."""
        return batching.cross_entropy(logits, batch.labels, self.label_smoothing)
