"""Times every choice of a search space on this device, as a cost for searches.

    python -m experiments.measure_latency --space nasbench_macro --batch 1 --out latency.json
    python -m experiments.cifar_search --latency latency.json --cost latency ...
    python -m experiments.cifar_search --latency latency.json --budgets latency=2e-3 latency=4e-3 ...

Compiles each distinct operation and some sixty whole networks, then times them in turn: one minute for `nasbench_macro`
on two CPU cores. Let nothing else run meanwhile. How well the table predicts whole networks is printed and kept in it.
"""

from dataclasses import dataclass
from pathlib import Path

import rich.progress

from experiments import cli
from jaxnas.networks import latency
from jaxnas.runtime import compilation_cache
from jaxnas.spaces import SPACES


@dataclass(frozen=True)
class Config:
    """Measure the latency of every choice of a space.

    Attributes:
      space: search space.
      batch: images of one call.
      out: file for the table.
      width: factor on the channels of the space.
      image_size: height and width of the images; by default the space's.
      num_classes: number of classes; by default the space's.
      rounds: timings of each program; their median counts.
      networks: random whole networks to check the prediction with.
      seed: of the random networks.
    """

    space: str
    out: Path
    batch: int = 1
    width: float = 1.0
    image_size: int | None = None
    num_classes: int | None = None
    rounds: int = 15
    networks: int = 50
    seed: int = 0


def main(config: Config) -> None:
    """Measures, prints and writes."""
    console = cli.console()
    if config.space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {config.space!r}")
    size = {"image_size": config.image_size, "num_classes": config.num_classes}
    given = {name: value for name, value in size.items() if value is not None}
    space = SPACES[config.space](width=config.width, **given)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    if config.out.is_dir():
        raise ValueError(f"out must be a file, {config.out} is a folder")
    compilation_cache.enable()
    with rich.progress.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        table = latency.measure(
            space,
            config.batch,
            rounds=config.rounds,
            check_networks=config.networks,
            seed=config.seed,
            progress=progress,
        )
    table.write(config.out)
    check, cost = table.check, table.cost
    console.print(
        f"{space.name} on {table.device}, batch {table.batch_size}: "
        f"{1e3 * cost.lowest:.3g} to {1e3 * cost.highest:.3g} ms predicted",
        soft_wrap=True,
    )
    console.print(
        f"{check['networks']} whole networks: Spearman {check['spearman']:.3f}, "
        f"median error {100 * check['median_absolute_error']:.1f} %, "
        f"largest {100 * check['largest_absolute_error']:.1f} %"
    )
    console.print(f"table in {config.out}", soft_wrap=True)


if __name__ == "__main__":
    cli.run(main, Config)
