"""Measured latency as a cost: tables of seconds on the user's device, and those of built-in spaces choice by choice.

A network's latency is predicted, as by ProxylessNAS (arXiv 1812.00332), to be the sum of what its chosen operations
take, each timed alone; a constant for the rest is the median residual of some whole networks. Other whole networks tell
how good the prediction is. Where sizes multiply, as in models of one's own, a table has entries for combinations of
choices too, see `jaxnas.networks.latency_model`.

The file, for tables from other devices too:

    {"format": "jaxnas latency 1", "space": "nasbench_macro", "device": "...", "batch_size": 1,
     "fixed": seconds, "table": [D][C_d] seconds, ...}

With "interactions": [[decisions], [seconds, one for each combination of their choices, in C order]] ..., the format is
"jaxnas latency 2".
"""

import dataclasses
import functools
import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import networks
from jaxnas.cost import AdditiveCost, Cost, InteractionCost
from jaxnas.networks import timing
from jaxnas.networks.cell import Cell
from jaxnas.networks.mbconv import MBConvLayer
from jaxnas.results.files import to_plain, write_json
from jaxnas.results.json_files import read_json
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.spaces.nasbench201 import EDGES, OPERATIONS

FORMATS = ("jaxnas latency 1", "jaxnas latency 2")  # of single choices, and with combinations of choices
NAME, UNIT = "latency", "seconds"  # of the cost
CALIBRATION = 10  # networks that give the constant

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Latencies of a space on a device; `write` keeps them in a file, `read` gives them back.

    Attributes:
      space: its name.
      device: in words.
      batch_size: images of one call.
      fixed: seconds of the parts that no decision changes.
      table: D rows, row d with the seconds of its C_d choices.
      image_size: height and width of the images; None where unknown.
      space_description: what the space was built from, see `SearchSpace.description`; None where unknown.
      check: how predictions compare with measured whole networks; empty where they were not.
      versions: of the software.
      interactions: what combinations of choices take beyond that: decisions in ascending order and the seconds of all
        combinations of their choices, in C order, also negative ones; see `InteractionCost`.
      counts: {name: (lowest, highest)} of the space's own costs, to tell spaces apart that have no description.
    """

    space: str
    device: str
    batch_size: int
    fixed: float
    table: tuple[tuple[float, ...], ...]
    image_size: int | None = None
    space_description: Mapping[str, Any] | None = None
    check: Mapping[str, float] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    interactions: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = ()
    counts: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, space: SearchSpace, cost: Cost, **fields: Any) -> "LatencyTable":
        """The table of a cost in seconds of a space; the other fields as they are given."""
        return cls(
            space=space.name,
            fixed=cost.fixed,
            table=cost.table,
            interactions=getattr(cost, "interactions", ()),
            image_size=getattr(space, "image_size", None),
            space_description=space.description,
            counts={c.name: (c.lowest, c.highest) for c in space.costs if isinstance(c.lowest, int)},
            **fields,
        )

    @property
    def cost(self) -> Cost:
        """The table as a cost called "latency", in seconds."""
        return self.named(NAME)

    def named(self, name: str) -> Cost:
        """The table as a cost of another name, such as that of one of several devices."""
        if self.interactions:
            return InteractionCost(name, UNIT, self.fixed, self.table, self.interactions)
        return AdditiveCost(name, UNIT, self.fixed, self.table)

    def added_to(self, space: SearchSpace, name: str = NAME) -> SearchSpace:
        """The space with latency among its costs, under a name.

        Raises:
          ValueError: if the table is not of this space at this size, or the space has a cost of this name.
        """
        this = "the latency table" if name == NAME else f"the latency table of {name}"
        if any(cost.name == name for cost in space.costs):
            raise ValueError(f"{this} must not have the name of another cost of space {space.name!r}, got {name!r}")
        choices = tuple(len(row) for row in self.table)
        if self.space != space.name or choices != space.num_choices:
            raise ValueError(
                f"{this} is of space {self.space!r} with choices {choices}, the search is on "
                f"{space.name!r} with choices {space.num_choices}; measure it: {_how_to_measure(space)}"
            )
        if self.space_description is not None and space.description is not None:
            if self.space_description != space.description:
                raise ValueError(
                    f"{this} is of {_in_words(self.space_description)}, the search is on "
                    f"{_in_words(space.description)}; measure that one with python -m experiments.measure_latency"
                )
        elif self.image_size is not None and self.image_size != getattr(space, "image_size", self.image_size):
            raise ValueError(
                f"{this} is of images of size {self.image_size}, the search is on {space.name!r} with "
                f"image_size {space.image_size}; measure that one with python -m experiments.measure_latency"
            )
        for cost in space.costs:
            measured = self.counts.get(cost.name, (cost.lowest, cost.highest))
            if tuple(measured) != (cost.lowest, cost.highest):
                raise ValueError(
                    f"{this} is of models with {measured[0]:,} to {measured[1]:,} {cost.unit}, those of the search "
                    f"have {cost.lowest:,} to {cost.highest:,}; measure them: {_how_to_measure(space)}"
                )
        return dataclasses.replace(space, costs=(*space.costs, self.named(name)))

    @property
    def digest(self) -> str:
        """Tells tables apart: the first digits of the SHA-256 of what costs are made from."""
        together = [self.interactions] if self.interactions else []
        numbers = json.dumps([self.space_description or self.space, self.fixed, self.table, *together])
        return hashlib.sha256(numbers.encode()).hexdigest()[:16]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all."""
        document = to_plain(self)
        if not self.interactions:
            del document["interactions"]
        write_json(path, {"format": FORMATS[bool(self.interactions)], **document}, indent=1)


