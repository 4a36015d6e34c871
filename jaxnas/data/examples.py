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
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    flips: np.ndarray | jax.Array | None = None

    def __len__(self) -> int:
        return len(self.labels)
