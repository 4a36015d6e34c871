"""What the distributions cost: the time of `ask` and `tell` as K, lambda, D and C grow, and its share of a whole step.

    python -m benchmarks.search_step
    python -m benchmarks.search_step --supernet-seconds 12.0

Losses are drawn at random here, so that only the search is timed: `ask` draws the architectures, `weights` are the
importance weights and utilities, `update` the natural gradient and ASNG's update of all K distributions; `tell` is the
last two and the diagnostics. One program does many steps. At the end whole steps of the quickstart's supernet, S fixed,
are timed for K = 1 and K = 16.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import measure
from benchmarks.measure import Program
from experiments import cli
from jaxnas import asng, distribution, importance, spaces, supernet
from jaxnas.cost import AdditiveCost
from jaxnas.strategies import ImportanceSampling

PARTS = ("ask", "weights", "update", "tell")


@dataclasses.dataclass(frozen=True)
class Config:
    """Times the distributions' part of a search step."""

    steps: int = 200
    """Steps of one run."""
    rounds: int = 7
    """Times that each program runs; printed times are medians."""
    supernet_seconds: float | None = None
    """Seconds of a step of a supernet with S = 32, from benchmarks.supernet_step: the share of it is printed."""
    whole_steps: bool = True
    """Also time whole steps of the quickstart's supernet for K = 1 and K = 16."""


@dataclasses.dataclass(frozen=True)
class Size:
    """Sizes of a search: K, lambda, D and C."""

    distributions: int
    samples: int
    decisions: int
    choices: int

    def strategy(self, space: spaces.SearchSpace | None = None) -> ImportanceSampling:
        """A strategy of this size, on a space with a random cost unless one is given."""
        if space is None:
            names = tuple(f"choice {index}" for index in range(self.choices))
            table = np.random.default_rng(0).uniform(1, 2, (self.decisions, self.choices))
            cost = AdditiveCost("cost", "units", 0.0, tuple(map(tuple, table.tolist())))
            decisions = tuple(spaces.Decision(f"decision {index}", names) for index in range(self.decisions))
            space = spaces.SearchSpace("random", decisions, (cost,))
        return ImportanceSampling(space, tuple(np.linspace(0.01, 0.5, self.distributions)), samples=self.samples)


# S = 64 in the first and the fourth block.
SWEEPS = {
    "K at S = 64": [Size(k, 64 // k, 21, 7) for k in (1, 2, 4, 8, 16, 32, 64)],
    "lambda": [Size(4, samples, 21, 7) for samples in (1, 2, 4, 8, 16, 32)],
    "D": [Size(4, 8, decisions, 7) for decisions in (5, 10, 21, 42, 84)],
    "C": [Size(4, 16, 21, choices) for choices in (2, 4, 7, 14, 28)],
    "acceptance": [Size(16, 2, 21, 7)],
}


def programs(size: Size, steps: int) -> dict[str, Program]:
    """The parts of a step, each repeated in a program of its own."""
    strategy = size.strategy()
    start = strategy.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), steps)
    count = size.samples * size.distributions
    archs = jax.vmap(lambda key: strategy.ask(key, start)[0])(keys)
    losses = jax.random.normal(jax.random.key(2), (steps, count))
    utilities = jax.random.normal(jax.random.key(3), (size.distributions, count))

    def ask(state: Any, xs: tuple) -> tuple[Any, jax.Array]:
        return state, strategy.ask(xs[0], state)[0].sum()

    def weights(state: Any, xs: tuple) -> tuple[Any, jax.Array]:
        log_weights = importance.mixture_log_weights(state.theta, xs[1])
        utility = importance.weighted_quantile_utility(xs[2] + utilities, log_weights)
        return state, (jnp.exp(log_weights) * utility).sum()

    def update(state: Any, xs: tuple) -> tuple[Any, jax.Array]:
        gradient = distribution.natural_gradient(state.theta, xs[1], utilities)
        one = functools.partial(asng.update, num_choices=strategy.space.num_choices)
        theta, asng_state = jax.vmap(one)(state.theta, state.asng, gradient)
        return state.replace(theta=theta, asng=asng_state), theta[0, 0, 0]

    def tell(state: Any, xs: tuple) -> tuple[Any, jax.Array]:
        state, info = strategy.tell(state, xs[1], xs[2])
        return state, info.ess.sum() + info.utility.sum()

    bodies = {"ask": ask, "weights": weights, "update": update, "tell": tell}
    return {name: _repeated(body, start, (keys, archs, losses), steps) for name, body in bodies.items()}


