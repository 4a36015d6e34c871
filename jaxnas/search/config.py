"""The settings of a search: one tree for the command line, config.json, the check on resume and the help.

A setting is one field here (or of `SearchSettings`, which the steps of a search read) and nothing else. See
`jaxnas/results/settings_tree.py` for the tree's functions, and `jaxnas/search/presets.py` for complete configurations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxnas import strategies
from jaxnas.data.decoding import WHITE, check_background
from jaxnas.data.preprocessing import Normalization
from jaxnas.results.settings_tree import undecisive
from jaxnas.search import budgets as budget_texts
from jaxnas.search import device_tables
from jaxnas.search.settings import FinishSettings, SearchSettings
from jaxnas.spaces import memory
from jaxnas.supernet.layer_weights import SHARINGS

# Strategies for supernets: they keep distributions, and weigh the samples of all for each.
METHODS = strategies.distribution_strategies()
# What needs the fewest evaluations on recorded supernets (docs/results.md).
DEFAULT_METHOD = next(name for name in METHODS if strategies.STRATEGIES[name] is strategies.SharedModel)


@dataclass(frozen=True)
class RunSettings:
    """Folder, seed and checkpoints of the search.

    Attributes:
      preset: a complete set of settings, which the other options override.
      workdir: folder for results and checkpoints; a fresh one under runs/ by default. A second call with the same
        folder resumes. In a job of many processes, only process 0 needs it.
      seed: random seed of the whole search.
      checkpoint_seconds: seconds between checkpoints.
      stall_seconds: seconds without a step after which the run ends, as when a file system hangs; 0 for no limit.
      tensorboard: also write the curves for TensorBoard, into tensorboard/ of the workdir.
      memory_gib: GiB of device memory that chunk_size=auto plans for; by default all that the device reports.
      profile: folder for traces of some steps of each phase, for xprof or Perfetto.
    """

    preset: str | None = undecisive()
    workdir: Path | None = undecisive()
    seed: int = 0
    checkpoint_seconds: float = undecisive(20.0)
    stall_seconds: float = undecisive(3600.0)
    tensorboard: bool = undecisive(False)
    memory_gib: float | None = undecisive()
    profile: Path | None = undecisive()

    def __post_init__(self):
        if self.memory_gib is not None and not self.memory_gib > 0:
            raise ValueError(f"memory_gib must be positive, got {self.memory_gib}")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """The images that the search learns from.

    Attributes:
      dataset: name of the data set; a search on streams takes any image classification data set of TFDS, prepared as
        array_record.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      image_size: height and width that images are resized to, pixels.
      valid_fraction: fraction of the training images that the distributions learn from.
    """

    dataset: str
    data_dir: Path | None = undecisive()
    image_size: int
    valid_fraction: float

    def __post_init__(self):
        if self.image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {self.image_size}")
        if not 0 < self.valid_fraction < 1:
            raise ValueError(f"valid_fraction must be between 0 and 1, got {self.valid_fraction}")


@dataclass(frozen=True)
class SpaceSettings:
    """The architectures to choose from.

    Attributes:
      space: search space.
      width: channels of the supernet relative to the space's.
      sharing: whether each choice has separate weights in the supernet, or slices of shared ones: in an MBConv space
        the middle of the largest kernel and the leading channels of the widest expansion.
    """

    space: str
    width: float = 1.0
    sharing: Literal[SHARINGS] = "separate"

    def __post_init__(self):
        if not self.width > 0:
            raise ValueError(f"width must be positive, got {self.width}")


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """How the distributions learn, and how the networks of the result are chosen.

    Attributes:
      method: search strategy; importance_sampling is the paper's form.
      penalties: one coefficient for each network, the increase of the loss that is accepted for going from the highest
        cost of the space to the lowest; in any order.
      budgets: instead of penalties, the largest cost of each network, such as 30e6 60e6 120e6, or of several costs,
        such as macs=60e6,params=1e6 for each network; penalties are adapted, and no network exceeds its budget. With
        several devices each network has the budgets that it names, such as phone=5e-3 or server=1e-3,params=1e6.
      cost: the cost that is penalised or has a budget; latency needs a table, see --latency. weight_memory and
        activation_memory are the bytes of the parameters, and of the activations of one image at their peak.
      latency: table of measured latencies, see `experiments.measure_latency`; makes latency a cost. For several
        devices, named tables, such as phone=phone.json server=server.json; makes each name a cost.
      weight_bits: bits of a parameter, for weight_memory.
      activation_bits: bits of an activation, for activation_memory.
      samples: architectures drawn from each distribution in a step; by default the method's own number.
      candidates: samples from each distribution that compete with the modes at the end, on the validation images; 0 for
        only the modes, also with main_effects.
      main_effects: number of uniformly drawn architectures that are evaluated at the end; the candidates are then the
        best of many samples by the main effects of these losses. 0 for none: all samples compete.
    """

    method: str = DEFAULT_METHOD
    penalties: tuple[float, ...]
    budgets: tuple[str, ...] = ()
    cost: str = "macs"
    latency: tuple[str, ...] | Path | None = undecisive()  # the table's content decides, which stands among the inputs
    weight_bits: int = memory.BITS
    activation_bits: int = memory.BITS
    samples: int | None = None
    candidates: int
    main_effects: int = 0

    def __post_init__(self):
        if self.penalties and self.budgets:
            raise ValueError("give either penalties or budgets, not both")
        if self.candidates < 0:
            raise ValueError(f"candidates must be 0 (the modes alone) or more, got {self.candidates}")
        if self.main_effects < 0:
            raise ValueError(f"main_effects must be 0 (none) or more, got {self.main_effects}")
        for name in ("weight_bits", "activation_bits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, such as 32 or 8, got {getattr(self, name)}")
        # In one form, so that equal settings are equal trees.
        object.__setattr__(self, "latency", device_tables.normalised(self.latency))
        object.__setattr__(self, "penalties", tuple(sorted(self.penalties)))
        if self.budgets:
            parsed = budget_texts.parse(self.budgets, self.cost)
            object.__setattr__(self, "budgets", budget_texts.to_texts(parsed))

    @property
    def costs(self) -> tuple[str, ...]:
        """The names of all costs that are penalised or have budgets."""
        budgets = budget_texts.parse(self.budgets, self.cost) if self.budgets else ()
        return tuple(dict.fromkeys([self.cost, *(name for budget in budgets for name in budget)]))


@dataclass(frozen=True)
class StreamSettings:
    """How images are read from disk while the search runs.

    Attributes:
      folder: instead of a TFDS data set, a folder with one subfolder of images for each class, or with the splits
        train, val and test that hold such subfolders; see docs/tutorials/own_data.md.
      valid_folder: a folder with the same class subfolders, whose images the distributions learn from.
      classes: number of classes to search on, drawn at random; by default all.
      images_per_class: number of images of each class and split to search on, drawn at random; by default all.
      test_fraction: fraction of each class that is kept for testing the networks found, if the data set has no test
        split; 0 for none.
      mirror: mirror training images at random; by default not if the name of the data set or folder suggests digits,
        letters, text or traffic signs.
      mean: mean of red, green and blue, from 0 to 1, to normalise images with; by default measured on the training
        images, or ImageNet's for ImageNet.
      std: standard deviations of red, green and blue, likewise.
      background: red, green and blue, from 0 to 255, of the background of transparent images.
      sync_batch_norm: batch statistics over all devices instead of each device's images.
      evaluation_batches: validation minibatches that the candidates are compared on at the end.
      threads: number of threads that decode images, without workers.
      workers: number of processes that decode images; 0 for threads.
      max_dead_images: largest number of images that cannot be decoded and are skipped.
      image_cache: folder for all images of the data set, decoded and resized once and then read from there, which is
        some ten times as fast; built, or completed, before the first step. Hosts may share it.
      image_cache_size: shorter side of the cached images, pixels; by default such that their central crop has
        image_size.
    """

    folder: Path | None = undecisive()  # its content decides, which stands among the inputs
    valid_folder: Path | None = undecisive()  # likewise
    classes: int | None = None
    images_per_class: int | None = None
    test_fraction: float = 0.0  # of searches from before this setting; the presets have another
    mirror: bool = True
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    background: tuple[int, ...] = WHITE
    sync_batch_norm: bool = False
    evaluation_batches: int = 50
    threads: int = undecisive(8)
    workers: int = undecisive(0)
    max_dead_images: int = undecisive(100)
    image_cache: Path | None = undecisive()  # which is used, and its size decide, which stand among the inputs
    image_cache_size: int | None = undecisive()  # likewise

    def __post_init__(self):
        if not 0 <= self.test_fraction < 1:
            raise ValueError(f"test_fraction must be at least 0 and below 1, got {self.test_fraction}")
        check_background(self.background)
        # Each is checked beside a value that is right, since either may be left to be measured.
        Normalization(self.mean or (0.5, 0.5, 0.5), self.std or (0.25, 0.25, 0.25))


@dataclass(frozen=True)
class JobSettings:
    """The processes of a job on many hosts.

    Attributes:
      coordinator: host:port of process 0 in a job of many processes, or auto to ask the cluster (Slurm, TPU, Open MPI).
      num_processes: number of processes of the job; needed unless the coordinator is auto.
      process_id: index of this process, from 0; needed unless the coordinator is auto.
    """

    coordinator: str | None = undecisive()
    num_processes: int | None = undecisive()
    process_id: int | None = undecisive()


@dataclass(frozen=True)
class SearchConfig:
    """Search K networks of different complexity at once.

    Attributes:
      run: Folder, seed and checkpoints of the search.
      data: The images that the search learns from.
      space: The architectures to choose from.
      method: How the distributions learn, and how the networks of the result are chosen.
      training: Phases, minibatches, the optimiser of the weights, and how the devices compute.
      finish: How the networks found are trained together at the end.
    """

    run: RunSettings
    data: DataSettings
    space: SpaceSettings
    method: MethodSettings
    training: SearchSettings
    finish: FinishSettings = FinishSettings()


@dataclass(frozen=True)
class StreamedConfig(SearchConfig):
    """Search K networks of different complexity at once, on images that are streamed from disk.

    Attributes:
      run, data, space, method, training, finish: as of `SearchConfig`.
      streams: How images are read from disk while the search runs.
      job: The processes of a job on many hosts.
    """

    streams: StreamSettings = StreamSettings()
    job: JobSettings = JobSettings()
