"""Encoded images by index, from prepared TFDS files or a folder of class subfolders; decoding comes later.

A source holds no pixels: it reads one encoded image at a time, from any thread or process, so that data sets larger
than memory can be shuffled globally.
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxnas.data.datasets import open_tfds
from jaxnas.data.partition import stratified_partition

SUFFIXES = (".jpg", ".jpeg", ".png")


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

    def read(self, index: int) -> tuple[bytes, int]:
        """One encoded image and its label."""

    def labels(self) -> np.ndarray:
        """All labels, int32 [N]; may have to read every record."""

    def fingerprint(self) -> str:
        """Equal on two hosts that hold the same images."""


@dataclass(frozen=True)
class FolderSource:
    """A folder with one subfolder of JPEG or PNG files for each class.

    Attributes:
      root: the folder.
    """

    root: Path

    def __post_init__(self):
        object.__setattr__(self, "root", Path(self.root).expanduser().absolute())
        if not self.root.is_dir():
            raise ValueError(f"data_dir {self.root} is no folder; it must hold one subfolder of images for each class")
        if not self._files:
            raise ValueError(
                f"data_dir {self.root} has no images: it must hold one subfolder for each class, "
                f"with files that end in {', '.join(SUFFIXES)}"
            )

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.name

    @functools.cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the subfolders that hold images, in alphabetical order."""
        return tuple(sorted({Path(file).parts[0] for file in self._files}))

    @functools.cached_property
    def _files(self) -> tuple[str, ...]:
        found = []
        for directory, _, names in os.walk(self.root):
            relative = Path(directory).relative_to(self.root)
            if relative.parts and not relative.parts[0].startswith("."):
                found += [(relative / name).as_posix() for name in names if name.lower().endswith(SUFFIXES)]
        return tuple(sorted(found))

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        label_of = {name: label for label, name in enumerate(self.class_names)}
        return np.array([label_of[Path(file).parts[0]] for file in self._files], np.int32)

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> tuple[bytes, int]:
        """One file and its label."""
        return (self.root / self._files[index]).read_bytes(), int(self._labels[index])

    def labels(self) -> np.ndarray:
        """Labels by the names of the subfolders, int32 [N]."""
        return self._labels

    def fingerprint(self) -> str:
        """Names and sizes of all files."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(f"{file} {(self.root / file).stat().st_size}\n".encode())
        return digest.hexdigest()


class TfdsSource:
    """One split of a prepared TFDS image classification data set, read from array_record without TensorFlow.

    Args:
      name: of the data set, such as imagenet2012.
      data_dir: folder of the prepared data sets.
      split: of the data set.

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
        self._files = [Path(path) for path in builder.info.splits[split].filepaths]
        self._source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self._source)

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


def open_source(name: str, data_dir: str | os.PathLike[str] | None) -> ImageSource:
    """The training images of a data set: `folder`, or any TFDS data set by its name."""
    if name == "folder":
        if data_dir is None:
            raise ValueError("data_dir must name the folder of class subfolders with --dataset folder")
        return FolderSource(Path(data_dir))
    return TfdsSource(name, data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")


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
    total = len(source.class_names)
    if classes is not None and not 2 <= classes <= total:
        raise ValueError(f"classes must be from 2 to the {total} of {source.name}, got {classes}")
    if per_class is not None and per_class < 2:
        raise ValueError(f"images_per_class must be at least 2, one for each half, got {per_class}")
    if total < 2:
        raise ValueError(f"data set {source.name} has {total} class; a classification needs two at least")
    generator = np.random.default_rng(seed)
    chosen = np.arange(total) if classes is None else np.sort(generator.permutation(total)[:classes])
    label_map = np.full(total, -1, np.int32)
    label_map[chosen] = np.arange(len(chosen))
    names = tuple(source.class_names[label] for label in chosen)
    if classes is None and per_class is None and not isinstance(source, FolderSource):
        if not 0 < valid_fraction < 1:
            raise ValueError(f"valid_fraction must lie strictly between 0 and 1, got {valid_fraction}")
        order = generator.permutation(len(source))
        count = round(valid_fraction * len(source))
        parts: Sequence[np.ndarray] = (np.sort(order[count:]), np.sort(order[:count]))
        return tuple(Subset(part, label_map, names) for part in parts)
    labels = label_map[source.labels()]
    kept = np.flatnonzero(labels >= 0)
    if per_class is not None:
        shuffled = generator.permutation(kept)
        members = [shuffled[labels[shuffled] == label][:per_class] for label in range(len(chosen))]
        kept = np.sort(np.concatenate(members))
    for label, count in enumerate(np.bincount(labels[kept], minlength=len(chosen))):
        if not 0 < round(valid_fraction * count) < count:
            raise ValueError(
                f"class {names[label]!r} of {source.name} has {count} image{'' if count == 1 else 's'}, too few "
                f"for both halves at valid_fraction {valid_fraction}; add images or remove the class"
            )
    parts = stratified_partition(labels[kept], valid_fraction, seed)
    return tuple(Subset(kept[part], label_map, names) for part in parts)
