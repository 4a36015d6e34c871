"""The steps of searches as programs to be compiled for devices that are not there: no data, no weights, only shapes."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import networks
from jaxnas import supernet
from jaxnas.data import Examples
from jaxnas.runtime import devices
from jaxnas.runtime.placement import Placement
from jaxnas.search import presets
from jaxnas.search.build import choose_strategy
from jaxnas.search.config import MethodSettings, SearchConfig, StreamedConfig
from jaxnas.search.images import CrossEntropy, PrepareImages
from jaxnas.search.steps import State, StepMetrics, Steps
from jaxnas.spaces import SPACES, SearchSpace
from jaxnas.supernet.precision import PRECISIONS

PROGRAMS = ("weights", "distributions")  # also the names of the phases that have such a step alone
SEARCHES = ("benchmark", "cifar", "imagenet")
BATCHINGS = ("vmap", "map")
PASSES = {"weights": 3, "distributions": 1}  # a backward pass computes twice what a forward pass does
BENCHMARK_BATCH, BENCHMARK_SAMPLES = 64, 4


@dataclass(frozen=True)
class Case:
    """One program.

    Attributes:
      search: benchmark (the network of `benchmarks.supernet_step`), cifar or imagenet (`full` of their presets).
      program: weights or distributions: which step.
      precision: float32 or bfloat16.
      batching: vmap or map.
      distributions: K.
      samples: S, architectures that share a step, a multiple of K; None for the search's own number, at least K.
      batch_size: B, images on all devices together; None for the search's own number.
      width: channels relative to the search's.
      image_size: pixels; None for the search's own.
    """

    search: str
    program: str
    precision: str
    batching: str
    distributions: int = 1
    samples: int | None = None
    batch_size: int | None = None
    width: float = 1.0
    image_size: int | None = None

    def __post_init__(self):
        known_values = {"search": SEARCHES, "program": PROGRAMS, "precision": PRECISIONS, "batching": BATCHINGS}
        for name, known in known_values.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.distributions < 1 or (self.samples is not None and self.samples % self.distributions):
            raise ValueError(
                f"samples must be a multiple of distributions, got {self.samples} and {self.distributions}"
            )


@dataclass(frozen=True)
class Step:
    """A case, ready to be lowered.

    Attributes:
      lowered: of jit or pmap.
      samples: S of this step.
      useful_flops: of uniformly drawn networks on one device's images, two a multiply-add, none for anything but
        matrix products and convolutions.
    """

    lowered: jax.stages.Lowered
    samples: int
    useful_flops: float


def build(case: Case, placement: Placement, backend: str) -> Step:
    """Traces and lowers a case for the devices of a placement."""
    config, space = _config(case), _space(case)
    steps = _steps(case, config, space, placement, backend)
    settings = steps.settings

    def program(state: State, train: Any, valid: Any, phase: str) -> tuple[State, StepMetrics]:
        return steps.step(state, phase, train, valid)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 3))
    state = jax.eval_shape(
        lambda keys: State(**steps.fresh(keys[0], steps.supernet.init_params(keys[1]), keys[2])), keys
    )
    size, channels = config.data.image_size, 3
    images = settings.batch_size // placement.count
    streamed = isinstance(config, StreamedConfig)
    minibatch = Examples(
        jax.ShapeDtypeStruct((1, images, size, size, channels), jnp.uint8),
        jax.ShapeDtypeStruct((1, images), jnp.int32),
        jax.ShapeDtypeStruct((1, images), jnp.bool_) if streamed else None,
    )
    arguments = placement.shapes((state, minibatch, minibatch))
    lowered = placement.compile(program, donate=True).lower(*arguments, case.program)
    drawn = steps.strategy.step_samples
    samples = settings.weight_samples or drawn if case.program == "weights" else drawn
    return Step(lowered, samples, useful_flops(case.program, space, samples, images))


def _config(case: Case) -> SearchConfig:
    """The configuration of the search, changed as the case says."""
    config = {"imagenet": presets.STREAMED}.get(case.search, presets.MEMORY).configs["full"]
    method, training = config.method, config.training
    samples = case.samples
    if case.search == "benchmark":
        samples = samples or BENCHMARK_SAMPLES
        training = dataclasses.replace(training, batch_size=BENCHMARK_BATCH, crop_padding=0, cutout=0)
    if samples is None and method.samples is not None:
        samples = method.samples * len(method.penalties)
    method = MethodSettings(
        method=method.method,
        penalties=tuple(np.geomspace(0.02, 0.3, case.distributions).tolist()),
        samples=None if samples is None else max(1, samples // case.distributions),
        candidates=method.candidates,
    )
    batch_size = case.batch_size or training.batch_size
    training = dataclasses.replace(
        training,
        batch_size=batch_size,
        valid_batch_size=batch_size,
        batching=case.batching,
        precision=case.precision,
    )
    data = dataclasses.replace(config.data, image_size=case.image_size or config.data.image_size)
    return dataclasses.replace(config, method=method, training=training, data=data)


def _space(case: Case) -> SearchSpace:
    config = _config(case)
    if case.search == "benchmark":
        return networks.benchmark_space(case.width, config.data.image_size)
    classes = 1000 if isinstance(config, StreamedConfig) else 10
    return SPACES[config.space.space](width=case.width, image_size=config.data.image_size, num_classes=classes)


def _steps(case: Case, config: SearchConfig, space: SearchSpace, placement: Placement, backend: str) -> Steps:
    settings = config.training
    streamed = isinstance(config, StreamedConfig)
    synchronised = devices.AXIS if streamed and config.streams.sync_batch_norm else None
    network = supernet.build(space, case.batching == "vmap", synchronised, backend)
    prepare = PrepareImages(crop_padding=settings.crop_padding, mirror=not streamed, cutout=settings.cutout)
    return Steps(
        choose_strategy(config, space),
        network,
        settings,
        prepare,
        CrossEntropy(),
        CrossEntropy(settings.label_smoothing),
        average=placement.average,
    )


def minibatch_pixels(case: Case, count: int) -> int:
    """Pixels that one architecture sees on one of some devices, B * H * W."""
    config = _config(case)
    return config.training.batch_size // count * config.data.image_size**2


def useful_flops(program: str, space: SearchSpace, samples: int, images: int) -> float:
    """Operations of uniformly drawn networks in the mean, by the space's count of multiply-adds, two each.

    Args:
      program: weights, whose backward pass has twice the operations of the forward pass, or distributions.
      space: the architectures.
      samples: architectures.
      images: that each of them sees.
    """
    cost = space.cost("macs")
    macs = cost.fixed + sum(float(np.mean(row)) for row in cost.table)
    return 2.0 * PASSES[program] * samples * images * macs
