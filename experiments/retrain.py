"""The networks that a search found, trained from scratch and tested.

    python -m experiments.retrain --result runs/quickstart/result.json --index all
    python -m experiments.retrain --result runs/cpu/result.json --index 0 --data-dir DIR --epochs 200 --repeats 3
    python -m experiments.retrain --result runs/own/result.json

Networks of a search on streamed images are trained on the same images, on all devices. They are tested on the split
`test` of the data set or folder, else on the images that the search kept for testing, else on `val` or a fifth of the
images, which the search has read; the first line of the output says which.

Writes OUT/kK/seedS/ with `network.json` and `weights.safetensors` (for `experiments.export` and `jaxnas.load`),
`metrics.jsonl` and checkpoints, and OUT/retrained.json and OUT/curves.png with the test accuracies of all networks
trained so far. Equal networks are trained once. A second call resumes. The recipe for CIFAR-10, 200 epochs, needs an
accelerator; on CPUs use `--epochs` with a few.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chex
import numpy as np
import rich.table
from rich.console import Console

from experiments import cli
from jaxnas import data, networks
from jaxnas.export import saved, training
from jaxnas.report import TrainingDisplay
from jaxnas.report.training_curves import plot_training
from jaxnas.results import FoundArchitecture, SearchResult, read_metrics, read_result, settings_tree, versions
from jaxnas.runtime import compilation_cache
from jaxnas.runtime.stall import StallListener
from jaxnas.search import recipes
from jaxnas.search.recipes import AUGMENTATIONS, RetrainSettings
from jaxnas.search.retraining import Retraining
from jaxnas.search.training_data import InMemoryData, TrainingData, streamed_data
from jaxnas.tasks.finished_search import load_supernet, read_run, read_streamed_run


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train the networks that a search found, and test them.

    Attributes:
      result: result.json of the search.
      index: which network, its k; or all.
      out: folder for the trained networks; by default `retrained` next to the result.
      data_dir: folder of the prepared TFDS data, or of your own images if they were moved; by default TFDS's own, or
        the search's if images are streamed.
      width: factor on the channels of the space; by default 1, the space's own width, or the search's if images are
        streamed.
      image_size: height and width of images, pixels; by default the data set's, or the search's if images are streamed.
      image_cache: folder of decoded images to train on, see `experiments.imagenet_search`; by default the search's, at
        the search's image size. Test images are not read from it.
      image_cache_size: shorter side of the cached images, pixels; likewise.
      repeats: number of trainings of each network, with consecutive seeds.
      seed: random seed of the first training.
      warm_start: also train from the supernet's weights, for comparison; the width must be the supernet's.
      test_every: epochs between logged tests; 0 for a single test at the end. Tests decide nothing.
      checkpoint_seconds: seconds between checkpoints.
      stall_seconds: seconds without a step after which the run ends, as on a file system that hangs; 0 for no limit.
      training: How each network is trained; the defaults are the recipe of the data set.
    """

    result: Path
    index: str = "all"
    out: Path | None = None
    data_dir: Path | None = None
    width: float | None = None
    image_size: int | None = None
    image_cache: Path | None = None
    image_cache_size: int | None = None
    repeats: int = 1
    seed: int = 0
    warm_start: bool = False
    test_every: int = 0
    checkpoint_seconds: float = 20.0
    stall_seconds: float = 3600.0
    training: RetrainSettings

    @classmethod
    def default(cls, given: Mapping[str, str]) -> "Config":
        """The recipe of the result's data set; CIFAR-10's where there is no result to read yet."""
        size = given.get("image_size", "")
        size = int(size) if size.isdecimal() else None
        try:
            training = choose_recipe(read_result(given.get("result", "")), size)
        except ValueError:  # `main` reads it again and raises
            training = recipes.RECIPES["cifar10"]
        return cls(result=cli.REQUIRED, training=training)

    @staticmethod
    def choices() -> Mapping[str, Collection[str]]:
        """The kinds of augmentation."""
        return {"augmentation": AUGMENTATIONS}


def choose_networks(config: Config, found: tuple[FoundArchitecture, ...]) -> list[FoundArchitecture]:
    """The networks that `index` names; ValueError if there is none."""
    if config.index == "all":
        return list(found)
    chosen = [network for network in found if str(network.k) == config.index]
    if not chosen:
        raise ValueError(f"index must be all or one of {', '.join(str(n.k) for n in found)}, got {config.index!r}")
    return chosen


def is_streamed(result: SearchResult) -> bool:
    """Whether the search read its images from disk."""
    return "streams" in result.config


def choose_recipe(result: SearchResult, image_size: int | None) -> RetrainSettings:
    """How the networks of a result are trained; ValueError if its data set has no recipe."""
    if not is_streamed(result):
        return recipes.choose(result.dataset, image_size)
    count = None if result.images is None else sum(result.images.values())
    size = result.config.get("data", {}).get("image_size") if image_size is None else image_size
    return recipes.choose_streamed(count, size or 0)


