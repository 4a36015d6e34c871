"""An architecture layer by layer, with the costs of each layer.

    python -m experiments.describe_architecture --architecture runs/cpu/result.json --k 0
    python -m experiments.describe_architecture --architecture network.json

An architecture's own file is what `SearchSpace.encode` gives, as JSON: {"space": "nasbench_macro", "encoding": [...]}.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rich.table

from experiments import cli
from jaxnas.results import SearchResult, read_result
from jaxnas.results.json_files import read_json
from jaxnas.results.result import space_of
from jaxnas.spaces import SPACES, SearchSpace


@dataclass(frozen=True)
class Config:
    """Describe an architecture layer by layer.

    Attributes:
      architecture: JSON file of one architecture, or result.json of a search.
      k: index of the network of a search, from 0, in the order of the penalties.
      space: search space that the architecture must belong to; by default the one that the file names.
    """

    architecture: Path
    k: int | None = None
    space: str | None = None


def read_architecture(
    path: Path, k: int | None = None, space_name: str | None = None
) -> tuple[SearchSpace, np.ndarray]:
    """Reads one architecture.

    Args:
      path: file of one architecture, or result.json of a search.
      k: which network of a search.
      space_name: the space it must belong to; None for the one that the file names.

    Returns:
      The space, of a search as its result describes it, else at its full size, and the architecture, int32 [D].

    Raises:
      OSError: if the file cannot be read.
      ValueError: naming the file, if it holds no architecture of the space.
    """
    try:
        document = read_json(path)
    except ValueError as error:  # neither UTF-8 nor JSON
        raise ValueError(f"architecture {path} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f'architecture {path} must be an object with "space" and "encoding", or a result.json')
    space = None
    if "architectures" in document:
        result = read_result(path)
        document = _of_a_search(result, path, k)
        try:
            space = space_of(result)
        except ValueError as error:
            raise ValueError(f"architecture {path}: {error}") from error
        if space is None and result.space in SPACES:
            raise ValueError(
                f"{path} does not describe its space, and its costs are not those of {result.space} at full size; "
                "a search of this version writes the description"
            )
    elif k is not None:
        raise ValueError(f"k chooses a network of a search, and {path} holds one architecture; leave it out, got {k}")
    name = document.get("space") if space_name is None else space_name
    if not isinstance(name, str) or name not in SPACES:
        raise ValueError(f"space {name!r} is not known; choose from {', '.join(SPACES)}")
    if space is None or space.name != name:
        space = SPACES[name]()
    try:
        return space, space.decode(document)
    except ValueError as error:
        raise ValueError(f"architecture {path}: {error}") from error


def _of_a_search(result: SearchResult, path: Path, k: int | None) -> dict[str, Any]:
    """One network of a result.json, in the form of `SearchSpace.encode`."""
    networks = {found.k: found for found in result.architectures}
    if k not in networks:
        known = ", ".join(str(index) for index in networks) or "none"
        raise ValueError(f"k must be one of the networks of {path} ({known}), got {k}; give --k")
    return {"space": result.space, "encoding": list(networks[k].encoding)}


def architecture_table(space: SearchSpace, arch: np.ndarray) -> rich.table.Table:
    """The chosen operation of each of the D decisions and its costs, the parts without a choice, totals and R."""
    table = rich.table.Table(title=f"architecture of {space.name}")
    table.add_column("layer")
    table.add_column("operation")
    for cost in space.costs:
        table.add_column(cost.unit, justify="right")
    for d, (decision, choice) in enumerate(zip(space.decisions, arch)):
        costs = (f"{cost.table[d][choice]:,}" for cost in space.costs)
        table.add_row(decision.name, decision.choices[choice], *costs)
    table.add_row("all others", "stem, head, fixed layers", *(f"{cost.fixed:,}" for cost in space.costs))
    table.add_section()
    table.add_row("total", "", *(f"{cost.total(arch):,}" for cost in space.costs))
    scaled = (float(cost(arch[None])[0]) for cost in space.costs)
    table.add_row("R", "from 0 (cheapest) to 1 (most expensive)", *(f"{value:.3f}" for value in scaled))
    return table


def main(config: Config) -> None:
    """Prints the description."""
    space, arch = read_architecture(config.architecture, config.k, config.space)
    cli.console().print(architecture_table(space, arch))


if __name__ == "__main__":
    cli.run(main, Config)
