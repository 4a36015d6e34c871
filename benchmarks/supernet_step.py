"""A step of the supernet's weights against other ways to train the same architectures, in turn and in one run.

    python -m benchmarks.supernet_step
    python -m benchmarks.supernet_step --only map torch_channels_last --rounds 9
    python -m benchmarks.supernet_step --measure start --only map --space mbconv_cifar10
    python -m benchmarks.supernet_step --only vmap discrete --precision bfloat16      # on an accelerator

The programs: `map`, the library's step on CPUs (one architecture after the other); `vmap`, its step on accelerators
(gathered weights, all architectures at once); `switch_vmap`, a plain `switch` in every layer under `vmap`; `discrete`,
the same architectures as networks of their own, compiled beforehand and run one by one; `torch` and
`torch_channels_last`, PyTorch along single paths. The two under `vmap` are slow on CPUs and run once.
"""

import dataclasses
import functools
import importlib.util
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from benchmarks import measure, networks
from benchmarks.measure import Program
from experiments import cli
from jaxnas import spaces, supernet
from jaxnas.runtime import compilation_cache
from jaxnas.supernet import precision

PROGRAMS = ("map", "vmap", "switch_vmap", "discrete", "torch_channels_last", "torch")
MEASURES = ("time", "start")
LEARNING_RATE = 0.05


@dataclasses.dataclass(frozen=True)
class Config:
    """Times a supernet's step against other ways to train the same architectures."""

    only: tuple[str, ...] = PROGRAMS
    """Programs to run."""
    rounds: int = 7
    """Times that each of the others runs; the printed time is the median."""
    slow_rounds: int = 1
    """Times that vmap and switch_vmap run on CPUs."""
    steps: int = 2
    """Steps of one run of map and discrete."""
    batch_size: int = 64
    """B."""
    samples: int = 4
    """S, architectures that share a step."""
    width: float = 1.0
    """Channels relative to the benchmark's network."""
    image_size: int = 32
    """Height and width of the images."""
    precision: str = "float32"
    """float32 or bfloat16: of all but PyTorch's programs."""
    space: str | None = None
    """A registered search space in place of the benchmark's network; for the time to compile map."""
    measure: str = "time"
    """time, or start: in processes of their own, seconds of the first call, without and with the persistent compilation
    cache, and the growth of the peak of memory from before a program is built to after two runs."""


class Problem:
    """Weights, a minibatch and architectures that all programs share."""

    def __init__(self, config: Config):
        if config.space is None:
            self.space = networks.benchmark_space(config.width, config.image_size)
        else:
            self.space = spaces.SPACES[config.space](width=config.width, image_size=config.image_size)
        self.config = config
        self.archs = networks.sample_archs(self.space, config.samples)
        self.params = supernet.MBConvSupernet(self.space).init_params(jax.random.key(0))
        shape = (config.batch_size, config.image_size, config.image_size, 3)
        self.images = jax.random.normal(jax.random.key(1), shape)
        self.labels = jnp.arange(config.batch_size) % self.space.num_classes

    def shared(self, apply: Callable[..., jax.Array], batching: str, steps: int, rounds: int | None) -> Program:
        """Steps of SGD on the mean loss of all architectures, one program, weights donated."""

        def step(params: Any, _: None) -> tuple[Any, jax.Array]:
            gradient, evaluation = supernet.gradient(
                apply, params, self.images, self.labels, self.archs, batching=batching
            )
            return _descend(params, gradient), evaluation.loss

        return _compiled(step, [self.params], steps, rounds)

    def discrete(self) -> Program:
        """The architectures as networks of their own, one program each, run one after the other."""

        def step(params: Any, _: None, arch: tuple[int, ...]) -> tuple[Any, jax.Array]:
            def loss(params: Any) -> jax.Array:
                logits = self._in_precision(networks.discrete, space=self.space)(params, self.images, arch)
                return optax.softmax_cross_entropy_with_integer_labels(logits, self.labels).mean()

            value, gradient = jax.value_and_grad(loss)(params)
            return _descend(params, gradient), value

        archs = [tuple(arch) for arch in self.archs.tolist()]
        programs = [
            _compiled(
                lambda params, _, arch=arch: step(params, _, arch),
                [networks.params_of(self.params, arch, self.space)],
                self.config.steps,
                None,
            )
            for arch in archs
        ]

        def run() -> None:
            for program in programs:
                program.run()

        return Program(run, self.config.steps, sum(program.seconds_to_start for program in programs))

    def torch(self, channels_last: bool) -> Program:
        """PyTorch, one path after the other, gradients added up before the step."""
        from benchmarks import torch_network

        step, seconds = torch_network.training_step(
            self.space, np.asarray(self.images), np.asarray(self.labels), self.archs, channels_last
        )
        return Program(step, 1, seconds)

    def build(self, name: str) -> Program:
        """One of `PROGRAMS`, ready to be timed."""
        slow = self.config.slow_rounds if jax.default_backend() == "cpu" else None
        if name == "map":
            return self.shared(self._apply(gather=False), "map", self.config.steps, None)
        if name == "vmap":
            return self.shared(self._apply(gather=True), "vmap", 1, slow)
        if name == "switch_vmap":
            return self.shared(self._in_precision(networks.switched, space=self.space), "vmap", 1, slow)
        if name == "discrete":
            return self.discrete()
        return self.torch(channels_last=name == "torch_channels_last")

    def _apply(self, gather: bool) -> Callable[..., jax.Array]:
        module = supernet.build(self.space, gather)
        return self._in_precision(lambda params, images, arch: module.apply({"params": params}, images, arch))

    def _in_precision(self, apply: Callable[..., jax.Array], **settings: Any) -> Callable[..., jax.Array]:
        return precision.compute_in(self.config.precision, functools.partial(apply, **settings))


