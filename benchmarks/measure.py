"""Timing of several programs in turn, the machine's matrix product, and the memory of a process."""

import contextlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Program:
    """Something to be timed.

    Attributes:
      run: does it once, to the end.
      steps: how many steps that is.
      seconds_to_start: compilation and first run.
      rounds: at most this many of the timed rounds; None for all.
    """

    run: Callable[[], None]
    steps: int
    seconds_to_start: float
    rounds: int | None = None


def alternate(
    programs: Mapping[str, Program], rounds: int, around: Callable[[], contextlib.AbstractContextManager] | None = None
) -> dict[str, float]:
    """Median seconds of a step of each program: in every round each runs once, so that all see the same machine.

    Args:
      programs: by name.
      rounds: how often each runs.
      around: makes a context in which one program runs once, such as a lock that keeps others away.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds):
        for name, program in programs.items():
            if program.rounds is not None and number >= program.rounds:
                continue
            with around() if around else contextlib.nullcontext():
                started = time.perf_counter()
                program.run()
                times[name].append((time.perf_counter() - started) / program.steps)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def matmul_peak(size: int = 2048, rounds: int = 7) -> float:
    """Floating-point operations a second of a large float32 matrix product, the best of a few."""
    matrix = jnp.ones((size, size))
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def peak_memory() -> float:
    """Largest resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
