"""Data sets as arrays in memory: CIFAR-10 from TFDS files, read without TensorFlow, and scikit-learn's digits."""

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.data import tfds_features
from jaxnas.data.decoding import decode
from jaxnas.data.partition import stratified_partition
from jaxnas.data.statistics import channel_statistics

# Examples decoded at a time: bounds the memory held besides the arrays, and is enough to amortise a read.
READ_BLOCK = 1000
# Part of what the data set "digits" is: another fraction or seed is another benchmark.
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0


class DatasetNotFoundError(ValueError):
    """The files of a data set are absent or not readable; two lines: how to get them, what to do without."""

    def __init__(self, name: str, data_dir: Path, problem: str, *, overwrite: bool = False) -> None:
        build = f"tfds build {name} --data_dir {shlex.quote(str(data_dir))} --file_format array_record"
        if overwrite:
            build += " --overwrite"
        super().__init__(
            f"{problem}; prepare it once: pip install 'jaxnas[prepare]' && {build}\n"
            "`--dataset digits` needs no files and no download."
        )


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """An image classification data set on the host.

    Attributes:
      name: key in `DATASETS`.
      num_classes: number of classes; labels are 0 to num_classes - 1.
      train_images: uint8 [N, H, W, 3].
      train_labels: int32 [N].
      test_images: uint8 [M, H, W, 3].
      test_labels: int32 [M].
      mean: mean of each channel over all pixels of the training images, scaled to [0, 1].
      std: standard deviation of each channel over the same values.
      flip: whether a mirrored image keeps its class.
      class_names: in the order of the labels; empty where classes have none.
    """

    name: str
    num_classes: int
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip: bool
    class_names: tuple[str, ...] = ()


def load(name: str, data_dir: str | os.PathLike[str] | None = None) -> ImageDataset:
    """Reads a data set into memory.

    Args:
      name: one of `DATASETS`.
      data_dir: folder of prepared TFDS data sets (it holds `cifar10/VERSION`); None means TFDS's own default, the
        environment variable TFDS_DATA_DIR or else `~/tensorflow_datasets`. Data sets without files ignore it.

    Raises:
      DatasetNotFoundError: if the files are absent, incomplete or in a format that needs TensorFlow.
      ValueError: if `name` is unknown.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(sorted(DATASETS))}, got {name!r}")
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return DATASETS[name](Path(data_dir).expanduser())


def _load_digits(data_dir: Path) -> ImageDataset:
    """1,797 handwritten digits, 8x8, that come with scikit-learn; a fixed, stratified fifth of them is the test set."""
    del data_dir  # part of the package
    import sklearn.datasets  # here, because it takes seconds to import and only this data set needs it

    digits = sklearn.datasets.load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(images[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    train, test = stratified_partition(labels, DIGITS_TEST_FRACTION, DIGITS_TEST_SEED)
    mean, std = channel_statistics(images[train])
    return ImageDataset(
        name="digits",
        num_classes=10,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        mean=mean,
        std=std,
        flip=False,
        class_names=tuple(map(str, digits.target_names)),
    )


def _load_cifar10(data_dir: Path) -> ImageDataset:
    """CIFAR-10: 50,000 training and 10,000 test images, 32x32, of ten classes."""
    builder = open_tfds("cifar10", data_dir)
    train_images, train_labels = _read_images(builder, "train")
    test_images, test_labels = _read_images(builder, "test")
    mean, std = channel_statistics(train_images)
    return ImageDataset(
        name="cifar10",
        num_classes=builder.info.features["label"].num_classes,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        mean=mean,
        std=std,
        flip=True,
        class_names=tuple(builder.info.features["label"].names),
    )


def open_tfds(name: str, data_dir: Path, parts: Sequence[str] = ("train", "test")) -> Any:
    """The TFDS builder of the newest prepared version of a data set, checked to be readable without TensorFlow.

    It is built from the folder, not from the name: by name TFDS would import the generating code and could go to the
    network for metadata or a download. Classes that the folder names are TFDS's own, see `tfds_features.check`.
    """
    if not data_dir.is_dir():
        raise DatasetNotFoundError(name, data_dir, f"data_dir {data_dir} does not exist")
    prepared = [path.parent for path in (data_dir / name).glob("*/dataset_info.json") if _version(path.parent)]
    if not prepared:
        raise DatasetNotFoundError(name, data_dir, f"data_dir {data_dir} holds no {name}/VERSION/dataset_info.json")
    folder = max(prepared, key=_version)
    tfds_features.check(folder)

    import tensorflow_datasets  # here, because it is slow to import and only this data set needs it

    try:
        builder = tensorflow_datasets.builder_from_directory(folder)
    except Exception as error:  # of JSON, of protocol buffers, of TFDS: whatever the files or its installation lead to
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        problem = f"{folder} is damaged, or TFDS is not whole ({reason:.200})"
        raise DatasetNotFoundError(name, data_dir, problem, overwrite=True) from error
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        found = ", ".join(sorted(formats)) or "no known format"
        problem = f"{folder} is stored as {found}, but only array_record is read without TensorFlow"
        raise DatasetNotFoundError(name, data_dir, problem, overwrite=True)
    for part in parts:
        if part not in builder.info.splits:
            raise ValueError(f"dataset {name} has no split {part!r}, only {', '.join(sorted(builder.info.splits))}")
        # TFDS itself notices a missing file only at the first read, deep inside array_record.
        missing = [path for path in builder.info.splits[part].filepaths if not Path(path).is_file()]
        if missing:
            problem = f"{folder} is incomplete, {Path(missing[0]).name} is missing"
            raise DatasetNotFoundError(name, data_dir, problem, overwrite=True)
    return builder


def _version(folder: Path) -> tuple[int, ...]:
    """(3, 0, 2) for a folder named 3.0.2, () for anything else, such as TFDS's unfinished downloads."""
    parts = folder.name.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def _read_images(builder: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Decodes one split: uint8 [N, H, W, 3] images and int32 [N] labels."""
    import tensorflow_datasets as tfds

    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split=part, file_format="array_record", decoders=decoders)
    images = np.empty((len(source), *builder.info.features["image"].shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for begin in range(0, len(source), READ_BLOCK):
        indices = range(begin, min(begin + READ_BLOCK, len(source)))
        for index, example in zip(indices, source.__getitems__(list(indices))):
            images[index] = decode(example["image"], name=f"record {index} of {part}")
            labels[index] = example["label"]
    return images, labels


# Name on the command line -> loader(data_dir).
DATASETS: dict[str, Callable[[Path], ImageDataset]] = {
    "cifar10": _load_cifar10,
    "digits": _load_digits,
}