def _descend(params: Any, gradient: Any) -> Any:
    return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradient)


def _compiled(step: Callable, state: list[Any], steps: int, rounds: int | None) -> Program:
    """A program of some steps; `state` holds the weights between two runs."""
    state[0] = jax.tree.map(jnp.copy, state[0])
    started = time.perf_counter()
    program = jax.jit(lambda params: jax.lax.scan(step, params, None, length=steps), donate_argnums=0)
    compiled = program.lower(state[0]).compile()

    def run() -> None:
        state[0], losses = compiled(state[0])
        jax.block_until_ready(losses)

    run()
    return Program(run, steps, time.perf_counter() - started, rounds)


def build_all(config: Config, console: Console) -> tuple[Problem, dict[str, Program]]:
    """All programs that were asked for."""
    problem, programs = Problem(config), {}
    for name in config.only:
        programs[name] = problem.build(name)
        console.print(f"{name}: first call {programs[name].seconds_to_start:.1f} s")
    return problem, programs


def report(problem: Problem, programs: dict[str, Program], seconds: dict[str, float], peak: float) -> Table:
    """One row for each program."""
    images = problem.config.batch_size * problem.config.samples
    flops = networks.training_flops(problem.space, problem.archs, problem.config.batch_size)
    reference = seconds.get("map", min(seconds.values()))
    # Sample-images: each image counts once for each architecture.
    table = Table(title=f"matrix product {peak / 1e9:.0f} GFLOP/s; a step is {flops / 1e9:.0f} GFLOP")
    columns = ("program", "ms a step", "images/s", "times ours", "of peak", "first call, s")
    for column in columns:
        table.add_column(column, justify="left" if column == "program" else "right")
    for name, value in seconds.items():
        table.add_row(
            name,
            f"{value * 1e3:.1f}",
            f"{images / value:.1f}",
            f"{value / reference:.2f}",
            f"{flops / value / peak:.0%}",
            f"{programs[name].seconds_to_start:.1f}",
        )
    return table


def in_a_process(function: Callable, *arguments: Any) -> Any:
    """The result of a call in a new process, which has compiled nothing and holds no memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def start_and_memory(config: Config, name: str, cache: str) -> tuple[float, float]:
    """Seconds of the first call, and MiB that the peak of memory grows by; meant for a process of its own."""
    compilation_cache.enable(Path(cache))
    cli.collect_rarely()
    problem = Problem(config)
    before = measure.peak_memory()
    program = problem.build(name)
    program.run()
    return program.seconds_to_start, measure.peak_memory() - before


def starts_and_memory(config: Config, console: Console) -> None:
    """Each program started twice: then from the persistent cache, without the memory of a compiler."""
    config = dataclasses.replace(config, steps=1)
    for name in config.only:
        with tempfile.TemporaryDirectory() as cache:
            (first, _), (second, memory) = (in_a_process(start_and_memory, config, name, cache) for _ in range(2))
        start = f"first call {first:.1f} s, from the cache {second:.1f} s ({second / first:.0%})"
        console.print(f"{name}: {start}, memory {memory:.0f} MiB")


def main(config: Config) -> None:
    """Builds the programs, times them in turn and prints the table."""
    console = Console()
    if config.measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {config.measure!r}")
    unknown = [name for name in config.only if name not in PROGRAMS]
    if unknown:
        raise ValueError(f"only must be of {', '.join(PROGRAMS)}, got {', '.join(unknown)}")
    if importlib.util.find_spec("torch") is None and any(name.startswith("torch") for name in config.only):
        console.print("PyTorch is left out: it is not installed, `pip install -e '.[torch]'` does it", markup=False)
        config = dataclasses.replace(config, only=tuple(name for name in config.only if not name.startswith("torch")))
    if config.measure != "time":
        starts_and_memory(config, console)
        return
    problem, programs = build_all(config, console)
    peak = measure.matmul_peak()
    console.print(report(problem, programs, measure.alternate(programs, config.rounds), peak))


if __name__ == "__main__":
    cli.run(main, Config)
