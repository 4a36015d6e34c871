"""The leaderboard as a printed table and as a figure."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxnas.leaderboard.standings import FLOOR, SIGNIFICANT, Standings
from jaxnas.metrics import REFERENCE_POINT
from jaxnas.results.tables import Column, Table
from jaxnas.tasks.judge import MEASURES


def standings_table(title: str, standings: Standings) -> Table:
    """All measures of all methods on one problem; a star marks what beats random search."""
    rows = []
    for name, each in standings.results.items():
        low, middle, high = np.quantile(each.at_end("relative_regret"), (0.25, 0.5, 0.75))
        stars = {measure: "*" if standings.beats_random(name, measure) else "" for measure in MEASURES}
        # Not the median: between a number and infinity there is none.
        attained = np.quantile(each.attainment, 0.5, axis=0, method="lower")
        rows.append(
            (
                name,
                f"{middle:.3f}{stars['relative_regret']} ({low:.2f} to {high:.2f})",
                f"{np.median(each.at_end('hypervolume')):.4f}{stars['hypervolume']}",
                " / ".join(f"{100 * error:.2f}" if np.isfinite(error) else "-" for error in attained),
                f"{each.spent:,.0f}",
                f"{each.wall_seconds:.0f}",
            )
        )
    return Table(
        f"{title}: medians over seeds; * better than {FLOOR}, p < {SIGNIFICANT:g} (Wilcoxon, Holm)",
        (
            Column("method", "name"),
            "regret (quartiles)",
            "hypervolume",
            "attainment, %",
            "spent, evaluations",
            "seconds",
        ),
        rows,
    )


def figure(problems: Mapping[str, Standings]) -> Figure:
    """Regret and hypervolume of every method on every problem: medians and quartiles, one row for each problem."""
    longest = max(len(standings.results) for standings in problems.values())
    drawn = Figure(figsize=(11, (0.8 + 0.26 * longest) * len(problems)), layout="constrained")
    rows = drawn.subplots(len(problems), 2, squeeze=False)
    for (title, standings), (left, right) in zip(problems.items(), rows):
        _dots(left, standings, "relative_regret")
        _dots(right, standings, "hypervolume")
        left.set_xlabel("relative regret, mean over penalties (less is better)")
        right.set_xlabel(f"hypervolume to {REFERENCE_POINT} (more is better)")
        left.set_xlim(left=0)
        left.set_title(title, loc="left")
    return drawn


def _dots(axes: Axes, standings: Standings, measure: str) -> None:
    names = list(standings.results)
    places = np.arange(len(names))[::-1]
    values = np.stack([each.at_end(measure) for each in standings.results.values()], axis=1)  # [M, methods]
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75), axis=0)
    colours = ["tab:orange" if name == FLOOR else "tab:blue" for name in names]
    axes.hlines(places, low, high, colors=colours, linewidth=3, alpha=0.35)
    axes.scatter(middle, places, c=colours, s=24, zorder=3)
    if FLOOR in names:
        axes.axvline(middle[names.index(FLOOR)], color="tab:orange", linewidth=0.8, linestyle=":")
    axes.set_yticks(places, names)
    axes.grid(axis="x", alpha=0.3)
