"""How good the networks of `experiments.pick` are for budgets that a search did not have, on a table of true errors.

    python -m benchmarks.picking --table ../shared/tabular/nasbench_macro.npz --cost flops --seeds 8 --baseline

One search of K penalties keeps its evaluations; from them networks for 12 budgets are picked. It prints the distance of
their true errors to the best within the budget, how many exceed it (none should), and how often the 80 % interval holds
the true error. With `--baseline` also the distance of new searches with as many evaluations for each budget alone.
"""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli
from jaxnas import strategies, tasks
from jaxnas.cost import Cost, InteractionCost, JointCost
from jaxnas.results.evaluations import Evaluations
from jaxnas.selection import picking
from jaxnas.strategies import SharedModel, WithinBudgets
from jaxnas.tasks.judge import least_error_within
from jaxnas.tasks.tables import Table


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares picked networks with those of new searches, on a table."""

    table: pathlib.Path
    """npz file as for experiments.tabular_search."""
    cost: str
    """Name of the array of costs, additive or not."""
    error: str = "error"
    """Name of the array of errors."""
    noise: float = 0.03
    """Standard deviation of the noise of one evaluation."""
    penalties: tuple[float, ...] = (0.02, 0.049, 0.122, 0.3)
    """Of the search."""
    samples: int = 4
    """Architectures drawn for each penalty in a step."""
    evaluations: int = 2000
    """Of the search, and of each new one."""
    budgets: int = 12
    """Percentiles 5 to 95 of the costs, evenly spaced."""
    seeds: int = 8
    """Number of searches."""
    first_seed: int = 0
    """The first of the seeds."""
    baseline: bool = False
    """Also run the new searches: minutes."""


def main(config: Config) -> None:
    """Runs the searches, picks, prints."""
    table = tasks.read_table(config.table, config.cost, config.error)
    task = tasks.TabularTask.from_table(table, config.noise)
    cost = cost_of(table, config.cost)
    budgets = np.percentile(table.cost, np.linspace(5, 95, config.budgets))
    best = least_error_within(table, budgets)
    keys = jax.vmap(jax.random.key)(np.arange(config.first_seed, config.first_seed + config.seeds, dtype=np.uint32))
    method = strategies.make("shared_model", task.space, config.penalties, samples=config.samples, cost=task.cost)
    archs, losses = jax.jit(jax.vmap(functools.partial(kept_evaluations, task, method, config.evaluations)))(keys)
    errors, over, held = [], 0, []
    for each in zip(np.asarray(archs), np.asarray(losses)):
        wanted = [{config.cost: float(budget)} for budget in budgets]
        picks = picking.pick(task.space, Evaluations.of(*each), wanted, [cost])
        rows = task.rows(np.array([found.encoding for found in picks]))
        error = table.error[rows]
        errors.append(error - best)
        over += int((table.cost[rows] > budgets).sum())
        held.append([low <= true <= high for true, (low, high) in zip(error, (found.interval for found in picks))])
    console = cli.console()
    console.print(f"{config.table.stem}, {config.cost}, {config.evaluations} evaluations, {config.seeds} seeds")
    console.print(f"picked: distance {np.mean(errors):.5f}, by budget {np.mean(errors, 0).round(4).tolist()}")
    console.print(f"over budget: {over}; 80 % intervals hold the true error in {np.mean(held):.1%}")
    if config.baseline:
        rows = new_searches(config, task, table, cost, budgets, keys)
        distance = table.error[rows] - best
        console.print(f"new searches: distance {distance.mean():.5f}, by budget {distance.mean(0).round(4).tolist()}")
        console.print(f"ratio {np.mean(errors) / distance.mean():.2f}")


def cost_of(table: Table, name: str) -> Cost:
    """The costs of a table, exactly: as a sum over decisions where they are one, else as one table over all of them."""
    try:
        return tasks.additive_cost(table, name)
    except ValueError:
        counts = table.num_choices
        rows = tuple((0.0,) * count for count in counts)
        return InteractionCost(name, name, 0.0, rows, ((tuple(range(len(counts))), tuple(table.cost.tolist())),))


def kept_evaluations(
    task: tasks.TabularTask, method: strategies.Strategy, evaluations: int, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A search: architectures int32 [T, S, D] and losses float32 [T, S]."""

    def step(state, key):
        ask_key, noise_key = jax.random.split(key)
        archs, state = method.ask(ask_key, state)
        losses = task.evaluate(noise_key, archs)
        state, _ = method.tell(state, archs, losses)
        return state, (archs, losses)

    init_key, scan_key = jax.random.split(key)
    steps = evaluations // method.step_samples
    return jax.lax.scan(step, method.init(init_key), jax.random.split(scan_key, steps))[1]


@dataclasses.dataclass(frozen=True, eq=False)
class OneBudget(WithinBudgets):
    """A search within one budget that is an array, so that those of all budgets are one program."""

    scaled: jax.Array | None = None

    def __post_init__(self):
        """The budget is known to be met."""

    def _scaled_budgets(self) -> jax.Array:
        return self.scaled[None, None]


def new_searches(
    config: Config, task: tasks.TabularTask, table: Table, cost: Cost, budgets: np.ndarray, keys: jax.Array
) -> np.ndarray:
    """Rows of the networks of a search for each seed and budget alone: int [M, G]."""
    samples = config.samples * len(config.penalties)  # S as of the search that has all penalties
    inner = SharedModel(task.space, (1.0,), cost=JointCost((cost,)), samples=samples)
    inner.cost_coefficients  # noqa: B018 (outside of the program)

    def theta(key: jax.Array, scaled: jax.Array) -> jax.Array:
        search = OneBudget(inner, ((1.0,),), scaled=scaled)
        init_key, scan_key = jax.random.split(key)

        def step(state, key):
            ask_key, noise_key = jax.random.split(key)
            archs, state = search.ask.__wrapped__(search, ask_key, state)
            return search.tell.__wrapped__(search, state, archs, task.evaluate(noise_key, archs))[0], None

        steps = jax.random.split(scan_key, config.evaluations // samples)
        return jax.lax.scan(step, search.init(init_key), steps)[0].theta[0]

    scaled = jnp.asarray([cost.scale(float(budget)) for budget in budgets], jnp.float32)
    found = np.asarray(jax.jit(jax.vmap(jax.vmap(theta, (None, 0)), (0, None)))(keys, scaled))  # [M, G, D, C]
    log_probs = np.log(found)[:, :, np.arange(found.shape[2]), table.archs].sum(-1)
    return np.where(table.cost <= budgets[:, None], log_probs, -np.inf).argmax(-1)


if __name__ == "__main__":
    cli.run(main, Config)
