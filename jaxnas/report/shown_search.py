"""A search with a live display, and a picture and a table of what it found."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from jaxnas.export import shared_weights
from jaxnas.report import tensorboard
from jaxnas.report.networks_table import result_table
from jaxnas.report.pareto import plot_pareto
from jaxnas.report.progress import SearchDisplay
from jaxnas.runtime import devices
from jaxnas.runtime.profile import ProfileListener
from jaxnas.runtime.stall import StallListener
from jaxnas.search import memory
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.search.execute import execute
from jaxnas.search.loop import Listener
from jaxnas.search.search import Search


def run_and_show(config: SearchConfig, console: Console, stalled: Callable[[str], None] | None = None) -> None:
    """Runs or resumes a search, writes its results and prints them.

    Args:
      config: the settings.
      console: for progress and results; quiet on processes that do not write.
      stalled: see `jaxnas.runtime.stall.StallListener`; None for no limit on a run without progress.

    Raises:
      ValueError, DatasetNotFoundError, NonFiniteLossError, RunInterruptedError, LostProcessError: as
        `jaxnas.search.execute.execute`.
    """
    is_writer, preset = devices.is_host_zero(), config.run.preset or "search"
    if config.run.tensorboard:
        tensorboard.check_installed()

    def listen(search: Search, workdir: Path) -> Sequence[Listener]:
        networks = len(search.strategy.penalties)
        where = f"{devices.device_count()} devices of {devices.process()[1]} processes, "
        console.print(
            f"{preset}: {config.space.space} on {config.data.dataset}, {networks} networks, "
            f"{where if isinstance(config, StreamedConfig) else ''}in {workdir}",
            soft_wrap=True,
        )
        total_steps = search.total_steps + config.finish.finish_steps
        listeners: list[Listener] = [SearchDisplay.of(search.strategy, total_steps, console)]
        if stalled is not None:
            listeners.append(StallListener(config.run.stall_seconds, stalled))
        if config.run.profile is not None:
            listeners.append(ProfileListener(config.run.profile))
        if is_writer and config.run.tensorboard:
            listeners.append(tensorboard.TensorBoardListener(workdir / "tensorboard", networks))
        return listeners

    def announce(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)  # names of files and classes are no markup

    with memory.naming_settings(config.training):
        outcome = execute(config, listen, announce)
    if not is_writer:
        return
    if outcome.finished is not None:
        folder = outcome.workdir / shared_weights.FOLDER
        sizes = shared_weights.save(
            folder, shared_weights.describe(config, outcome.result, outcome.finished), outcome.finished
        )
    plot_pareto(outcome.result, outcome.workdir / "pareto.png")
    console.print(result_table(outcome.result))
    if outcome.finished is not None:
        together, apart = (f"{size / 1e6:.2f} MB" for size in (sizes.together, sizes.apart))
        console.print(f"trained networks in {folder}: {together}, as one file each {apart}", soft_wrap=True)
    console.print(f"results in {outcome.workdir}", soft_wrap=True)
