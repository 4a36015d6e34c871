"""A family as a folder, and back. Reading it runs no code from a file.

family.json                      the space, the networks, sha256 of the files below
member_K.npz                     parameters and state of network K by their paths; bfloat16 and its kin as their bits
exports/kK/model.stablehlo       network K as a program, where the family was exported
result.json, metrics.jsonl, evaluations.npz   as every search leaves them
"""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic.matching import name_of, paths
from jaxnas.elastic.model_space import ModelSpace
from jaxnas.export.saved import FILES, digest
from jaxnas.family import description, programs
from jaxnas.family.family import Family, Member
from jaxnas.results.evaluations import NAME as EVALUATIONS
from jaxnas.results.evaluations import About, read_evaluations
from jaxnas.results.files import replacing, to_plain, write_json
from jaxnas.results.json_files import DIGEST, read_json, seal
from jaxnas.results.metrics_log import read_metrics
from jaxnas.results.npz import read_arrays
from jaxnas.results.result import read_result

DESCRIPTION = "family.json"
FORMAT = "jaxnas models 1"
METRICS, RESULT = "metrics.jsonl", "result.json"
_KEPT = ("k", "arch", "costs", "budgets", "loss", "metrics")  # of a member, in family.json


def save(family: Family, folder: Path, programs_of: Mapping[str, bytes] | None = None) -> Path:
    """Writes a family; see `Family.save`.

    Args:
      family: with its models.
      folder: made if it is not there.
      programs_of: other files by their names in the folder.
    """
    if not isinstance(family.space, ModelSpace):
        raise ValueError("the family has no models: load it with make=, the function that makes them")
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"member_{member.k}.npz": _npz(_named(member.params, member.state)) for member in family.members}
    files |= programs_of or {}
    for member in family.members:
        (folder / _program(member.k)).unlink(missing_ok=True)  # of an earlier export
    for name, content in files.items():
        with replacing(folder / name) as path:
            path.write_bytes(content)
    family.result.write(folder / RESULT)
    family.evaluations.write(folder / EVALUATIONS, About.of(family.space, family.result.config))
    with replacing(folder / METRICS) as path:
        lines = (json.dumps(to_plain(record), allow_nan=False) for record in family.records)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    document = {
        "format": FORMAT,
        "space": description.describe(family.space),
        "members": [{name: getattr(member, name) for name in _KEPT} for member in family.members],
        FILES: {name: digest(content) for name, content in files.items()},
    }
    write_json(folder / DESCRIPTION, seal(to_plain(document)))  # the last, so that with it all is there
    return folder


def export(family: Family, folder: Path) -> Path:
    """Writes a family with its programs; see `Family.export`."""
    if not isinstance(family.space, ModelSpace):
        raise ValueError("the family has no models: load it with make=, the function that makes them")
    written = {
        _program(member.k): programs.write(
            family.space.deployed(member.arch, member.params, member.state), family.space.models.inputs
        )
        for member in family.members
    }
    return save(family, folder, written)


def load(folder: Path, make: Callable[..., Any] | None = None, space: ModelSpace | None = None) -> Family:
    """Reads what `save` or `export` wrote.

    Args:
      folder: that was given to it.
      make: the function that makes the models, as given to `elastic`; without it the networks are programs, which
        `export` writes, with no `params` and no `model`.
      space: in its place, the space built as for the search.

    Raises:
      ValueError: in one line, if the folder holds no family, a damaged one, or one of other models.
    """
    document = _read_document(folder)
    try:
        if space is None:
            space = description.space_of(document["space"], make)
        elif document["space"]["name"] != space.name:
            raise ValueError(f"the family in {folder} is of space {document['space']['name']!r}, not of {space.name!r}")
        described = [{name: fields[name] for name in _KEPT} for fields in document["members"]]
        read = _model if isinstance(space, ModelSpace) else _exported
        members = tuple(read(folder, document, space, fields) for fields in described)
        for member in members:
            space.validate(member.arch)
        if not members:
            raise ValueError(f"{folder / DESCRIPTION} holds no networks")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / DESCRIPTION} describes no family: {type(error).__name__}, {error}") from error
    result = read_result(folder / RESULT)
    evaluations, about = read_evaluations(folder / EVALUATIONS)
    if about.num_choices != space.num_choices:
        raise ValueError(f"{folder / EVALUATIONS} is of another space than {folder / DESCRIPTION}")
    return Family(space, members, result, evaluations, tuple(read_metrics(folder / METRICS)))


