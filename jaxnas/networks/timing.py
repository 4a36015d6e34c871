"""Timing programs in turn, and how predicted times compare with measured ones.

Everything is timed round by round, and a time is the median over the rounds: what else a machine does then spreads over
all figures alike, where back-to-back timings would drift apart.
"""

import contextlib
import os
import pathlib
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import scipy.stats

_LEAST_SECONDS = 0.003  # of one timing: as many calls as it takes
_PICOSECONDS = 12  # decimals of a second; no clock tells less apart

Program = Callable[[], Any]
Progress = Callable[[str, int, int], None]  # what is done, and how many of how many are done


def no_progress(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def device_name() -> str:
    """JAX's default device in words."""
    device = jax.devices()[0]
    return cpu_name() if device.platform == "cpu" else device.device_kind


def cpu_name() -> str:
    """This machine's processor in words."""
    with contextlib.suppress(OSError):  # Linux alone has the file
        models = re.findall(r"^model name\s*: (.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if models:
            return f"{models[0]}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def check_at_least(**numbers: tuple[int, int]) -> None:
    """Raises ValueError unless each number, by the name of its argument, reaches the least one beside it."""
    for name, (value, least) in numbers.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


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


def compiled(function: Callable[..., Any], *arguments: Any) -> Program:
    """A call of a function on JAX's default device, compiled."""
    program = jax.jit(function).lower(*arguments).compile()
    return lambda: program(*arguments)


def median_seconds(programs: Sequence[Program], rounds: int, progress: Progress = no_progress) -> np.ndarray:
    """Seconds of a call of each program, float64 [N]: the median over rounds."""
    return np.median(list(_rounds(programs, rounds, progress)), axis=0)


def _rounds(programs: Sequence[Program], rounds: int, progress: Progress) -> Iterator[list[float]]:
    """Seconds of a call of each program, round by round; a first round that warms up is left out."""
    for index in range(rounds + 1):
        seconds = [seconds_of_call(program) for program in programs]
        if index:
            yield seconds
        progress("timing", index, rounds)


def seconds_of_call(program: Program) -> float:
    """Seconds of a call: the mean of as many as last some milliseconds."""
    began, calls, passed = time.perf_counter(), 0, 0.0
    while passed < _LEAST_SECONDS:
        jax.block_until_ready(program())
        calls += 1
        passed = time.perf_counter() - began
    return passed / calls