def open_data(
    config: Config, result: SearchResult, announce: Callable[[str], None] = lambda text: None
) -> tuple[TrainingData, float]:
    """The images to train on, and the width of the networks; `announce` gets lines about a cache of images."""
    if not is_streamed(result):
        if config.image_cache is not None or config.image_cache_size is not None:
            raise ValueError("image_cache needs a search of streamed images; leave it out")
        dataset = data.load(result.dataset, config.data_dir)
        if config.image_size is not None:
            dataset = data.resize_dataset(dataset, config.image_size)
        return InMemoryData(dataset), 1.0 if config.width is None else config.width
    if config.warm_start:
        raise ValueError("warm_start needs a search of images in memory; leave it out")
    run = config.result.parent
    search = read_streamed_run(run)
    changes: dict[str, Any] = {} if config.image_size is None else {"image_size": config.image_size}
    if config.data_dir is not None:
        changes["data_dir" if search.streams.folder is None else "folder"] = config.data_dir
    if config.image_cache is not None or config.image_size not in (None, search.data.image_size):
        changes |= {"image_cache": config.image_cache, "image_cache_size": config.image_cache_size}
    elif config.image_cache_size is not None:
        changes["image_cache_size"] = config.image_cache_size
    search = settings_tree.replace(search, **changes)
    return streamed_data(search, run, announce), search.space.width if config.width is None else config.width


def main(config: Config) -> None:
    """Trains, tests and saves."""
    console = cli.console()
    result = read_result(config.result)
    choose_recipe(result, None)  # raises if there is none
    chosen = choose_networks(config, result.architectures)
    for name, least in (("repeats", 1), ("test_every", 0), ("seed", 0)):
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    compilation_cache.enable()
    images, width = open_data(
        config, result, lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
    )
    console.print(images.summary(), markup=False, highlight=False, soft_wrap=True)
    settings, fingerprint = config.training, images.fingerprint()
    supernet_params = inherited_weights(config, width) if config.warm_start else None
    out = config.result.parent / "retrained" if config.out is None else config.out
    for found in chosen:
        description = saved.NetworkDescription(
            space=result.space,
            encoding=found.encoding,
            width=width,
            image_size=images.image_size,
            num_classes=images.num_classes,
            dataset=images.name,
            mean=images.normalization.mean,
            std=images.normalization.std,
            versions=versions(),
            class_names=images.class_names,
            crop=images.crop,
            background=images.background,
            trained_with={"tested_on": images.tested_on},
        )
        space = description.build_space()
        network = networks.build(space, found.encoding, drop_path=settings.drop_path)
        inherited = None if supernet_params is None else networks.inherit(space, found.encoding, supernet_params)
        equal = [out / f"k{other.k}" for other in result.architectures if other.encoding == found.encoding]
        for seed in range(config.seed, config.seed + config.repeats):
            retraining = images.trainer(network, settings, seed, config.test_every)
            for start, params in (("seed", None), *([("warm", inherited)] if config.warm_start else [])):
                folder = out / f"k{found.k}" / f"{start}{seed}"
                twins = [path / folder.name for path in equal if path != folder.parent]
                try:
                    train(retraining, description, folder, seed, params, twins, fingerprint, config, console)
                finally:
                    images.keep_bad_images()
    console.print(summary_table(training.write_summary(out)))
    logs = {
        "/".join(path.parts[-3:-1]): read_metrics(path)
        for path in sorted(out.glob("k*/*/metrics.jsonl"))
        if (path.parent / saved.DESCRIPTION).exists()
    }
    plot_training(logs, out / "curves.png")
    console.print(f"results in {out}", soft_wrap=True)


def inherited_weights(config: Config, width: float) -> chex.ArrayTree:
    """Weights of the supernet of the search.

    Raises:
      ValueError: if its width is not the networks'.
    """
    supernet_width = read_run(config.result.parent).space.width
    if supernet_width != width:
        raise ValueError(
            f"warm_start needs networks of the supernet's width {supernet_width}, got {width}; "
            f"give --width {supernet_width}"
        )
    return load_supernet(config.result.parent, config.data_dir).params


def train(
    retraining: Retraining,
    description: saved.NetworkDescription,
    folder: Path,
    seed: int,
    params: chex.ArrayTree | None,
    twins: Sequence[Path],
    fingerprint: str | None,
    config: Config,
    console: Console,
) -> None:
    """Trains one network, unless it or an equal one is trained already, and shows how well it does."""
    display = TrainingDisplay("/".join(folder.parts[-2:]), console)
    trained = training.train(
        *(retraining, description, folder, seed, params),
        checkpoint_seconds=config.checkpoint_seconds,
        listeners=[display, StallListener(config.stall_seconds, cli.end_at_once)],
        twins=twins,
        fingerprint=fingerprint,
    )
    if isinstance(trained, Path):
        console.print(f"{folder} is the network of {trained}, which is trained already", soft_wrap=True)
        return
    if trained is None:
        console.print(f"{folder} is trained already", soft_wrap=True)
        return
    accuracy, seconds = 100 * trained.test_accuracy, trained.trained_with["wall_seconds"]
    console.print(f"{folder}: test accuracy {accuracy:.2f} % after {seconds:.0f} s", soft_wrap=True)


def summary_table(summary: list[dict[str, Any]]) -> rich.table.Table:
    """Test accuracies, mean and standard deviation over seeds."""
    table = rich.table.Table(title="test accuracy of the trained networks, %")
    for name in ("k", "MACs", "params", "from scratch", "from the supernet"):
        table.add_column(name, justify="right", no_wrap=True)
    for network in summary:
        table.add_row(
            str(network["k"]),
            *("-" if network[name] is None else f"{network[name]:,}" for name in ("macs", "params")),
            *(_spread(network.get(f"test_accuracy_{start}")) for start in ("scratch", "warm_start")),
        )
    return table


def _spread(accuracies: list[float] | None) -> str:
    if not accuracies:
        return "-"
    percent = 100 * np.array(accuracies)
    return f"{percent.mean():.2f}" + (f" ± {percent.std(ddof=1):.2f}" if len(percent) > 1 else "")


if __name__ == "__main__":
    cli.run(main, Config)
