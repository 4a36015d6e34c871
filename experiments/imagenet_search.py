"""K networks of different complexity in one search on ImageNet, or on your own images, on all devices of many hosts.

    python -m experiments.make_images --out data
    python -m experiments.imagenet_search --preset smoke --data-dir data --workdir runs/smoke
    python -m experiments.imagenet_search --preset full --data-dir DIR --precision bfloat16 --workdir runs/full
    python -m experiments.imagenet_search --folder DIR --classes 20 --workdir runs/own

A second call with the same folder resumes, on any number of devices that divides the minibatch. SIGTERM and SIGINT end
the run after the step, with a checkpoint and exit code 75. See `jaxnas/search/imagenet_presets.py` for what the presets
cost and do, and docs/imagenet.md for clusters.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments import cli
from experiments.cifar_search import LATENCY_FILE, choose_strategy, describe_config, override, search_space
from jaxnas import supernet
from jaxnas.data import sources
from jaxnas.data.streams import Stream
from jaxnas.networks import latency
from jaxnas.report import plot_pareto, result_table, tensorboard
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime import compilation_cache, devices
from jaxnas.runtime.shared_checkpoints import SharedCheckpoints
from jaxnas.search.answer import summarise
from jaxnas.search.imagenet_presets import IMAGES_A_STEP, PRESETS
from jaxnas.search.loop import run
from jaxnas.search.presets import Preset
from jaxnas.search.streamed import StreamedSearch
from jaxnas.spaces import SPACES


@dataclass(frozen=True)
class Config:
    """Search K networks of different complexity at once, on images that are streamed from disk.

    Attributes:
      workdir: folder for results and checkpoints, needed by process 0 alone; a fresh one under runs/ by default. A
        second call with the same folder resumes.
      dataset: any image classification data set of TFDS, prepared as array_record; imagenet2012 by default.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      folder: instead of a TFDS data set, a folder with one subfolder of JPEG or PNG files for each class.
      classes: search on so many classes, drawn at random.
      images_per_class: search on so many images of each class, drawn at random.
      preset: smoke (20 steps, to try everything) or full.
      space: search space; by default the preset's.
      method: search strategy, importance_sampling or shared_model.
      penalties: one coefficient for each network, the loss worth paying for the whole span of the cost.
      budgets: instead of penalties, the largest cost of each network, such as 100e6 200e6 400e6.
      cost: what is penalised or has a budget: macs, params, or latency with a table of it.
      latency: table of measured latencies, see `experiments.measure_latency`; makes latency a cost.
      samples: architectures drawn from each distribution in a step.
      candidates: draws from each distribution that compete with the modes at the end.
      weight_steps: steps of the weights alone, under uniformly drawn architectures.
      joint_steps: steps of weights and distributions in turn.
      distribution_steps: steps of the distributions alone, with the weights frozen.
      batch_size: images of a step on all devices together; the learning rate grows with it.
      accumulate: parts that each device works on one after the other, to bound its memory.
      seed: of everything random.
      batching: auto, vmap (all architectures at once) or map (one after the other); auto is vmap on accelerators.
      chunk_size: architectures at once under vmap, where all at once do not fit into memory.
      precision: of computation, float32 or bfloat16; parameters, statistics and losses are float32.
      sync_batch_norm: batch statistics of all devices together, not of each device's images.
      threads: that decode images, where there are no workers.
      workers: processes that decode images; 0 for threads.
      max_dead_images: images that cannot be decoded are skipped, up to so many.
      evaluation_batches: validation minibatches that the candidates are compared on at the end.
      steps_per_dispatch: steps between two lines of progress; a checkpoint falls there.
      checkpoint_seconds: seconds between checkpoints.
      tensorboard: write the curves for TensorBoard too, into tensorboard/ of the workdir.
      coordinator: host:port of process 0 in a job of many processes, or auto to ask the cluster (Slurm, TPU, Open MPI).
      num_processes: how many processes the job has; with a coordinator that is not auto.
      process_id: which of them this is, from 0; likewise.
    """

    workdir: Path | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    folder: Path | None = None
    classes: int | None = None
    images_per_class: int | None = None
    preset: str = "full"
    space: str | None = None
    method: str = "importance_sampling"
    penalties: tuple[float, ...] | None = None
    budgets: tuple[str, ...] | None = None
    cost: str = "macs"
    latency: Path | None = None
    samples: int | None = None
    candidates: int | None = None
    weight_steps: int | None = None
    joint_steps: int | None = None
    distribution_steps: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    seed: int = 0
    batching: str = "auto"
    chunk_size: int | None = None
    precision: str = "float32"
    sync_batch_norm: bool = False
    threads: int = 8
    workers: int = 0
    max_dead_images: int = 100
    evaluation_batches: int = 50
    steps_per_dispatch: int | None = None
    checkpoint_seconds: float = 300.0
    tensorboard: bool = False
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def choose_preset(config: Config) -> Preset:
    """The preset with the command line's values in place of its own, and the learning rate for its minibatch.

    Raises:
      ValueError: on an unknown preset, or a folder beside a data set.
    """
    if config.preset not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {config.preset!r}")
    if config.folder is not None and (config.dataset is not None or config.data_dir is not None):
        raise ValueError("give either a folder of images or a dataset and its data_dir, not both")
    preset = override(config, PRESETS[config.preset])
    settings = preset.settings
    scaled = settings.learning_rate * settings.batch_size / IMAGES_A_STEP
    preset = dataclasses.replace(preset, settings=dataclasses.replace(settings, learning_rate=scaled))
    return preset if config.folder is None else dataclasses.replace(preset, dataset="folder")


def build(config: Config, preset: Preset) -> StreamedSearch:
    """Space, strategy, supernet and streams of a preset."""
    if preset.space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {preset.space!r}")
    settings = preset.settings
    shape = {"width": preset.width, "image_size": preset.image_size}
    source = sources.open_source(preset.dataset, config.folder or config.data_dir)
    halves = sources.halves(source, preset.valid_fraction, config.seed, config.classes, config.images_per_class)
    train, valid = (
        Stream(
            source,
            subset,
            preset.image_size,
            size // settings.accumulate,
            config.seed,
            augment,
            devices.process(),
            threads=config.threads,
            workers=config.workers,
            max_dead=config.max_dead_images,
        )
        for subset, size, augment in zip(halves, (settings.batch_size, settings.valid_batch_size), (True, False))
    )
    space = SPACES[preset.space](**shape, num_classes=len(train.subset.class_names))
    gather = supernet.resolve_batching(settings.batching) == "vmap"
    network = supernet.build(space, gather, devices.AXIS if config.sync_batch_norm else None)
    strategy = choose_strategy(config, preset, search_space(config, space))
    return StreamedSearch(strategy, network, train, valid, settings, config.evaluation_batches)


def describe(config: Config, preset: Preset, search: StreamedSearch) -> dict[str, Any]:
    """All that decides the outcome of a search but for rounding, JSON-ready; the number of devices is not in it.

    Without synchronised batch norm the statistics are of each device's images, so there it matters a little.
    """
    names = ("classes", "images_per_class", "sync_batch_norm", "evaluation_batches")
    chosen = {name: getattr(config, name) for name in names}
    return {**describe_config(config, preset), **chosen, "data": search.train.source.fingerprint()[:16]}


def main(config: Config) -> None:
    """Runs or resumes the search; process 0 writes its results."""
    devices.start(config.coordinator, config.num_processes, config.process_id)
    compilation_cache.enable()
    report = devices.is_host_zero()
    console = Console(quiet=not report)
    if config.tensorboard:
        tensorboard.check_installed()
    preset = choose_preset(config)
    search = devices.together(lambda: build(config, preset))
    description = devices.together(lambda: describe(config, preset, search))
    devices.check_agreement(description)
    name = f"{preset.dataset}-{config.preset}"
    workdir = devices.together(lambda: open_workdir(config.workdir, name, description) if report else Path())
    console.print(
        f"{config.preset}: {preset.space} on {preset.dataset}, {len(search.strategy.penalties)} networks, "
        f"{devices.device_count()} devices of {devices.process()[1]} processes, in {workdir}"
    )
    with SharedCheckpoints(workdir / "checkpoints") as checkpoints:
        state, seconds = run(
            search,
            config.seed,
            workdir,
            checkpoints,
            console,
            checkpoint_seconds=config.checkpoint_seconds,
            report=report,
            with_tensorboard=config.tensorboard,
        )
    found = summarise(
        search,
        state,
        method=config.method,
        candidates=preset.candidates,
        seed=config.seed,
        config=description,
        seconds=seconds,
        dataset=preset.dataset,
    )
    if report:
        if config.latency is not None:
            latency.read(config.latency).write(workdir / LATENCY_FILE)
        found.write(workdir / "result.json")
        plot_pareto(found, workdir / "pareto.png")
        console.print(result_table(found))
        console.print(f"results in {workdir}")


if __name__ == "__main__":
    cli.run(main, Config)
