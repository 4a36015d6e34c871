"""Networks for given budgets, on a table where the best within each budget is known.

    python -m experiments.tabular_budgets --table ../shared/tabular/nasbench_macro.npz --cost flops --noise 0.03 \
        --percentiles 10 30 60 90 --evaluations 4000 --seeds 32 --out runs/budgets

It prints, for each budget, how far the returned networks' true errors are from the best network within the budget, and
how many exceed it (none ever should); it writes result.json.
"""

import dataclasses
import pathlib

import numpy as np

from experiments import cli
from jaxnas import strategies, tasks
from jaxnas.report import tabular as report
from jaxnas.results.files import write_json
from jaxnas.results.tables import Table
from jaxnas.tasks.judge import least_error_within


@dataclasses.dataclass(frozen=True)
class Config:
    """Searches for networks within budgets on a table of evaluated networks."""

    table: pathlib.Path
    """npz file with choices int [N, D] (all combinations), errors [N] in [0, 1] and costs [N]."""
    cost: str
    """Name of the array of costs; it must be a sum over decisions."""
    out: pathlib.Path
    """Folder for result.json."""
    budgets: tuple[float, ...] | None = None
    """Largest costs, in the table's unit; one network is found for each."""
    percentiles: tuple[float, ...] | None = None
    """Instead of budgets: percentiles of the costs in the table (default 10 30 60 90)."""
    error: str = "error"
    """Name of the array of errors."""
    noise: float = 0.0
    """Standard deviation of the Gaussian noise of one evaluation, as a minibatch would give."""
    method: str = "shared_model"
    """The strategy whose penalties dual ascent adapts: shared_model or importance_sampling."""
    samples: int = 4
    """Architectures drawn for each network in a step."""
    evaluations: int = 4000
    """Evaluations of one search, all networks together."""
    seeds: int = 32
    """Number of searches."""
    first_seed: int = 0
    """The first seed."""


def main(config: Config) -> None:
    """Runs the searches."""
    strategies.check_name(config.method, strategies.distribution_strategies())
    table = tasks.read_table(config.table, config.cost, config.error)
    cost = tasks.additive_cost(table, config.cost)
    task = tasks.TabularTask.from_table(table, config.noise, name=config.table.stem)
    budgets = budgets_of(config, table.cost)
    search = strategies.within_budgets(
        strategies.STRATEGIES[config.method], task.space, [cost], [[b] for b in budgets], samples=config.samples
    )
    folder = report.prepare(config.out)
    thetas = tasks.search_seeds(
        task, search, [config.evaluations], config.seeds, config.first_seed, read=lambda state: state.theta
    )[:, 0]
    archs = np.stack([search.most_probable(theta) for theta in thetas])  # [seeds, K, D]
    rows = task.rows(archs)
    best = least_error_within(table, budgets)
    distance = table.error[rows] - best  # [seeds, K]
    over = table.cost[rows] > np.asarray(budgets)
    write_json(
        folder / "result.json",
        {
            **{name: getattr(config, name) for name in ("cost", "noise", "method", "samples", "evaluations", "seeds")},
            "table": str(config.table),
            "budgets": list(budgets),
            "best_error": best.tolist(),
            "encodings": archs.tolist(),
            "error": table.error[rows].tolist(),
            "distance": distance.tolist(),
            "over_budget": int(over.sum()),
        },
    )
    shown = Table(
        f"{config.seeds} searches of {config.evaluations} evaluations, errors in %",
        (f"budget, {config.cost}", "best within", "found, median", "distance, median", "90th percentile", "over"),
        [
            (
                f"{budget:,.6g}",
                f"{100 * best[k]:.2f}",
                f"{100 * np.median(table.error[rows[:, k]]):.2f}",
                f"{100 * np.median(distance[:, k]):.2f}",
                f"{100 * np.quantile(distance[:, k], 0.9):.2f}",
                str(int(over[:, k].sum())),
            )
            for k, budget in enumerate(budgets)
        ],
    )
    console = cli.console()
    console.print(shown.rich())
    console.print(f"wrote {folder / 'result.json'}")


def budgets_of(config: Config, costs: np.ndarray) -> tuple[float, ...]:
    """The budgets, given or by percentile."""
    if config.budgets is not None and config.percentiles is not None:
        raise ValueError("give either budgets or percentiles, not both")
    if config.budgets is not None:
        return config.budgets
    percentiles = (10, 30, 60, 90) if config.percentiles is None else config.percentiles
    if not all(0 <= percentile <= 100 for percentile in percentiles):
        raise ValueError(f"percentiles must lie between 0 and 100, got {list(percentiles)}")
    return tuple(np.percentile(costs, percentiles).tolist())


if __name__ == "__main__":
    cli.run(main, Config)
