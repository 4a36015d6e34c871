"""The networks that a search found, trained from scratch and tested.

    python -m experiments.retrain --result runs/quickstart/result.json --index all
    python -m experiments.retrain --result runs/cpu/result.json --index 0 --data-dir DIR --epochs 200 --repeats 3

Writes OUT/kK/seedS/ with `network.json` and `weights.safetensors` (for `experiments.export` and `jaxnas.load`),
`metrics.jsonl` and checkpoints, and OUT/retrained.json and OUT/curves.png with the test accuracies of all networks
trained so far. A second call resumes. The recipe for CIFAR-10, 200 epochs, wants an accelerator; on CPUs take a few.
"""

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chex
import numpy as np
import rich.progress
import rich.table
from rich.console import Console

from experiments import cli
from jaxnas import data, networks
from jaxnas.export import saved
from jaxnas.report.training_curves import plot_training
from jaxnas.results import FoundArchitecture, MetricsLog, read_metrics, read_result, versions
from jaxnas.results.files import replacing, to_plain
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime import compilation_cache
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search.retraining import Retraining, RetrainSettings, RetrainState
from jaxnas.tasks.finished_search import load_supernet, read_run

RECIPES = {
    "digits": RetrainSettings(epochs=60, batch_size=64, average=0.99, steps_per_dispatch=44),
    "cifar10": RetrainSettings(augmentation="cutout"),
}


@dataclass(frozen=True)
class Config:
    """Train the networks that a search found, and test them.

    Attributes:
      result: result.json of the search.
      index: which network, its k; or all.
      out: folder for the trained networks; by default `retrained` beside the result.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      width: factor on the channels of the space; 1 is the space's own width.
      image_size: height and width of images; by default the data set's.
      repeats: trainings of each network, with seeds that follow each other.
      seed: of the first one.
      warm_start: also train from the supernet's weights, to compare; the width must be the supernet's.
      test_every: epochs between tests that are logged; 0 for one at the end alone. No decision is taken on them.
      epochs: passes over the training images; this and what follows by default as the data set's recipe has it.
      batch_size: images in a minibatch.
      learning_rate: peak of the cosine schedule.
      warmup: share of the steps in which the learning rate rises from 0.
      weight_decay: of convolution and classifier kernels.
      label_smoothing: in the training loss.
      augmentation: standard (crop and flip), or cutout or randaugment on top of it.
      drop_path: rate in the last layer.
      average: share of itself that the moving average of the weights keeps in a step.
      checkpoint_seconds: seconds between checkpoints.
    """

    result: Path
    index: str = "all"
    out: Path | None = None
    data_dir: Path | None = None
    width: float = 1.0
    image_size: int | None = None
    repeats: int = 1
    seed: int = 0
    warm_start: bool = False
    test_every: int = 0
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    warmup: float | None = None
    weight_decay: float | None = None
    label_smoothing: float | None = None
    augmentation: str | None = None
    drop_path: float | None = None
    average: float | None = None
    checkpoint_seconds: float = 20.0


