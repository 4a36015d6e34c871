"""What a search needs of 1, 8, 64 and 256 accelerators, on paper: counted, not measured.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --accelerator h100 --precision float32

Counted are the floating-point operations and the memory traffic of the network as it runs on accelerators, where every
layer is the padded largest MBConv (`jaxnas/supernet/batched_layer.py`), and the bytes of the all-reduce. A step then
takes the longer of operations / peak and traffic / bandwidth, divided by `--efficiency`, plus the all-reduce, which is
taken not to overlap. Peaks and bandwidths are the makers' figures; the efficiency is an assumption.
"""

import math
from dataclasses import dataclass

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import targets
from experiments import cli
from jaxnas.search.build import choose_strategy
from jaxnas.search.presets import STREAMED
from jaxnas.spaces import SPACES
from jaxnas.spaces.mbconv import Layer, MBConvSpace
from jaxnas.supernet import mbconv

COUNTS = (1, 8, 64, 256)
HOST = 8  # accelerators that share a fast connection
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Config:
    """Count what a search needs.

    Attributes:
      preset: of experiments.imagenet_search.
      accelerator: a100, h100, v5e or v6e; their makers' figures lie in benchmarks/targets.
      precision: float32 or bfloat16.
      efficiency: share of the roofline that the network reaches.
    """

    preset: str = "full"
    accelerator: str = "a100"
    precision: str = "bfloat16"
    efficiency: float = 0.5


@dataclass(frozen=True)
class Work:
    """Of one pass of one image through one network, and of the weights.

    Attributes:
      operations: floating-point, of the forward pass; the backward pass has twice as many.
      values: read from and written to memory in the forward pass; likewise.
      weights: parameters of the whole supernet.
    """

    operations: float
    values: float
    weights: int


@dataclass(frozen=True)
class Step:
    """Of one step on each of n accelerators.

    Attributes:
      compute_seconds: of the slower of operations and memory.
      exchanged: bytes that each accelerator sends in the all-reduce.
      exchange_seconds: for them.
      images: a second, of all accelerators together.
    """

    compute_seconds: float
    exchanged: float
    exchange_seconds: float
    images: float

    @property
    def seconds(self) -> float:
        """One after the other."""
        return self.compute_seconds + self.exchange_seconds


def layer_values(layer: Layer) -> int:
    """Values that the largest MBConv of a layer moves: a convolution reads its input and writes its output.

    Batch norm reads twice, for statistics and to normalise, and writes once. A residual connection is one read more.
    """
    inner = layer.in_channels * max(operation.expansion for operation in layer.operations if not operation.is_skip)
    inputs, outputs = layer.resolution**2, layer.out_resolution**2
    sizes = [layer.in_channels * inputs, inner * inputs, inner * outputs, layer.out_channels * outputs]
    moved = sum(before + after + 3 * after for before, after in zip(sizes, sizes[1:]))
    return moved + (sizes[0] if layer.keeps_shape else 0)


def count(space: MBConvSpace) -> Work:
    """Counts the network of a space as it runs on accelerators."""
    cost = space.cost("macs")
    stem = space.stem_channels * space.layers[0].resolution ** 2
    head = space.head_channels * space.layers[-1].out_resolution ** 2
    values = 4 * (stem + head) + sum(map(layer_values, (*space.fixed_layers, *space.layers)))
    arrays = jax.tree.leaves(mbconv.declare(space))
    return Work(2 * cost.highest, values, sum(math.prod(array.shape) for array in arrays))


def step(
    work: Work, config: Config, count: int, images: int, samples: int, passes: int, exchanged_values: float
) -> Step:
    """One step on `count` accelerators.

    Args:
      work: of an image.
      config: accelerator, precision, efficiency.
      count: of accelerators.
      images: of the minibatch on all of them together.
      samples: architectures that see it.
      passes: 1 for the forward pass, 3 with the backward pass.
      exchanged_values: float32 numbers that are averaged over accelerators.
    """
    accelerator = targets.chips()[config.accelerator]
    share = passes * samples * images / count
    compute = share * work.operations / accelerator.flops[config.precision]
    memory = share * work.values * BYTES[config.precision] / accelerator.memory_bandwidth
    # A ring sends every value twice but for the own part: once to add up, once to spread the sum.
    exchanged = 2 * (count - 1) / count * 4 * exchanged_values
    exchange = exchanged / (accelerator.inside if count <= HOST else accelerator.outside)
    compute = max(compute, memory) / config.efficiency
    return Step(compute, exchanged, exchange, images / (compute + exchange))


def main(config: Config) -> None:
    """Prints both phases' steps, and the hours of the whole search."""
    for name, known in (("preset", STREAMED.configs), ("accelerator", targets.chips()), ("precision", BYTES)):
        if getattr(config, name) not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(config, name)!r}")
    if not 0 < config.efficiency <= 1:
        raise ValueError(f"efficiency must be more than 0 and at most 1, got {config.efficiency}")
    preset = STREAMED.configs[config.preset]
    settings = preset.training
    space = SPACES[preset.space.space](width=preset.space.width, image_size=preset.data.image_size)
    work = count(space)
    strategy = choose_strategy(preset, space)
    samples = strategy.step_samples
    table = Table(
        title=f"{config.preset} on {config.accelerator}, {config.precision}: counted, not measured",
        title_justify="left",
    )
    for heading in ("accelerators", "step", "seconds", "all-reduce MB", "of it seconds", "images/s"):
        table.add_column(heading, justify="right")
    hours = []
    for number in COUNTS:
        weights = step(work, config, number, settings.batch_size, settings.weight_samples or samples, 3, work.weights)
        chosen = step(work, config, number, settings.valid_batch_size, samples, 1, 2 * samples)
        for name, one in (("weights", weights), ("distributions", chosen)):
            table.add_row(
                str(number),
                name,
                f"{one.seconds:.4f}",
                f"{one.exchanged / 1e6:.4g}",
                f"{one.exchange_seconds:.4f}",
                f"{one.images:,.0f}",
            )
        seconds = (settings.weight_steps + settings.joint_steps) * weights.seconds
        seconds += (settings.distribution_steps + settings.joint_steps) * chosen.seconds
        hours.append(f"{number}: {seconds / 3600:.2f} h ({number * seconds / 3600:.1f} device hours)")
    console = Console(width=110)
    console.print(table)
    console.print(
        f"one image, forward: {work.operations / 1e9:.2f} GFLOP, {work.values / 1e6:.0f} million values moved; "
        f"weights of the supernet: {work.weights / 1e6:.1f} million"
    )
    console.print("the whole search on so many accelerators: " + ", ".join(hours))


if __name__ == "__main__":
    cli.run(main, Config)
