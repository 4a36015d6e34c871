"""The steps of a search compiled for accelerators that are not there: what they would do, counted; nothing is run.

    python -m benchmarks.accelerators --target v5e-1 h100 --network benchmark --out figures.json
    python -m benchmarks.accelerators --target v5e-8 --preset full --searches imagenet --precision bfloat16
    python -m benchmarks.accelerators --target v5e-1 --network benchmark --width 0.25 --image-size 16

Each row is one program: a step of the weights or of the distributions, in one precision, with the samples under `vmap`
or one after the other (`map`), for K distributions. Counted in the optimised program are operations, bytes, kernels and
exchanges, with the trip counts of loops (`benchmarks/hlo_counts.py`); the maker's figures then bound its time from
below. All figures are of one device and one step. Every program is compiled in a process of its own; the file is
written after each, and a program that is in the file already is not compiled again.

A compiler takes minutes for a network of full size: `--limit-seconds` ends it. It needs `pip install -e '.[aot-tpu]'`
or `'.[aot-gpu]'`, and no accelerator.
"""

import dataclasses
import itertools
import json
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import hlo_counts, step_programs, targets
from benchmarks.step_programs import Case
from benchmarks.targets import Target
from experiments import cli
from jaxnas import supernet
from jaxnas.results import files
from jaxnas.runtime.placement import AllDevices, OneDevice

NETWORKS = ("benchmark",)
PRESETS = ("full",)
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Config:
    """Compile steps of a search for accelerators, and count what they would do."""

    target: tuple[str, ...] = ("v5e-1", "v5e-8", "v6e-8", "h100")
    """Accelerators and how many of them."""
    network: str | None = None
    """benchmark: the network of benchmarks.supernet_step, B = 64, S = 4; what is compiled if no preset is given."""
    preset: str | None = None
    """full: the presets of this name of experiments.cifar_search and experiments.imagenet_search."""
    searches: tuple[str, ...] = ("cifar", "imagenet")
    """Which of the two, with a preset."""
    program: tuple[str, ...] = step_programs.PROGRAMS
    """Steps: weights, distributions."""
    precision: tuple[str, ...] = ("bfloat16", "float32")
    """float32, bfloat16."""
    batching: tuple[str, ...] = ("vmap", "map")
    """vmap, map."""
    distributions: tuple[int, ...] = (1,)
    """K, one program for each."""
    samples: int | None = None
    """S; by default the search's own number."""
    batch_size: int | None = None
    """B, on all devices together; by default the search's own number."""
    width: float = 1.0
    """Channels relative to the network's, for a quick look."""
    image_size: int | None = None
    """Pixels, likewise."""
    limit_seconds: float = 1800.0
    """Seconds after which a compiler is stopped, and the row says so."""
    out: Path | None = None
    """File of the rows, JSON."""
    programs: Path | None = None
    """Folder to keep the optimised programs in, as text."""

    def cases(self) -> Iterator[tuple[Target, Case]]:
        """All programs that are asked for."""
        for name, known in (("network", NETWORKS), ("preset", PRESETS)):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.network and self.preset:
            raise ValueError("give either network or preset, not both")
        searches = self.searches if self.preset else ("benchmark",)
        chosen = map(Target, self.target), searches, self.program, self.precision, self.batching, self.distributions
        for target, *which in itertools.product(*chosen):
            yield target, Case(*which, self.samples, self.batch_size, self.width, self.image_size)


def row(target: Target, case: Case) -> dict[str, Any]:
    """What identifies a program in the file."""
    pixels = step_programs.minibatch_pixels(case, target.count)
    chosen = supernet.resolve_batching("auto", target.chip.backend, pixels) == case.batching
    return {"target": target.name, **dataclasses.asdict(case), "chosen": chosen, "jax": jax.__version__}


def compile_case(target: Target, case: Case) -> tuple[dict[str, Any], str]:
    """Compiles a program; its figures, and its text."""
    devices = target.devices()
    placement = OneDevice(meant=devices[0]) if target.count == 1 else AllDevices(meant=tuple(devices))
    started = time.perf_counter()
    step = step_programs.build(case, placement, target.chip.backend)
    traced = time.perf_counter()
    compiled = step.lowered.compile()
    seconds = time.perf_counter() - traced
    text = compiled.as_text()
    return {
        "samples": step.samples,
        "trace_seconds": traced - started,
        "compile_seconds": seconds,
        **figures(target, case, hlo_counts.count(text)),
        "useful_flops": step.useful_flops,
        **memory(compiled.memory_analysis()),
    }, text


