"""Networks for budgets, costs and devices that were not part of a search.

    python -m experiments.pick --run runs/cpu --budgets macs=45e6 macs=52e6,params=1e6 --out picks.json
    python -m experiments.pick --run runs/cpu --budgets latency=3e-3 --latency other_device.json
    python -m experiments.pick --run runs/cpu --budgets phone=5e-3 server=1e-3 --latency phone=a.json server=b.json
    python -m experiments.pick --run runs/cpu --budgets macs=45e6,weight_memory=1e6 --weight-bits 8
    python -m experiments.pick --run runs/cpu --front --cost params --out front.json
    python -m experiments.pick --run runs/cpu --budgets macs=45e6 --main-effects 1024 --data-dir DIR
    python -m experiments.pick --run runs/cpu --budgets macs=45e6 --evaluations 300 --data-dir DIR

Reads the evaluations that the search kept and evaluates nothing again: seconds. If the search had `--main-effects`, the
evaluations of its uniformly drawn networks have half of the weight. `--main-effects` evaluates such networks on the
supernet of any search on images in memory, which takes minutes and finds much better networks; `--evaluations` compares
the networks that the search found most promising. `--out` gets a list of {budgets, encoding, description, costs,
expected_loss, interval}; with `--front` also a picture next to it. See docs/how-to/pick.md.
"""

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from experiments import cli
from jaxnas.report.front import plot_front
from jaxnas.results import evaluations
from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_sealed
from jaxnas.results.tables import Table
from jaxnas.runtime import compilation_cache
from jaxnas.search import budgets as budget_texts
from jaxnas.search import device_tables
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.search.execute import run_of
from jaxnas.selection import picking, refinement
from jaxnas.spaces import SearchSpace, memory
from jaxnas.tasks.finished_search import load_supernet

AT_ONCE = 16  # networks of one program


@dataclass(frozen=True)
class Config:
    """Find networks for any budgets from the evaluations of a search.

    Attributes:
      run: folder of the search.
      budgets: the largest cost of each network, such as macs=45e6, or of several costs, such as macs=52e6,params=1e6.
      front: instead of budgets, all networks on the Pareto front of expected loss and cost.
      cost: the cost of budgets without a name, and of the front.
      latency: table of the latencies of a device, see `experiments.measure_latency`, or named tables of several
        devices, such as phone=phone.json server=server.json; by default the search's.
      weight_bits: bits of a parameter, for budgets of weight_memory, in bytes; by default the search's.
      activation_bits: bits of an activation, for budgets of activation_memory; likewise.
      evaluations: number of further evaluations, each of one network on one validation minibatch, that compare the most
        promising networks for the budgets; for a search on images in memory.
      main_effects: number of uniformly drawn networks that are evaluated likewise; the networks that are best by the
        main effects of their losses are then compared on validation minibatches.
      data_dir: folder of the prepared TFDS data for these evaluations; by default TFDS's own.
      seed: random seed of these evaluations.
      out: JSON file for the networks.
    """

    run: Path
    budgets: tuple[str, ...] = ()
    front: bool = False
    cost: str = "macs"
    latency: tuple[str, ...] = ()
    weight_bits: int | None = None
    activation_bits: int | None = None
    evaluations: int = 0
    main_effects: int = 0
    data_dir: Path | None = None
    seed: int = 0
    out: Path | None = None


