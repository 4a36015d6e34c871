"""Encoded images by index, from prepared TFDS files or a folder of class subfolders; decoding comes later.

A source holds no pixels: it reads one encoded image at a time, from any thread or process, so that data sets larger
than memory can be shuffled globally.
"""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnas.data.datasets import open_tfds
from jaxnas.data.folders import FolderSplits, open_folder


class ImageSource(Protocol):
    """What every source offers.

    Attributes:
      name: of the data set.
      split: of the data set, such as train.
      class_names: in the order of the labels.
      met_bad: images that streams could not read; these add them.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    met_bad: set[int]

    def __len__(self) -> int:
        """Number of images."""

    def describe(self, index: int) -> str:
        """What to call an image in messages, such as its file."""

    def read(self, index: int) -> tuple[bytes, int]:
        """One encoded image and its label; raises BadImageError if it cannot be read."""

    def labels(self) -> np.ndarray:
        """All labels, int32 [N]; may have to read every record."""

    def fingerprint(self) -> str:
        """Equal on two hosts that hold the same images."""


class TfdsSource:
    """One split of a prepared TFDS image classification data set, read from array_record without TensorFlow.

    Args:
      name: of the data set, such as imagenet2012.
      data_dir: folder of the prepared data sets.
      split: of the data set; `splits` names all.

    Raises:
      DatasetNotFoundError: if the files are absent, incomplete or in a format that needs TensorFlow.
      ValueError: if it has no such split, or is no image classification.
    """

    def __init__(self, name: str, data_dir: str | os.PathLike[str], split: str = "train"):
        import tensorflow_datasets as tfds  # here, because it is slow to import

        builder = open_tfds(name, Path(data_dir).expanduser(), (split,))
        features = builder.info.features
        wrong = [key for key, kind in (("image", "Image"), ("label", "ClassLabel")) if not _is(features, key, kind)]
        if wrong:
            raise ValueError(f"dataset {name} is no image classification: it has no feature {' and '.join(wrong)}")
        self.name, self.split = name, split
        self.met_bad: set[int] = set()
        self.class_names = tuple(features["label"].names)
        self.splits = tuple(builder.info.splits)
        self._files = [Path(path) for path in builder.info.splits[split].filepaths]
        self._source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._source)

    def describe(self, index: int) -> str:
        """The number of a record."""
        return f"record {index}"

    def read(self, index: int) -> tuple[bytes, int]:
        """One record."""
        example = self._source[index]
        return bytes(example["image"]), int(example["label"])

    def labels(self) -> np.ndarray:
        """Reads every record: minutes for ImageNet, whose records are 140 GB."""
        return np.array([self.read(index)[1] for index in range(len(self))], np.int32)

    def fingerprint(self) -> str:
        """Names and sizes of the files."""
        text = "\n".join(f"{path.name} {path.stat().st_size}" for path in self._files)
        return hashlib.sha256(f"{self.name} {self.split}\n{text}".encode()).hexdigest()


def _is(features: Any, key: str, kind: str) -> bool:
    return key in features and type(features[key]).__name__ == kind


@dataclass(frozen=True)
class TfdsSplits:
    """The parts of a TFDS data set.

    Attributes:
      data_dir: folder of the prepared data sets.
      train: for weights and distributions.
    """

    data_dir: Path
    train: TfdsSource
    valid: None = None

    @functools.cached_property
    def test(self) -> TfdsSource | None:
        """For testing trained networks: the split `test`, or else `validation`; None if there is neither."""
        for split in ("test", "validation"):
            if split in self.train.splits:
                return TfdsSource(self.train.name, self.data_dir, split)
        return None

    def summary(self) -> str:
        """A line: images and classes."""
        return (
            f"weights and distributions learn on: split {self.train.split} of {self.train.name}, {len(self.train):,} "
            f"images of {len(self.train.class_names):,} classes"
        )


Splits = FolderSplits | TfdsSplits


def open_splits(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    valid_folder: str | os.PathLike[str] | None = None,
    known_bad: Mapping[str, Iterable[tuple[str, int]]] | None = None,
) -> Splits:
    """The parts of a data set.

    Args:
      name: `folder`, or any TFDS data set by its name.
      data_dir: the folder, see `open_folder`; or that of the prepared TFDS data sets, None for TFDS's own default.
      valid_folder: with `folder`, another one whose images are for the distributions.
      known_bad: with `folder`, files that an earlier start could not read, see `open_folder`.

    Raises:
      DatasetNotFoundError: if TFDS's files are absent or cannot be read.
      ValueError: as `open_folder` and `TfdsSource`.
    """
    if name == "folder":
        if data_dir is None:
            raise ValueError("data_dir must name the folder of class subfolders with --dataset folder")
        return open_folder(data_dir, valid_folder, known_bad)
    if valid_folder is not None:
        raise ValueError(f"valid_folder needs a folder of images; dataset {name} has splits of its own")
    data_dir = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    return TfdsSplits(data_dir, TfdsSource(name, data_dir))
