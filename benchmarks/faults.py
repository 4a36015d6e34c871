"""Kills a search at random points, starts it again each time, and compares the end with that of an undisturbed run.

    python -m benchmarks.faults                      20 faults, minutes on two CPU cores
    python -m benchmarks.faults --faults 5 --seed 1
    python -m benchmarks.faults --kill-only

Half of the faults, or all, are SIGKILL, which the search cannot see, the others SIGTERM, on which it must save, exit
with 75 and lose nothing. They come at a random moment within a random step, between steps and while a checkpoint is
written.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments import cli, make_images
from jaxnas.results.metrics_log import CHECKSUM

STEPS = 100
COMMAND = [
    sys.executable,
    "-m",
    "experiments.imagenet_search",
    "--preset=smoke",
    "--space=mbconv_digits",
    "--batch-size=16",
    "--batching=map",
    f"--joint-steps={STEPS}",
    "--steps-per-dispatch=1",
    "--checkpoint-seconds=0",
]


@dataclass(frozen=True)
class Config:
    """Kill a search at random points.

    Attributes:
      faults: how many.
      seed: of the points.
      kill_only: send SIGKILL alone.
      folder: for the images and both runs; a temporary one by default.
    """

    faults: int = 20
    seed: int = 0
    kill_only: bool = False
    folder: Path | None = None


@dataclass(frozen=True)
class Fault:
    """What was done to a run.

    Attributes:
      signal: name of the signal.
      step: steps in the log when it was sent.
      exit_code: of the run; negative for a signal.
    """

    signal: str
    step: int
    exit_code: int


def choose(config: Config) -> list[tuple[int, int, float]]:
    """For each fault the step after which it comes, the signal, and a delay in seconds."""
    generator = random.Random(config.seed)
    points = sorted(generator.sample(range(1, STEPS - 25), config.faults))
    kinds = (signal.SIGKILL,) if config.kill_only else (signal.SIGKILL, signal.SIGTERM)
    return [(point, generator.choice(kinds), generator.uniform(0, 0.3)) for point in points]


def steps_logged(workdir: Path) -> int:
    """Lines of the log."""
    log = workdir / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def disturb(
    command: list[str], workdir: Path, environment: Mapping[str, str], after: int, number: int, delay: float
) -> Fault:
    """Starts a run and sends it a signal `delay` seconds after its log holds `after` steps.

    Raises:
      RuntimeError: if the run ended before.
    """
    process = subprocess.Popen(
        [*command, f"--workdir={workdir}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while process.poll() is None and steps_logged(workdir) < after:
        time.sleep(0.002)
    if process.poll() is not None:
        raise RuntimeError(
            f"the run ended with {process.returncode} before its fault: {process.stderr.read().decode()}"
        )
    time.sleep(delay)
    step = steps_logged(workdir)
    process.send_signal(number)
    process.communicate()
    return Fault(signal.Signals(number).name, step, process.returncode)


def finish(command: list[str], workdir: Path, environment: Mapping[str, str]) -> None:
    """Runs a search to its end; RuntimeError if it fails."""
    completed = subprocess.run(
        [*command, f"--workdir={workdir}"], env=environment, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        raise RuntimeError(f"the run ended with {completed.returncode}: {completed.stderr[-2000:]}")


def outcome(workdir: Path) -> dict[str, object]:
    """What must not depend on faults: every bit of the last state, the log and the result, but for times."""
    newest = max((path for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()), key=_step)
    leaves = json.loads((newest / "digest.json").read_text())["body"]["leaves"]
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((workdir / "result.json").read_text())
    del result["wall_seconds"], result["sha256"]
    timed = ("_seconds", CHECKSUM)
    untimed = [{name: value for name, value in record.items() if not name.endswith(timed)} for record in log]
    return {
        "step": _step(newest),
        "state": {leaf["name"]: leaf["sha256"] for leaf in leaves},
        "log": untimed,
        "result": result,
    }


def _step(path: Path) -> int:
    return int(path.name)


def main(config: Config) -> None:
    """Runs both searches and compares."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = config.folder or Path(temporary)
        make_images.main(make_images.Config(out=folder / "data", classes=4, images=200, smallest=40, largest=90))
        command = [*COMMAND, f"--data-dir={folder / 'data'}"]
        environment = {**os.environ, "JAXNAS_CACHE": str(folder / "xla")}
        finish(command, folder / "undisturbed", environment)
        expected = outcome(folder / "undisturbed")
        points = choose(config)
        for index, (point, number, delay) in enumerate(points):
            after = max(point, steps_logged(folder / "run") + 1)  # once it runs, not while it starts
            fault = disturb(command, folder / "run", environment, after, number, delay)
            print(f"{index + 1:3d}. {fault.signal} after step {fault.step}: exit code {fault.exit_code}", flush=True)
            if number == signal.SIGTERM and fault.exit_code not in (cli.INTERRUPTED, 0):
                raise RuntimeError(f"SIGTERM must end the run with {cli.INTERRUPTED}, not {fault.exit_code}")
        finish(command, folder / "run", environment)
        found = outcome(folder / "run")
        different = [name for name in expected if expected[name] != found[name]]
        corrupt = list((folder / "run" / "checkpoints").glob("corrupt-*"))
        print(f"{len(points)} faults; different from the undisturbed run: {', '.join(different) or 'nothing'}")
        print(f"corrupt checkpoints: {len(corrupt)}; step {found['step']}, {len(found['state'])} arrays bit for bit")
        if different or corrupt:
            raise RuntimeError("faults changed the outcome")


if __name__ == "__main__":
    cli.run(main, Config)
