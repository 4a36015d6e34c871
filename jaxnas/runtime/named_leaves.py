"""The leaves of a pytree as named numpy arrays on the host and back again, bit by bit.

What a checkpoint holds: every leaf with its name, typed random keys as the integers inside them.
"""

import dataclasses
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf on the host.

    Attributes:
      name: its path in the tree, such as "params/head/kernel".
      value: its value; of a typed random key the data.
      key: the generator of a typed random key, such as "threefry2x32", else None.
    """

    name: str
    value: np.ndarray
    key: str | None

    def signature(self) -> dict[str, Any]:
        """What must agree for the leaf to fit into a tree."""
        return _signature(self.name, self.value, self.key)


def to_host(tree: chex.ArrayTree) -> list[Leaf]:
    """Copies the leaves of a tree to the host.

    Raises:
      ValueError: if the tree has no leaves, or leaves that are no arrays, random keys or numbers.
    """
    named, _ = _flatten(tree)
    keys = [_generator(leaf) for _, leaf in named]
    data = [jax.random.key_data(leaf) if key else leaf for (_, leaf), key in zip(named, keys)]
    for leaf in data:
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # All transfers at once, before the first is waited for.
    # A copy, because on CPUs the host's view of a jax.Array is the very buffer that the caller may donate.
    leaves = [Leaf(name, np.array(value, order="C"), key) for (name, _), value, key in zip(named, data, keys)]
    wrong = [leaf.name for leaf in leaves if leaf.value.dtype.kind in "OUSMm"]
    if wrong or not leaves:
        raise ValueError(f"state must be a tree of arrays, random keys and numbers, got {wrong or 'no leaf at all'}")
    return leaves


def from_host(leaves: dict[str, Leaf], like: chex.ArrayTree) -> chex.ArrayTree:
    """Puts leaves into the structure of `like`, as the types that its leaves have and on their devices.

    Args:
      leaves: a leaf for each name, with the signature that `signatures(like)` tells.
      like: pytree of arrays, `jax.ShapeDtypeStruct` or numbers.
    """
    named, structure = _flatten(like)
    return jax.tree_util.tree_unflatten(structure, [_place(leaves[name], leaf) for name, leaf in named])


def signatures(tree: chex.ArrayTree) -> dict[str, dict[str, Any]]:
    """Name, shape, dtype and random generator of every leaf, by name, as they will be on the host."""
    result = {}
    for name, leaf in _flatten(tree)[0]:
        key = _generator(leaf)
        value = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if key:
            value = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        result[name] = _signature(name, value, key)
    return result


def _signature(name: str, value: Any, key: str | None) -> dict[str, Any]:
    return {"name": name, "shape": list(value.shape), "dtype": str(value.dtype), "key": key}


def _flatten(tree: chex.ArrayTree) -> tuple[list[tuple[str, Any]], Any]:
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = [(jax.tree_util.keystr(path, simple=True, separator="/") or "value", leaf) for path, leaf in paths]
    if len({name for name, _ in named}) < len(named):
        raise ValueError("state has two leaves of the same name; avoid '/' in the keys of its dictionaries")
    return named, structure


def _generator(leaf: Any) -> str | None:
    if not (hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)):
        return None
    found = []
    # Traced, for a jax.ShapeDtypeStruct cannot be asked.
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), jax.ShapeDtypeStruct((), leaf.dtype))
    return str(found[0])


def _place(leaf: Leaf, like: Any) -> Any:
    if isinstance(like, np.generic):
        return leaf.value[()]
    if isinstance(like, bool | int | float | complex):
        return leaf.value.item()
    if isinstance(like, np.ndarray):
        return leaf.value
    array = jnp.asarray(leaf.value)
    if leaf.key is not None:
        array = jax.random.wrap_key_data(array, impl=leaf.key)
    # Only what was committed to its devices may be again: a committed array refuses to meet others elsewhere.
    committed = getattr(like, "committed", getattr(like, "sharding", None) is not None)
    return jax.device_put(array, like.sharding) if committed else array
