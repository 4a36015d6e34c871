"""Settings of a search on a supernet, and the optimiser that they describe."""

import math
from dataclasses import dataclass
from typing import Literal

import optax

from jaxnas.supernet import precision
from jaxnas.supernet.batching import BATCHINGS, check_batching
from jaxnas.supernet.optimizers import sgd
from jaxnas.supernet.precision import PRECISIONS

PHASES = ("weights", "joint", "distributions")


@dataclass(frozen=True)
class SearchSettings:
    """Phases, minibatches, the optimiser of the weights, and how the devices compute.

    Attributes:
      weight_steps: steps of the first phase, which trains only the weights, under uniformly drawn architectures.
      joint_steps: steps of the second phase, each one step of the weights and one of the distributions.
      distribution_steps: steps of the third phase, which trains only the distributions, with the weights frozen.
      batch_size: images in a minibatch of the training split, over all devices. Given on a command line, it also sets
        that of the validation split and, if images are streamed, scales the learning rate.
      valid_batch_size: images in a minibatch of the validation split.
      weight_samples: architectures that share one step of the weights; None for all S that the strategy asks for.
      sandwich: make the most expensive and the cheapest network of the space two of these in every step (the sandwich
        rule), by the cost of the search, the first of several.
      distillation: in each step the most expensive of these networks teaches the others: share of their loss that
        compares their outputs with its own; 0 for none.
      distillation_temperature: temperature of the softmax of these outputs.
      learning_rate: peak of the cosine schedule.
      warmup: share of the weights' steps in which the learning rate rises from 0.
      momentum: momentum of SGD.
      weight_decay: added to the gradient of convolution and classifier kernels.
      clip_norm: largest global norm of the gradient.
      label_smoothing: label smoothing in the loss of the weights.
      crop_padding: zero padding before a random crop, pixels; 0 if images are streamed, which get random crops anyway.
      cutout: side of the square that cutout masks, pixels; 0 for none.
      steps_per_dispatch: steps in one program on the device, or between two lines of progress; checkpoints are saved
        only between programs.
      batching: vmap (all architectures at once) or map (one after the other); auto is map on CPUs and for large
        minibatches on accelerators, see `jaxnas.supernet.batching.MAP_FROM_PIXELS`.
      chunk_size: architectures at once under vmap, which bounds its memory; None for all, auto for as many as fit into
        the device's memory by the compiler's count, which compiles the programs for each number tried.
      precision: precision of computation, bfloat16 for accelerators; parameters, statistics and losses are float32.
      accumulate: number of parts of a minibatch that are computed one after the other (gradient accumulation), which
        bounds memory; batch norm uses the statistics of a part.
    """

    weight_steps: int = 0
    joint_steps: int = 0
    distribution_steps: int = 0
    batch_size: int = 64
    valid_batch_size: int = 64
    weight_samples: int | None = None
    sandwich: bool = False
    distillation: float = 0.0
    distillation_temperature: float = 1.0
    learning_rate: float = 0.025
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    clip_norm: float = 5.0
    label_smoothing: float = 0.0
    crop_padding: int = 4
    cutout: int = 0
    steps_per_dispatch: int = 50
    batching: Literal[BATCHINGS] = "auto"
    chunk_size: int | Literal["auto"] | None = None
    precision: Literal[PRECISIONS] = "float32"
    accumulate: int = 1

    def __post_init__(self):
        for name in ("weight_steps", "joint_steps", "distribution_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("batch_size", "valid_batch_size", "steps_per_dispatch", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("batch_size", "valid_batch_size"):
            if getattr(self, name) % self.accumulate:
                raise ValueError(
                    f"{name} must be a multiple of accumulate ({self.accumulate}), got {getattr(self, name)}"
                )
        if self.weight_samples is not None and self.weight_samples < 1:
            raise ValueError(f"weight_samples must be at least 1, got {self.weight_samples}")
        _check_positive(self, "distillation_temperature")
        _check_shares(self, "distillation")
        if self.joint_steps + self.distribution_steps == 0:
            raise ValueError("joint_steps + distribution_steps must be at least 1: no step would move a distribution")
        check_batching(self.batching)
        if isinstance(self.chunk_size, int) and self.chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {self.chunk_size}")
        precision.check(self.precision)

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return self.weight_steps + self.joint_steps + self.distribution_steps

    def phase(self, step: int) -> tuple[str, int]:
        """The phase that step number `step` (from 0) belongs to, and the number of the first step after it."""
        end = 0
        for phase, steps in zip(PHASES, (self.weight_steps, self.joint_steps, self.distribution_steps)):
            end += steps
            if step < end:
                return phase, end
        raise ValueError(f"step must be less than the {end} steps of the search, got {step}")

    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of the supernet's weights, as in ASNG-NAS's protocol (arXiv 1905.08537)."""
        return sgd(
            self.learning_rate,
            steps=max(self.weight_steps + self.joint_steps, 1),
            warmup=self.warmup,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )


@dataclass(frozen=True)
class FinishSettings:
    """How the networks that a search found are trained together, see `jaxnas.search.finishing`.

    Attributes:
      finish_steps: steps after the search in which the networks found are trained together, on all training images; 0
        for none. Minibatches, augmentation and the other settings of the optimiser are those of the search.
      finish_learning_rate: peak of the cosine schedule of these steps.
      finish_label_smoothing: label smoothing in the loss of these steps.
      finish_average: decay of the moving average of the weights; smaller in the first steps.
      finish_distillation: the most expensive network teaches the others: share of their loss that compares their
        outputs with its own; 0 for none.
      finish_temperature: temperature of the softmax of these outputs.
      finish_batches: minibatches that the statistics of batch norm are estimated on at the end.
    """

    finish_steps: int = 0
    finish_learning_rate: float = 0.1
    finish_label_smoothing: float = 0.1
    finish_average: float = 0.99
    finish_distillation: float = 0.0
    finish_temperature: float = 1.0
    finish_batches: int = 50

    def __post_init__(self):
        if self.finish_steps < 0:
            raise ValueError(f"finish_steps must be 0, for no such steps, or more, got {self.finish_steps}")
        if self.finish_batches < 1:
            raise ValueError(f"finish_batches must be at least 1, got {self.finish_batches}")
        _check_positive(self, "finish_learning_rate", "finish_temperature")
        _check_shares(self, "finish_label_smoothing", "finish_average", "finish_distillation")


def _check_positive(settings: SearchSettings | FinishSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be {'finite' if value == math.inf else 'positive'}, got {value}")


def _check_shares(settings: SearchSettings | FinishSettings, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(settings, name)}")
