"""Networks finished together against the same networks trained one by one, at equal cost, on real CIFAR-10.

    python -m benchmarks.finishing --data-dir DIR --out runs/finishing
    python -m benchmarks.finishing --data-dir DIR --out runs/finishing --seeds 1 --steps 400 1200 --arms together alone

For each seed one search of the preset `cpu` finds four networks. Then, at the width and image size of its supernet:

together  all four, with shared weights that begin as the supernet's: `finish_steps` of a search
alone     each by itself from random weights
warm      each by itself from the supernet's weights
fresh     all four with shared weights that begin at random

A step has one minibatch for each network, in every arm, so that equal numbers of steps cost the same; `alone` is also
trained for `--epochs` passes over the images. All arms have the same augmentation, schedule and moving average; each
has the peak learning rates in `--learning-rates`, and the table shows the best of them for each arm and number of
steps, chosen by the test accuracy, which flatters all arms alike. Each training is a folder in OUT and resumes; what is
done is not done again. OUT/finishing.json holds all figures.
"""

import dataclasses
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import rich.table

from experiments import cli
from jaxnas.report import TrainingDisplay
from jaxnas.results import read_result
from jaxnas.results.files import write_json
from jaxnas.runtime import compilation_cache
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import build, finished, loop, presets
from jaxnas.search.config import SearchConfig
from jaxnas.search.execute import execute
from jaxnas.search.search import Search
from jaxnas.search.settings import FinishSettings
from jaxnas.search.steps import State
from jaxnas.search.training_data import TrainingData

ARMS = ("together", "alone", "warm", "fresh")
SHARED, INHERITED = ("together", "fresh"), ("together", "warm")
FILE = "finishing.json"


@dataclass(frozen=True)
class Config:
    """Compare finishing with trainings one by one.

    Attributes:
      out: folder for searches, trainings and figures.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      preset: of the search.
      seeds: number of searches.
      first_seed: the first of their seeds.
      arms: which of together, alone, warm, fresh.
      steps: of a training, each one minibatch for each network.
      epochs: of the long training of each network alone; 0 for none.
      learning_rates: peaks, each tried for each arm.
      distillation: share of the others' loss that compares them with the most expensive network, in arms that share.
      checkpoint_seconds: seconds between checkpoints.
    """

    out: Path
    data_dir: Path | None = None
    preset: str = "cpu"
    seeds: int = 3
    first_seed: int = 0
    arms: tuple[str, ...] = ("together", "alone", "warm")
    steps: tuple[int, ...] = (400, 1200, 3600)
    epochs: int = 0
    learning_rates: tuple[float, ...] = (0.05, 0.1)
    distillation: float = 0.0
    checkpoint_seconds: float = 60.0


@dataclass(frozen=True)
class Training:
    """One arm of one seed.

    Attributes:
      seed: of the search.
      arm: one of `ARMS`.
      steps: of the training.
      learning_rate: peak.
      distillation: share of the loss.
    """

    seed: int
    arm: str
    steps: int
    learning_rate: float
    distillation: float

    @property
    def name(self) -> str:
        """Of its folder."""
        soft = f"-distillation{self.distillation:g}" if self.distillation else ""
        return f"{self.arm}-steps{self.steps}-rate{self.learning_rate:g}{soft}"


@dataclass(frozen=True)
class Found:
    """A search that is done.

    Attributes:
      search: what ran.
      state: the last one.
      archs: K networks.
      images: to train and test on.
    """

    search: Search
    state: State
    archs: tuple[tuple[int, ...], ...]
    images: TrainingData


def main(config: Config) -> None:
    """Searches, trains, prints."""
    unknown = [arm for arm in config.arms if arm not in ARMS]
    if unknown:
        raise ValueError(f"arms must be of {', '.join(ARMS)}, got {', '.join(unknown)}")
    compilation_cache.enable()
    console = cli.console(log_width=140)
    for seed in range(config.first_seed, config.first_seed + config.seeds):
        wanted = presets.MEMORY(preset=config.preset, seed=seed, data_dir=config.data_dir, finish_steps=0)
        found = search(wanted, config.out / f"seed{seed}" / "search")
        for training in trainings(config, seed, found):
            folder = config.out / f"seed{seed}" / training.name
            if not (folder / FILE).exists():
                accuracies = train(training, found, folder, config, TrainingDisplay(training.name, console))
                write_json(folder / FILE, {**dataclasses.asdict(training), "test_accuracy": accuracies})
                shown = " / ".join(f"{100 * accuracy:.2f}" for accuracy in accuracies)
                console.print(f"seed {seed}, {training.name}: {shown} %", soft_wrap=True)
    figures = [json.loads(path.read_text()) for path in sorted(config.out.glob(f"seed*/*/{FILE}"))]
    write_json(config.out / FILE, {"trainings": figures})
    console.print(table(figures))


