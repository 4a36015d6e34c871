"""The supernet of a finished search, read from the search's folder."""

import json
from pathlib import Path
from typing import Any

from experiments import cifar_search
from jaxnas.runtime.checkpoints import Checkpoints
from jaxnas.search.presets import Preset
from jaxnas.tasks.supernet import FrozenSupernet


def read_run(run: Path) -> tuple[dict[str, Any], Preset]:
    """The options of the search in a folder that its preset does not hold, and the preset.

    Raises:
      ValueError: if the folder holds no search.
    """
    try:
        description = json.loads((run / "config.json").read_text(encoding="utf-8"))
        options = {name: description[name] for name in ("seed", "method", "cost")}
        if "budgets" in description:
            options["budgets"] = tuple(
                ",".join(f"{name}={value!r}" for name, value in budget.items()) for budget in description["budgets"]
            )
        if "latency" in description:
            options["latency"] = run / cifar_search.LATENCY_FILE
        return options, Preset.from_description(description)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"run {run} is not the folder of a search; give one of cifar_search") from error


def load_supernet(run: Path, data_dir: Path | None) -> FrozenSupernet:
    """The trained supernet in the folder of a search.

    Raises:
      ValueError: if the folder holds no finished search.
    """
    options, preset = read_run(run)
    search = cifar_search.build(cifar_search.Config(**options, data_dir=data_dir), preset)
    with Checkpoints(run / "checkpoints") as checkpoints:
        restored = checkpoints.restore_newest(search.init(options["seed"]))
    if restored is None or restored.step < preset.settings.total_steps:
        raise ValueError(f"run {run} is not finished; run its cifar_search command again to resume it")
    return FrozenSupernet(search, restored.state.params)
