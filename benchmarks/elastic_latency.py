"""How well the latency of a user's own model is predicted: the transformer of `examples.stdlib_language_model`.

    python -m benchmarks.elastic_latency --out runs/elastic/latency.json

Random networks of the space are timed whole on this machine's processor, once compiled by JAX and once as ONNX by ONNX
Runtime; a cost is fitted to some (`jaxnas.measure_latency`) and held against others. On an idle machine only: compiling
takes some seconds for each network, timing some seconds for each round of all.

Each runtime's table is written as soon as it is there; a second call with the same file goes on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import jaxnas
from benchmarks.elastic import Results
from examples import stdlib_language_model
from experiments import cli
from jaxnas.family.measuring import Runtime
from jaxnas.results.files import to_plain


@dataclass(frozen=True)
class Config:
    """Measures the latency of the language model's networks."""

    out: Path
    """JSON file of the results; what is in it is not done again."""
    networks: int = 80
    """That the cost is fitted to."""
    check_networks: int = 40
    """Others, that it is held against."""
    rounds: int = 31
    """Timings of each network."""
    batch_size: int = 1
    """Windows of 64 bytes in a call."""
    seed: int = 0
    """Of the networks that are drawn."""


def main(config: Config) -> None:
    """Measures with each runtime and prints."""
    console, results = cli.console(), Results(config.out)
    windows = stdlib_language_model.data(100_000)[0]
    space = stdlib_language_model.space(windows)

    def measured(runtime: Runtime) -> dict:
        table = jaxnas.measure_latency(
            space,
            windows[: config.batch_size, :-1],
            runtime=runtime,
            networks=config.networks,
            check_networks=config.check_networks,
            rounds=config.rounds,
            seed=config.seed,
        )
        return to_plain(table)

    for runtime in get_args(Runtime):
        table = results.get(runtime, lambda runtime=runtime: measured(runtime))
        check = table["check"]
        console.print(
            f"{runtime} on {table['device']}: {1e3 * check['fastest_seconds']:.3g} to "
            f"{1e3 * check['slowest_seconds']:.3g} ms; {check['networks']} networks that were not fitted: "
            f"Spearman {check['spearman']:.3f}, median error {check['median_absolute_error']:.1%}, largest "
            f"{check['largest_absolute_error']:.1%}",
            soft_wrap=True,
        )


if __name__ == "__main__":
    cli.run(main, Config)
