"""K networks of different complexity in one search on CIFAR-10, or on scikit-learn's digits.

    python -m experiments.cifar_search --preset quickstart --workdir runs/quickstart
    python -m experiments.cifar_search --preset cpu --data-dir DIR --workdir runs/cpu

A second call with the same folder resumes, or shows the result of a search that is done. See `jaxnas/search/presets.py`
for what the presets cost and do.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from experiments import cli
from jaxnas import data, strategies, supernet
from jaxnas.networks import latency
from jaxnas.report import plot_pareto, result_table, tensorboard
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime import compilation_cache
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search.answer import summarise
from jaxnas.search.budgets import parse as parse_budgets
from jaxnas.search.loop import run
from jaxnas.search.presets import PRESETS, Preset
from jaxnas.search.search import Search
from jaxnas.spaces import SPACES
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import Strategy

METHODS = ("importance_sampling", "shared_model")  # those that keep distributions and weigh samples for each
LATENCY_FILE = "latency.json"


@dataclass(frozen=True)
class Config:
    """Search K networks of different complexity at once.

    Attributes:
      workdir: folder for results and checkpoints; a fresh one under runs/ by default. A second call with the same
        folder resumes.
      dataset: cifar10 or digits; by default the preset's.
      data_dir: folder of the prepared TFDS data; by default TFDS's own.
      preset: quickstart, cpu or full; by default quickstart for digits, otherwise full on an accelerator and cpu
        without one.
      space: search space; by default the preset's.
      method: search strategy: importance_sampling (the paper's form) or shared_model (one model of the loss for all
        distributions: better on complete tables, not yet compared with the former on a supernet).
      penalties: one coefficient for each network, the loss worth paying for the whole span of the cost.
      budgets: instead of penalties, the largest cost of each network, such as 30e6 60e6 120e6, or of several costs,
        such as macs=60e6,params=1e6 for each network; penalties are adapted, and no network exceeds its budget.
      cost: what is penalised or has a budget: macs, params, or latency with a table of it.
      latency: table of measured latencies, see `experiments.measure_latency`; makes latency a cost.
      samples: architectures drawn from each distribution in a step.
      candidates: draws from each distribution that compete with the modes at the end, on the whole validation split;
        0 for the modes alone.
      weight_steps: steps of the weights alone, under uniformly drawn architectures.
      joint_steps: steps of weights and distributions in turn.
      distribution_steps: steps of the distributions alone, with the weights frozen.
      batch_size: images in a minibatch, of the training and the validation split alike.
      seed: of everything random.
      batching: auto, vmap (all architectures at once) or map (one after the other); auto is vmap on accelerators.
      chunk_size: architectures at once under vmap, where all at once do not fit into memory.
      precision: of computation, float32 or bfloat16 (for accelerators); parameters, statistics and losses are float32.
      steps_per_dispatch: steps in one program on the device; a checkpoint falls between two programs.
      checkpoint_seconds: seconds between checkpoints.
      tensorboard: write the curves for TensorBoard too, into tensorboard/ of the workdir.
    """

    workdir: Path | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    preset: str | None = None
    space: str | None = None
    method: str = "importance_sampling"
    penalties: tuple[float, ...] | None = None
    budgets: tuple[str, ...] | None = None
    cost: str = "macs"
    latency: Path | None = None
    samples: int | None = None
    candidates: int | None = None
    weight_steps: int | None = None
    joint_steps: int | None = None
    distribution_steps: int | None = None
    batch_size: int | None = None
    seed: int = 0
    batching: str = "auto"
    chunk_size: int | None = None
    precision: str = "float32"
    steps_per_dispatch: int | None = None
    checkpoint_seconds: float = 20.0
    tensorboard: bool = False


def choose_preset(config: Config) -> tuple[str, Preset]:
    """The preset with the command line's values in place of its own.

    Raises:
      ValueError: on an unknown preset, or a dataset that the preset's image size does not fit.
    """
    name = config.preset
    if name is None:
        on_cpu = jax.default_backend() == "cpu"
        name = "quickstart" if config.dataset == "digits" else "cpu" if on_cpu else "full"
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return name, override(config, PRESETS[name])


def override(config: Any, preset: Preset) -> Preset:
    """A preset with the values of a command line, fields of equal names that are not None, in place of its own."""
    given = {field: value for field, value in dataclasses.asdict(config).items() if value is not None}
    steps = ("weight_steps", "joint_steps", "distribution_steps", "batch_size", "steps_per_dispatch")
    computing = ("batching", "chunk_size", "precision", "accumulate")
    settings = {field: given[field] for field in (*steps, *computing) if field in given}
    if "batch_size" in settings:
        settings["valid_batch_size"] = settings["batch_size"]
    fields = {field: given[field] for field in ("dataset", "space", "samples", "candidates") if field in given}
    if config.penalties is not None:
        fields["penalties"] = tuple(sorted(config.penalties))
    return dataclasses.replace(preset, settings=dataclasses.replace(preset.settings, **settings), **fields)


def build(config: Config, preset: Preset) -> Search:
    """Space, strategy, supernet and data of a preset."""
    if preset.space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {preset.space!r}")
    strategy = choose_strategy(config, preset, search_space(config, SPACES[preset.space]()))
    dataset = data.load(preset.dataset, config.data_dir)
    train, valid = data.split(dataset, preset.valid_fraction, config.seed)
    if preset.image_size != dataset.train_images.shape[1]:
        train, valid = (
            dataclasses.replace(part, images=data.resize(part.images, preset.image_size)) for part in (train, valid)
        )
    proxy = SPACES[preset.space](width=preset.width, image_size=preset.image_size, num_classes=dataset.num_classes)
    gather = supernet.resolve_batching(preset.settings.batching) == "vmap"
    return Search(strategy, supernet.build(proxy, gather), dataset, train, valid, preset.settings)


def search_space(config: Any, space: SearchSpace) -> SearchSpace:
    """The space, with latency among its costs where a table of it is given."""
    return space if config.latency is None else latency.read(config.latency).added_to(space)


def choose_strategy(config: Any, preset: Preset, space: SearchSpace) -> Strategy:
    """The method, with penalties or within budgets.

    Raises:
      ValueError: on an unknown method or cost, if both are given, or a budget that no network of the space meets.
    """
    strategies.check_name(config.method, METHODS)
    if preset.candidates < 0:  # said now and not after the search
        raise ValueError(f"candidates must be 0 (the modes alone) or more, got {preset.candidates}")
    cost = space.cost(config.cost)
    if config.budgets is None:
        return strategies.make(config.method, space, preset.penalties, samples=preset.samples, cost=cost)
    if config.penalties is not None:
        raise ValueError("give either penalties or budgets, not both")
    budgets = parse_budgets(config.budgets, config.cost)
    costs = [space.cost(name) for name in budgets[0]]
    method = strategies.STRATEGIES[config.method]
    return strategies.within_budgets(
        method, space, costs, [list(budget.values()) for budget in budgets], samples=preset.samples
    )


def describe_config(config: Any, preset: Preset) -> dict:
    """All that decides the outcome of a search, JSON-ready: two runs with equal descriptions are one search."""
    optional: dict[str, Any] = {}
    if config.budgets is not None:
        optional["budgets"] = list(parse_budgets(config.budgets, config.cost))
    if config.latency is not None:
        table = latency.read(config.latency)
        optional["latency"] = {"device": table.device, "batch_size": table.batch_size, "digest": table.digest}
    return {"method": config.method, "cost": config.cost, "seed": config.seed, **optional, **preset.describe()}


def main(config: Config) -> None:
    """Runs or resumes the search and writes its results."""
    console = Console()
    compilation_cache.enable()
    if config.tensorboard:
        tensorboard.check_installed()
    name, preset = choose_preset(config)
    search = build(config, preset)
    description = describe_config(config, preset)
    workdir = open_workdir(config.workdir, f"{preset.dataset}-{name}", description)
    if config.latency is not None:
        latency.read(config.latency).write(workdir / LATENCY_FILE)  # what later reads the folder finds it there
    console.print(
        f"{name}: {preset.space} on {preset.dataset}, {len(search.strategy.penalties)} networks, in {workdir}"
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, seconds = run(
            search,
            config.seed,
            workdir,
            checkpoints,
            console,
            checkpoint_seconds=config.checkpoint_seconds,
            with_tensorboard=config.tensorboard,
        )
    found = summarise(
        search,
        state,
        method=config.method,
        candidates=preset.candidates,
        seed=config.seed,
        config=description,
        seconds=seconds,
    )
    found.write(workdir / "result.json")
    plot_pareto(found, workdir / "pareto.png")
    console.print(result_table(found))
    console.print(f"results in {workdir}")


def command() -> None:
    """`jaxnas-search`: the same as `python -m experiments.cifar_search`, wherever the package is installed."""
    cli.run(main, Config)


if __name__ == "__main__":
    command()