def _how_to_measure(space: SearchSpace) -> str:
    if space.description is None:
        return "table = jaxnas.measure_latency(space, inputs)"
    return f"python -m experiments.measure_latency --space {space.name}"


def _in_words(description: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in description.items())


def read(path: str | os.PathLike[str], known: Any = None) -> LatencyTable:
    """Reads a latency table.

    Args:
      path: the file.
      known: what the inputs of a run tell of its table, {"digest": ..., ...}, which the file must have; None for any.

    Raises:
      ValueError: in one line, if the file is missing, damaged, or of something else.
    """
    try:
        document = read_json(path)
        if document["format"] not in FORMATS:
            raise ValueError(f"its format is {document['format']!r}, not one of {', '.join(FORMATS)}")
        names = [field.name for field in dataclasses.fields(LatencyTable)]
        fields = {name: document[name] for name in names if name in document}
        fields["table"] = tuple(tuple(float(seconds) for seconds in row) for row in fields["table"])
        fields["fixed"] = float(fields["fixed"])
        fields["interactions"] = tuple(
            (tuple(map(int, decisions)), tuple(map(float, seconds)))
            for decisions, seconds in fields.get("interactions", ())
        )
        fields["counts"] = {
            str(name): (lowest + 0, highest + 0) for name, (lowest, highest) in fields.get("counts", {}).items()
        }
        table = LatencyTable(**fields)
        seconds = [table.fixed, *(seconds for row in table.table for seconds in row)]
        if not all(table.table) or not (table.interactions or all(value >= 0 for value in seconds)):
            raise ValueError("fixed and table must hold seconds, 0 or more")
        _ = table.cost  # which checks the tables
        if not isinstance(table.space_description, Mapping | None):
            raise ValueError(f"space_description must be an object, is {table.space_description!r:.60}")
    except OSError as error:
        raise ValueError(f"latency table {path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is no latency table: {reason}; see jaxnas.networks.latency for its form") from error
    if isinstance(known, Mapping) and known.get("digest", table.digest) != table.digest:
        raise ValueError(f"{path} is not the latency table that the run was begun with: its digest is another one")
    return table


@functools.singledispatch
def operations(space: SearchSpace) -> list[list[list[tuple[nn.Module, Shape]]]]:
    """What to time for each choice: D lists of C_d lists of modules, each with the shape of one image of its input.

    The empty list costs nothing. A new kind of space needs one function, registered with `operations.register`.

    Raises:
      ValueError: if the space's type has none.
    """
    raise ValueError(f"space must be an MBConvSpace or a CellSpace to be timed, got {type(space).__name__}")


