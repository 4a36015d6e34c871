"""What finishing costs: memory and time of its step, beside the search's steps and the networks' own.

    python -m benchmarks.finishing_cost --out runs/finishing_cost
    python -m benchmarks.finishing_cost --result runs/cpu/result.json --out runs/finishing_cost

The step that trains the networks of a search together (`finish_steps`) is compared in memory with both steps of the
search, and in time with the sum of the same networks' own steps, as `retrain` trains them, or (`--own finishing`) each
as the only network that is finished. Programs run in turn, the seconds are medians of the rounds.

Memory is what the compiler counts: arguments, results that reuse none of them, temporaries. The images, of which all
programs hold one copy, are among the arguments; they are random, as many as CIFAR-10 has, at the size of the preset.
Nothing comes from the persistent cache of compiled programs. OUT/cost.json holds all figures; with the file there, the
command only prints its table.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from rich.table import Table

from benchmarks import measure
from benchmarks.accelerators import memory
from experiments import cli
from jaxnas import data, networks
from jaxnas.results import read_result
from jaxnas.results.files import write_json
from jaxnas.search import build, finished, presets
from jaxnas.search.config import SearchConfig
from jaxnas.search.recipes import RetrainSettings
from jaxnas.search.search import Search
from jaxnas.search.training_data import InMemoryData

FILE = "cost.json"
MIB = 2**20
DRAWN = 64  # uniform networks, of which K are taken
STEPS = {"weights": "search: weights", "distributions": "search: distributions"}


@dataclass(frozen=True)
class RandomImagesConfig:
    """A preset's search on random images.

    Attributes:
      out: folder for the figures.
      preset: of the search: its space, width, image size, minibatches.
      space: instead of the preset's.
      images: number of training images.
    """

    out: Path
    preset: str = "cpu"
    space: str | None = None
    images: int = 50_000

    def __post_init__(self):
        if self.images < 1:
            raise ValueError(f"images must be at least 1, got {self.images}")

    def make_search(self, **settings: Any) -> tuple[SearchConfig, Search, InMemoryData]:
        """The search with some settings changed, on random images, and the images as its networks get them."""
        settings |= {} if self.space is None else {"space": self.space}
        wanted = presets.MEMORY(preset=self.preset, finish_steps=1000, **settings)
        generator, size = np.random.default_rng(0), wanted.data.image_size
        classes = 10  # of both data sets of the presets

        def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
            images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
            return images, generator.integers(0, classes, count).astype(np.int32)

        moments, name = ((0.5,) * 3, (0.25,) * 3), wanted.data.dataset
        parts = *draw(self.images), *draw(classes)
        images = data.ImageDataset(name, classes, *parts, *moments, flip=data.mirrored(name))
        return wanted, build.build(wanted, images), InMemoryData(images)


@dataclass(frozen=True)
class Config(RandomImagesConfig):
    """Measure what finishing costs.

    Attributes:
      result: result.json of a search with this preset's space, whose networks are finished; by default drawn ones.
      networks: K, where they are drawn: evenly by multiply-adds out of uniform ones.
      own: what the networks' own steps are, retraining or finishing, or both.
      rounds: in which every program runs once, one after the other; 0 for memory alone.
      steps: of a program in a round.
    """

    result: Path | None = None
    networks: int = 4
    own: tuple[Literal["retraining", "finishing"], ...] = ("retraining",)
    rounds: int = 9
    steps: int = 3

    def __post_init__(self):
        super().__post_init__()
        for name in ("networks", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rounds < 0:
            raise ValueError(f"rounds must be 0, for memory alone, or more, got {self.rounds}")


def main(config: Config) -> None:
    """Measures if the figures are missing, prints."""
    jax.config.update("jax_enable_compilation_cache", False)
    path, settings, found = earlier(config.out, FILE, config)
    if not found:
        found = {"config": settings, **cost(config)}
        write_json(path, found)
    cli.console().print(cost_table(found))


def earlier(out: Path, name: str, config: Any) -> tuple[Path, dict[str, str], dict[str, Any]]:
    """The path of the figures in a folder, the options as they stand in it, and what it holds of these options."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / name
    found = json.loads(path.read_text()) if path.exists() else {}
    settings = {name: str(value) for name, value in dataclasses.asdict(config).items() if name != "out"}
    if found and found["config"] != settings:
        raise ValueError(f"out must be a new folder, or one of the same options; {path} has others")
    return path, settings, found


def choose(config: Config, search: Search) -> tuple[tuple[int, ...], ...]:
    """K different networks: those of a search, or drawn."""
    space = search.supernet.space
    if config.result is not None:
        found = [tuple(one.encoding) for one in read_result(config.result).architectures]
        return tuple(dict.fromkeys(tuple(space.validate(arch).tolist()) for arch in found))
    drawn = np.unique(space.sample_uniform(np.random.default_rng(0), max(DRAWN, config.networks)), axis=0)
    drawn = drawn[np.argsort(-space.cost("macs").total(drawn), kind="stable")]
    places = np.linspace(0, len(drawn) - 1, config.networks).astype(int)
    return tuple(dict.fromkeys(tuple(drawn[place].tolist()) for place in places))


