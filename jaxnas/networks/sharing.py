"""K networks of one supernet, with everything that several of them have in common kept once."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import flax.traverse_util
import jax
import numpy as np

from jaxnas.networks.warm_start import inherit
from jaxnas.spaces import SearchSpace

SEPARATOR = "/"


class Part(NamedTuple):
    """A part of a shared array, as networks have it whose supernet shares by slices.

    Attributes:
      name: of the array.
      bounds: where the part begins and ends along each axis.
    """

    name: str
    bounds: tuple[tuple[int, int], ...]


# The name of a shared array, or a part of it, for each array of a network, all by their paths, such as
# {"layer_2/expand/conv/kernel": "1/layer_2/expand/conv/kernel"}: the second array that networks have at this path.
Recipe = Mapping[str, str | Part]


def share(
    space: SearchSpace, archs: Sequence[Sequence[int]], params: chex.ArrayTree
) -> tuple[chex.ArrayTree, tuple[Recipe, ...]]:
    """The weights of K networks out of those of their supernet.

    Two networks share what both inherit of the supernet for the same part of the network: an array, or, where the
    supernet shares by slices, the part that their slices have in common. Several slices become one array, just as large
    as all of them need, in which 0 stands where none of them has anything.

    Args:
      space: the search space at the supernet's width and number of classes.
      archs: K architectures, D choices each.
      params: of the supernet, float32.

    Returns:
      The shared arrays, as a tree, and a recipe for each network, see `take`.

    Raises:
      ValueError: if the space's type has no networks.
    """
    params = jax.tree.map(np.asarray, jax.device_get(params))
    numbered = _numbered(params)
    networks = [_flat(inherit(space, arch, numbered)) for arch in archs]
    pieces: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for network in networks:
        for path, numbers in network.items():
            _add(pieces[path], numbers)
    elements = np.concatenate([np.zeros(1, np.float32), *(leaf.ravel() for leaf in jax.tree.leaves(params))])
    shared = {
        SEPARATOR.join((str(variant), path)): elements[piece]
        for path, found in pieces.items()
        for variant, piece in enumerate(found)
    }
    recipes = [{path: _find(pieces[path], numbers, path) for path, numbers in network.items()} for network in networks]
    return _nested(shared), tuple(recipes)


def take(shared: chex.ArrayTree, recipe: Recipe) -> dict[str, Any]:
    """The "params" of one network, out of shared arrays or of what belongs to each of them; works inside jit."""
    arrays = _flat(shared)
    return _nested({path: take_array(arrays, source) for path, source in recipe.items()})


def take_array(arrays: Mapping[str, Any], source: str | Part) -> Any:
    """What a recipe says of one array: shared arrays by their names -> the array of the network."""
    if isinstance(source, str):
        return arrays[source]
    return arrays[source.name][tuple(slice(*bounds) for bounds in source.bounds)]


def _numbered(params: chex.ArrayTree) -> chex.ArrayTree:
    """A number of its own, from 1 on, in place of each element."""
    leaves, structure = jax.tree.flatten(params)
    first = np.cumsum([1, *(leaf.size for leaf in leaves)])
    numbers = [np.arange(begin, begin + leaf.size).reshape(leaf.shape) for begin, leaf in zip(first, leaves)]
    return jax.tree.unflatten(structure, numbers)


def _add(pieces: list[np.ndarray], numbers: np.ndarray) -> None:
    """Has numbers among the pieces: in the one that they overlap, which grows, else as a new one; 0 is for nothing."""
    for index, piece in enumerate(pieces):
        offset = _offset(piece, numbers)
        if offset is not None:
            low = np.minimum(0, offset)
            whole = np.zeros(np.maximum(piece.shape, offset + numbers.shape) - low, piece.dtype)
            for part, place in ((piece, -low), (numbers, offset - low)):
                window = whole[_slices(place, part.shape)]
                np.copyto(window, part, where=part > 0)
            pieces[index] = whole
            return
    pieces.append(numbers)


def _find(pieces: list[np.ndarray], numbers: np.ndarray, path: str) -> str | Part:
    """Where the numbers of a network are among the pieces of a path."""
    variant, offset = next(
        (variant, offset)
        for variant, offset in enumerate(_offset(piece, numbers) for piece in pieces)
        if offset is not None
    )
    name = SEPARATOR.join((str(variant), path))
    if numbers.shape == pieces[variant].shape:
        return name
    return Part(name, tuple((begin, begin + size) for begin, size in zip(offset.tolist(), numbers.shape)))


def _offset(piece: np.ndarray, numbers: np.ndarray) -> np.ndarray | None:
    """Where numbers begin in the coordinates of a piece of the same supernet; None if they have nothing in common."""
    if piece.shape == numbers.shape and piece.flat[0] == numbers.flat[0]:
        return np.zeros(piece.ndim, np.int64)
    if numbers.flat[-1] < piece[piece > 0].min() or piece.max() < numbers.flat[0]:  # they ascend
        return None
    common = np.isin(numbers, piece)
    if not common.any():
        return None
    here = np.unravel_index(common.argmax(), common.shape)
    there = np.unravel_index((piece == numbers[here]).argmax(), piece.shape)
    return np.subtract(there, here)


def _slices(begin: np.ndarray, shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(first, first + size) for first, size in zip(begin, shape))


def _flat(tree: chex.ArrayTree) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep=SEPARATOR)


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.unflatten_dict(dict(arrays), sep=SEPARATOR)
