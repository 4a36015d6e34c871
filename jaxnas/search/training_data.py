"""The images that networks of a finished search are trained and tested on, in memory or streamed."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import flax.linen as nn

from jaxnas import data
from jaxnas.data import crops, parts
from jaxnas.data.decoding import WHITE, Color, printable
from jaxnas.data.sources import Splits
from jaxnas.results.json_files import read_sealed
from jaxnas.results.settings_tree import INPUTS
from jaxnas.runtime import devices
from jaxnas.runtime.placement import ALL_DEVICES, ONE_DEVICE
from jaxnas.search import bad_images, build, image_caches
from jaxnas.search.config import StreamedConfig
from jaxnas.search.images import as_examples
from jaxnas.search.recipes import RetrainSettings
from jaxnas.search.retraining import Retraining
from jaxnas.search.sources import InMemory, OnHost, Source, Streamed


class TrainingData(Protocol):
    """Images to train and test on.

    Attributes:
      name: of the data set.
      image_size: height and width of the images.
      class_names: in the order of the labels; empty where classes have none.
      num_classes: number of classes.
      normalization: of the images.
      tested_on: which images a network is tested on, for people.
      crop: share of an image's shorter side that the central square has which a network is tested on.
      background: red, green, blue, on which transparent images are put.
    """

    name: str
    image_size: int
    class_names: tuple[str, ...]
    num_classes: int
    normalization: data.Normalization
    tested_on: str
    crop: float
    background: Color

    def trainer(self, network: nn.Module, settings: RetrainSettings, seed: int, test_every: int) -> Retraining:
        """What trains a network; `test_every` epochs it records a test."""

    def source(self, batch_size: int, seed: int, augment: bool) -> Source:
        """The images to train on; where they are streamed, in minibatches of the size, cropped at random or not."""

    def summary(self) -> str:
        """What it is trained and tested on, for people."""

    def fingerprint(self) -> str | None:
        """Of images on disk, equal where they are the same; None for images in memory."""

    def keep_bad_images(self) -> None:
        """Notes in the search's folder which images could not be read, so that they can be removed."""


@dataclass(frozen=True, eq=False)
class InMemoryData:
    """Images in memory. See `TrainingData`.

    Attributes:
      dataset: its images at the resolution wanted.
    """

    dataset: data.ImageDataset
    crop = 1.0
    background = WHITE

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.dataset.name

    @property
    def image_size(self) -> int:
        """Height and width of the images."""
        return self.dataset.train_images.shape[1]

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.dataset.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.dataset.num_classes

    @property
    def normalization(self) -> data.Normalization:
        """Of the images."""
        return data.Normalization(self.dataset.mean, self.dataset.std)

    def trainer(self, network: nn.Module, settings: RetrainSettings, seed: int, test_every: int) -> Retraining:
        """What trains a network; the seed comes with the training's first state."""
        del seed
        dataset = self.dataset
        tested = OnHost(data.Examples(dataset.test_images, dataset.test_labels))
        return Retraining(
            network, self._train, tested, self.normalization, settings, mirror=dataset.flip, test_every=test_every
        )

    @functools.cached_property
    def _train(self) -> InMemory:
        """On the device once, for all trainings."""
        return InMemory(data.Examples(self.dataset.train_images, self.dataset.train_labels))

    def source(self, batch_size: int, seed: int, augment: bool) -> Source:
        """The images to train on, on the device once, for all trainings."""
        del batch_size, seed, augment
        return self._train

    def summary(self) -> str:
        """Numbers of images."""
        return f"trained on {len(self.dataset.train_labels):,} images of {self.name}, tested on {self.tested_on}"

    def fingerprint(self) -> None:
        """None: these images do not change."""

    def keep_bad_images(self) -> None:
        """Nothing: all are read."""

    @property
    def tested_on(self) -> str:
        """The test images of the data set."""
        return f"{len(self.dataset.test_labels):,} images of its test split, which no search reads"


