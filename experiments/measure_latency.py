"""Times every choice of a search space on this device, as a cost for searches.

    python -m experiments.measure_latency --space nasbench_macro --batch 1 --out latency.json
    python -m experiments.measure_latency --space nasbench_macro --csv phone.csv --device phone --out phone.json
    python -m experiments.cifar_search --latency latency.json --cost latency ...
    python -m experiments.cifar_search --latency latency.json --budgets latency=2e-3 latency=4e-3 ...

Compiles each distinct operation and some sixty whole networks, then times them in turn: one minute for `nasbench_macro`
on two CPU cores. Run nothing else meanwhile. The error of the table on whole networks is printed and stored in it.

With `--csv` nothing is measured: the table is fitted to whole networks that were measured elsewhere, a row of encoding
and milliseconds for each. With `--known`, the table of another device, some 20 rows may be enough.
"""

from dataclasses import dataclass
from pathlib import Path

import rich.progress
from rich.console import Console

from experiments import cli
from jaxnas.networks import latency, latency_fit
from jaxnas.runtime import compilation_cache
from jaxnas.spaces import SPACES, SearchSpace


@dataclass(frozen=True)
class Config:
    """Measure the latency of every choice of a space.

    Attributes:
      space: search space.
      batch: images in one call.
      out: JSON file for the table.
      width: factor on the channels of the space.
      image_size: height and width of the images; by default the space's.
      num_classes: number of classes; by default the space's.
      rounds: timings of each program, of which the median is used.
      networks: number of random whole networks that check the prediction.
      seed: random seed of these networks.
      csv: instead of measuring, a file of measured networks: encoding, such as 0 2 1, and milliseconds in each row.
      known: with csv, the table of another device for the same space, to start from.
      device: with csv, a description of the device.
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
    csv: Path | None = None
    known: Path | None = None
    device: str | None = None


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
    if config.csv is None:
        if config.known is not None or config.device is not None:
            raise ValueError("known and device need measured networks: give --csv FILE")
        table = measured(config, space, console)
    else:
        archs, seconds = latency_fit.read_csv(config.csv, space)
        known = None if config.known is None else latency.read(config.known)
        device = config.device or config.csv.stem
        table = latency_fit.fit(
            space, archs, seconds, device=device, batch_size=config.batch, known=known, seed=config.seed
        )
    table.write(config.out)
    check, cost = table.check, table.cost
    console.print(
        f"{space.name} on {table.device}, batch {table.batch_size}: "
        f"{1e3 * cost.lowest:.3g} to {1e3 * cost.highest:.3g} ms predicted",
        soft_wrap=True,
    )
    kind = "whole networks" if config.csv is None else "networks, each held out of the fit"
    console.print(
        f"{check['networks']} {kind}: Spearman {check['spearman']:.3f}, "
        f"median error {100 * check['median_absolute_error']:.1f} %, "
        f"largest {100 * check['largest_absolute_error']:.1f} %"
    )
    console.print(f"table in {config.out}", soft_wrap=True)


def measured(config: Config, space: SearchSpace, console: Console) -> latency.LatencyTable:
    """Times the choices of the space on this device."""
    compilation_cache.enable()
    with rich.progress.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        return latency.measure(
            space,
            config.batch,
            rounds=config.rounds,
            check_networks=config.networks,
            seed=config.seed,
            progress=progress,
        )


if __name__ == "__main__":
    cli.run(main, Config)