@dataclass(frozen=True)
class Compiled:
    """A program that trains, ready to run.

    Attributes:
      program: of (state, examples, minibatches, count, stop).
      state: before the first step.
      examples: as the program takes them.
      seconds: to compile.
    """

    program: jax.stages.Compiled
    state: Any
    examples: Any
    seconds: float

    def timed(self, steps: int) -> measure.Program:
        """As `measure.alternate` takes it; the state goes on from run to run."""
        state = self.state

        def run() -> None:
            nonlocal state
            state = jax.block_until_ready(self.program(state, self.examples, None, np.int32(steps), None))[0]

        started = time.perf_counter()
        run()
        return measure.Program(run, steps, self.seconds + time.perf_counter() - started)


def compile_program(lower: Callable[..., jax.stages.Lowered], *arguments: Any) -> tuple[jax.stages.Compiled, float]:
    """The program, and the seconds to trace and compile it."""
    started = time.perf_counter()
    compiled = lower(*arguments).compile()
    return compiled, time.perf_counter() - started


def trainings(config: Config) -> Iterator[tuple[dict[str, Any], Compiled]]:
    """The programs that train networks, each with the fields of its row that say which it is."""
    wanted, search, images = config.make_search()
    archs = choose(config, search)
    params = search.supernet.init_params(jax.random.key(0))
    for group in [archs, *((arch,) for arch in archs if "finishing" in config.own)]:
        finishing = finished.NetworkFinishing(search, group, images, wanted.finish, seed=0)
        trainer, state, _ = finishing.prepare(params, jax.random.key(1))
        program, seconds = compile_program(trainer.lower, state)
        name = "finishing" if group is archs else "finishing alone"
        yield {"program": name, "networks": group}, Compiled(program, state, trainer.source.examples, seconds)
    if "retraining" not in config.own:
        return
    training = wanted.training
    own = RetrainSettings(
        batch_size=training.batch_size,
        crop_padding=training.crop_padding,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm,
        average=wanted.finish.finish_average,
        label_smoothing=wanted.finish.finish_label_smoothing,
        steps_per_dispatch=training.steps_per_dispatch,
    )
    for arch in archs:
        retraining = images.trainer(networks.build(search.supernet.space, arch), own, seed=0, test_every=0)
        state = retraining.init(0)
        program, seconds = compile_program(retraining.lower, state)
        yield (
            {"program": "retraining", "networks": (arch,)},
            Compiled(program, state, retraining.train.examples, seconds),
        )


def cost(config: Config) -> dict[str, Any]:
    """Rows of all programs, and ratios: memory to the search's, seconds to those of the networks' own steps."""
    if config.steps > presets.MEMORY(preset=config.preset).training.steps_per_dispatch:
        raise ValueError(f"steps must be at most those of a program of the preset, got {config.steps}")
    _, search, _ = config.make_search()
    rows = []
    for phase, name in STEPS.items():
        program, seconds = compile_program(search.lower, phase)
        rows.append({"program": name, "networks": [], **memory(program.memory_analysis()), "compile_seconds": seconds})
    programs = {}
    for fields, compiled in trainings(config):
        analysis = memory(compiled.program.memory_analysis())
        programs[len(rows)] = compiled.timed(config.steps) if config.rounds else None
        rows.append({**fields, **analysis, "compile_seconds": compiled.seconds})
    if config.rounds:
        for place, seconds in measure.alternate(programs, config.rounds).items():
            rows[place]["step_seconds"] = seconds
    return {"rows": rows, "ratios": ratios(rows)}


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of finishing: peak memory to the larger of both steps of the search; seconds to the sums of the own steps."""
    of = {name: [row for row in rows if row["program"] == name] for name in {row["program"] for row in rows}}
    (together,) = of["finishing"]
    found = {"memory of the search": together["peak_bytes"] / max(of[name][0]["peak_bytes"] for name in STEPS.values())}
    for name in ("retraining", "finishing alone"):
        if name in of and "step_seconds" in together:
            sum_of_steps = sum(row["step_seconds"] for row in of[name])
            found[f"seconds of {name}"] = together["step_seconds"] / sum_of_steps
    return found


def cost_table(found: dict[str, Any]) -> Table:
    """All rows, and the ratios below."""
    table = make_table("memory and time of steps", "program", "network", "temporaries, MiB", "peak, MiB", "step, ms")
    for row in found["rows"]:
        archs = row["networks"]
        alone = "".join(str(choice) for arch in archs for choice in arch)
        network = f"{len(archs)} together" if row["program"] == "finishing" else alone
        step = f"{row['step_seconds'] * 1e3:.1f}" if "step_seconds" in row else ""
        table.add_row(row["program"], network, mib(row["temp_bytes"]), mib(row["peak_bytes"]), step)
    table.caption = ", ".join(f"finishing / {name}: {ratio:.2f}" for name, ratio in found["ratios"].items())
    return table


def make_table(title: str, *columns: str) -> Table:
    """Without rows; text on the left in the first two columns, numbers on the right in the others."""
    table = Table(title=title)
    for place, name in enumerate(columns):
        table.add_column(name, justify="left" if place < 2 else "right", overflow="fold")
    return table


def mib(count: int) -> str:
    """Bytes in MiB."""
    return f"{count / MIB:.1f}"


if __name__ == "__main__":
    cli.run(main, Config)