@dataclass(frozen=True, eq=False)
class StreamedData:
    """Images read from disk, as a search read them. See `TrainingData`.

    Attributes:
      config: of the search, whose image size, mirroring, background and reading are those of the training.
      train: images to train on.
      tested: images to test on.
      searched: whether the search may have read these.
      normalization: as in the search.
      opened: the images of which these are parts, and the search's folder; None where the search itself goes on.
    """

    config: StreamedConfig
    train: parts.Part
    tested: parts.Part
    searched: bool
    normalization: data.Normalization
    opened: tuple[Splits, Path] | None = None
    crop = crops.CENTRAL

    @property
    def name(self) -> str:
        """Of the data set or folder."""
        folder = self.config.streams.folder
        return self.train[0].name if folder is None else printable(folder.expanduser().absolute().name)

    @property
    def background(self) -> Color:
        """As in the search."""
        return tuple(self.config.streams.background)

    @property
    def image_size(self) -> int:
        """Height and width of the crops."""
        return self.config.data.image_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels."""
        return self.train[1].class_names

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def trainer(self, network: nn.Module, settings: RetrainSettings, seed: int, test_every: int) -> Retraining:
        """What trains a network on all devices of this process; the seed decides the order of images and the crops."""
        placement = ONE_DEVICE if devices.device_count() == 1 else ALL_DEVICES
        train = self.source(settings.batch_size, seed, augment=True)
        tested = self._stream(self.tested, settings.batch_size, seed, augment=False, cached=False)
        return Retraining(
            network, train, tested, self.normalization, settings, test_every=test_every, placement=placement
        )

    def source(self, batch_size: int, seed: int, augment: bool) -> Source:
        """A stream of the images to train on, for all devices of the job."""
        return self._stream(self.train, batch_size, seed, augment)

    def _stream(self, part: parts.Part, batch_size: int, seed: int, augment: bool, cached: bool = True) -> Streamed:
        stream = build.make_stream(self.config, part, batch_size, augment, cached, seed=seed)
        return Streamed(stream, convert=functools.partial(as_examples, size=stream.size))

    def fingerprint(self) -> str:
        """Of the images to train and to test on, and the size of those that come from a cache."""
        cache_size = image_caches.size(self.config)
        cached = "" if cache_size is None else f", cached at {cache_size}"
        return build.fingerprint([self.train[0], self.tested[0]]) + cached

    def keep_bad_images(self) -> None:
        """Notes them beside those that the search could not read."""
        if self.opened is not None:
            splits, run = self.opened
            bad_images.write(run, bad_images.read(run), splits)

    def summary(self) -> str:
        """Numbers of images, and where they come from."""
        source, subset = self.train
        root = getattr(source, "root", None)
        name = source.name if root is None else printable(str(root))
        return f"trained on {len(subset.indices):,} images of {name}, tested on {self.tested_on}"

    @property
    def tested_on(self) -> str:
        """How many images of what, and whether the search has read them."""
        read = "which the search has read too" if self.searched else "which the search did not read"
        source, subset = self.tested
        return f"{len(subset.indices):,} images of {source.name}, {read}"


def streamed_data(
    config: StreamedConfig, run: Path, announce: Callable[[str], None] = lambda text: None
) -> StreamedData:
    """The images of a search on streams; a cache of them that it names is built where it is missing.

    Args:
      config: of the search.
      run: its folder, which names images that it could not read.
      announce: called with lines about the cache, for people.

    Raises:
      ValueError, DatasetNotFoundError: as `jaxnas.search.build.open_images`, or if a class has too few images.
    """
    splits = build.open_images(config, bad_images.read(run))
    image_caches.build(config, splits, announce)
    learnt = build.search_parts(config, splits)
    chosen = parts.training_parts(splits, learnt, config.streams.test_fraction)
    # Of other images than those of the search other ones are held out.
    changed = splits.test is None and _fingerprint_then(run) != build.fingerprint([source for source, _ in learnt])
    normalization = build.normalization(config, learnt[0])
    searched = chosen.searched or changed
    return StreamedData(config, chosen.train, chosen.tested, searched, normalization, (splits, run))


def _fingerprint_then(run: Path) -> str | None:
    """Of the images that the search in a folder was begun with."""
    return read_sealed(run / "config.json").get(INPUTS, {}).get("data")