def main(config: Config) -> None:
    """Reads, fits, prints and writes."""
    if bool(config.budgets) == config.front:
        raise ValueError("give either budgets, such as --budgets macs=45e6, or --front")
    wanted = [budget_texts.parse([text], config.cost)[0] for text in config.budgets]
    if (config.evaluations or config.main_effects) and config.front:
        raise ValueError("evaluations decide among networks for budgets: give --budgets in place of --front")
    if config.evaluations and config.main_effects:
        raise ValueError("give either evaluations or main_effects: each decides among networks in its own way")
    named = [config.cost] if config.front else [name for budget in wanted for name in budget]
    memory.check_bits(named, weight_bits=config.weight_bits, activation_bits=config.activation_bits)
    kept, space = read(config.run, config.latency, named, config.weight_bits, config.activation_bits)
    known = dict.fromkeys([*(cost.name for cost in space.costs), *memory.NAMES])
    for name in named:
        if name not in known:
            raise ValueError(f"cost {name!r} is not known here; choose one of {', '.join(known)}")
    uniform = read_uniform(config.run)
    console = cli.console()
    if config.front:
        picks = picking.front(space, kept, config.cost, uniform=uniform)
    elif config.evaluations:
        picks, spent = refinement.refine(space, kept, wanted, evaluate_on_supernet(config), config.evaluations)
        console.print(f"{spent} more evaluations")
    elif config.main_effects:
        key, evaluate = jax.random.key(config.seed), evaluate_on_supernet(config)
        picks, spent = refinement.by_main_effects(space, wanted, evaluate, config.main_effects, key)
        console.print(f"{spent} more evaluations")
    else:
        picks = picking.pick(space, kept, wanted, uniform=uniform)
    if config.out is not None:
        write_json(config.out, picks)
    shown = Table(
        f"{len(kept):,} evaluations on {space.name}",
        ("budget", "encoding", *(f"{cost.name}, {cost.unit}" for cost in space.costs), "loss", "80 % interval"),
        [
            (
                budget_texts.in_words(found.budgets),
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


def evaluate_on_supernet(config: Config) -> refinement.Evaluate:
    """Losses on minibatches of the validation split, with the trained weights of the search.

    Raises:
      ValueError: if the folder holds no finished search of images in memory.
    """
    compilation_cache.enable()
    supernet = load_supernet(config.run, config.data_dir)

    def evaluate(minibatch: int, archs: np.ndarray) -> np.ndarray:
        key = jax.random.fold_in(jax.random.key(config.seed), minibatch)
        padded = np.resize(archs, (-(-len(archs) // AT_ONCE) * AT_ONCE, archs.shape[1]))  # one program for all
        parts = [supernet.losses(key, part) for part in padded.reshape(-1, AT_ONCE, archs.shape[1]).astype(np.int32)]
        return np.concatenate(parts)[: len(archs)]

    return evaluate


def read(
    run: Path,
    tables: Sequence[str] = (),
    costs: Collection[str] = (),
    weight_bits: int | None = None,
    activation_bits: int | None = None,
) -> tuple[evaluations.Evaluations, SearchSpace]:
    """The evaluations in the folder of a search, and its space with latencies of devices, and memory where it is named.

    Raises:
      ValueError: if the folder holds none, or those of another search.
    """
    path = run / evaluations.NAME
    kept, about = _of_search(run, path)
    space = evaluations.space_of(about, path)
    latencies = device_tables.read(tables) if tables else device_tables.kept(run, about.run)
    space = device_tables.added_to(space, latencies)
    bits = (
        about.run.get(name, memory.BITS) if given is None else given
        for name, given in (("weight_bits", weight_bits), ("activation_bits", activation_bits))
    )
    return kept, memory.added_to(space, costs, *bits)


def read_uniform(run: Path) -> evaluations.Evaluations | None:
    """The evaluations of uniformly drawn networks that a search ended with; None where it made none.

    Raises:
      ValueError: if they are damaged, or of another search.
    """
    path = run / evaluations.UNIFORM
    return _of_search(run, path)[0] if path.exists() else None


def _of_search(run: Path, path: Path) -> tuple[evaluations.Evaluations, evaluations.About]:
    """Evaluations in the folder of a search; ValueError if they are not this search's."""
    kept, about = evaluations.read_evaluations(path, None)
    expected = evaluations.About(about.space, about.num_choices, about.description, _run_of(run))
    if different := about.differences(expected):
        raise ValueError(f"{path} is of another search than config.json, different in {', '.join(different)}")
    return kept, about


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
