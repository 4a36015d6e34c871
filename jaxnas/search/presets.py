"""Presets: complete configurations of a search by name, and what else a given option changes.

`MEMORY`, of `experiments.cifar_search`, whose images fit into memory:

quickstart  scikit-learn's digits on `mbconv_digits`, to trained networks: under two minutes on two CPU cores,
            nothing to download.
cpu         real CIFAR-10 on `nasbench_macro`, the supernet at half width on 16x16 images, to networks trained for
            three passes over the images: under 20 minutes on two CPU cores.
full        real CIFAR-10 on `mbconv_cifar10` with ASNG-NAS's protocol (arXiv 1905.08537), for an accelerator.

`STREAMED`, of `experiments.imagenet_search`, whose images are read from disk:

smoke   python -m experiments.make_images --out data --classes 20 --images 2000
        python -m experiments.imagenet_search --preset smoke --data-dir data --workdir runs/smoke
        20 steps of a narrow network on small images, to test that everything works on any machine. It learns nothing.
        It has 8 layers and a small learning rate so that rounding, which untrained networks with many batch norms
        amplify, does not grow from step to step: runs on different numbers of devices can be compared.

small   python -m experiments.imagenet_search --preset small --folder DIR --workdir runs/own
        A folder with some hundred images of your own, at 32x32, on `mbconv_digits`: two or three minutes on two CPU
        cores. See docs/tutorials/own_data.md.

full    python -m experiments.imagenet_search --preset full --data-dir DIR --precision bfloat16 --workdir runs/full
        Half of ImageNet's training images for the weights, one uniformly drawn network a step, 120 passes; then the
        distributions with frozen weights, 4 networks at once. `python -m benchmarks.scaling` counts its work and
        estimates device hours on an accelerator of a given speed. Never run on an accelerator.
"""

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from jaxnas import data, strategies
from jaxnas.data import folder_scan
from jaxnas.data.parts import TEST_FRACTION
from jaxnas.results import settings_tree
from jaxnas.search.budgets import COSTS
from jaxnas.search.config import METHODS, SearchConfig, StreamedConfig
from jaxnas.spaces import SPACES, MBConvSpace
from jaxnas.supernet.backend import resolve_backend

Config = TypeVar("Config", bound=SearchConfig)

FOLDER = "folder"  # the name of the data set where images come from a folder of one's own


@dataclass(frozen=True)
class Presets(Generic[Config]):
    """Configurations by name; calling it gives one of them with some settings changed.

    Attributes:
      configs: the presets.
      usual: which preset it is where none is given, from what is given.
      datasets: the data sets there are; None where any name may be one.
      scales_learning_rate: whether the learning rate grows with the minibatch (Goyal et al., arXiv 1706.02677).
    """

    configs: Mapping[str, Config]
    usual: Callable[[Mapping[str, Any]], str]
    datasets: Mapping[str, Any] | None
    scales_learning_rate: bool

    @property
    def tree(self) -> type[Config]:
        """The class of the presets."""
        return type(next(iter(self.configs.values())))

    def __call__(self, **settings: Any) -> Config:
        """The preset with these settings in place of its own, and what follows from them.

        Raises:
          ValueError: on an unknown setting or preset, or a value that is out of range.
        """
        default = self.default(settings)
        return settings_tree.replace(default, **{**settings, "preset": default.run.preset})

    def default(self, given: Mapping[str, Any]) -> Config:
        """The preset that is meant, where the settings in `given` will take the place of its own.

        A setting that follows from one of those has its value: `batch_size` is also that of the validation split, and
        the learning rate may grow with it; a space that is none of MBConvs has separate weights; budgets leave no
        penalties; a folder of images is no data set of another name; images of digits or letters are not mirrored
        (`jaxnas.data.mirrored`). All that is given itself still has the preset's value, or one that its own replaces.

        Args:
          given: values, or the texts of a command line, by name.

        Raises:
          ValueError: if there is no such preset or method, or a folder is given beside a data set.
        """
        name = given.get("preset") or self.usual(given)
        if name not in self.configs:
            raise ValueError(f"preset must be one of {', '.join(self.configs)}, got {name!r}")
        if given.get("method") is not None:
            strategies.check_name(given["method"], METHODS)  # which knows earlier names too
        config = self.configs[name]
        changes: dict[str, Any] = {"preset": name}
        if given.get("folder") is not None:
            if given.get("dataset") is not None or given.get("data_dir") is not None:
                raise ValueError("give either a folder of images or a dataset and its data_dir, not both")
            changes["dataset"] = FOLDER
        if isinstance(config, StreamedConfig):
            changes["mirror"] = _may_be_mirrored(given.get("folder"), given.get("dataset") or config.data.dataset)
        if not _has_slices(given.get("space", config.space.space)):
            changes["sharing"] = "separate"
        if given.get("budgets") is not None and given.get("penalties") is None:
            changes["penalties"] = ()
        size = _whole_number(given.get("batch_size"))
        if size is not None:
            changes |= {"batch_size": size, "valid_batch_size": size}
            if self.scales_learning_rate:
                changes["learning_rate"] = config.training.learning_rate * size / config.training.batch_size
        return settings_tree.replace(config, **changes)

    def choices(self) -> dict[str, Collection[str]]:
        """The values of those settings that have few, by name."""
        few = {"preset": self.configs, "space": SPACES, "method": METHODS, "cost": COSTS}
        return few if self.datasets is None else {**few, "dataset": self.datasets}


