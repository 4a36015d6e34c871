"""Networks that share weights as one file: each array once, and for each network a recipe of which are its own.

networks.json          of each network what `network.json` holds of it and its recipe; sha256 of the arrays
family.safetensors   float32 arrays: shared/VARIANT/PATH of weights, and batch_stats/K/PATH of network K alone

A recipe names for each array of a network VARIANT/PATH of a shared one, or a part of it as [VARIANT/PATH, [[begin,
end], ...]], along each axis, where the supernet shared by slices.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxnas.export import saved
from jaxnas.networks.sharing import Part, Recipe, take_array
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
        {**to_plain(description), RECIPE: to_plain(recipe)}
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
        recipes = [_read_recipe(member[RECIPE]) for member in members]
        if not recipes:
            raise ValueError("their list is empty")
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
    prefix = f"{SHARED}/"
    shared = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    for path, source in recipes[index].items():
        name, bounds = source if isinstance(source, Part) else (source, None)
        if name not in shared:
            raise ValueError(f"{weights} lacks {SHARED}/{name}, which {described.name} names")
        if bounds is not None and not _within(bounds, shared[name].shape):
            raise ValueError(f"{described} takes {bounds} of {SHARED}/{name}, whose shape is {shared[name].shape}")
        flat[f"params/{path}"] = take_array(shared, source)
    return saved.from_arrays(description, flat, weights)


def read_descriptions(path: pathlib.Path) -> list[saved.NetworkDescription]:
    """Descriptions of all networks of a folder; ValueError in one line if it holds none."""
    described = _folder(path) / DESCRIPTION
    members = saved.read_document(described, FORMAT).get(MEMBERS)
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise ValueError(f"{described} describes no networks that share weights")
    return [saved.parse_description(member, described) for member in members]


def _read_recipe(recipe: Any) -> Recipe:
    """A recipe of networks.json; ValueError if it is none."""
    if not isinstance(recipe, dict) or not recipe:
        raise ValueError("a recipe names no arrays")
    return {path: _read_source(source) for path, source in recipe.items()}


def _read_source(source: Any) -> str | Part:
    if isinstance(source, str):
        return source
    try:
        name, bounds = source
        pairs = tuple((begin, end) for begin, end in bounds)
    except (ValueError, TypeError) as error:
        raise ValueError("a recipe names no arrays") from error
    if not isinstance(name, str) or not all(type(number) is int for pair in pairs for number in pair):
        raise ValueError("a recipe names no arrays")
    return Part(name, pairs)


def _within(bounds: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> bool:
    """Whether a part is one of an array of this shape."""
    return len(bounds) == len(shape) and all(0 <= first < end <= size for (first, end), size in zip(bounds, shape))


def _folder(path: pathlib.Path) -> pathlib.Path:
    return path.parent if path.name in (DESCRIPTION, WEIGHTS) else path