def choose_settings(config: Config, dataset: str, image_size: int) -> RetrainSettings:
    """The data set's recipe with the command line's values in place of its own, for images of the given size.

    Raises:
      ValueError: if a value is out of range.
    """
    names = [field.name for field in dataclasses.fields(RetrainSettings) if hasattr(config, field.name)]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    # As large a part of the image as 4 and 16 are of CIFAR-10's 32 pixels.
    return dataclasses.replace(RECIPES[dataset], crop_padding=image_size // 8, cutout=image_size // 2, **given)


def choose_networks(config: Config, found: tuple[FoundArchitecture, ...]) -> list[FoundArchitecture]:
    """The networks that `index` names; ValueError if there is none."""
    if config.index == "all":
        return list(found)
    chosen = [network for network in found if str(network.k) == config.index]
    if not chosen:
        raise ValueError(f"index must be all or one of {', '.join(str(n.k) for n in found)}, got {config.index!r}")
    return chosen


def main(config: Config) -> None:
    """Trains, tests and saves."""
    console = cli.console()
    result = read_result(config.result)
    if result.dataset not in RECIPES:
        known = ", ".join(RECIPES)
        raise ValueError(f"dataset {result.dataset!r} has no recipe here; networks for {known} can be retrained")
    chosen = choose_networks(config, result.architectures)
    for name, least in (("repeats", 1), ("test_every", 0), ("seed", 0)):
        if getattr(config, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(config, name)}")
    compilation_cache.enable()
    dataset = data.load(result.dataset, config.data_dir)
    if config.image_size is not None:
        dataset = data.resize_dataset(dataset, config.image_size)
    settings = choose_settings(config, dataset.name, dataset.train_images.shape[1])
    supernet_params = inherited_weights(config) if config.warm_start else None
    out = config.result.parent / "retrained" if config.out is None else config.out
    for found in chosen:
        description = saved.NetworkDescription(
            space=result.space,
            encoding=found.encoding,
            width=config.width,
            image_size=dataset.train_images.shape[1],
            num_classes=dataset.num_classes,
            dataset=dataset.name,
            mean=dataset.mean,
            std=dataset.std,
            versions=versions(),
        )
        space = description.build_space()
        network = networks.build(space, found.encoding, drop_path=settings.drop_path)
        retraining = Retraining(network, dataset, settings)
        for seed in range(config.seed, config.seed + config.repeats):
            train(retraining, description, out / f"k{found.k}" / f"seed{seed}", seed, None, config, console)
            if supernet_params is not None:
                params = networks.inherit(space, found.encoding, supernet_params)
                train(retraining, description, out / f"k{found.k}" / f"warm{seed}", seed, params, config, console)
    summary = summarise(out)
    console.print(summary_table(summary))
    with replacing(out / "retrained.json") as temporary:
        temporary.write_text(json.dumps(to_plain(summary), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    logs = {
        "/".join(path.parts[-3:-1]): read_metrics(path)
        for path in sorted(out.glob("k*/*/metrics.jsonl"))
        if (path.parent / saved.DESCRIPTION).exists()
    }
    plot_training(logs, out / "curves.png")
    console.print(f"results in {out}")


def inherited_weights(config: Config) -> chex.ArrayTree:
    """Weights of the supernet of the search.

    Raises:
      ValueError: if its width is not the networks'.
    """
    _, preset = read_run(config.result.parent)
    if preset.width != config.width:
        raise ValueError(
            f"warm_start needs networks of the supernet's width {preset.width}, got {config.width}; "
            f"give --width {preset.width}"
        )
    return load_supernet(config.result.parent, config.data_dir).params


def train(
    retraining: Retraining,
    description: saved.NetworkDescription,
    folder: Path,
    seed: int,
    params: chex.ArrayTree | None,
    config: Config,
    console: Console,
) -> None:
    """Trains one network to its end, from its newest checkpoint; what is done already stays as it is."""
    settings = {"seed": seed, "warm_start": params is not None, **dataclasses.asdict(retraining.settings)}
    wanted = {"space": description.space, "encoding": list(description.encoding), "width": description.width}
    open_workdir(folder, "retrain", {**wanted, "image_size": description.image_size, **settings})
    if (folder / saved.DESCRIPTION).exists():
        console.print(f"{folder} is trained already", soft_wrap=True)
        return
    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, seconds = run(retraining, folder, checkpoints, retraining.init(seed, params), config, console)
    score = retraining.test(state.average)
    trained_with = {**settings, "wall_seconds": seconds, "test_loss": score.loss}
    saved.save(
        folder,
        dataclasses.replace(description, test_accuracy=score.accuracy, trained_with=trained_with),
        state.average,
    )
    console.print(f"{folder}: test accuracy {100 * score.accuracy:.2f} % after {seconds:.0f} s", soft_wrap=True)


def run(
    retraining: Retraining,
    folder: Path,
    checkpoints: Checkpoints,
    state: RetrainState,
    config: Config,
    console: Console,
) -> tuple[RetrainState, float]:
    """The state after the last step, and the seconds that the training took in all."""
    restored, before = checkpoints.restore_newest(state), 0.0
    if restored is not None:
        state = restored.state
    step, total = int(state.step), retraining.total_steps
    epoch_steps = total // retraining.settings.epochs
    with MetricsLog(folder / "metrics.jsonl") as log, _progress(console) as progress:
        log.truncate_after(step)
        if step:
            before = max((record["wall_seconds"] for record in read_metrics(log.path)), default=0.0)
        task = progress.add_task("/".join(folder.parts[-2:]), total=total, completed=step)
        started = kept = time.monotonic()
        tested = step // epoch_steps
        for next_state, score in retraining.run(state):
            state, step = next_state, int(next_state.step)
            epoch = step / epoch_steps
            record = {
                "step": step,
                "epoch": round(epoch, 3),
                "train_loss": score.loss,
                "train_accuracy": score.accuracy,
            }
            if config.test_every and int(epoch) // config.test_every > tested // config.test_every:
                tested = int(epoch)
                test = retraining.test(state.average)
                record |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
            log.append({**record, "wall_seconds": round(before + time.monotonic() - started, 3)})
            progress.update(task, completed=step)
            if time.monotonic() - kept >= config.checkpoint_seconds or step == total:
                checkpoints.save(step, state)
                kept = time.monotonic()
    return state, before + time.monotonic() - started


def _progress(console: Console) -> rich.progress.Progress:
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    return rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def summarise(out: Path) -> list[dict[str, Any]]:
    """What was trained in a folder, a record for each network: test accuracies over seeds, from scratch and warm."""
    summary = []
    for folder in sorted(out.glob("k*"), key=lambda path: (len(path.name), path.name)):
        starts = {}
        for start, prefix in (("scratch", "seed"), ("warm_start", "warm")):
            paths = sorted(path.parent for path in folder.glob(f"{prefix}*/{saved.DESCRIPTION}"))
            starts[start] = [saved.read_description(path) for path in paths]
        trained = [*starts["scratch"], *starts["warm_start"]]
        if trained:
            space = trained[0].build_space()
            summary.append(
                {
                    "k": int(folder.name[1:]),
                    "encoding": trained[0].encoding,
                    "description": space.describe(trained[0].encoding),
                    **{name: int(space.cost(name).total(trained[0].encoding)) for name in ("params", "macs")},
                    **{
                        f"test_accuracy_{start}": [network.test_accuracy for network in runs]
                        for start, runs in starts.items()
                        if runs
                    },
                }
            )
    return summary


def summary_table(summary: list[dict[str, Any]]) -> rich.table.Table:
    """Test accuracies, mean and standard deviation over seeds."""
    table = rich.table.Table(title="test accuracy of the trained networks, %")
    for name in ("k", "MACs", "params", "from scratch", "from the supernet"):
        table.add_column(name, justify="right", no_wrap=True)
    for network in summary:
        table.add_row(
            str(network["k"]),
            f"{network['macs']:,}",
            f"{network['params']:,}",
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
