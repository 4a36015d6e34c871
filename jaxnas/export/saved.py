"""A trained network as a folder: what it is in JSON, its weights in safetensors. Neither can run code when it is read.

network.json          space, encoding, width, image size, classes, normalisation, figures, versions, sha256 of files
weights.safetensors   float32 arrays by their path in the network's variables, such as params/stem/conv/kernel
"""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxnas import networks
from jaxnas.export.description import NetworkDescription, parse_description
from jaxnas.results.files import replacing, to_plain, write_json
from jaxnas.results.json_files import DIGEST, read_json, seal

DESCRIPTION, WEIGHTS = "network.json", "weights.safetensors"
FORMAT, UNSEALED_FORMAT = "jaxnas network 2", "jaxnas network 1"  # the earlier one had no digests
FILES = "files"  # of network.json: digests by name of a file
LARGEST_DESCRIPTION = 2**24  # bytes


class DamagedFileError(ValueError):
    """A file is not what was written; the message is one line for the user."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A trained network, ready to use.

    Attributes:
      description: the content of its `network.json`.
      variables: {"params": ..., "batch_stats": ...}.
      apply: (variables, float32 images [B, H, W, 3] as `description.preprocess` gives them) -> logits [B, classes].

    `network(images)` returns the logits of uint8 images [B, H, W, 3].
    """

    description: NetworkDescription
    variables: chex.ArrayTree
    apply: Callable[[chex.ArrayTree, jax.Array], jax.Array]

    @property
    def params(self) -> chex.ArrayTree:
        """Its weights."""
        return self.variables["params"]

    @property
    def preprocess(self) -> Callable[[chex.Array], jax.Array]:
        """Function from uint8 images [B, H, W, 3] to the float32 images that `apply` takes."""
        return self.description.preprocess

    def __call__(self, images: chex.Array) -> jax.Array:
        """Logits of images: uint8 [B, H, W, 3] -> float32 [B, classes]."""
        return self.apply(self.variables, self.preprocess(images))


def make(description: NetworkDescription, variables: chex.ArrayTree, **options: Any) -> Network:
    """A network from its parts; `options` are those of `networks.build`."""
    module = networks.build(description.build_space(), description.encoding, **options)
    return Network(description, variables, jax.jit(module.apply))


def save(folder: pathlib.Path, description: NetworkDescription, variables: chex.ArrayTree) -> None:
    """Writes a network into a folder, which is made; the description comes last, so that with it all is there."""
    with replacing(folder / WEIGHTS) as temporary:
        temporary.write_bytes(serialize(variables, FORMAT))
    write_description(folder, description, (WEIGHTS,))


def serialize(tree: chex.ArrayTree, form: str) -> bytes:
    """The arrays of a tree as a safetensors file, by their paths such as params/stem/conv/kernel."""
    flat = flax.traverse_util.flatten_dict(tree, sep="/")
    arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
    return safetensors.numpy.save(arrays, metadata={"format": form})


def write_description(folder: pathlib.Path, description: NetworkDescription, names: Iterable[str]) -> None:
    """Writes `network.json` with the digests of files that lie in the folder."""
    digests = {name: digest((folder / name).read_bytes()) for name in names}
    write_json(folder / DESCRIPTION, seal({"format": FORMAT, **to_plain(description), FILES: digests}))


def digest(content: bytes) -> str:
    """The sha256 of a file's content."""
    return hashlib.sha256(content).hexdigest()


def read_verified(path: str | os.PathLike[str]) -> bytes:
    """The content of a file of an export, which is compared with its digest before anything parses it.

    A file without a `network.json` beside it, or with one of an earlier version, has no digest to compare with.

    Raises:
      OSError: if the file cannot be read.
      DamagedFileError: in one line, if it is not the file that was written.
    """
    path = pathlib.Path(path)
    content = path.read_bytes()
    described = path.parent / DESCRIPTION
    if described.exists():
        try:
            files = read_document(described).get(FILES)
        except ValueError as error:
            raise DamagedFileError(str(error)) from error
        if files is not None and path.name not in files:
            raise DamagedFileError(f"{path} is no file of this network: {described.name} has no sha256 of it")
        if files is not None and files[path.name] != digest(content):
            raise DamagedFileError(
                f"{path} is not what was written, or is damaged: its sha256 is not that in {described.name}"
            )
    return content


