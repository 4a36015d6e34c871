"""A model card: what a trained network is, how well it does, and how to use its files."""

from collections.abc import Mapping, Sequence

from jaxnas.export.saved import NetworkDescription
from jaxnas.results.tables import Column, Table, code, escape

CARD = "model_card.md"  # its file in an export


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
        figures.append(("classes", ", ".join(description.class_names)))
    lines = [f"# {escape(description.space)}, {escape(description.dataset)}", "", _pairs(figures), ""]
    lines += ["## Architecture", ""]
    lines += [
        f"- {escape(decision.name)}: {escape(decision.choices[choice])}"
        for decision, choice in zip(space.decisions, arch, strict=True)
    ]
    lines += ["", f"Encoding in {code(description.space)} at width {description.width:g}: `{list(arch)}`.", ""]
    mean, std = ([round(value, 6) for value in values] for values in (description.mean, description.std))
    lines += ["## Preprocessing", "", "```python", f"normalised = (images / 255 - {mean}) / {std}", "```", ""]
    lines += [
        "Images are RGB, channels last; the division gives float32. Of an image of another size the central square "
        f"with {description.crop:.3g} of its shorter side is resized to {size}x{size} first. Transparent images are "
        f"put on {list(description.background)} (red, green, blue).",
        "",
        "## Use",
        "",
    ]
    for name, usage in usages.items():
        lines += [f"{code(name)}:", "", "```python", usage, "```", ""]
    lines += [
        "`network.json` holds the SHA-256 of every file. It finds damage, not intent: use files of people you trust."
    ]
    lines += ["", "## Training", "", code(command), ""]
    tested = f"Tested on {escape(str(settings.pop('tested_on')))}. " if "tested_on" in settings else ""
    lines += [f"{tested}No decision of the training was taken on test images. Settings:", ""]
    lines += [_pairs([(name, _text(value)) for name, value in settings.items()]), ""]
    lines += ["Software: " + ", ".join(f"{name} {version}" for name, version in description.versions.items()) + ".", ""]
    return "\n".join(lines)


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """A table of two columns without headings."""
    return Table("", (Column(""), Column("")), pairs).markdown()


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