def _whole_number(value: Any) -> int | None:
    """What a command line will read; None if it cannot."""
    try:
        return None if value is None else int(value)
    except ValueError:
        return None


def _has_slices(space: Any) -> bool:
    """Whether supernets of this space can share weights by slices, or the space is unknown and refused later."""
    return space not in SPACES or isinstance(SPACES[space](), MBConvSpace)


def _may_be_mirrored(folder: Any, dataset: str) -> bool:
    """Whether images may be mirrored, which the names of the data set or folder and of its classes show."""
    if folder is None:
        return data.mirrored(dataset)
    root = Path(folder).expanduser().absolute()
    try:
        splits = folder_scan.find_splits(root)
    except ValueError:  # said when the folder is opened
        splits = {}
    return data.mirrored(root.name, folder_scan.class_folders(root / splits.get("train", "")))


def _usual(given: Mapping[str, Any]) -> str:
    """Quickstart for digits, otherwise full on an accelerator and cpu without one."""
    if given.get("dataset") == "digits":
        return "quickstart"
    return "cpu" if resolve_backend() == "cpu" else "full"


MEMORY = Presets(
    configs={
        "quickstart": settings_tree.make(
            SearchConfig,
            dataset="digits",
            image_size=8,
            valid_fraction=0.5,
            space="mbconv_digits",
            penalties=(0.02, 0.1, 0.4, 1.6),
            candidates=64,
            weight_steps=1500,
            distribution_steps=100,
            batch_size=64,
            valid_batch_size=120,
            weight_samples=1,
            learning_rate=0.1,
            crop_padding=1,
            steps_per_dispatch=25,
            finish_steps=400,
        ),
        "cpu": settings_tree.make(
            SearchConfig,
            dataset="cifar10",
            image_size=16,
            valid_fraction=0.1,
            space="nasbench_macro",
            width=0.5,
            sharing="slices",
            penalties=(0.01, 0.06, 0.18, 0.5),
            candidates=8,
            main_effects=1024,
            weight_steps=5000,
            distribution_steps=250,
            batch_size=128,
            valid_batch_size=128,
            weight_samples=1,
            learning_rate=0.1,
            weight_decay=1e-4,
            crop_padding=2,
            steps_per_dispatch=25,
            finish_steps=1200,
            finish_learning_rate=0.05,
        ),
        "full": settings_tree.make(
            SearchConfig,
            dataset="cifar10",
            image_size=32,
            valid_fraction=0.5,
            space="mbconv_cifar10",
            penalties=(0.02, 0.05, 0.12, 0.3),
            samples=2,
            candidates=16,
            joint_steps=39_000,  # 100 epochs of 25,000 images
            batch_size=64,
            valid_batch_size=64,
            crop_padding=4,
            cutout=16,
            steps_per_dispatch=50,
        ),
    },
    usual=_usual,
    datasets=data.DATASETS,
    scales_learning_rate=False,
)

_streamed = functools.partial(
    settings_tree.make, StreamedConfig, dataset="imagenet2012", valid_fraction=0.5, weight_samples=1, crop_padding=0
)
STREAMED = Presets(
    configs={
        "smoke": _streamed(
            checkpoint_seconds=300.0,
            image_size=64,
            space="nasbench_macro",
            width=0.25,
            method="importance_sampling",
            penalties=(0.05, 0.4),
            samples=2,
            candidates=2,
            joint_steps=20,
            batch_size=32,
            valid_batch_size=32,
            learning_rate=0.001 * 32 / 256,
            warmup=0.2,
            label_smoothing=0.1,
            steps_per_dispatch=5,
            batching="vmap",  # compiles in half the time, which is most of it
        ),
        "small": _streamed(
            test_fraction=TEST_FRACTION,
            image_size=32,
            space="mbconv_digits",
            penalties=(0.02, 0.1, 0.4),
            candidates=16,
            weight_steps=300,
            distribution_steps=60,
            batch_size=32,
            valid_batch_size=32,
            learning_rate=0.05,
            warmup=0.1,
            steps_per_dispatch=20,
        ),
        "full": _streamed(
            test_fraction=TEST_FRACTION,  # not of ImageNet, which has a split for testing
            checkpoint_seconds=300.0,
            image_size=224,
            space="mbconv_imagenet",
            penalties=(0.02, 0.05, 0.12, 0.3),
            candidates=32,
            weight_steps=75_000,  # 120 passes over 640,000 images
            distribution_steps=2_000,
            batch_size=1024,
            valid_batch_size=1024,
            learning_rate=0.125 * 1024 / 256,
            warmup=0.04,
            weight_decay=4e-5,
            label_smoothing=0.1,
            chunk_size=4,
            steps_per_dispatch=25,
        ),
    },
    usual=lambda given: "full",
    datasets=None,
    scales_learning_rate=True,
)
