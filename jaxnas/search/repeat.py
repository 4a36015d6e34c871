"""The command line that repeats a search, from what its result.json describes."""

import contextlib
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from jaxnas.results import settings_tree
from jaxnas.search import device_tables, presets
from jaxnas.search.config import SearchConfig

COMMANDS = {"cifar_search": presets.MEMORY, "imagenet_search": presets.STREAMED}
PLACE = "DIR"  # of a file or folder that the reader names


def command(description: Mapping[str, Any]) -> str | None:
    """The command that makes a search of this description.

    Args:
      description: "config" of a result.json.

    Returns:
      The command, of the preset that needs the fewest options, or None if no preset and options make it.
    """
    for name, known in COMMANDS.items():
        try:
            config = settings_tree.from_json(known.tree, description)
        except ValueError:
            continue
        found = []
        for preset in known.configs:
            with contextlib.suppress(ValueError):
                found.append(_options(known, preset, config, description))
        if not found:
            continue
        options = min(found, key=len)
        words = ["python", "-m", f"experiments.{name}", "--workdir", PLACE]
        for option, value in options.items():
            flag = option.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
                continue
            values = value if isinstance(value, tuple) else [value]
            words += [f"--{flag}", *(shlex.quote(str(each)) for each in values)]
        return " ".join(words)
    return None


def _options(
    known: presets.Presets, preset: str, config: SearchConfig, description: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings that make the configuration out of a preset, what does not decide the outcome aside."""
    decides = {name for name, setting in settings_tree.settings(type(config)).items() if setting.decides}
    wanted = settings_tree.values(config)
    options: dict[str, Any] = {"preset": preset}
    found = description.get(settings_tree.INPUTS, {})
    if "latency" in found:
        options["latency"] = Path(PLACE, device_tables.file_name("latency"))
    if device_tables.DEVICES in found:
        files = {name: Path(PLACE, device_tables.file_name(name)) for name in device_tables.names(found)}
        options["latency"] = device_tables.normalised([f"{name}={path}" for name, path in files.items()])
    if wanted["dataset"] == presets.FOLDER:
        options["folder"] = Path(PLACE)
    # Twice: what the first options bring with them may have to be taken back.
    for _ in range(2):
        made = settings_tree.values(known(**options))
        options |= {name: wanted[name] for name in wanted if name in decides and made[name] != wanted[name]}
        if options.get("budgets"):
            options.pop("penalties", None)
    if not _makes(known, options, wanted, decides):
        raise ValueError("no options make this search")
    for name in [name for name in options if name in decides]:
        fewer = {other: value for other, value in options.items() if other != name}
        if _makes(known, fewer, wanted, decides):
            options = fewer
    return options


def _makes(
    known: presets.Presets, options: Mapping[str, Any], wanted: Mapping[str, Any], decides: Collection[str]
) -> bool:
    try:
        made = settings_tree.values(known(**options))
    except ValueError:  # a setting that another one needs was left out
        return False
    return all(made[name] == wanted[name] for name in decides)
