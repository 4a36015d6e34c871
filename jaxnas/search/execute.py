"""A search from its configuration to its result, in a folder: run, or resumed, by one process or by many."""

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxnas.data.crops import CENTRAL, SCALE
from jaxnas.data.folder_scan import listed, shown
from jaxnas.data.sources import Splits
from jaxnas.results import evaluations, settings_tree
from jaxnas.results.evaluations import Evaluations
from jaxnas.results.json_files import read_sealed
from jaxnas.results.result import SearchResult
from jaxnas.results.workdir import FRESH, open_workdir
from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search import bad_images, device_tables, finished, image_caches, memory
from jaxnas.search.answer import summarise
from jaxnas.search.build import build, inputs, open_images
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.search.finished import FinishedNetworks
from jaxnas.search.loop import Listener, run
from jaxnas.search.search import Search
from jaxnas.search.steps import LEARNS_FROM_TRAIN, LEARNS_FROM_VALID, StepMetrics

EXTENDABLE = ("distribution_steps", "finish_steps")  # the last phases, on which nothing before depends


def describe(config: SearchConfig, found: dict[str, Any], *, decisive: bool = False) -> dict[str, Any]:
    """A configuration as config.json and, without what does not decide the outcome, result.json hold it.

    Args:
      config: the settings.
      found: what files decide beside them, see `jaxnas.search.build.inputs`.
      decisive: whether to leave out what does not decide.
    """
    document = settings_tree.to_json(config, decisive=decisive)
    return {**document, settings_tree.INPUTS: found} if found else document


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a search leaves.

    Attributes:
      result: what stands in `result.json`.
      workdir: the folder that it lies in; `Path()` on processes that do not write.
      finished: the trained networks; None without `finish_steps`.
    """

    result: SearchResult
    workdir: Path
    finished: FinishedNetworks | None


def execute(
    config: SearchConfig,
    listen: Callable[[Search, Path], Sequence[Listener]] = lambda search, workdir: (),
    announce: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Runs or resumes a search and writes `result.json`, all processes together; process 0 writes.

    Args:
      config: the settings; a job's processes have called `jaxnas.runtime.jobs.start` already.
      listen: called before the first step with the search and its folder; returns what follows the run.
      announce: called with a text for people: what images were found, and what is special about this start.

    Raises:
      ValueError: on settings that do not fit each other, the data, or the search that the folder holds, and where
        another process owns the folder (`jaxnas.results.ownership.OwnedError`).
      DatasetNotFoundError, NonFiniteLossError, RunInterruptedError, LostProcessError: see those.
    """
    is_writer, streamed = devices.is_host_zero(), isinstance(config, StreamedConfig)
    known_bad: bad_images.Known = {}
    if streamed:
        devices.together(lambda: _check_outside(config) if is_writer else None)
        began_without = devices.from_first(lambda: _keeps_no_images(config.run.workdir))
        if began_without and config.streams.test_fraction:
            config = settings_tree.replace(config, test_fraction=0.0)
            announce("the search in this folder keeps no images for testing, and goes on as it began")
        known_bad = json.loads(devices.from_first(lambda: json.dumps(bad_images.read(config.run.workdir))))
    images = devices.together(lambda: open_images(config, known_bad))
    if streamed:
        announce(images.summary())
        count = sum(map(len, known_bad.values()))
        if count:
            announce(f"warning: {count} images that could not be read at an earlier start are passed over")
        devices.together(lambda: image_caches.build(config, images, announce))
    search, plan = devices.together(lambda: memory.planned(build(config, images), config.run.memory_gib))
    if plan is not None:
        announce(plan)
    found = devices.together(lambda: inputs(config, search, images if streamed else None))
    document = describe(config, found)
    comparable = functools.partial(settings_tree.comparable, type(config))
    devices.check_agreement(comparable(document))
    training_data = None
    if config.finish.finish_steps:  # before hours of work
        training_data = devices.together(lambda: finished.open_training_data(config, images, search))
    name = f"{config.data.dataset}-{config.run.preset or 'search'}"
    if streamed:
        if config.streams.classes is not None or config.streams.images_per_class is not None:
            announce(_drawn(found, search))
        announce(_kept_for_testing(config, found, images))
        announce(_preprocessing(config, found))
    before = _distribution_steps(config) if is_writer else None
    with contextlib.ExitStack() as stack:

        def enter() -> Path:
            opened = open_workdir(config.run.workdir, name, document, comparable, EXTENDABLE)
            return stack.enter_context(opened) if is_writer else Path()

        workdir = devices.together(enter)
        if before is not None and before < config.training.distribution_steps:
            announce(f"extends the search from {before} to {config.training.distribution_steps} distribution_steps")
        if is_writer:
            for cost, table in device_tables.read(config.method.latency).items():
                # What later reads the folder finds it there.
                table.write(workdir / device_tables.file_name(cost))
        keeper = EvaluationsKeeper(search, workdir, run_of(type(config), document)) if is_writer else None
        common = {
            "checkpoint_seconds": config.run.checkpoint_seconds,
            "listeners": listen(search, workdir),
            "report": is_writer,
        }
        if streamed and is_writer:
            stack.callback(bad_images.write, workdir, known_bad, images)
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            first = search.init(config.run.seed)
            state, seconds = run(search, first, workdir, checkpoints, keeper=keeper, **common)
        decisive = describe(config, found, decisive=True)

        def find() -> SearchResult:
            return summarise(
                search,
                state,
                method=config.method.method,
                candidates=config.method.candidates,
                uniform=config.method.main_effects,
                keep_uniform=None if keeper is None else keeper.keep_uniform,
                seed=config.run.seed,
                config=decisive,
                seconds=seconds,
                dataset=config.data.dataset,
                classes=found.get("classes"),
                images=found.get("images"),
                test_images=found.get("test_images"),
            )

        if training_data is None:
            result, trained = find(), None
        else:
            result = finished.begin(workdir, decisive, find)
            archs = tuple(one.encoding for one in result.architectures)
            finishing = finished.NetworkFinishing(search, archs, training_data, config.finish, config.run.seed)
            trained, seconds = finished.finish(finishing, state, workdir, **common)
            result = trained.tested(result, seconds)
        if is_writer:
            result.write(workdir / "result.json")
    return Outcome(result, workdir, trained)


