"""Measured latency as an additive cost: seconds of every choice of every decision on the user's device.

A network's latency is predicted, as by ProxylessNAS (arXiv 1812.00332), to be the sum of what its chosen operations
take, each timed alone; a constant for the rest is the median residual of some whole networks. Other whole networks tell
how good the prediction is. Everything is timed in turn, round by round, and a time is the median over the rounds: what
else a machine does then spreads over all figures alike, where back-to-back timings would drift apart.

The file, for tables from other devices too:

    {"format": "jaxnas latency 1", "space": "nasbench_macro", "device": "...", "batch_size": 1,
     "fixed": seconds, "table": [D][C_d] seconds, ...}
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from jaxnas import networks
from jaxnas.cost import AdditiveCost
from jaxnas.networks.cell import Cell
from jaxnas.networks.mbconv import MBConvLayer
from jaxnas.results.files import to_plain, write_json
from jaxnas.results.json_files import read_json
from jaxnas.spaces import CellSpace, MBConvSpace, SearchSpace
from jaxnas.spaces.nasbench201 import EDGES, OPERATIONS

FORMAT = "jaxnas latency 1"
NAME = "latency"
CALIBRATION = 10  # networks that give the constant
_LEAST_SECONDS = 0.003  # of one timing: as many calls as it takes
_PICOSECONDS = 12  # decimals of a second; no clock tells less apart

Shape = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Latencies of a space on a device.

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

    @property
    def cost(self) -> AdditiveCost:
        """The table as a cost called "latency", in seconds."""
        return self.named(NAME)

    def named(self, name: str) -> AdditiveCost:
        """The table as a cost of another name, such as that of one of several devices."""
        return AdditiveCost(name, "seconds", self.fixed, self.table)

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
                f"{space.name!r} with choices {space.num_choices}; measure it: "
                f"python -m experiments.measure_latency --space {space.name}"
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
        return dataclasses.replace(space, costs=(*space.costs, self.named(name)))

    @property
    def digest(self) -> str:
        """Tells tables apart: the first digits of the SHA-256 of what costs are made from."""
        numbers = json.dumps([self.space_description or self.space, self.fixed, self.table])
        return hashlib.sha256(numbers.encode()).hexdigest()[:16]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all."""
        write_json(path, {"format": FORMAT, **to_plain(self)}, indent=1)


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
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
        names = [field.name for field in dataclasses.fields(LatencyTable)]
        fields = {name: document[name] for name in names if name in document}
        fields["table"] = tuple(tuple(float(seconds) for seconds in row) for row in fields["table"])
        fields["fixed"] = float(fields["fixed"])
        table = LatencyTable(**fields)
        seconds = [table.fixed, *(seconds for row in table.table for seconds in row)]
        if not all(np.isfinite(value) and value >= 0 for value in seconds) or not all(table.table):
            raise ValueError("fixed and table must hold seconds, 0 or more")
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
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
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
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("rounds", rounds, 1),
        ("check_networks", check_networks, 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
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
    medians = np.median(list(_rounds(list(programs.values()), rounds, progress)), axis=0)
    seconds = dict(zip(programs, medians.tolist()))
    table = tuple(tuple(float(sum(seconds[part] for part, _ in choice)) for choice in row) for row in timed)
    measured = np.array([seconds[network] for network in whole])
    operations_only = AdditiveCost(NAME, "seconds", 0.0, table).total(archs)
    fixed = max(0.0, float(np.median((measured - operations_only)[:CALIBRATION])))
    return LatencyTable(
        space=space.name,
        device=device_name(),
        batch_size=batch_size,
        fixed=fixed,
        table=table,
        image_size=space.image_size,
        space_description=space.description,
        check=compare((operations_only + fixed)[CALIBRATION:], measured[CALIBRATION:]),
        versions={"python": platform.python_version(), "jax": jax.__version__},
    )


def device_name() -> str:
    """JAX's default device in words."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    with contextlib.suppress(OSError):  # Linux alone has the file
        models = re.findall(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if models:
            return f"{models[0]}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def compare(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """How predicted seconds [N] compare with measured ones: rank correlation and relative errors."""
    errors = np.abs(predicted / measured - 1)
    # Networks of equal operations take the same time, whatever rounding makes of sums in another order.
    ranked = (np.round(seconds, _PICOSECONDS) for seconds in (predicted, measured))
    return {
        "networks": len(measured),
        "spearman": float(scipy.stats.spearmanr(*ranked).statistic),
        "median_absolute_error": float(np.median(errors)),
        "largest_absolute_error": float(errors.max()),
        "fastest_seconds": float(measured.min()),
        "slowest_seconds": float(measured.max()),
    }


def _program(module: nn.Module, shape: tuple[int, ...]) -> Callable[[], jax.Array]:
    """Inference of a module on arrays of the given shape, compiled."""
    x = jax.random.normal(jax.random.key(0), shape)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    # The values are of no matter, but for denormal numbers, which are slow.
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes)
    compiled = jax.jit(module.apply).lower(variables, x).compile()
    return lambda: compiled(variables, x)


def _rounds(
    programs: list[Callable[[], jax.Array]], rounds: int, progress: Callable[[str, int, int], None]
) -> Iterator[list[float]]:
    """Seconds of a call of each program, round by round; a first round that warms up is left out."""
    for index in range(rounds + 1):
        seconds = [_seconds(program) for program in programs]
        if index:
            yield seconds
        progress("timing", index, rounds)


def _seconds(program: Callable[[], jax.Array]) -> float:
    began, calls, passed = time.perf_counter(), 0, 0.0
    while passed < _LEAST_SECONDS:
        jax.block_until_ready(program())
        calls += 1
        passed = time.perf_counter() - began
    return passed / calls
