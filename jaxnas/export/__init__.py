"""Trained networks as files: saving, loading, and exports that other programs run.

network = jaxnas.load("runs/quickstart/exports/k0")
network = jaxnas.load("runs/quickstart/finished", index=0)     # one of the networks that a search finished
logits = network(images)                                       # uint8 [B, H, W, 3]
logits = network.apply(network.variables, network.preprocess(images))
predictions = export.classify(network, ["photo.jpg"])          # image files of any size
"""

import os
import pathlib

from jaxnas.export import saved, shared_weights
from jaxnas.export.card import model_card
from jaxnas.export.classify import Prediction, classify
from jaxnas.export.formats import FORMATS, Format, FormatUnavailableError, load_stablehlo
from jaxnas.export.saved import Network, NetworkDescription


def load(path: str | os.PathLike[str], index: int | None = None) -> Network:
    """Reads a trained network: apply function, weights and preprocessing. It never runs code from a file.

    Args:
      path: a folder that `experiments.export` or `experiments.retrain` wrote, or the folder `finished` of a search,
        which holds all its networks in one file.
      index: which network of a search, its k; None where the folder holds one network.

    Raises:
      ValueError: in one line, if the folder holds no network, or a damaged one, or none of this index.
    """
    path = pathlib.Path(path)
    if shared_weights.holds_networks(path):
        return shared_weights.load(path, index)
    if index is not None:
        raise ValueError(f"index must be left out, since {path} holds no networks that share weights, got {index}")
    return saved.load(path)


__all__ = [
    "FORMATS",
    "Format",
    "FormatUnavailableError",
    "Network",
    "NetworkDescription",
    "Prediction",
    "classify",
    "shared_weights",
    "load",
    "load_stablehlo",
    "model_card",
    "saved",
]
