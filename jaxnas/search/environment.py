"""What a run is computed with: a resume with the same continues bit for bit, one with anything else need not.

environment.json in the folder of the run: versions, devices and cores of its newest start.
"""

import json
import os
from pathlib import Path
from typing import Any

from jaxnas.results.files import write_json
from jaxnas.results.json_files import read_json
from jaxnas.results.result import versions
from jaxnas.runtime import devices

FILE = "environment.json"


def describe() -> dict[str, Any]:
    """Versions, devices and cores of this process's job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**versions(), **devices.describe(), "cores": cores}


def renew(workdir: Path, *, resumed: bool) -> tuple[str, ...]:
    """Writes the environment of this start, and compares it with that of the start before.

    Returns:
      A line for people where they differ and the run is resumed; a file that is absent or damaged tells nothing.

    Raises:
      OSError: if the file cannot be written.
    """
    now, before = json.loads(json.dumps(describe())), None
    if resumed:
        try:
            before = read_json(workdir / FILE)
        except (OSError, ValueError):
            before = None
    write_json(workdir / FILE, now)
    if not isinstance(before, dict):
        return ()
    changed = [
        f"{name} ({before.get(name)!r:.40} before, {now.get(name)!r:.40} now)"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if not changed:
        return ()
    return (f"the run goes on with other {', '.join(changed)}: it is no longer bit for bit that of one start",)