def whole_step(distributions: int) -> Program:
    """Steps of the quickstart's supernet: S = 32 architectures asked for, the weights' step, their losses told."""
    space = spaces.mbconv_digits()
    strategy = Size(distributions, 32 // distributions, 0, 0).strategy(space)
    module = supernet.build(space)
    images = jax.random.normal(jax.random.key(0), (64, 8, 8, 3))
    labels = jnp.arange(64) % space.num_classes

    def apply(params: Any, images: jax.Array, arch: jax.Array) -> jax.Array:
        return module.apply({"params": params}, images, arch)

    def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, searched = state
        archs, searched = strategy.ask(key, searched)
        gradient, evaluation = supernet.gradient(apply, params, images, labels, archs)
        searched, _ = strategy.tell(searched, archs, evaluation.loss)
        return (jax.tree.map(lambda p, g: p - 0.01 * g, params, gradient), searched), evaluation.loss

    start = (module.init_params(jax.random.key(1)), strategy.init(jax.random.key(2)))
    return _repeated(step, start, jax.random.split(jax.random.key(3), 2), 2)


def _repeated(body: Callable, start: Any, xs: Any, steps: int) -> Program:
    started = time.perf_counter()
    program = jax.jit(lambda start, xs: jax.lax.scan(body, start, xs)).lower(start, xs).compile()

    def run() -> None:
        jax.block_until_ready(program(start, xs))

    run()
    return Program(run, steps, time.perf_counter() - started)


def main(config: Config) -> None:
    """Prints a table of microseconds a step, and shares of whole steps."""
    console = Console()
    sizes = [(name, size) for name, sweep in SWEEPS.items() for size in sweep]
    all_programs = {
        f"{index} {part}": program
        for index, (_, size) in enumerate(sizes)
        for part, program in programs(size, config.steps).items()
    }
    seconds = measure.alternate(all_programs, config.rounds)
    table = Table(title="microseconds a step")
    for column in ("sweep", "K", "lambda", "S", "D", "C", *PARTS):
        table.add_column(column, justify="left" if column == "sweep" else "right")
    for index, (name, size) in enumerate(sizes):
        values = (size.distributions, size.samples, size.distributions * size.samples, size.decisions, size.choices)
        times = [f"{seconds[f'{index} {part}'] * 1e6:.0f}" for part in PARTS]
        table.add_row(name, *map(str, values), *times)
    console.print(table)
    last = len(sizes) - 1
    search = seconds[f"{last} ask"] + seconds[f"{last} tell"]
    if config.supernet_seconds is not None:
        share = search / config.supernet_seconds
        console.print(f"ask and tell at K = 16, S = 32, D = 21: {share:.4%} of a step of {config.supernet_seconds} s")
    if config.whole_steps:
        whole = measure.alternate({f"K = {k}": whole_step(k) for k in (1, 16)}, config.rounds)
        growth = whole["K = 16"] / whole["K = 1"] - 1
        times = ", ".join(f"{name}: {value * 1e3:.1f} ms" for name, value in whole.items())
        console.print(f"whole steps of mbconv_digits, S = 32: {times}, growth {growth:+.1%}")


if __name__ == "__main__":
    cli.run(main, Config)
