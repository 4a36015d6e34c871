"""Classify image files with a trained network.

    python -m experiments.predict --model runs/own/exports/k0 photo.jpg
    python -m experiments.predict --model runs/own/exports/k0 folder --top 3

Prints a line for each image: its path, then name and probability of the most probable classes, separated by tabs. A
file that cannot be read is named on stderr, and the exit code is then 2; the others are still classified.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import jaxnas
from experiments import cli
from jaxnas import data, export
from jaxnas.data import folder_scan
from jaxnas.data.decoding import printable
from jaxnas.data.folder_report import reasons
from jaxnas.runtime import compilation_cache


@dataclass(frozen=True)
class Config:
    """Classify images with a trained network.

    Attributes:
      images: image files, or folders that are searched for images.
      model: folder of a network that `experiments.retrain` or `experiments.export` wrote, or the folder `finished` of a
        search.
      index: k of the network, if the folder is `finished`, which holds several.
      top: number of classes to print for each image.
      background: red, green and blue, from 0 to 255, of the background of transparent images; by default as in
        training.
    """

    images: tyro.conf.Positional[tuple[Path, ...]]
    model: Path
    index: int | None = None
    top: int = 1
    background: tuple[int, int, int] | None = None


def find(paths: tuple[Path, ...]) -> Iterator[Path]:
    """The files, and the images below the folders; what is left out of these is named on stderr."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files, scan = folder_scan.find_images(path)
        for reason in reasons(scan.left_out):
            print(f"{printable(str(path))}: left out {reason}", file=sys.stderr)
        if not files:
            raise ValueError(f"images has the folder {printable(str(path))}, which holds no image")
        yield from (path / file for file in files)


def main(config: Config) -> None:
    """Prints the predictions."""
    if not config.images:
        raise ValueError("images must name at least one file or folder")
    network = jaxnas.load(config.model, index=config.index)
    classes = network.description.num_classes
    if not 1 <= config.top <= classes:
        raise ValueError(f"top must be from 1 to the {classes} classes of the network, got {config.top}")
    compilation_cache.enable()
    bad = 0
    for found in export.classify(network, find(config.images), config.background):
        if isinstance(found, data.BadImageError):
            bad += 1
            print(f"error: {found}", file=sys.stderr)
            continue
        likeliest = np.argsort(-found.probabilities, kind="stable")[: config.top]
        named = (f"{network.description.class_name(int(i))}\t{found.probabilities[i]:.4f}" for i in likeliest)
        print("\t".join((printable(str(found.path)), *named)))
    if bad:
        raise SystemExit(cli.BAD_INPUT)


if __name__ == "__main__":
    cli.run(main, Config)
