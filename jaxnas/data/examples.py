"""Labelled images: a whole split of a data set, a minibatch, or several minibatches."""

import flax.struct
import jax
import numpy as np


@flax.struct.dataclass
class Examples:
    """Images with labels.

    Attributes:
      images: uint8 [..., H, W, 3].
      labels: int32 [...].
      flips: bool [...], which images to mirror; None where that is not decided.
      boxes: float32 [..., 4], upper, left, lower and right edge of the part of each image that is meant; None for all.
      size: height and width that these parts are resized to.
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    flips: np.ndarray | jax.Array | None = None
    boxes: np.ndarray | jax.Array | None = None
    size: int | None = flax.struct.field(pytree_node=False, default=None)

    def __len__(self) -> int:
        return len(self.labels)
