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
from jaxnas.data.folders import FolderSource, FolderSplits, open_folder
from jaxnas.data.partition import stratified_partition


class ImageSource(Protocol):
    """What every source offers.

    Attributes:
      name: of the data set.
      class_names: in the order of the labels.
    """

    name: str
    class_names: tuple[str, ...]

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


def open_splits(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    valid_folder: str | os.PathLike[str] | None = None,
    known_bad: Mapping[str, Iterable[tuple[str, int]]] | None = None,
) -> FolderSplits | TfdsSplits:
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


def open_source(name: str, data_dir: str | os.PathLike[str] | None) -> ImageSource:
    """The training images of a data set: `folder`, or any TFDS data set by its name."""
    return open_splits(name, data_dir).train


@dataclass(frozen=True, eq=False)
class Subset:
    """Some images of a source.

    Attributes:
      indices: int64 [N], into the source.
      label_map: int32, the subset's label for each of the source's, -1 for classes left out.
      class_names: of the subset's labels.
    """

    indices: np.ndarray
    label_map: np.ndarray
    class_names: tuple[str, ...]


def search_parts(
    splits: FolderSplits | TfdsSplits,
    valid_fraction: float,
    seed: int,
    classes: int | None = None,
    per_class: int | None = None,
) -> tuple[tuple[ImageSource, Subset], tuple[ImageSource, Subset]]:
    """What weights and distributions learn on: the splits `train` and `valid`, or parts of `train`.

    Args:
      splits: the data set.
      valid_fraction: share of `train` for the distributions, where there is no `valid`.
      seed: of every random choice.
      classes: how many classes, drawn at random; None for all.
      per_class: images of each class and split at most, drawn at random; None for all.

    Returns:
      ((source, subset) for the weights, (source, subset) for the distributions).

    Raises:
      ValueError: on a class with too few images, naming it, or counts that make no subset.
    """
    if splits.valid is None:
        parts = halves(splits.train, valid_fraction, seed, classes, per_class)
        return (splits.train, parts[0]), (splits.train, parts[1])
    generator = np.random.default_rng(seed)
    chosen = _choose_classes(splits.train, generator, classes)
    return tuple((source, _subset(source, generator, chosen, per_class)) for source in (splits.train, splits.valid))


def halves(
    source: ImageSource, valid_fraction: float, seed: int, classes: int | None = None, per_class: int | None = None
) -> tuple[Subset, Subset]:
    """The parts that weights and distributions learn on, of all images or of a random subset.

    Class by class where the labels are known without reading all records (a folder) or have to be read for the subset;
    otherwise over all images alike.

    Args:
      source: where the images are.
      valid_fraction: share of the second part.
      seed: of every random choice.
      classes: how many classes, drawn at random; None for all.
      per_class: images of each class at most, drawn at random; None for all.

    Returns:
      (train, valid), disjoint.

    Raises:
      ValueError: on a class with too few images, naming it, or counts that make no subset.
    """
    if per_class is not None and per_class < 2:
        raise ValueError(f"images_per_class must be at least 2, one for each half, got {per_class}")
    generator = np.random.default_rng(seed)
    chosen = _choose_classes(source, generator, classes)
    if classes is None and per_class is None and not isinstance(source, FolderSource):
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction must lie strictly between 0 and 1, got {valid_fraction}")
        order = generator.permutation(len(source))
        count = round(valid_fraction * len(source))
        label_map, names = np.arange(len(chosen), dtype=np.int32), tuple(source.class_names)
        return tuple(Subset(np.sort(part), label_map, names) for part in (order[count:], order[:count]))
    kept = _subset(source, generator, chosen, per_class)
    labels = kept.label_map[source.labels()[kept.indices]]
    for name, count in zip(kept.class_names, np.bincount(labels, minlength=len(chosen))):
        if not 0 < round(valid_fraction * count) < count:
            raise ValueError(
                f"class {name!r} of {source.name} has {count} image{'' if count == 1 else 's'}, too few "
                f"for both halves at valid_fraction {valid_fraction}; add images or remove the class"
            )
    parts = stratified_partition(labels, valid_fraction, seed)
    return tuple(Subset(kept.indices[part], kept.label_map, kept.class_names) for part in parts)


def class_counts(*parts: tuple[ImageSource, Subset]) -> dict[str, int] | None:
    """Images of each class in all parts together; None for TFDS, where every record would have to be read."""
    if not all(isinstance(source, FolderSource) for source, _ in parts):
        return None
    total = sum(
        np.bincount(part.label_map[source.labels()[part.indices]], minlength=len(part.class_names))
        for source, part in parts
    )
    return dict(zip(parts[0][1].class_names, total.tolist()))


def _choose_classes(source: ImageSource, generator: np.random.Generator, classes: int | None) -> np.ndarray:
    """Labels of the source, increasing."""
    total = len(source.class_names)
    if classes is not None and not 2 <= classes <= total:
        raise ValueError(f"classes must be from 2 to the {total} of {source.name}, got {classes}")
    if total < 2:
        raise ValueError(f"data set {source.name} has {total} class; a classification needs two at least")
    return np.arange(total) if classes is None else np.sort(generator.permutation(total)[:classes])


def _subset(source: ImageSource, generator: np.random.Generator, chosen: np.ndarray, per_class: int | None) -> Subset:
    """All images of the chosen classes, or so many of each, drawn at random."""
    label_map = np.full(len(source.class_names), -1, np.int32)
    label_map[chosen] = np.arange(len(chosen))
    labels = label_map[source.labels()]
    kept = np.flatnonzero(labels >= 0)
    if per_class is not None:
        shuffled = generator.permutation(kept)
        members = [shuffled[labels[shuffled] == label][:per_class] for label in range(len(chosen))]
        kept = np.sort(np.concatenate(members))
    return Subset(kept, label_map, tuple(source.class_names[label] for label in chosen))
