"""A profile of some steps of a run, as a trace that xprof and Perfetto read."""

import logging
from pathlib import Path
from typing import Any

import jax

_LOGGER = logging.getLogger(__name__)


class ProfileListener:
    """Follows a run (`jaxnas.search.loop.Listener`) and traces the second program of each phase.

    The first program of a phase is compiled, which would fill the trace. Operations carry the names of their scopes:
    `weights` and `distributions`, and in the supernets those of the parameters, such as `stem` and `layer_1`.

    Args:
      folder: gets a folder for each phase, which is what `xprof --logdir` or TensorBoard takes.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._programs: dict[str, int] = {}
        self._running = False
        self._written: list[str] = []

    def on_start(self, start: Any) -> None:
        """Makes the folder, so that one that cannot be written ends the run at once."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def on_steps(self, records: list[dict[str, Any]]) -> None:
        """Begins a trace after the first program of a phase, and ends it after the next one."""
        self._stop()
        phase = records[-1].get("phase", "steps")
        self._programs[phase] = self._programs.get(phase, 0) + 1
        if self._programs[phase] == 1:
            jax.profiler.start_trace(self._folder / phase)
            self._running = True
            self._written.append(phase)

    def on_end(self) -> None:
        """Ends a trace that is still running."""
        if self._running:
            _LOGGER.warning("the profile of %s may hold no whole program: the run ended first", self._written[-1])
        self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
