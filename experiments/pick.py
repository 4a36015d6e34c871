"""Networks for budgets, costs and devices that a search never heard of.

    python -m experiments.pick --run runs/cpu --budgets macs=45e6 macs=52e6,params=1e6 --out picks.json
    python -m experiments.pick --run runs/cpu --budgets latency=3e-3 --latency other_device.json
    python -m experiments.pick --run runs/cpu --front --cost params --out front.json

Reads the evaluations that the search kept and evaluates nothing again: seconds. `--out` gets a list of {budgets,
encoding, description, costs, expected_loss, interval}; with `--front` also a picture, beside it.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from experiments import cli
from jaxnas.networks import latency
from jaxnas.report.front import plot_front
from jaxnas.results import evaluations
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_sealed
from jaxnas.results.tables import Table
from jaxnas.search import budgets as budget_texts
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.search.execute import LATENCY_FILE, run_of
from jaxnas.selection import picking
from jaxnas.spaces import SearchSpace


@dataclass(frozen=True)
class Config:
    """Find networks for any budgets from the evaluations of a search.

    Attributes:
      run: folder of the search.
      budgets: the largest cost of each network, such as macs=45e6, or of several costs, such as macs=52e6,params=1e6.
      front: instead of budgets, all networks from the cheapest to the most expensive that no other one beats.
      cost: what a number alone is a budget of, and the cost of the front.
      latency: table of the latencies of a device, see `experiments.measure_latency`; by default the search's.
      out: JSON file for the networks.
    """

    run: Path
    budgets: tuple[str, ...] = ()
    front: bool = False
    cost: str = "macs"
    latency: Path | None = None
    out: Path | None = None


def main(config: Config) -> None:
    """Reads, fits, prints and writes."""
    if bool(config.budgets) == config.front:
        raise ValueError("give either budgets, such as --budgets macs=45e6, or --front")
    wanted = [budget_texts.parse([text], config.cost)[0] for text in config.budgets]
    kept, space = read(config.run, config.latency)
    picks = picking.front(space, kept, config.cost) if config.front else picking.pick(space, kept, wanted)
    console = cli.console()
    if config.out is not None:
        write_json(config.out, picks)
    shown = Table(
        f"{len(kept):,} evaluations on {space.name}",
        ("budget", "encoding", *(f"{cost.name}, {cost.unit}" for cost in space.costs), "loss", "80 % interval"),
        [
            (
                ", ".join(f"{name} <= {budget:,.6g}" for name, budget in found.budgets.items()),
                " ".join(map(str, found.encoding)),
                *(f"{found.costs[cost.name]:,.6g}" for cost in space.costs),
                f"{found.expected_loss:.4f}",
                f"{found.interval[0]:.4f} to {found.interval[1]:.4f}",
            )
            for found in picks
        ],
    )
    console.print(shown.rich())
    if config.out is not None:
        console.print(f"wrote {config.out}", soft_wrap=True)
    if config.front:
        picture = (config.run / "front.png") if config.out is None else config.out.with_suffix(".png")
        plot_front(picks, space.cost(config.cost), picture)
        console.print(f"wrote {picture}", soft_wrap=True)


def read(run: Path, table: Path | None) -> tuple[evaluations.Evaluations, SearchSpace]:
    """The evaluations in the folder of a search, and its space with the latency of a device.

    Raises:
      ValueError: if the folder holds none, or those of another search.
    """
    path = run / evaluations.NAME
    kept, about = evaluations.read_evaluations(path, None)
    expected = evaluations.About(about.space, about.num_choices, about.description, _run_of(run))
    if different := about.differences(expected):
        raise ValueError(f"{path} is of another search than config.json, different in {', '.join(different)}")
    space = evaluations.space_of(about, path)
    if table is None and (run / LATENCY_FILE).exists():
        table = run / LATENCY_FILE
    return kept, space if table is None else latency.read(table).added_to(space)


def _run_of(run: Path) -> dict:
    """What tells the search in a folder from others.

    Raises:
      ValueError: if its configuration is missing, damaged or of another version.
    """
    path = run / "config.json"
    try:
        document = read_sealed(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"run {run} is not the folder of a search: {path} cannot be read ({error})") from error
    with contextlib.suppress(ValueError):
        return run_of(StreamedConfig, document) if "streams" in document else run_of(SearchConfig, document)
    raise ValueError(f"{path} is of another version, or of something else")


if __name__ == "__main__":
    cli.run(main, Config)
