"""Steps of whole tabular searches a second, compiled, against the numpy oracle of the tests.

    python -m benchmarks.tabular_steps --table ../shared/tabular/nasbench_macro.npz --cost flops

Half a minute on two CPU cores. A (seed, step) is one ask, evaluation and tell of one search.
"""

import dataclasses
import pathlib
import time

import numpy as np

from experiments import cli
from jaxnas import cost, strategies, tasks
from tests import oracles


@dataclasses.dataclass(frozen=True)
class Config:
    """Times plain importance sampling, compiled, against numpy loops."""

    table: pathlib.Path
    """npz file as for experiments.tabular_search."""
    cost: str
    """Name of the array of costs."""
    distributions: int = 5
    """K; the numpy side does the same K."""
    seeds: int = 32
    """Searches of the compiled side, as one vmap."""
    steps: int = 200
    """Steps of each."""
    samples: int = 4
    """Architectures drawn from each distribution in a step."""


def compiled_rate(config: Config, task: tasks.TabularTask, penalties: tuple[float, ...]) -> float:
    """(seed, step)s a second of the second call: the first one compiles."""
    method = strategies.make("importance_sampling", task.space, penalties, samples=config.samples, cost=task.cost)
    recorded = (config.steps * config.samples * config.distributions,)
    tasks.search_seeds(task, method, recorded, config.seeds)
    started = time.perf_counter()
    tasks.search_seeds(task, method, recorded, config.seeds, first_seed=config.seeds)
    return config.seeds * config.steps / (time.perf_counter() - started)


def oracle_rate(config: Config, task: tasks.TabularTask, penalties: tuple[float, ...], shared: bool) -> float:
    """Steps a second of one numpy search: importance sampling if shared, otherwise K separate ASNG searches."""
    rng = np.random.default_rng(0)
    states = [oracles.State(task.space.num_choices) for _ in penalties]
    steps = 100
    started = time.perf_counter()
    for _ in range(steps):
        drawn = [
            [[rng.choice(len(row), p=row / row.sum()) for row in state.theta] for _ in range(config.samples)]
            for state in states
        ]
        archs = np.asarray(drawn).reshape(-1, len(task.space.decisions))
        rows = task.rows(archs)
        losses = task.error[rows] + task.noise * rng.normal(size=len(rows))
        objective = cost.objective(losses, penalties, task.cost.scaled[rows])
        if shared:
            oracles.importance_sampling_step(states, archs, objective)
        else:
            for k, state in enumerate(states):
                own = slice(k * config.samples, (k + 1) * config.samples)
                oracles.asng_step(state, archs[own], objective[k, own])
    return steps / (time.perf_counter() - started)


def main(config: Config) -> None:
    """Prints both rates and their ratio."""
    table = tasks.read_table(config.table, config.cost)
    task = tasks.TabularTask.from_table(table, noise=0.03)
    penalties = tuple(np.geomspace(0.02, 0.3, config.distributions).tolist())
    ours = compiled_rate(config, task, penalties)
    print(f"compiled importance sampling, K = {config.distributions}: {ours:,.0f} (seed, step)s a second")
    for name, shared in (("importance sampling", True), (f"{config.distributions} separate ASNG searches", False)):
        theirs = oracle_rate(config, task, penalties, shared)
        print(f"numpy {name}: {theirs:,.1f}; ratio {ours / theirs:.0f}")


if __name__ == "__main__":
    cli.run(main, Config)
