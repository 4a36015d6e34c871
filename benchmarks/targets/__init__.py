"""Accelerators as data, and their compilers without the hardware.

One file a chip holds the maker's figures. A target is a chip and a number of them, such as `v5e-8`: `devices` gives
devices that programs can be compiled for and never run on. It needs the chip's compiler, of the extra `aot-tpu` or
`aot-gpu`.
"""

import functools
import importlib.util
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

_FOLDER = Path(__file__).parent
_PACKAGES = {"tpu": "libtpu", "gpu": "jax_cuda12_plugin"}
_PLATFORMS = {"tpu": "tpu", "gpu": "cuda"}
# libtpu would ask the cloud where it is, and XLA the card which of its kernels are fastest.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no device is opened, so that several processes may compile
}
_NO_TUNING = "--xla_gpu_autotune_level=0"


@dataclass(frozen=True)
class Chip:
    """A maker's figures; the files name their sources.

    Attributes:
      name: for people.
      backend: "tpu" or "gpu".
      flops: operations a second of matrix products, by precision.
      memory_bytes: of its own memory.
      memory_bandwidth: bytes a second of its own memory.
      inside: bytes a second to others of a host or pod, in one direction.
      outside: bytes a second to other hosts.
      topologies: names by the number of chips, of those that programs can be compiled for.
      compiler: what the compiler is told about the chip.
    """

    name: str
    backend: str
    flops: dict[str, float]
    memory_bytes: int
    memory_bandwidth: float
    inside: float
    outside: float
    topologies: dict[str, str] = field(default_factory=dict)
    compiler: dict[str, str] = field(default_factory=dict)


@functools.cache
def chips() -> dict[str, Chip]:
    """All that are described, by name."""
    return {path.stem: Chip(**tomllib.loads(path.read_text("utf-8"))) for path in sorted(_FOLDER.glob("*.toml"))}


@dataclass(frozen=True)
class Target:
    """Some chips that programs are compiled for.

    Attributes:
      name: such as "v5e-8"; without a number, one chip.

    Raises:
      ValueError: if no chip has this name, or it cannot be compiled for so many.
    """

    name: str

    def __post_init__(self):
        if self.name not in names():
            raise ValueError(f"target must be one of {', '.join(names())}, got {self.name!r}")

    @property
    def chip(self) -> Chip:
        """What it is made of."""
        return chips()[self.name.partition("-")[0]]

    @property
    def count(self) -> int:
        """Chips."""
        return int(self.name.partition("-")[2] or 1)

    @property
    def missing(self) -> str | None:
        """What to install before programs can be compiled; None if it is there."""
        if importlib.util.find_spec(_PACKAGES[self.chip.backend]) is not None:
            return None
        return f"the compiler for {self.chip.name} is not installed: pip install -e '.[aot-{self.chip.backend}]'"

    def devices(self) -> list[Any]:
        """Devices to compile for; in a process that `prepare_environment` was called in before JAX started."""
        topology = self.chip.topologies[str(self.count)]
        if self.chip.backend == "gpu":
            # XLA wants the card's description, and how many processes, hosts and cards there are.
            options = {"target_config": self.chip.compiler["config"], "topology": topology}
            topology = self.name
        else:
            options = {}
        return topologies.get_topology_desc(topology, _PLATFORMS[self.chip.backend], **options).devices

    def seconds(self, precision: str, flops: float, memory_bytes: float, all_reduce_bytes: float) -> dict[str, float]:
        """Times that a step cannot be faster than, on one of the chips: of arithmetic, of memory and of exchange."""
        ring = 2 * (self.count - 1) / self.count  # what a chip sends of each byte, twice but for its own part
        return {
            "compute": flops / self.chip.flops[precision],
            "memory": memory_bytes / self.chip.memory_bandwidth,
            "exchange": ring * all_reduce_bytes / self.chip.inside,
        }


def names() -> tuple[str, ...]:
    """All targets; one chip goes without a number where it is a GPU."""
    return tuple(
        name if chip.backend == "gpu" and number == "1" else f"{name}-{number}"
        for name, chip in chips().items()
        for number in chip.topologies
    )


def prepare_environment() -> None:
    """Sets what the compilers read, for processes that start afterwards, or for this one if JAX has not started."""
    os.environ.update({key: os.environ.get(key, value) for key, value in _ENVIRONMENT.items()})
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = os.environ.get("XLA_FLAGS", "")
    if _NO_TUNING not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_NO_TUNING}".strip()


def sharding(devices: list[Any]) -> jax.sharding.Sharding:
    """Where the arguments of a program for one device are."""
    return jax.sharding.SingleDeviceSharding(devices[0])
