"""Trained networks as files: saving, loading, and exports that other programs run.

network = jaxnas.load("runs/quickstart/exports/k0")
logits = network(images)                                       # uint8 [B, H, W, 3]
logits = network.apply(network.variables, network.preprocess(images))
predictions = export.classify(network, ["photo.jpg"])          # image files of any size
"""

import os
import pathlib

from jaxnas.export import saved
from jaxnas.export.card import model_card
from jaxnas.export.classify import Prediction, classify
from jaxnas.export.formats import FORMATS, Format, FormatUnavailableError, load_stablehlo
from jaxnas.export.saved import Network, NetworkDescription


def load(path: str | os.PathLike[str]) -> Network:
    """Reads a trained network: apply function, weights and preprocessing. It never runs code from a file.

    Args:
      path: a folder that `experiments.export` or `experiments.retrain` wrote.

    Raises:
      ValueError: in one line, if the folder holds no network, or a damaged one.
    """
    return saved.load(pathlib.Path(path))


__all__ = [
    "FORMATS",
    "Format",
    "FormatUnavailableError",
    "Network",
    "NetworkDescription",
    "Prediction",
    "classify",
    "load",
    "load_stablehlo",
    "model_card",
    "saved",
]