def search(config: SearchConfig, workdir: Path) -> Found:
    """Runs a search, or reads one that is done."""
    result_path = workdir / "result.json"
    if not result_path.exists():
        execute(dataclasses.replace(config, run=dataclasses.replace(config.run, workdir=workdir)))
    images = build.open_images(config)
    run = build.build(config, images)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state = checkpoints.restore_newest(run.init(config.run.seed)).state
    archs = tuple(network.encoding for network in read_result(result_path).architectures)
    return Found(run, state, archs, finished.open_training_data(config, images, run))


def trainings(config: Config, seed: int, found: Found) -> Iterator[Training]:
    """All trainings of one seed, the short ones first."""
    counts = [(steps, arm) for steps in config.steps for arm in config.arms]
    if config.epochs:
        size = found.search.settings.batch_size
        counts.append((config.epochs * (len(found.images.source(size, seed, True)) // size), "alone"))
    for steps, arm in counts:
        for rate in config.learning_rates:
            yield Training(seed, arm, steps, rate, config.distillation if arm in SHARED else 0.0)


def train(training: Training, found: Found, folder: Path, config: Config, display: TrainingDisplay) -> list[float]:
    """Test accuracies [K] of the networks after a training."""
    key = jax.random.fold_in(jax.random.key(training.seed), 1)
    fresh_key, order_key = jax.random.split(key)
    inherited = training.arm in INHERITED
    params = found.state.params if inherited else found.search.supernet.init_params(fresh_key)
    settings = FinishSettings(
        finish_steps=training.steps,
        finish_learning_rate=training.learning_rate,
        finish_distillation=training.distillation,
    )
    groups = [found.archs] if training.arm in SHARED else [(arch,) for arch in found.archs]
    accuracies: dict[tuple[int, ...], float] = {}
    for archs in groups:
        if archs[0] in accuracies:  # an equal network is trained
            continue
        together = finished.NetworkFinishing(found.search, archs, found.images, settings, training.seed)
        trainer, first, recipes = together.prepare(params, order_key)
        trainer = dataclasses.replace(trainer, first_step=0)
        place = folder if len(groups) == 1 else folder / "-".join(map(str, archs[0]))
        place.mkdir(parents=True, exist_ok=True)
        with Checkpoints(place / "checkpoints") as checkpoints:
            seconds = config.checkpoint_seconds
            state, _ = loop.run(trainer, first, place, checkpoints, checkpoint_seconds=seconds, listeners=[display])
        scores = together.end(state, recipes).scores
        accuracies |= {arch: float(score.accuracy) for arch, score in zip(archs, scores)}
    return [accuracies[arch] for arch in found.archs]


def table(figures: Sequence[dict]) -> rich.table.Table:
    """Mean test accuracy of the networks, median and quartiles over seeds, at the best learning rate of each."""
    shown = rich.table.Table(title="mean test accuracy of the networks, %")
    for name in ("steps", "arm", "learning rate", "median", "quartiles", "networks", "seeds"):
        shown.add_column(name, justify="right", no_wrap=True)
    kinds = sorted({(one["steps"], ARMS.index(one["arm"]), one["distillation"]) for one in figures})
    for steps, arm, distillation in kinds:
        by_rate: dict[float, list[list[float]]] = {}
        for one in figures:
            if (one["steps"], one["arm"], one["distillation"]) == (steps, ARMS[arm], distillation):
                by_rate.setdefault(one["learning_rate"], []).append(one["test_accuracy"])
        rate, runs = max(by_rate.items(), key=lambda item: statistics.fmean(map(statistics.fmean, item[1])))
        means = 100 * np.mean(runs, axis=1)
        low, median, high = np.percentile(means, (25, 50, 75))
        name = ARMS[arm] + (f", distillation {distillation:g}" if distillation else "")
        networks = " / ".join(f"{100 * accuracy:.1f}" for accuracy in np.mean(runs, axis=0))
        quartiles = f"{low:.2f} to {high:.2f}"
        shown.add_row(str(steps), name, f"{rate:g}", f"{median:.2f}", quartiles, networks, str(len(runs)))
    return shown


if __name__ == "__main__":
    cli.run(main, Config)