def is_stored(folder: Path) -> bool:
    """Whether a folder looks like one that `save` wrote: its description has the format."""
    try:
        document = read_json(folder / DESCRIPTION)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("format") == FORMAT


def _read_document(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        document = read_json(path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"it is no document of format {FORMAT!r}")
        if document.get(DIGEST) != seal(document)[DIGEST]:
            raise ValueError(f"it is not what was written: its {DIGEST} is another one")
    except (OSError, ValueError) as error:
        raise ValueError(f"folder must hold a {DESCRIPTION}, as Family.save writes it: {error}") from error
    return document


def _verified(folder: Path, document: Mapping[str, Any], name: str) -> bytes:
    """The content of a file, which is compared with its digest before anything parses it."""
    try:
        content = (folder / name).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / name} cannot be read ({error.strerror or error})") from error
    if document[FILES].get(name) != digest(content):
        raise ValueError(f"{folder / name} is not what was written, or is damaged")
    return content


def _model(folder: Path, document: Mapping[str, Any], space: ModelSpace, fields: dict[str, Any]) -> Member:
    """A member as its model."""
    arch = space.validate(fields["arch"])
    name = f"member_{fields['k']}.npz"
    shapes = dict(zip(("params", "state"), space.shapes(arch)))
    wanted = {path: leaf for path, leaf in paths(shapes).items() if not _is_random_key(leaf)}
    arrays = read_arrays(io.BytesIO(_verified(folder, document, name)), [], [name_in_file(path) for path in wanted])
    found = {}
    for path, leaf in wanted.items():
        array = arrays.get(name_in_file(path))
        shape = None if array is None else array.shape
        if shape != leaf.shape or array.dtype != _stored(leaf.dtype):
            raise ValueError(
                f"{folder / name} is of another model than make(**{space.hyperparameters(arch)!r}): "
                f"{name_of(path)} is {'absent' if array is None else (array.dtype.name, shape)} there, but must be "
                f"{(leaf.dtype.name, leaf.shape)}"
            )
        found[path] = jnp.asarray(array.view(leaf.dtype))
    tree = jax.tree.unflatten(
        jax.tree.structure(shapes),
        [found[path] if path in found else _random_key(leaf) for path, leaf in paths(shapes).items()],
    )
    return Member(
        **_plain(fields),
        **tree,
        hyperparameters=space.hyperparameters(arch),
        model=space.model(arch, tree["params"], tree["state"]),
        program=jax.jit(space.deployed(arch, tree["params"], tree["state"])),
    )


def _exported(folder: Path, document: Mapping[str, Any], space: Any, fields: dict[str, Any]) -> Member:
    """A member as its program."""
    name = _program(fields["k"])
    if name not in document[FILES]:
        raise ValueError(
            f"the family in {folder} was saved and not exported: give make=, the function that makes its models, or "
            "write it with Family.export"
        )
    program = programs.read(_verified(folder, document, name), folder / name)
    values = description.choices_of(document["space"]).values(space.validate(fields["arch"]))
    return Member(**_plain(fields), hyperparameters=values, program=program)


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a member; JSON has null for NaN."""

    def number(value: Any) -> float:
        return float("nan") if value is None else float(value)

    metrics = {name: number(value) for name, value in fields["metrics"].items()}
    return {**fields, "arch": tuple(fields["arch"]), "loss": number(fields["loss"]), "metrics": metrics}


def _program(k: int) -> str:
    return f"exports/k{k}/model.stablehlo"


def name_in_file(path: tuple[Any, ...]) -> str:
    """The name of a leaf in an npz file, such as "params/Dense_0/kernel"."""
    return "/".join(map(str, path))


def _named(params: Any, state: Any) -> dict[str, np.ndarray]:
    leaves = paths({"params": params, "state": state})
    return {name_in_file(path): _bits(leaf) for path, leaf in leaves.items() if not _is_random_key(leaf)}


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _is_random_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _random_key(leaf: Any) -> jax.Array:
    """Keys of random streams, which a network in use does not need: fresh ones."""
    return jax.random.split(jax.random.key(0), leaf.shape)


def _stored(dtype: np.dtype) -> np.dtype:
    """The type that numpy can store numbers in: that of the bits of bfloat16 and its kin."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype


def _bits(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.view(_stored(array.dtype))