@operations.register(MBConvSpace)
def _(space: MBConvSpace) -> list[list[list[tuple[nn.Module, Shape]]]]:
    def timed(layer: Any, operation: Any) -> list[tuple[nn.Module, Shape]]:
        if operation.is_skip and layer.keeps_shape:
            return []
        return [(MBConvLayer(layer, operation), (layer.resolution, layer.resolution, layer.in_channels))]

    return [[timed(layer, operation) for operation in layer.operations] for layer in space.layers]


@operations.register(CellSpace)
def _(space: CellSpace) -> list[list[list[tuple[nn.Module, Shape]]]]:
    direct = EDGES.index((0, 3))

    def timed(operation: str) -> list[tuple[nn.Module, Shape]]:
        if operation in ("none", "skip_connect"):
            return []
        # A cell whose only operation joins its first and its last node is that operation.
        arch = tuple(OPERATIONS.index(operation if edge == direct else "none") for edge in range(len(EDGES)))
        shapes = [(size, size, channels) for size, channels in zip(space.stage_resolutions, space.stage_channels)]
        return [(Cell(arch), shape) for shape in shapes for _ in range(space.cells)]

    return [[timed(operation) for operation in OPERATIONS] for _ in EDGES]


def measure(
    space: SearchSpace,
    batch_size: int,
    *,
    rounds: int = 15,
    check_networks: int = 50,
    seed: int = 0,
    progress: timing.Progress = timing.no_progress,
) -> LatencyTable:
    """Times every choice of a space on JAX's default device, and whole random networks to check the prediction.

    Inference, with running batch norm, jitted. Let nothing else run meanwhile.

    Args:
      space: at the width and image size of interest.
      batch_size: images of one call.
      rounds: timings of each program, whose median counts.
      check_networks: random networks, besides those of the calibration.
      seed: of the random networks.
      progress: called with "compiling" or "timing", and how many of how many are done.

    Raises:
      ValueError: on numbers that are too small, or a space that cannot be timed.
    """
    timing.check_at_least(batch_size=(batch_size, 1), rounds=(rounds, 1), check_networks=(check_networks, 2))
    timed = operations(space)
    shapes = {part: shape for row in timed for choice in row for part, shape in choice}
    archs = space.sample_uniform(np.random.default_rng(seed), CALIBRATION + check_networks)
    image = (space.image_size, space.image_size, 3)
    whole = [networks.build(space, arch) for arch in archs]  # in a small space some are equal, and timed once
    shapes |= dict.fromkeys(whole, image)
    programs = {}
    for module, shape in shapes.items():
        programs[module] = _program(module, (batch_size, *shape))
        progress("compiling", len(programs), len(shapes))
    medians = timing.median_seconds(list(programs.values()), rounds, progress)
    seconds = dict(zip(programs, medians.tolist()))
    table = tuple(tuple(float(sum(seconds[part] for part, _ in choice)) for choice in row) for row in timed)
    measured = np.array([seconds[network] for network in whole])
    operations_only = AdditiveCost(NAME, UNIT, 0.0, table).total(archs)
    fixed = max(0.0, float(np.median((measured - operations_only)[:CALIBRATION])))
    return LatencyTable.of(
        space,
        AdditiveCost(NAME, UNIT, fixed, table),
        device=timing.device_name(),
        batch_size=batch_size,
        check=timing.compare((operations_only + fixed)[CALIBRATION:], measured[CALIBRATION:]),
        versions={"python": platform.python_version(), "jax": jax.__version__},
    )


def _program(module: nn.Module, shape: tuple[int, ...]) -> Callable[[], jax.Array]:
    """Inference of a module on arrays of the given shape, compiled."""
    x = jax.random.normal(jax.random.key(0), shape)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    # The values are of no matter, but for denormal numbers, which are slow.
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)
    return timing.compiled(module.apply, variables, x)
