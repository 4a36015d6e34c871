"""One search for several devices against one search for each, at an equal number of evaluations, on a table.

    python -m benchmarks.devices --table ../shared/tabular/nasbench201_cifar10.npz --costs flops gpu_latency --seeds 32

Each array of costs is a device. One search has the networks of all devices, each with a budget of its own device; the
searches for each device alone share the same evaluations, and have the better of two numbers of samples. It prints the
distance of true errors to the best within the budget, mean over networks and seeds, and a Wilcoxon test over seeds.
"""

import dataclasses
import math
import pathlib

import numpy as np

from benchmarks.picking import cost_of
from experiments import cli
from jaxnas import metrics, strategies, tasks
from jaxnas.cost import Cost, JointCost
from jaxnas.results.files import write_json
from jaxnas.results.tables import Table as Shown
from jaxnas.strategies import WithinBudgets
from jaxnas.tasks.judge import least_error_within
from jaxnas.tasks.tables import Table


@dataclasses.dataclass(frozen=True)
class Config:
    """Compares a search for several devices with one for each, on a table."""

    table: pathlib.Path
    """npz file as for experiments.tabular_search."""
    costs: tuple[str, ...]
    """Names of the arrays of costs, one for each device; additive or not."""
    error: str = "error"
    """Name of the array of errors."""
    noise: float = 0.03
    """Standard deviation of the noise of one evaluation."""
    percentiles: tuple[float, ...] = (25.0, 75.0)
    """Of the costs of each device, which are its budgets."""
    method: str = "shared_model"
    """The strategy that dual ascent steers: shared_model or importance_sampling."""
    samples: int = 4
    """Architectures drawn for each network in a step; a search for one device also has as many more as make its steps
    as large as those of the search for all."""
    evaluations: tuple[int, ...] = (500, 1000, 2000, 4000)
    """Of all devices together."""
    seeds: int = 8
    """Number of searches."""
    first_seed: int = 0
    """The first of the seeds."""
    out: pathlib.Path | None = None
    """JSON file for the figures."""


def main(config: Config) -> None:
    """Runs the searches, compares, prints."""
    strategies.check_name(config.method, strategies.distribution_strategies())
    if len(set(config.costs)) < max(2, len(config.costs)):
        raise ValueError(f"costs must name two arrays or more, each once, got {', '.join(config.costs)}")
    tables = [tasks.read_table(config.table, name, config.error) for name in config.costs]
    costs = [cost_of(table, name) for table, name in zip(tables, config.costs)]
    devices, networks = len(costs), len(config.percentiles)
    limits = np.full((devices, networks, devices), math.inf)
    for device, table in enumerate(tables):
        limits[device, :, device] = np.percentile(table.cost, config.percentiles)
    together = searched(config, tables, costs, limits.reshape(-1, devices), config.samples, config.evaluations)
    alone = {}
    for samples in dict.fromkeys((config.samples, config.samples * devices)):
        parts = [
            searched(config, [table], [cost], own[:, [device]], samples, [e // devices for e in config.evaluations])
            for device, (table, cost, own) in enumerate(zip(tables, costs, limits))
        ]
        alone[samples] = np.concatenate(parts, axis=-1)
    rows = []
    for index, evaluations in enumerate(config.evaluations):
        ours = together[:, index].mean(-1)
        best = min(alone, key=lambda samples: alone[samples][:, index].mean())
        theirs = alone[best][:, index].mean(-1)
        rows.append(
            {
                "evaluations": evaluations,
                "together": float(ours.mean()),
                "alone": float(theirs.mean()),
                "alone_samples": best,
                "lower_by": float(1 - ours.mean() / theirs.mean()) if theirs.mean() else 0.0,
                "p": metrics.paired_wilcoxon(ours, theirs),
                "together_by_network": together[:, index].mean(0).tolist(),
                "alone_by_network": alone[best][:, index].mean(0).tolist(),
            }
        )
    if config.out is not None:
        write_json(config.out, {**dataclasses.asdict(config), "budgets": np.diagonal(limits, 0, 0, 2).T, "rows": rows})
    shown = Shown(
        f"{config.table.stem}: {networks} budgets on each of {', '.join(config.costs)}; {config.seeds} seeds",
        ("evaluations", "one search", "one for each", "samples", "lower by", "p", "by network, one search", "for each"),
        [
            (
                str(row["evaluations"]),
                f"{row['together']:.5f}",
                f"{row['alone']:.5f}",
                str(row["alone_samples"]),
                f"{row['lower_by']:.0%}",
                f"{row['p']:.2g}",
                *(" ".join(f"{x:.4f}" for x in row[f"{name}_by_network"]) for name in ("together", "alone")),
            )
            for row in rows
        ],
    )
    cli.console(log_width=140).print(shown.rich())


@dataclasses.dataclass(frozen=True)
class Reachable(WithinBudgets):
    """A search whose budgets are those of networks of a table: there is nothing to check."""

    def __post_init__(self):
        """The budgets are percentiles."""


def searched(
    config: Config, tables: list[Table], costs: list[Cost], budgets: np.ndarray, samples: int, evaluations: list[int]
) -> np.ndarray:
    """Distance of the networks of searches to the best within their budgets.

    Args:
      config: the settings.
      tables: J, with the costs of each device.
      costs: the same as costs.
      budgets: float [K, J], in their units.
      samples: for each network.
      evaluations: E counts of evaluations.

    Returns:
      float [seeds, E, K].

    Raises:
      RuntimeError: if a network exceeds its budget.
    """
    task = tasks.TabularTask.from_table(tables[0], config.noise)
    penalties, method = (1.0,) * len(budgets), strategies.STRATEGIES[config.method]
    inner = method(task.space, penalties, cost=JointCost(tuple(costs)), samples=samples)
    if hasattr(inner, "cost_coefficients"):
        inner.cost_coefficients  # noqa: B018 (outside of the program)
    search = Reachable(inner, tuple(map(tuple, budgets.tolist())))
    found = tasks.search_seeds(
        task, search, evaluations, config.seeds, config.first_seed, read=lambda state: state.theta
    )  # [seeds, E, K, D, C]
    archs, best = tables[0].archs, np.full(len(budgets), np.inf)
    fits = np.all([table.cost <= budgets[:, [j]] for j, table in enumerate(tables)], axis=0)  # [K, N]
    for k, row in enumerate(budgets):
        (device,) = np.flatnonzero(np.isfinite(row))
        best[k] = least_error_within(tables[device], row[device])
    with np.errstate(divide="ignore"):
        probabilities = np.log(found)
    rows = np.empty(found.shape[:3], int)
    for index in np.ndindex(*found.shape[:2]):  # a table is small: the most probable network by enumeration
        scores = probabilities[index][:, np.arange(archs.shape[1]), archs].sum(-1)  # [K, N]
        rows[index] = np.where(fits, scores, -np.inf).argmax(-1)
    if not fits[np.arange(len(budgets)), rows].all():
        raise RuntimeError("a network exceeds its budget")
    return tables[0].error[rows] - best


if __name__ == "__main__":
    cli.run(main, Config)
