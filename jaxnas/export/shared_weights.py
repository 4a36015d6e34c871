"""Networks that share weights as one file: each array once, and for each network a recipe of which are its own.

networks.json          of each network what `network.json` holds of it and its recipe; sha256 of the arrays
family.safetensors   float32 arrays: shared/VARIANT/PATH of weights, and batch_stats/K/PATH of network K alone
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxnas.export import saved
from jaxnas.results.files import replacing, to_plain, write_json
from jaxnas.results.json_files import seal
from jaxnas.results.result import SearchResult, versions
from jaxnas.search.config import SearchConfig
from jaxnas.search.finished import FinishedNetworks

FOLDER = "finished"  # in that of a search
DESCRIPTION, WEIGHTS = "networks.json", "family.safetensors"
FORMAT = "jaxnas networks 1"
MEMBERS, RECIPE = "networks", "recipe"  # of networks.json
SHARED, OWN = "shared", "batch_stats"  # of the names of arrays


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What K networks take on disk, bytes.

    Attributes:
      together: as one file.
      apart: as one file each.
    """

    together: int
    apart: int


def describe(config: SearchConfig, result: SearchResult, finished: FinishedNetworks) -> list[saved.NetworkDescription]:
    """What each of the networks that a search finished is."""
    images, settings = finished.images, dataclasses.asdict(config.finish)
    common = {
        "space": result.space,
        "width": config.space.width,
        "image_size": images.image_size,
        "num_classes": images.num_classes,
        "dataset": images.name,
        "mean": images.normalization.mean,
        "std": images.normalization.std,
        "versions": versions(),
        "class_names": images.class_names,
        "crop": images.crop,
        "background": images.background,
    }
    trained_with = {"seed": result.seed, **settings, "wall_seconds": result.wall_seconds}
    return [
        saved.NetworkDescription(
            encoding=arch,
            test_accuracy=float(score.accuracy),
            trained_with={**trained_with, "test_loss": float(score.loss)},
            **common,
        )
        for arch, score in zip(finished.archs, finished.scores)
    ]


def save(folder: pathlib.Path, descriptions: Sequence[saved.NetworkDescription], finished: FinishedNetworks) -> Sizes:
    """Writes networks into a folder, which is made; the description comes last, so that with it all is there."""
    own = {str(k): statistics for k, statistics in enumerate(finished.batch_stats)}
    content = saved.serialize({SHARED: finished.shared, OWN: own}, FORMAT)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(content)
    members = [
        {**to_plain(description), RECIPE: dict(recipe)}
        for description, recipe in zip(descriptions, finished.recipes, strict=True)
    ]
    document = {"format": FORMAT, MEMBERS: members, saved.FILES: {WEIGHTS: saved.digest(content)}}
    write_json(folder / DESCRIPTION, seal(document))
    apart = (saved.serialize(finished.variables(k), saved.FORMAT) for k in range(len(members)))
    return Sizes(len(content), sum(map(len, apart)))


def holds_networks(path: pathlib.Path) -> bool:
    """Whether a folder, or the folder of a file, holds networks that share weights."""
    return (_folder(path) / WEIGHTS).is_file()


def load(path: pathlib.Path, index: int | None) -> saved.Network:
    """Reads one of the networks that `save` wrote.

    Args:
      path: their folder, or a file in it.
      index: number of the network, k.

    Raises:
      ValueError: in one line, if a file is missing or damaged, or there is no such network.
    """
    folder = _folder(path)
    described, weights = folder / DESCRIPTION, folder / WEIGHTS
    document = saved.read_document(described, FORMAT)
    try:
        members = document[MEMBERS]
        recipes = [member[RECIPE] for member in members]
        if not recipes or not all(_is_recipe(recipe) for recipe in recipes):
            raise ValueError("a recipe names no arrays")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{described} describes no networks that share weights: {error}") from error
    if index is None or not 0 <= index < len(members):
        numbers = ", ".join(map(str, range(len(members))))
        raise ValueError(f"index must be one of {numbers}, since {folder} holds {len(members)} networks, got {index}")
    description = saved.parse_description(members[index], described)
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise ValueError(f"{weights} cannot be read ({error.strerror or error})") from error
    if document[saved.FILES].get(WEIGHTS) != saved.digest(content):
        raise saved.DamagedFileError(
            f"{weights} is not what was written, or is damaged: its sha256 is not that in {described.name}"
        )
    arrays = saved.read_arrays(weights, content)
    prefix = f"{OWN}/{index}/"
    flat = {f"batch_stats/{name.removeprefix(prefix)}": arrays[name] for name in arrays if name.startswith(prefix)}
    for name, shared in recipes[index].items():
        if f"{SHARED}/{shared}" not in arrays:
            raise ValueError(f"{weights} lacks {SHARED}/{shared}, which {described.name} names")
        flat[f"params/{name}"] = arrays[f"{SHARED}/{shared}"]
    return saved.from_arrays(description, flat, weights)


def read_descriptions(path: pathlib.Path) -> list[saved.NetworkDescription]:
    """Descriptions of all networks of a folder; ValueError in one line if it holds none."""
    described = _folder(path) / DESCRIPTION
    members = saved.read_document(described, FORMAT).get(MEMBERS)
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise ValueError(f"{described} describes no networks that share weights")
    return [saved.parse_description(member, described) for member in members]


def _is_recipe(recipe: Any) -> bool:
    return isinstance(recipe, dict) and bool(recipe) and all(isinstance(name, str) for name in recipe.values())


def _folder(path: pathlib.Path) -> pathlib.Path:
    return path.parent if path.name in (DESCRIPTION, WEIGHTS) else path
