"""What families of networks cost in different arms, as tables and a picture."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from jaxnas.leaderboard.family_cost import Family
from jaxnas.results.files import replacing
from jaxnas.results.tables import Column, Table

BASELINE = "one"


def _by_arm(found: Sequence[Family]) -> Mapping[tuple[str, str], Mapping[float, Mapping[int, Family]]]:
    """(arm, phases) -> share -> seed -> what was found."""
    grouped: dict[tuple[str, str], dict[float, dict[int, Family]]] = defaultdict(lambda: defaultdict(dict))
    for family in found:
        grouped[family.arm, family.phases][family.share][family.seed] = family
    return grouped


def tables(found: Sequence[Family]) -> list[Table]:
    """Distances and hypervolumes of each arm and share, and paired differences to one search of the same share."""
    grouped, rows, pairs = _by_arm(found), [], []
    for (arm, phases), shares in grouped.items():
        for share, seeds in sorted(shares.items()):
            families = list(seeds.values())
            distances = 100 * np.asarray([family.distance for family in families])
            low, median, high = np.quantile(distances, (0.25, 0.5, 0.75))
            cost = np.mean([family.cost for family in families]) / 1e6
            volume = np.mean([family.hypervolume for family in families])
            shown = (f"{distances.mean():.2f}", f"{median:.2f} ({low:.2f}-{high:.2f})", f"{volume:.4f}")
            rows.append((arm, phases, f"{share:g}", str(len(families)), f"{cost:.2f}", *shown))
            ours = grouped.get((BASELINE, phases), {}).get(share, {})
            common = sorted(set(ours) & set(seeds))
            if arm == BASELINE or not common:
                continue
            behind = 100 * np.asarray([seeds[seed].distance - ours[seed].distance for seed in common])
            error = behind.std(ddof=1) / np.sqrt(len(behind)) if len(behind) > 1 else np.nan
            pairs.append((arm, phases, f"{share:g}", str(len(common)), f"{behind.mean():+.2f}", f"{error:.2f}"))
    columns = (Column("arm", "name"), Column("phases", "name"), "share", "seeds")
    shown = [
        Table(
            "Distance of true errors to the best network that costs no more, points",
            (*columns, "million passes", "mean", "median (quartiles)", "hypervolume"),
            rows,
        )
    ]
    if pairs:
        columns += ("behind one search, points", "standard error")
        shown.append(Table("Paired differences to one search of the same share", columns, pairs))
    return shown


def draw(found: Sequence[Family], path: str | os.PathLike) -> None:
    """Distance against cost, median and quartiles over seeds, a panel for each kind of phases."""
    grouped = _by_arm(found)
    kinds = sorted({phases for _, phases in grouped}, reverse=True)
    figure = Figure(figsize=(5.5 * len(kinds), 4.5), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds), sharey=True)), kinds):
        for (arm, phases), shares in grouped.items():
            if phases != kind:
                continue
            families = [list(seeds.values()) for _, seeds in sorted(shares.items())]
            cost = [np.mean([family.cost for family in each]) for each in families]
            points = [100 * np.asarray([family.distance for family in each]) for each in families]
            low, median, high = np.transpose([np.quantile(each, (0.25, 0.5, 0.75)) for each in points])
            (line,) = axes.plot(cost, median, label=arm, marker=".")
            axes.fill_between(cost, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set(title=kind, xscale="log", xlabel="forward passes of an image through a network", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("distance to the best that costs no more, points")
    with replacing(path) as picture:
        figure.savefig(picture, dpi=150, format="png")
