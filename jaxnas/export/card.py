"""A model card: what a trained network is, how well it does, and how to use its files."""

import re
from collections.abc import Mapping

from jaxnas.export.saved import NetworkDescription


def model_card(description: NetworkDescription, usages: Mapping[str, str], command: str) -> str:
    """The card as Markdown.

    Args:
      description: of the network.
      usages: by the name of a file, lines of Python that use it.
      command: what trained the network.
    """
    space = description.build_space()
    arch = description.encoding
    size, settings = description.image_size, dict(description.trained_with)
    accuracy = "not measured" if description.test_accuracy is None else f"{100 * description.test_accuracy:.2f} %"
    figures = [("test accuracy", accuracy)]
    figures += [(cost.unit, f"{int(cost.total(arch)):,}") for cost in space.costs]
    figures += [
        ("data", description.dataset),
        ("input", f"float32 [batch, {size}, {size}, 3], normalised as below"),
        ("output", f"logits, float32 [batch, {description.num_classes}]"),
    ]
    if description.class_names:
        figures.append(("classes", ", ".join(map(_plain, description.class_names))))
    lines = [f"# {description.space}, {description.dataset}", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in figures), ""]
    lines += ["## Architecture", ""]
    lines += [
        f"- {decision.name}: {decision.choices[choice]}" for decision, choice in zip(space.decisions, arch, strict=True)
    ]
    lines += ["", f"Encoding in `{description.space}` at width {description.width:g}: `{list(arch)}`.", ""]
    mean, std = ([round(value, 6) for value in values] for values in (description.mean, description.std))
    lines += ["## Preprocessing", "", "```python", f"normalised = (images / 255 - {mean}) / {std}", "```", ""]
    lines += [
        "Images are RGB, channels last; the division gives float32. Of an image of another size the central square "
        f"with {description.crop:.3g} of its shorter side is resized to {size}x{size} first.",
        "",
        "## Use",
        "",
    ]
    for name, usage in usages.items():
        lines += [f"`{name}`:", "", "```python", usage, "```", ""]
    lines += ["## Training", "", f"`{command}`", ""]
    lines += ["No decision was taken on test images. Settings:", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_text(value)} |" for name, value in settings.items()), ""]
    lines += ["Software: " + ", ".join(f"{name} {version}" for name, version in description.versions.items()) + ".", ""]
    return "\n".join(lines)


def _plain(name: str) -> str:
    """A name without what Markdown reads as a mark or the end of a cell."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", name)


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
