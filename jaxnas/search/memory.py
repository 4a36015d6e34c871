"""How many architectures at once fit into a device's memory, by what the compiler says of the programs of a search."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax

from jaxnas.runtime import devices
from jaxnas.search.search import Search
from jaxnas.search.settings import PHASES, SearchSettings
from jaxnas.supernet.batching import resolve_batching

GIB = 2**30


def peak_bytes(search: Search, phase: str) -> int:
    """Bytes on a device that the program of a phase needs: arguments, results that reuse none of them, temporaries.

    Raises:
      ValueError: if this backend's compiler does not tell.
    """
    analysis = search.lower(phase).compile().memory_analysis()
    if analysis is None:
        raise ValueError("chunk_size must be a number here: the compiler does not say how much memory a program needs")
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return analysis.argument_size_in_bytes + results + analysis.temp_size_in_bytes


def device_bytes(memory_gib: float | None) -> int:
    """Bytes that a search may use on a device: as given, or as process 0's device says.

    Raises:
      ValueError: if nothing is given, and the device does not say, as CPUs do not.
    """
    if memory_gib is not None:
        return int(memory_gib * GIB)

    def limit() -> str:
        found = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        if found is None:
            raise ValueError(
                "chunk_size auto needs memory_gib where the device does not say what it has, as CPUs do not"
            )
        return str(found)

    return int(devices.from_first(limit))


def planned(search: Search, memory_gib: float | None) -> tuple[Search, str | None]:
    """The search with the largest number of architectures at once that fits, if its `chunk_size` is auto.

    Args:
      search: its settings may say auto.
      memory_gib: GiB of a device; None to ask it.

    Returns:
      The search, and a line for people: the number and the memory that the compiler counts. Nothing but the search
      where its `chunk_size` is not auto.

    Raises:
      ValueError: if not even one architecture fits, and as `device_bytes` and `peak_bytes`.
    """
    settings = search.settings
    if settings.chunk_size != "auto":
        return search, None
    limit = device_bytes(memory_gib)
    largest = search.strategy.step_samples
    vectorised = resolve_batching(settings.batching) == "vmap"
    needed = 0
    for chunk in _halves(largest) if vectorised else (None,):
        candidate = dataclasses.replace(search, settings=dataclasses.replace(settings, chunk_size=chunk))
        needed = max(peak_bytes(candidate, phase) for phase in _phases(settings))
        if needed <= limit:
            at_once = "one architecture" if chunk in (None, 1) else f"{chunk} of {largest} architectures"
            return candidate, f"{at_once} at once: {needed / GIB:.2f} GiB of {limit / GIB:.2f}, by the compiler's count"
    raise ValueError(
        f"memory_gib must be at least {needed / GIB:.2f} for one architecture at once, got {limit / GIB:.2f}; lower "
        "batch_size or raise accumulate"
    )


@contextlib.contextmanager
def naming_settings(settings: SearchSettings) -> Iterator[None]:
    """Turns a device's want of memory into an error that names the settings which bound it.

    Raises:
      MemoryError: in place of JAX's error.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(
            f"of the device; lower chunk_size ({settings.chunk_size}, or let auto choose it) or batch_size "
            f"({settings.batch_size}), or raise accumulate ({settings.accumulate}): {str(error).split(chr(10))[0]}"
        ) from error


def _halves(number: int) -> Iterator[int]:
    """The number, half of it, and so on down to 1, rounded up."""
    while number > 1:
        yield number
        number = -(-number // 2)
    yield 1


def _phases(settings: SearchSettings) -> list[str]:
    """Phases that a search with these settings has."""
    steps = (settings.weight_steps, settings.joint_steps, settings.distribution_steps)
    return [phase for phase, count in zip(PHASES, steps) if count]
