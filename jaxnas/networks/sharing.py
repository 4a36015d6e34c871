"""K networks of one supernet, with every array that several of them have in common kept once."""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import chex
import flax.traverse_util
import jax
import numpy as np

from jaxnas.networks.warm_start import inherit
from jaxnas.spaces import SearchSpace

# The name of a shared array for each array of a network, both by their paths, such as
# {"layer_2/expand/conv/kernel": "1/layer_2/expand/conv/kernel"}: the second array that networks have at this path.
Recipe = Mapping[str, str]
SEPARATOR = "/"


def share(
    space: SearchSpace, archs: Sequence[Sequence[int]], params: chex.ArrayTree
) -> tuple[chex.ArrayTree, tuple[Recipe, ...]]:
    """The weights of K networks out of those of their supernet.

    Two networks share an array where both inherit the same elements of the supernet for the same part of the network.

    Args:
      space: the search space at the supernet's width and number of classes.
      archs: K architectures, D choices each.
      params: of the supernet.

    Returns:
      The shared arrays, as a tree, and a recipe for each network, see `take`.

    Raises:
      ValueError: if the space's type has no networks.
    """
    params = jax.tree.map(np.asarray, jax.device_get(params))
    numbered = _numbered(params)
    shared: dict[str, np.ndarray] = {}
    names: dict[tuple[str, bytes], str] = {}
    variants: collections.Counter[str] = collections.Counter()
    recipes = []
    for arch in archs:
        own, elements = (_flat(inherit(space, arch, tree)) for tree in (params, numbered))
        recipe = {}
        for path, array in own.items():
            identity = path, hashlib.sha256(np.ascontiguousarray(elements[path])).digest()
            if identity not in names:
                names[identity] = SEPARATOR.join((str(variants[path]), path))
                shared[names[identity]] = array
                variants[path] += 1
            recipe[path] = names[identity]
        recipes.append(recipe)
    return _nested(shared), tuple(recipes)


def take(shared: chex.ArrayTree, recipe: Recipe) -> dict[str, Any]:
    """The "params" of one network, out of shared arrays or of what belongs to each of them; works inside jit."""
    arrays = _flat(shared)
    return _nested({path: arrays[name] for path, name in recipe.items()})


def _numbered(params: chex.ArrayTree) -> chex.ArrayTree:
    """A number of its own in place of each element."""
    leaves, structure = jax.tree.flatten(params)
    first = np.cumsum([0, *(leaf.size for leaf in leaves)])
    numbers = [np.arange(begin, begin + leaf.size).reshape(leaf.shape) for begin, leaf in zip(first, leaves)]
    return jax.tree.unflatten(structure, numbers)


def _flat(tree: chex.ArrayTree) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep=SEPARATOR)


def _nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.unflatten_dict(dict(arrays), sep=SEPARATOR)
