"""The paper's form with 10 to 1000 distributions: time of one `tell` against K S log S, and a whole search on a table.

    python -m benchmarks.many_distributions --table ../shared/tabular/nasbench_macro.npz --cost flops

A minute or two on two CPU cores. Weights, ranks and gradients are arrays [K, S], with S = K lambda samples in a step;
sorting each row takes O(K S log S). Ends with exit code 1 if one `tell` grows faster than that from the smallest to
the largest K, or the search needs more memory or time than the limits.
"""

import dataclasses
import math
import pathlib
import resource
import sys
import time

import jax
import numpy as np

from experiments import cli
from jaxnas import strategies, tasks

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of getrusage's ru_maxrss


@dataclasses.dataclass(frozen=True)
class Config:
    """Time importance sampling with many distributions.

    Attributes:
      table: npz file as for experiments.tabular_search.
      cost: name of the array of costs.
      distributions: K, ascending; the whole search has the last.
      samples: lambda, architectures drawn from each distribution in a step.
      rounds: timings of each `tell`, whose median counts.
      evaluations: of the whole search.
      largest_bytes: that the process may need.
      longest_seconds: that the whole search may take, compilation included.
    """

    table: pathlib.Path
    cost: str
    distributions: tuple[int, ...] = (10, 30, 100, 300, 1000)
    samples: int = 4
    rounds: int = 5
    evaluations: int = 80_000
    largest_bytes: float = 2e9
    longest_seconds: float = 60.0


def work(distributions: int, samples: int) -> float:
    """K S log2 S.

    >>> work(2, 4)
    48.0
    """
    total = distributions * samples
    return distributions * total * math.log2(total)


def make(config: Config, task: tasks.TabularTask, distributions: int) -> strategies.Strategy:
    """The paper's form with so many penalties."""
    penalties = tuple(np.geomspace(0.01, 1.0, distributions).tolist())
    return strategies.make("importance_sampling", task.space, penalties, samples=config.samples, cost=task.cost)


def seconds_of_tell(config: Config, task: tasks.TabularTask, distributions: int) -> float:
    """Median time of one `tell`, compiled before."""
    method = make(config, task, distributions)
    state = method.init(jax.random.key(0))
    archs, state = method.ask(jax.random.key(1), state)
    losses = task.evaluate(jax.random.key(2), archs)
    state, _ = jax.block_until_ready(method.tell(state, archs, losses))
    found = []
    for _ in range(config.rounds):
        started = time.perf_counter()
        jax.block_until_ready(method.tell(state, archs, losses))
        found.append(time.perf_counter() - started)
    return float(np.median(found))


def main(config: Config) -> None:
    """Times, prints, and compares with the limits."""
    if list(config.distributions) != sorted(set(config.distributions)) or not config.distributions:
        raise ValueError(f"distributions must ascend, got {config.distributions}")
    task = tasks.TabularTask.from_table(tasks.read_table(config.table, config.cost), noise=0.03)
    started = time.perf_counter()
    method = make(config, task, config.distributions[-1])
    modes = tasks.search_seeds(task, method, (config.evaluations,), seeds=1)[0, 0]
    whole = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    print(f"search with K = {config.distributions[-1]}, {config.evaluations:,} evaluations: {whole:.1f} s", flush=True)
    print(f"most memory of the process: {peak / 1e9:.2f} GB; {len(np.unique(modes, axis=0))} different networks found")
    measured = []
    for count in config.distributions:
        seconds = seconds_of_tell(config, task, count)
        measured.append(seconds)
        relative = seconds / work(count, config.samples)
        print(
            f"K = {count}: one tell {1e3 * seconds:.2f} ms, {1e9 * relative:.2f} ns for each of K S log2 S", flush=True
        )
    growth = measured[-1] / measured[0]
    allowed = work(config.distributions[-1], config.samples) / work(config.distributions[0], config.samples)
    print(f"from K = {config.distributions[0]} to {config.distributions[-1]}: {growth:,.0f} times the time, ", end="")
    print(f"{allowed:,.0f} times K S log S")
    if growth > allowed or peak > config.largest_bytes or whole > config.longest_seconds:
        print("over a limit", file=sys.stderr)
        raise SystemExit(cli.FAILED)


if __name__ == "__main__":
    cli.run(main, Config)
