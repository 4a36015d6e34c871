"""The leaderboard as a printed table and as a figure."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from jaxnas.leaderboard.standings import BUDGETS, FLOOR, Standing, beats_random
from jaxnas.metrics import REFERENCE_POINT


def median(values: np.ndarray) -> float:
    """The median, infinite values among them."""
    return float(np.quantile(values, 0.5, method="lower") if np.isinf(values).any() else np.median(values))


def standings_table(title: str, standings: Mapping[str, Standing]) -> Table:
    """All measures of all methods on one problem; a star marks what beats random search."""
    table = Table(title=f"{title}: medians over seeds; * better than {FLOOR}, p < 0.05 (Wilcoxon, Holm)")
    table.add_column("method", no_wrap=True)
    for column in ("regret", "quartiles", "hypervolume", *(f"error in {share:.0%}" for share in BUDGETS)):
        table.add_column(column, justify="right")
    table.add_column("spent", justify="right")
    table.add_column("seconds", justify="right")
    for name, each in standings.items():
        stars = {"regret": "", "hypervolume": ""}
        if name != FLOOR and FLOOR in standings:
            stars = {measure: "*" if beats_random(each, standings[FLOOR], measure) else "" for measure in stars}
        low, high = np.quantile(each.regret, (0.25, 0.75))
        table.add_row(
            name,
            f"{median(each.regret):.3f}{stars['regret']}",
            f"{low:.2f}-{high:.2f}",
            f"{median(each.hypervolume):.4f}{stars['hypervolume']}",
            *(_percent(median(column)) for column in each.attainment.T),
            f"{each.spent:,.0f}",
            f"{each.wall_seconds:.1f}",
        )
    return table


def _percent(error: float) -> str:
    return f"{100 * error:.2f}" if np.isfinite(error) else "-"


def figure(problems: Mapping[str, Mapping[str, Standing]]) -> Figure:
    """Regret and hypervolume of every method on every problem: medians and quartiles, one row for each problem."""
    longest = max(len(standings) for standings in problems.values())
    drawn = Figure(figsize=(11, (0.8 + 0.26 * longest) * len(problems)), layout="constrained")
    rows = drawn.subplots(len(problems), 2, squeeze=False)
    for (title, standings), (left, right) in zip(problems.items(), rows):
        _dots(left, standings, "regret")
        _dots(right, standings, "hypervolume")
        left.set_xlabel("relative regret, mean over penalties (less is better)")
        right.set_xlabel(f"hypervolume to {REFERENCE_POINT} (more is better)")
        left.set_xlim(left=0)
        left.set_title(title, loc="left")
    return drawn


def _dots(axes: Axes, standings: Mapping[str, Standing], measure: str) -> None:
    places = np.arange(len(standings))[::-1]
    values = np.stack([getattr(each, measure) for each in standings.values()], axis=1)  # [M, methods]
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    colours = ["tab:orange" if name == FLOOR else "tab:blue" for name in standings]
    axes.hlines(places, low, high, colors=colours, linewidth=3, alpha=0.35)
    axes.scatter(middle, places, c=colours, s=24, zorder=3)
    if FLOOR in standings:
        axes.axvline(middle[list(standings).index(FLOOR)], color="tab:orange", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, list(standings))
    axes.grid(axis="x", alpha=0.3)
