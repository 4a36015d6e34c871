"""Trained networks as files for other programs.

    python -m experiments.export --run runs/quickstart --index 0 --format onnx
    python -m experiments.export --run runs/quickstart --index all --format all

Takes the networks that the search has trained in its `finish_steps` or, where there are such, those that
`experiments.retrain` has trained (of several seeds the first, not the best on the test images), and writes OUT/kK/ with
`network.json` and `weights.safetensors` (read them with `jaxnas.load`), `model.stablehlo`, `model.onnx`, and a model
card. Each file is read back and compared with the network before the command ends. With `--format all`, a format that
cannot be written here, such as ONNX without the extra `export`, is skipped with one line of output.
"""

import contextlib
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments import cli
from jaxnas import export
from jaxnas.export import saved, shared_weights
from jaxnas.export.card import CARD
from jaxnas.results.files import replacing_folder
from jaxnas.results.result import read_result
from jaxnas.runtime import compilation_cache
from jaxnas.search import repeat

EXPORTED = (
    saved.DESCRIPTION,
    saved.WEIGHTS,
    CARD,
    *(f"model{form.suffix}" for form in export.FORMATS.values() if form.suffix),
)
TOLERANCE = 1e-4  # of logits, relative to the largest; orders of summation differ between programs


@dataclass(frozen=True)
class Config:
    """Write trained networks in forms that other programs read.

    Attributes:
      run: folder of a search whose networks are trained, by the search itself or by `experiments.retrain`.
      index: k of the network, or all.
      format: stablehlo, onnx, flax (only the safetensors and the description that all formats have), or all.
      trained: folder of networks that `experiments.retrain` has trained; by default `retrained` in the run's folder
        and, for networks that are not there, `finished`, which the search has written.
      out: folder for the exports; by default `exports` in the run's folder.
    """

    run: Path
    index: str = "all"
    format: str = "all"
    trained: Path | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Trained:
    """Where a trained network lies.

    Attributes:
      folder: that it lies in.
      index: which it is there; None where it is alone.
      command: what trained it.
    """

    folder: Path
    index: int | None
    command: str


def trained_networks(config: Config) -> dict[str, Trained]:
    """The trained networks that `index` names, by "kK": of several seeds the first.

    Raises:
      ValueError: if there are none.
    """
    trained = config.run / "retrained" if config.trained is None else config.trained
    retrain = f"python -m experiments.retrain --result {shlex.quote(str(config.run / 'result.json'))} --index"
    found: dict[str, Trained] = {}
    for path in sorted(trained.glob(f"k*/seed*/{saved.DESCRIPTION}"), key=lambda path: int(path.parent.name[4:])):
        name = path.parent.parent.name
        found.setdefault(name, Trained(path.parent, None, f"{retrain} {name[1:]}"))
    finished = config.run / shared_weights.FOLDER
    if config.trained is None and shared_weights.holds_networks(finished):
        search = repeat.command(read_result(config.run / "result.json").config) or "a search with finish_steps"
        for k in range(len(shared_weights.read_descriptions(finished))):
            found.setdefault(f"k{k}", Trained(finished, k, search))
    if not found:
        raise ValueError(f"no trained networks in {trained}; train them: {retrain} {config.index}")
    found = dict(sorted(found.items(), key=lambda item: int(item[0][1:])))
    if config.index == "all":
        return found
    if f"k{config.index}" not in found:
        raise ValueError(f"index must be all or one of {', '.join(n[1:] for n in found)}, got {config.index!r}")
    return {f"k{config.index}": found[f"k{config.index}"]}


def main(config: Config) -> None:
    """Writes, reads back, compares."""
    console = cli.console()
    if config.format not in (*export.FORMATS, "all"):
        raise ValueError(f"format must be one of {', '.join(export.FORMATS)} or all, got {config.format!r}")
    compilation_cache.enable()
    names = list(export.FORMATS) if config.format == "all" else ["flax", config.format]
    out = config.run / "exports" if config.out is None else config.out
    for k, trained in trained_networks(config).items():
        network = export.load(trained.folder, trained.index)
        write(out / k, network, names, trained.command, console, one_by_one=config.format != "all")


def write(
    folder: Path, network: export.Network, names: Sequence[str], command: str, console: Console, *, one_by_one: bool
) -> None:
    """Writes one network's exports, all compared with it, and puts them into their place as one folder.

    Args:
      folder: theirs. Files of the same network that are whole there, and others than exports, are kept.
      network: what is exported.
      names: of the forms.
      command: what trained it.
      console: for what is found.
      one_by_one: whether a form that cannot be written is an error.
    """
    with replacing_folder(folder) as new:
        usages = {}
        for name in dict.fromkeys(names):
            form = export.FORMATS[name]
            path = new if form.suffix is None else new / f"model{form.suffix}"
            shown = folder if form.suffix is None else folder / path.name
            try:
                form.write(network, path)
                saved.write_description(new, network.description, exported(new))
                difference = check(network, form, path)
            except export.FormatUnavailableError as error:
                if one_by_one:
                    raise
                console.print(f"{shown} is left out: {error}", soft_wrap=True, markup=False)
                path.unlink(missing_ok=True)
                continue
            console.print(f"{shown}: logits differ by at most {difference:.1e}", soft_wrap=True)
            usages[name] = path.name
        if one_by_one:
            for name in keep(folder, network.description, new):
                usages.setdefault(name, f"model{export.FORMATS[name].suffix}")
        texts = {
            saved.WEIGHTS if export.FORMATS[name].suffix is None else file: export.FORMATS[name].usage.replace(
                "FILE", file
            )
            for name, file in usages.items()
        }
        card = export.model_card(network.description, texts, command)
        (new / CARD).write_text(card, encoding="utf-8")
        saved.write_description(new, network.description, exported(new))
        for path in folder.iterdir() if folder.is_dir() else ():  # what others put there
            if path.name not in EXPORTED and not (new / path.name).exists():
                (shutil.copytree if path.is_dir() else shutil.copy2)(path, new / path.name)


def exported(folder: Path) -> list[str]:
    """The names of the exported files that lie in a folder."""
    return [name for name in EXPORTED if name != saved.DESCRIPTION and (folder / name).is_file()]


def keep(folder: Path, description: export.NetworkDescription, new: Path) -> list[str]:
    """Copies forms that an earlier call wrote for the same network into the new folder; the names of these forms."""
    kept = []
    for name, form in export.FORMATS.items():
        path = folder / f"model{form.suffix}"
        with contextlib.suppress(ValueError, OSError):  # there is none, or it is damaged, or of another network
            if form.suffix is None or (new / path.name).exists() or path.name not in saved.listed_files(folder):
                continue
            content = saved.read_verified(path)
            weights = [(each / saved.WEIGHTS).read_bytes() for each in (folder, new)]
            if saved.read_description(folder) == description and weights[0] == weights[1]:
                (new / path.name).write_bytes(content)
                kept.append(name)
    return kept


def check(network: export.Network, form: export.Format, path: Path) -> float:
    """The largest difference between the logits of a file and of the network, for random images.

    Raises:
      ValueError: if it is more than rounding.
    """
    size = network.description.image_size
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    inputs = network.preprocess(images)
    expected, found = np.asarray(network.apply(network.variables, inputs)), np.asarray(form.load(path)(inputs))
    difference = float(np.abs(found - expected).max())
    if difference > TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ValueError(f"{path} gives other logits than the network, by up to {difference:.2g}; it is not usable")
    return difference


if __name__ == "__main__":
    cli.run(main, Config)
