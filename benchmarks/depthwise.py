"""Ways to compute the depthwise convolution of S samples at once, in turn: forward, input's and kernel's gradient.

    python -m benchmarks.depthwise                           # the layers of benchmarks.supernet_step, on an accelerator
    python -m benchmarks.depthwise --channels 16 --image-sizes 8 --batch-size 4         # a quick look

`grouped` is what the supernet does under `vmap`: one convolution whose groups are the channels of all samples. `loop`
is one convolution for each sample; `shifted` a sum of k x k shifted products, as on CPUs, left to XLA's fusion.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Program
from experiments import cli
from jaxnas.supernet import ops, precision

Form = Callable[[jax.Array, jax.Array], jax.Array]  # x [S, B, H, W, C], kernels [S, k, k, C] -> [S, B, H, W, C]


@dataclasses.dataclass(frozen=True)
class Config:
    """Times forms of the depthwise convolution of S samples."""

    samples: int = 4
    """S."""
    batch_size: int = 64
    """B."""
    image_sizes: tuple[int, ...] = (32, 16, 8)
    """Height and width of the images, of one layer after the other."""
    channels: tuple[int, ...] = (192, 384, 768)
    """C of each layer."""
    kernel_size: int = 7
    """k."""
    precision: str = "bfloat16"
    """float32 or bfloat16."""
    rounds: int = 20
    """Times that each runs; the printed time is the median."""


def forms() -> dict[str, Form]:
    """The three, by name."""
    convolve = functools.partial(ops.depthwise_conv, backend="gpu")  # XLA's own, also on a CPU
    return {
        "grouped": jax.vmap(convolve),
        "loop": lambda x, kernel: jnp.stack([convolve(*sample) for sample in zip(x, kernel)]),
        "shifted": jax.vmap(shifted),
    }


def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution as a sum of shifted products, added up in float32."""
    (size, _, _), (_, height, width, _) = kernel.shape, x.shape
    padding = (size - 1) // 2
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))).astype(jnp.float32)
    taps = [(row, column) for row in range(size) for column in range(size)]
    total = sum(padded[:, row : row + height, column : column + width] * kernel[row, column] for row, column in taps)
    return total.astype(x.dtype)


def passes(form: Form, x: jax.Array, kernel: jax.Array) -> dict[str, Callable[[], jax.Array]]:
    """The three passes of one form, compiled."""
    gradient = jnp.ones_like(x)
    functions = {
        "forward": (form, x, kernel),
        "input": (lambda x, kernel, g: jax.vjp(lambda x: form(x, kernel), x)[1](g)[0], x, kernel, gradient),
        "kernel": (lambda x, kernel, g: jax.vjp(lambda kernel: form(x, kernel), kernel)[1](g)[0], x, kernel, gradient),
    }
    return {name: functools.partial(jax.jit(function), *args) for name, (function, *args) in functions.items()}


def program(call: Callable[[], jax.Array]) -> Program:
    """Something to be timed, which has run once."""
    jax.block_until_ready(call())
    return Program(lambda: jax.block_until_ready(call()), 1, 0.0)


def main(config: Config) -> None:
    """Times all forms on each layer and prints the table."""
    if len(config.image_sizes) != len(config.channels):
        raise ValueError(f"channels must be one number for each of image_sizes, got {config.channels}")
    precision.check(config.precision)
    table = Table(title=f"ms, {config.precision}, {jax.devices()[0].device_kind}")
    for column in ("x", "form", "forward", "input's gradient", "kernel's gradient"):
        table.add_column(column, justify="left" if column in ("x", "form") else "right")
    for size, channels in zip(config.image_sizes, config.channels):
        shape = (config.samples, config.batch_size, size, size, channels)
        kernels = (config.samples, config.kernel_size, config.kernel_size, channels)
        x, kernel = (
            jax.random.normal(jax.random.key(seed), of).astype(config.precision)
            for seed, of in enumerate((shape, kernels))
        )
        programs = {
            (name, part): program(call)
            for name, form in forms().items()
            for part, call in passes(form, x, kernel).items()
        }
        seconds = measure.alternate(programs, config.rounds)
        for name in forms():
            times = [f"{seconds[name, part] * 1e3:.3f}" for part in ("forward", "input", "kernel")]
            table.add_row(str(list(shape)), name, *times)
    cli.console().print(table)


if __name__ == "__main__":
    cli.run(main, Config)
