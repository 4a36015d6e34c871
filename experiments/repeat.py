"""The command line that repeats a search, from what its result.json describes."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from experiments import cifar_search
from jaxnas.search.presets import PRESETS

# Settings that have an option of cifar_search, in the order of its help; the others come from a preset.
_OF_PRESETS = (
    *("dataset", "space", "penalties", "samples", "candidates", "weight_steps", "joint_steps", "distribution_steps"),
    *("batch_size", "batching", "chunk_size", "precision", "steps_per_dispatch"),
)


def command(description: Mapping[str, Any]) -> str | None:
    """The command that makes a search of this description.

    Args:
      description: "config" of a result.json.

    Returns:
      The command, or None if no preset and options make it.
    """
    defaults = cifar_search.Config()
    for name, preset in PRESETS.items():
        options: dict[str, Any] = {"preset": name}
        of_preset = preset.describe()
        for field in _OF_PRESETS:
            if description.get(field) != of_preset.get(field) and description.get(field) is not None:
                options[field] = description[field]
        for field in ("method", "cost", "seed"):
            if description.get(field) != getattr(defaults, field):
                options[field] = description.get(field)
        budgets = description.get("budgets")
        if budgets:
            options["budgets"] = _budgets(budgets)
            options.pop("penalties", None)
        if _makes(options, description):
            words = ["python", "-m", "experiments.cifar_search", "--workdir", "DIR"]
            for option, value in options.items():
                values = value if isinstance(value, list | tuple) else [value]
                words += [f"--{option.replace('_', '-')}", *(shlex.quote(_text(each)) for each in values)]
            return " ".join(words)
    return None


def _budgets(budgets: Any) -> tuple[str, ...]:
    try:
        return tuple(",".join(f"{name}={_text(value)}" for name, value in budget.items()) for budget in budgets)
    except (AttributeError, TypeError):
        return ()


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _makes(options: Mapping[str, Any], description: Mapping[str, Any]) -> bool:
    """Whether a search with these options has this description, options that came later aside."""
    options = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    try:
        config = dataclasses.replace(cifar_search.Config(), **options)
        made = cifar_search.describe_config(config, cifar_search.choose_preset(config)[1])
    except (AttributeError, TypeError, ValueError):
        return False
    return made == dict(description)
