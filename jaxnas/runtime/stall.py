"""A time limit on a run without progress, as on a file system or a device that hangs: one thread for the whole run."""

import threading
import time
from collections.abc import Callable
from typing import Any


class StallListener:
    """Follows a run (`jaxnas.search.loop.Listener`) and tells when no step ends for long.

    The limit holds from the end of the first program on, which has to be compiled.

    Args:
      seconds: without a step; 0 for no limit.
      stalled: called once, in a thread, with a line for people. The main thread may wait for the system and never
        return, so that only the end of the process helps.
    """

    def __init__(self, seconds: float, stalled: Callable[[str], None]):
        if not seconds >= 0:
            raise ValueError(f"stall_seconds must be 0, for no limit, or more, got {seconds}")
        self._seconds, self._stalled = seconds, stalled
        self._step, self._last = 0, 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_start(self, start: Any) -> None:
        """Nothing is watched yet: the first program is still to be compiled."""
        self._ended.clear()

    def on_steps(self, records: list[dict[str, Any]]) -> None:
        """Notes the progress."""
        self._step, self._last = records[-1]["step"], time.monotonic()
        if self._thread is None and self._seconds:
            self._thread = threading.Thread(target=self._watch, name="stall", daemon=True)
            self._thread.start()

    def on_end(self) -> None:
        """Ends the watch."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._ended.wait(min(max(self._last + self._seconds - time.monotonic(), 0.001), 60.0)):
            if time.monotonic() - self._last >= self._seconds:
                self._stalled(
                    f"no step has ended for {self._seconds:g} s after step {self._step}: the file system or a device "
                    "hangs, or stall_seconds is too short"
                )
                return
