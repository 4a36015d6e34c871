"""A trained network as a folder: what it is in JSON, its weights in safetensors. Neither can run code when it is read.

network.json          space, encoding, width, image size, classes, normalisation, figures, versions
weights.safetensors   float32 arrays by their path in the network's variables, such as params/stem/conv/kernel
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxnas import data, networks
from jaxnas.results.files import replacing, to_plain, write_json
from jaxnas.spaces import SPACES, SearchSpace

DESCRIPTION, WEIGHTS = "network.json", "weights.safetensors"
FORMAT = "jaxnas network 1"


@dataclasses.dataclass(frozen=True)
class NetworkDescription:
    """What a trained network is.

    Attributes:
      space: name of its search space.
      encoding: its D choices.
      width: factor on the space's channels.
      image_size: height and width of its images.
      num_classes: outputs.
      dataset: what it was trained on.
      mean: mean of each channel, of values scaled to [0, 1], that images are normalised with.
      std: standard deviations, likewise.
      test_accuracy: in [0, 1]; None if unknown.
      trained_with: settings of the training.
      versions: of the software that trained it.
      class_names: of the outputs; empty where classes have none.
      crop: share of an image's shorter side that the central square has which the network is shown, in (0, 1].
    """

    space: str
    encoding: tuple[int, ...]
    width: float
    image_size: int
    num_classes: int
    dataset: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    test_accuracy: float | None = None
    trained_with: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    crop: float = 1.0

    def class_name(self, label: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[label] if self.class_names else str(label)

    def build_space(self) -> SearchSpace:
        """The search space at this width, image size and number of classes; ValueError if it is not known."""
        if self.space not in SPACES:
            raise ValueError(f"space must be one of {', '.join(SPACES)}, got {self.space!r}")
        return SPACES[self.space](width=self.width, image_size=self.image_size, num_classes=self.num_classes)

    def preprocess(self, images: chex.Array) -> jax.Array:
        """uint8 [B, H, W, 3] -> float32 [B, H, W, 3], as the network wants its images."""
        images = jnp.asarray(images)
        size = self.image_size
        if images.dtype != jnp.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must be uint8 [B, {size}, {size}, 3], got {images.dtype} {list(images.shape)}")
        return data.normalize(images, self.mean, self.std)


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A trained network, ready to use.

    Attributes:
      description: what it is.
      variables: "params" and "batch_stats".
      apply: (variables, float32 images [B, H, W, 3] as `description.preprocess` gives them) -> logits [B, classes].

    `network(images)` is the logits of uint8 images.
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
        """uint8 images [B, H, W, 3] -> what `apply` takes."""
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
    flat = flax.traverse_util.flatten_dict(variables, sep="/")
    with replacing(folder / WEIGHTS) as temporary:
        arrays = {name: np.ascontiguousarray(array) for name, array in flat.items()}
        safetensors.numpy.save_file(arrays, temporary, metadata={"format": FORMAT})
    write_json(folder / DESCRIPTION, {"format": FORMAT, **to_plain(description)})


def read_description(folder: pathlib.Path) -> NetworkDescription:
    """Reads `network.json`.

    Raises:
      ValueError: in one line, if the file is missing, damaged, or of something else.
    """
    path = folder / DESCRIPTION
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']!r}, not {FORMAT!r}")
        names = [field.name for field in dataclasses.fields(NetworkDescription)]
        fields = {name: document[name] for name in names if name in document}
        fields |= {name: tuple(fields[name]) for name in ("encoding", "mean", "std", "class_names") if name in fields}
        description = NetworkDescription(**fields)
        description.build_space().validate(description.encoding)
        _check_numbers(description)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); give the folder of a trained network") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} describes no network: {error}") from error
    return description


def _check_numbers(description: NetworkDescription) -> None:
    for name in ("mean", "std"):
        values = getattr(description, name)
        if len(values) != 3 or not all(isinstance(value, int | float) for value in values) or min(values) < 0:
            raise ValueError(f"{name} must be three numbers that are not negative, is {values!r}")
    names, count = description.class_names, description.num_classes
    if names and (len(names) != count or not all(isinstance(name, str) for name in names)):
        raise ValueError(f"class_names must be {count} texts or none, is {names!r}")
    if not isinstance(description.crop, int | float) or not 0 < description.crop <= 1:
        raise ValueError(f"crop must be in (0, 1], is {description.crop!r}")
    if min(description.std) <= 0:
        raise ValueError(f"std must be positive, is {description.std!r}")


def load(folder: pathlib.Path) -> Network:
    """Reads a network that `save` wrote.

    Raises:
      ValueError: in one line, if a file is missing or damaged, or the weights are of another network.
    """
    description = read_description(folder)
    path = folder / WEIGHTS
    try:
        flat = safetensors.numpy.load_file(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} holds no weights, or is damaged ({error})") from error
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
