"""What sharing by slices costs: the search's step of the weights, to compile and to hold, beside separate weights.

    python -m benchmarks.sharing_cost --out runs/sharing_cost

Plain, by the sandwich rule, and with distillation on top: seconds to trace and compile, memory as the compiler counts
it (see `benchmarks.finishing_cost`), parameters of the supernet. Nothing comes from the persistent cache of compiled
programs. OUT/sharing-cost.json holds all figures; a second call goes on with the rows that are missing.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import jax
from rich.table import Table

from benchmarks.accelerators import memory
from benchmarks.finishing_cost import RandomImagesConfig, compile_program, earlier, make_table, mib
from experiments import cli
from jaxnas.results.files import write_json
from jaxnas.spaces.mbconv import MBConvSpace, Operation
from jaxnas.supernet import layer_weights
from jaxnas.supernet.layer_weights import SHARINGS

FILE = "sharing-cost.json"
# Of the step of the weights. Three networks are the dearest, the cheapest and one between them.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sandwich": {"weight_samples": 3, "sandwich": True},
    "distillation": {"weight_samples": 3, "sandwich": True, "distillation": 0.5},
}


@dataclass(frozen=True)
class Config(RandomImagesConfig):
    """Measure what sharing by slices costs."""


def main(config: Config) -> None:
    """Measures what is missing, prints."""
    jax.config.update("jax_enable_compilation_cache", False)
    path, settings, found = earlier(config.out, FILE, config)
    rows = found.get("rows", [])
    for steps, sharing in itertools.islice(itertools.product(VARIANTS, SHARINGS), len(rows), None):
        rows.append({"steps": steps, "sharing": sharing, **sharing_cost(config, sharing, VARIANTS[steps])})
        write_json(path, {"config": settings, "rows": rows})
    cli.console().print(sharing_table(rows))


def sharing_cost(config: Config, sharing: str, steps: dict[str, Any]) -> dict[str, Any]:
    """Fields of a row: of the step of the weights, and of the supernet."""
    _, search, _ = config.make_search(sharing=sharing, **steps)
    program, seconds = compile_program(search.lower, "weights")
    shapes = jax.eval_shape(search.supernet.init_params, jax.random.key(0))
    return {
        "parameters": parameters(search.supernet.space, sharing),
        "stored": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        "compile_seconds": seconds,
        **memory(program.memory_analysis()),
    }


def parameters(space: MBConvSpace, sharing: str) -> int:
    """Of a supernet, without the zeros that its arrays are padded with."""
    total = space.cost("params").fixed
    for layer in space.layers:
        operations = layer.operations
        if sharing == "slices":
            mbconvs = layer_weights.mbconvs(layer)
            widest = max(operation.expansion for operation in mbconvs)
            skips = (operation for operation in operations if operation.is_skip)
            operations = (Operation(layer_weights.largest_kernel(layer), widest), *skips)
        total += sum(layer.params(operation) for operation in operations)
    return total


def sharing_table(rows: list[dict[str, Any]]) -> Table:
    """All rows."""
    columns = "parameters", "with padding", "compile, s", "peak, MiB"
    table = make_table("the search's step of the weights", "steps", "sharing", *columns)
    for row in rows:
        counts = f"{row['parameters']:,}", f"{row['stored']:,}", f"{row['compile_seconds']:.1f}"
        table.add_row(row["steps"], row["sharing"], *counts, mib(row["peak_bytes"]))
    return table


if __name__ == "__main__":
    cli.run(main, Config)
