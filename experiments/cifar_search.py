"""K networks of different complexity in one search on CIFAR-10, or on scikit-learn's digits.

    python -m experiments.cifar_search --preset quickstart --workdir runs/quickstart
    python -m experiments.cifar_search --preset cpu --data-dir DIR --workdir runs/cpu

A second call with the same folder resumes, or shows the result of a search that is done. See `experiments/presets.py`
for what the presets cost and do.
"""

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from experiments import cli
from experiments.budgets import parse as parse_budgets
from experiments.presets import PRESETS, Preset
from experiments.workdir import open_workdir
from jaxnas import compilation_cache, data, latency, strategies, supernet
from jaxnas.checkpoint import Checkpoints
from jaxnas.report import (
    MetricsLog,
    SearchDisplay,
    TensorBoardLog,
    keeps_theta,
    plot_pareto,
    read_metrics,
    result_table,
    summarise,
    tensorboard,
    theta_field,
)
from jaxnas.spaces import SPACES
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import Strategy
from jaxnas.training import Search, SearchState, StepMetrics

METHODS = ("importance_plain", "importance")  # strategies that keep distributions and weigh samples for each of them
LATENCY_FILE = "latency.json"
SHOWN = ("train_loss", "loss", "accuracy", "ess", "convergence")  # of a step's record, on the live display


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
      method: search strategy: importance_plain (the paper's form) or importance (one model of the loss for all
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
    method: str = "importance_plain"
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
    preset = PRESETS[name]
    given = {field: value for field, value in dataclasses.asdict(config).items() if value is not None}
    steps = ("weight_steps", "joint_steps", "distribution_steps", "batch_size", "steps_per_dispatch")
    computing = ("batching", "chunk_size", "precision")
    settings = {field: given[field] for field in (*steps, *computing) if field in given}
    if "batch_size" in settings:
        settings["valid_batch_size"] = settings["batch_size"]
    fields = {field: given[field] for field in ("dataset", "space", "samples", "candidates") if field in given}
    if config.penalties is not None:
        fields["penalties"] = tuple(sorted(config.penalties))
    return name, dataclasses.replace(preset, settings=dataclasses.replace(preset.settings, **settings), **fields)


def build(config: Config, preset: Preset) -> Search:
    """Space, strategy, supernet and data of a preset."""
    if preset.space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {preset.space!r}")
    if config.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {config.method!r}")
    if preset.candidates < 0:  # said now and not after the search
        raise ValueError(f"candidates must be 0 (the modes alone) or more, got {preset.candidates}")
    space = SPACES[preset.space]()
    if config.latency is not None:
        space = latency.read(config.latency).added_to(space)
    strategy = choose_strategy(config, preset, space)
    dataset = data.load(preset.dataset, config.data_dir)
    train, valid = data.split(dataset, preset.valid_fraction, config.seed)
    if preset.image_size != dataset.train_images.shape[1]:
        train, valid = (
            dataclasses.replace(part, images=data.resize(part.images, preset.image_size)) for part in (train, valid)
        )
    proxy = SPACES[preset.space](width=preset.width, image_size=preset.image_size, num_classes=dataset.num_classes)
    gather = supernet.resolve_batching(preset.settings.batching) == "vmap"
    return Search(strategy, supernet.build(proxy, gather), dataset, train, valid, preset.settings)


def choose_strategy(config: Config, preset: Preset, space: SearchSpace) -> Strategy:
    """The method, with penalties or within budgets.

    Raises:
      ValueError: if both are given, on an unknown cost, or a budget that no network of the space meets.
    """
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


def describe_config(config: Config, preset: Preset) -> dict:
    """All that decides the outcome of a search, JSON-ready: two runs with equal descriptions are one search."""
    optional: dict[str, Any] = {}
    if config.budgets is not None:
        optional["budgets"] = list(parse_budgets(config.budgets, config.cost))
    if config.latency is not None:
        table = latency.read(config.latency)
        optional["latency"] = {"device": table.device, "batch_size": table.batch_size, "digest": table.digest}
    return {"method": config.method, "cost": config.cost, "seed": config.seed, **optional, **preset.describe()}


def records(step: int, phase: str, metrics: StepMetrics, seconds: float) -> list[dict[str, Any]]:
    """One record a step for metrics.jsonl: what the phase has measured, after `step` steps done before."""
    measured = {
        field.name: np.asarray(getattr(metrics, field.name))
        for field in dataclasses.fields(metrics)
        if field.name != "finite"
    }
    measured = {name: values for name, values in measured.items() if not np.isnan(values).any()}
    return [
        {
            "step": step + index + 1,
            "phase": phase,
            **{name: values[index].tolist() for name, values in measured.items()},
            "wall_seconds": round(seconds, 3),
        }
        for index in range(len(metrics.finite))
    ]


def main(config: Config) -> None:
    """Runs or resumes the search and writes its results."""
    console = Console()
    compilation_cache.enable()
    if config.tensorboard:
        tensorboard.check_installed()
    name, preset = choose_preset(config)
    search = build(config, preset)
    workdir = open_workdir(config.workdir, f"{preset.dataset}-{name}", describe_config(config, preset))
    if config.latency is not None:
        latency.read(config.latency).write(workdir / LATENCY_FILE)  # what later reads the folder finds it there
    console.print(
        f"{name}: {preset.space} on {preset.dataset}, {len(search.strategy.penalties)} networks, in {workdir}"
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        state, seconds = run(search, config, workdir, checkpoints, console)
    found = summarise(
        search,
        state,
        method=config.method,
        candidates=preset.candidates,
        seed=config.seed,
        config=describe_config(config, preset),
        seconds=seconds,
    )
    found.write(workdir / "result.json")
    plot_pareto(found, workdir / "pareto.png")
    console.print(result_table(found))
    console.print(f"results in {workdir}")


def run(
    search: Search, config: Config, workdir: Path, checkpoints: Checkpoints, console: Console
) -> tuple[SearchState, float]:
    """Runs the search to its end from the newest checkpoint; returns its state and the seconds it took in all."""
    total = search.settings.total_steps
    state, step, before = search.init(config.seed), 0, 0.0
    restored = checkpoints.restore_newest(state)
    if restored is not None:
        state, step = restored.state, restored.step
        for skipped in restored.skipped:
            console.print(f"checkpoint of step {skipped.step} is damaged, going back to step {step}: {skipped.path}")
        console.print(f"resuming after step {step} of {total}")
    log_path = workdir / "metrics.jsonl"
    within = isinstance(search.strategy, strategies.WithinBudgets)
    shown_as = [budget[0] for budget in search.strategy.budgets] if within else search.strategy.penalties
    display = SearchDisplay(shown_as, total, console, name="budget" if within else "penalty")
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(MetricsLog(log_path))
        log.truncate_after(step)
        boards = []
        if config.tensorboard:
            earlier = read_metrics(log_path) if step else []
            board = TensorBoardLog(workdir / "tensorboard", step, len(search.strategy.penalties), earlier)
            boards.append(stack.enter_context(board))
        stack.enter_context(display)
        if step:
            before = max((record["wall_seconds"] for record in read_metrics(log_path)), default=0.0)
        started = saved = time.monotonic()
        display.update(step, "compiling")
        for next_state, phase, metrics in search.run(state):
            state = next_state
            steps = records(step, phase, metrics, before + time.monotonic() - started)
            if "loss" in steps[-1] and keeps_theta(step + len(steps), len(steps), total):
                steps[-1] |= theta_field(state.strategy.theta)
            for record in steps:
                log.append(record)
            for board in boards:
                board.extend(steps)
            step += len(steps)
            shown = {name: steps[-1][name] for name in SHOWN if name in steps[-1]}
            display.update(step, phase, **shown)
            if time.monotonic() - saved >= config.checkpoint_seconds or step == total:
                checkpoints.save(step, state)
                saved = time.monotonic()
    return state, before + time.monotonic() - started


def command() -> None:
    """`jaxnas-search`: the same as `python -m experiments.cifar_search`, wherever the package is installed."""
    cli.run(main, Config)


if __name__ == "__main__":
    command()