def listed_files(folder: pathlib.Path) -> tuple[str, ...]:
    """The names of the files that `network.json` has digests of; ValueError as `read_description`."""
    return tuple(read_document(folder / DESCRIPTION).get(FILES, ()))


def read_description(folder: pathlib.Path) -> NetworkDescription:
    """Reads `network.json`.

    Raises:
      ValueError: in one line, if the file is missing, damaged, or of something else.
    """
    path = folder / DESCRIPTION
    return parse_description(read_document(path), path)


def read_document(path: pathlib.Path, form: str = FORMAT) -> dict[str, Any]:
    """`network.json`, or the file of networks that share weights, compared with its own digest.

    Raises:
      ValueError: in one line, if the file is missing, damaged, or of another format.
    """
    known = (FORMAT, UNSEALED_FORMAT) if form == FORMAT else (form,)
    try:
        document = read_json(path, LARGEST_DESCRIPTION)
        if not isinstance(document, dict):
            raise ValueError(f"it is no object but {type(document).__name__}")
        if document.get("format") not in known:
            raise ValueError(f"its format is {document.get('format')!r:.60}, not {form!r}")
        if document["format"] == UNSEALED_FORMAT and not {FILES, DIGEST} & document.keys():
            return document
        if not isinstance(document.get(FILES), dict) or document.get(DIGEST) != seal(document)[DIGEST]:
            raise ValueError(f"it is not what was written: its {DIGEST} is another one")
    except OSError as error:
        near = _networks_near(path.parent)
        such = f", such as {near}" if near is not None else ""
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); give the folder of a trained network{such}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} describes no network: {error}") from error
    return document


def _networks_near(given: pathlib.Path) -> pathlib.Path | None:
    """The folder of a network that lies in the one given, as in that of a search, or around the file given."""
    if given.is_file():
        return given.parent if (given.parent / DESCRIPTION).is_file() else None
    below = (path for levels in ("*", "*/*", "*/*/*") for path in sorted(given.glob(f"{levels}/{DESCRIPTION}")))
    return next((path.parent for path in below), None)


def load(folder: pathlib.Path) -> Network:
    """Reads a network that `save` wrote.

    Raises:
      ValueError: in one line, if a file is missing or damaged, or the weights are of another network.
    """
    description = read_description(folder)
    path = folder / WEIGHTS
    try:
        content = read_verified(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    return from_arrays(description, read_arrays(path, content), path)


def read_arrays(path: pathlib.Path, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name; ValueError in one line if it is damaged or holds other numbers."""
    try:
        flat = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} holds no weights, or is damaged ({error})") from error
    except (KeyError, TypeError, OverflowError, MemoryError) as error:  # of a kind of number that numpy has not
        raise ValueError(f"{path} holds no weights, or is damaged ({type(error).__name__})") from error
    for name, array in flat.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"{path} holds {name} as {array.dtype}, but all weights must be finite float32")
    return flat


def from_arrays(description: NetworkDescription, flat: Mapping[str, np.ndarray], path: pathlib.Path) -> Network:
    """A network of a description and its arrays by their paths; ValueError in one line if they are of another one."""
    size = description.image_size
    module = networks.build(description.build_space(), description.encoding)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    wanted = {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(shapes, sep="/").items()}
    found = {name: array.shape for name, array in flat.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(
                f"{path} is of another network: {name} is {found.get(name, 'absent')} there, but must be "
                f"{wanted.get(name, 'absent')}"
            )
    variables = flax.traverse_util.unflatten_dict({k: jnp.asarray(v) for k, v in flat.items()}, sep="/")
    return make(description, variables)