def figures(target: Target, case: Case, counts: hlo_counts.Counts) -> dict[str, Any]:
    """Fields of a row that are counted in the optimised program, and the bounds of its time."""
    bounds = target.seconds(case.precision, counts.flops, counts.memory_bytes, counts.all_reduce_bytes)
    return {
        "flops": counts.flops,
        "elementwise": counts.elementwise,
        "bytes_accessed": counts.bytes_accessed,
        "memory_bytes": counts.memory_bytes,
        "moved_bytes": counts.moved_bytes,
        "kernels": counts.kernels,
        "library_calls": dict(counts.library_calls),
        "collectives": dict(counts.collectives),
        "all_reduces": counts.collectives["all-reduce"],
        "all_reduce_bytes": counts.all_reduce_bytes,
        "unknown_loops": counts.unknown_loops,
        "seconds_at_least": bounds,
        "roofline_seconds": max(bounds.values()),
    }


def memory(analysis: Any) -> dict[str, int]:
    """Fields of a row that the compiler knows: bytes that the program needs on a device."""
    return {
        "argument_bytes": analysis.argument_size_in_bytes,
        "output_bytes": analysis.output_size_in_bytes,
        "aliased_bytes": analysis.alias_size_in_bytes,
        "temp_bytes": analysis.temp_size_in_bytes,
        "peak_bytes": analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes,
    }


def _work(connection: Connection, target: Target, case: Case) -> None:
    try:
        cli.collect_rarely()
        connection.send(compile_case(target, case))
    except Exception as error:  # of a compiler: another program may do
        connection.send(({"error": " ".join(f"{type(error).__name__}: {error}".split())[:500]}, ""))


def compile_apart(target: Target, case: Case, limit_seconds: float) -> tuple[dict[str, Any], str]:
    """As `compile_case`, in a process of its own, which is stopped after some seconds."""
    targets.prepare_environment()
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(its, target, case), daemon=True)
    process.start()
    its.close()
    try:
        if not mine.poll(limit_seconds):
            return {"error": f"did not compile within {limit_seconds:.0f} s"}, ""
        return mine.recv()
    except EOFError:
        process.join()
        return {"error": f"the compiler ended with exit code {process.exitcode}"}, ""
    finally:
        process.kill()
        process.join()


def report(rows: list[dict[str, Any]]) -> Table:
    """The rows as a table for people."""
    table = Table(title="one device, one step; counted in the compiled program, never run", title_justify="left")
    headings = "target search program precision batching K S compile,s GFLOP useful GB memory,GB temp,GiB peak,GiB"
    headings += " all-reduce,MB at_least,ms"
    for heading in headings.split():
        table.add_column(heading.replace("_", " ").replace(",", ", "), justify="left" if heading.islower() else "right")
    for each in rows:
        names = [str(each[name]) for name in ("target", "search", "program", "precision", "batching", "distributions")]
        if "error" in each:
            table.add_row(*names, str(each["samples"]), "failed")
            continue
        table.add_row(
            *names,
            str(each["samples"]),
            f"{each['compile_seconds']:.0f}",
            f"{each['flops'] / 1e9:.1f}",
            f"{each['useful_flops'] / 1e9:.1f}",
            f"{each['bytes_accessed'] / 1e9:.2f}",
            f"{each['memory_bytes'] / 1e9:.2f}",
            f"{each['temp_bytes'] / GIB:.2f}",
            f"{each['peak_bytes'] / GIB:.2f}",
            f"{each['all_reduce_bytes'] / 1e6:.1f}",
            f"{each['roofline_seconds'] * 1e3:.2f}",
        )
    return table


def main(config: Config) -> None:
    """Compiles what is not in the file yet, and prints the table."""
    console = Console(width=180)
    cases = list(config.cases())
    for missing in dict.fromkeys(target.missing for target, _ in cases):
        if missing is not None:
            raise ValueError(missing)
    known = read(config.out)
    rows = []
    for target, case in cases:
        wanted = row(target, case)
        found = next((each for each in known if _same(each, wanted)), None)
        if found is None:
            console.print(f"{target.name}: {case}", style="dim")
            measured, text = compile_apart(target, case, config.limit_seconds)
            found = {**wanted, "asked_samples": case.samples, **measured}
            known.append(found)
            if config.out is not None:
                files.write_json(config.out, {"rows": known})
            if config.programs is not None and text:
                config.programs.mkdir(parents=True, exist_ok=True)
                name = "-".join(str(value) for value in dataclasses.astuple(case) if value is not None)
                (config.programs / f"{target.name}-{name}.txt").write_text(text, encoding="utf-8")
        rows.append(found)
    console.print(report(rows))
    for found in rows:
        if "error" in found:
            what = " ".join(str(found[name]) for name in ("target", "search", "program", "precision", "batching"))
            console.print(f"{what}: {found['error']}", markup=False)


def read(path: Path | None) -> list[dict[str, Any]]:
    """The rows of a file; none where there is none."""
    if path is None or not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["rows"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"out must name a file of this program, {path} is none; give another") from error


def _same(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a row of the file is of this program; its `samples` are those that there were."""
    asked = {**found, "samples": found.get("asked_samples")}
    return all(asked.get(name) == value for name, value in wanted.items() if name != "chosen")


if __name__ == "__main__":
    cli.run(main, Config)
