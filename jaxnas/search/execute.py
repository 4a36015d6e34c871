"""A search from its configuration to its result, in a folder: run, or resumed, by one process or by many."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxnas.networks import latency
from jaxnas.results import settings_tree
from jaxnas.results.result import SearchResult
from jaxnas.results.workdir import open_workdir
from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.runtime.shared_checkpoints import SharedCheckpoints
from jaxnas.search.answer import summarise
from jaxnas.search.build import build, inputs
from jaxnas.search.config import SearchConfig, StreamedConfig
from jaxnas.search.loop import Listener, run
from jaxnas.search.search import Search

LATENCY_FILE = "latency.json"


def describe(config: SearchConfig, found: dict[str, Any], *, decisive: bool = False) -> dict[str, Any]:
    """A configuration as config.json and, without what does not decide the outcome, result.json hold it.

    Args:
      config: the settings.
      found: what files decide beside them, see `jaxnas.search.build.inputs`.
      decisive: whether to leave out what does not decide.
    """
    document = settings_tree.to_json(config, decisive=decisive)
    return {**document, settings_tree.INPUTS: found} if found else document


def execute(
    config: SearchConfig, listen: Callable[[Search, Path], Sequence[Listener]] = lambda search, workdir: ()
) -> tuple[SearchResult, Path]:
    """Runs or resumes a search and writes `result.json`, all processes together; process 0 writes.

    Args:
      config: the settings; a job's processes have called `jaxnas.runtime.devices.start` already.
      listen: called before the first step with the search and its folder; returns what follows the run.

    Returns:
      The result, and the folder it lies in; `Path()` on processes that do not write.

    Raises:
      ValueError: on settings that do not fit each other, the data, or the search that the folder holds.
      DatasetNotFoundError, NonFiniteLossError, RunInterruptedError, LostProcessError: see those.
    """
    is_writer = devices.is_host_zero()
    search = devices.together(lambda: build(config))
    found = devices.together(lambda: inputs(config, search))
    document = describe(config, found)
    comparable = functools.partial(settings_tree.comparable, type(config))
    devices.check_agreement(comparable(document))
    name = f"{config.data.dataset}-{config.run.preset or 'search'}"
    workdir = devices.together(
        lambda: open_workdir(config.run.workdir, name, document, comparable) if is_writer else Path()
    )
    if is_writer and config.method.latency is not None:
        latency.read(config.method.latency).write(workdir / LATENCY_FILE)  # what later reads the folder finds it there
    listeners = listen(search, workdir)
    kind = SharedCheckpoints if isinstance(config, StreamedConfig) else Checkpoints
    with kind(workdir / "checkpoints") as checkpoints:
        state, seconds = run(
            search,
            search.init(config.run.seed),
            workdir,
            checkpoints,
            checkpoint_seconds=config.run.checkpoint_seconds,
            listeners=listeners,
            report=is_writer,
        )
    result = summarise(
        search,
        state,
        method=config.method.method,
        candidates=config.method.candidates,
        seed=config.run.seed,
        config=describe(config, found, decisive=True),
        seconds=seconds,
        dataset=config.data.dataset,
    )
    if is_writer:
        result.write(workdir / "result.json")
    return result, workdir