def _check_outside(config: StreamedConfig) -> None:
    """Raises ValueError if what is written would lie among the images, where it would become a class."""
    of_dataset = config.data.data_dir if config.data.dataset == "folder" else None
    written = {"workdir": config.run.workdir or FRESH, "image_cache": config.streams.image_cache}
    for (name, path), folder in itertools.product(
        written.items(), (config.streams.folder, config.streams.valid_folder, of_dataset)
    ):
        if path is None or folder is None:
            continue
        path, root = path.expanduser().resolve(), folder.expanduser().resolve()
        if not path.is_relative_to(root):
            continue
        if not any(part.startswith(".") for part in path.relative_to(root).parts):  # hidden, and not scanned
            raise ValueError(
                f"{name} {shown(path)} lies in the folder of images {shown(root)}, where it would become a class; "
                f"give --{name.replace('_', '-')} another place"
            )


def run_of(tree: type[SearchConfig], document: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a search from others, by name: config.json without what an extension changes.

    Raises:
      ValueError: if the document is no configuration of this tree.
    """
    comparable = settings_tree.comparable(tree, document)
    return {name: value for name, value in comparable.items() if name not in EXTENDABLE}


class EvaluationsKeeper:
    """Keeps every evaluation of the distributions in `evaluations.npz`, see `jaxnas.search.loop.Keeper`.

    Args:
      search: the search.
      workdir: its folder.
      run: what tells it from others, see `run_of`.
    """

    def __init__(self, search: Search, workdir: Path, run: Mapping[str, Any]):
        strategy, self._settings = search.strategy, search.settings
        self._workdir, self._about = workdir, evaluations.About.of(strategy.space, run)
        samples = strategy.step_samples
        self._log = evaluations.EvaluationsLog(workdir / evaluations.NAME, self._about, samples)

    @property
    def evaluations(self) -> Evaluations:
        """All so far."""
        return self._log.evaluations

    def resume(self, step: int) -> None:
        """Drops what is of later steps."""
        self._log.resume(step)

    def keep(self, step: int, phase: str, metrics: StepMetrics) -> None:
        """Adds the evaluations of the steps after `step`."""
        if phase not in LEARNS_FROM_VALID:
            return
        steps = np.arange(step + 1, step + len(metrics.finite) + 1, dtype=np.int32)
        minibatches = (steps - 1 - self._settings.weight_steps) * self._settings.accumulate
        joint = np.full(len(steps), phase in LEARNS_FROM_TRAIN)
        self._log.append(Evaluations(metrics.archs, metrics.losses, steps, minibatches, joint))

    def keep_uniform(self, found: Evaluations) -> None:
        """Writes the evaluations of uniform architectures at the end of the search, in a file of their own."""
        found.write(self._workdir / evaluations.UNIFORM, self._about)

    def write(self) -> None:
        """Writes the file."""
        self._log.write()


def _drawn(found: dict[str, Any], search: Search) -> str:
    """Which of the classes and how many of their images the search draws, for people."""
    names, count = found["classes"], len(search.train) + len(search.valid)
    return f"of these the search draws {count:,} images of {len(names):,} classes ({listed(names)})"


def _preprocessing(config: StreamedConfig, found: dict[str, Any]) -> str:
    """What happens to the images, for people."""
    mean, std = (" ".join(f"{value:.3f}" for value in found["normalization"][name]) for name in ("mean", "std"))
    mirrored = "mirrored at random" if config.streams.mirror else "not mirrored"
    size = config.data.image_size
    return (
        f"images are cropped (in training a random part of {SCALE[0]:.0%} to {SCALE[1]:.0%} of the area, else the "
        f"central square with {CENTRAL} of the shorter side), resized to {size}x{size}, {mirrored} in training, and "
        f"normalised with mean {mean}, std {std}"
    )


def _kept_for_testing(config: StreamedConfig, found: dict[str, Any], splits: Splits) -> str:
    """Which images the networks that are found can be tested on, for people."""
    if "test_images" in found:
        count = f"{found['test_images']:,} of these images"
        return f"{count} are kept for testing the networks; the search does not read them"
    if splits.test is not None:
        return "the networks can be tested on a split of their own, which the search does not read"
    if splits.valid is not None:
        what = "give a folder test beside val"
    elif config.streams.test_fraction:
        what = f"each class has too few for test_fraction {config.streams.test_fraction:g}"
    else:
        what = "--test-fraction 0.2 keeps a fifth of them"
    return f"the networks can be tested on images alone that the search reads; {what}"


def _keeps_no_images(workdir: Path | None) -> str:
    """A word where the search in a folder began without images kept for testing, as in earlier versions; else empty."""
    if workdir is None:
        return ""
    try:
        streams = read_sealed(workdir / "config.json")["streams"]
        return "" if streams.get("test_fraction", 0.0) else "none"
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # there is none, or `open_workdir` will refuse it
        return ""


def _distribution_steps(config: SearchConfig) -> int | None:
    """Those of the search in the folder; None where there is none, or one that `open_workdir` will refuse."""
    if config.run.workdir is None:
        return None
    try:
        document = read_sealed(config.run.workdir / "config.json")
        return settings_tree.from_json(type(config), document).training.distribution_steps
    except (OSError, ValueError):
        return None
