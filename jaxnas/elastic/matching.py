"""Which leaf of a smaller model is which leaf of the largest one.

Leaves are matched by name. Where layers are numbered as they are made, as by `nn.compact` and in lists, a layer left
out renames all that follow: then they are matched by order, and which of them was left out is a question with several
answers, tried one by one.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

Path = tuple[Any, ...]  # keys from the root of a tree to a leaf: strings and integers
Node = Any  # a nested dictionary, or a leaf
MOST = 8  # matches of a subtree that are looked at, best first


def paths(tree: Any) -> dict[Path, Any]:
    """The leaves of any pytree by their paths."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {tuple(_key(entry) for entry in path): leaf for path, leaf in flat}


def _key(entry: Any) -> Any:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return getattr(entry, attribute)
    return str(entry)


def name_of(path: Path) -> str:
    """A path for people: "Dense_0/kernel", and "state/..." for what is not trained."""
    return "/".join(str(key) for key in (path[1:] if path[:1] == ("params",) else path))


def nested(leaves: Mapping[Path, Any]) -> Node:
    """The nested dictionary with these leaves; what a layer trains and the rest of it stand together."""
    return _nested({(*path[1:], path[0]): leaf for path, leaf in leaves.items()})


def _nested(leaves: Mapping[Path, Any]) -> Node:
    if () in leaves:
        return leaves[()]
    children: dict[Any, dict[Path, Any]] = {}
    for path, leaf in leaves.items():
        children.setdefault(path[0], {})[path[1:]] = leaf
    return {key: _nested(part) for key, part in children.items()}


def matches(large: Node, small: Node) -> Iterator[dict[Path, Path]]:
    """Ways to find each leaf of a smaller tree in a larger one, the likeliest first: small path -> large path.

    Args:
      large: of `nested`.
      small: likewise.
    """
    for match in _matches(large, small):
        yield {(path[-1], *path[:-1]): (other[-1], *other[:-1]) for path, other in match.items()}


def _matches(large: Node, small: Node) -> Iterator[dict[Path, Path]]:
    if not isinstance(large, dict) or not isinstance(small, dict):
        if not isinstance(large, dict) and not isinstance(small, dict) and _fits(large, small):
            yield {(): ()}
        return
    for pairs in _pairings(large, small):
        options = [list(itertools.islice(_matches(large[a], small[b]), MOST)) for a, b in pairs]
        for combination in itertools.product(*options):
            yield {
                (b, *path): (a, *other) for (a, b), match in zip(pairs, combination) for path, other in match.items()
            }


def _fits(large: Any, small: Any) -> bool:
    same = large.dtype == small.dtype and len(large.shape) == len(small.shape)
    return same and all(n >= m for n, m in zip(large.shape, small.shape))


def _pairings(large: dict[Any, Node], small: dict[Any, Node]) -> Iterator[list[tuple[Any, Any]]]:
    """Pairs (large key, small key) of children."""
    if small.keys() <= large.keys():
        yield [(key, key) for key in small]
        if small.keys() == large.keys():
            return
    yield from _one_run_removed(list(large), list(small))
    of_large, of_small = _families(large), _families(small)
    if not of_small.keys() <= of_large.keys():
        return
    options = [list(itertools.islice(_runs_removed(of_large[name], keys), 32)) for name, keys in of_small.items()]
    for combination in itertools.product(*options):
        pairs = [pair for part in combination for pair in part]
        if any(a != b for a, b in pairs):
            yield pairs


def _one_run_removed(large: list[Any], small: list[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """Without one run of layers made after each other, of any kinds, the last first."""
    missing = len(large) - len(small)
    for start in range(len(small), -1, -1) if missing > 0 else ():
        pairs = list(zip(large[:start] + large[start + missing :], small))
        if all(_family(a) == _family(b) for a, b in pairs):
            yield pairs


def _runs_removed(large: list[Any], small: list[Any]) -> Iterator[list[tuple[Any, Any]]]:
    """Without some of the larger family: one run of neighbours, the last first, then any others."""
    missing = len(large) - len(small)
    if missing < 0:
        return
    seen = set()
    for start in range(len(small), -1, -1):
        kept = tuple(large[:start] + large[start + missing :])
        seen.add(kept)
        yield list(zip(kept, small))
    for kept in itertools.combinations(large, len(small)):
        if kept not in seen:
            yield list(zip(kept, small))


def _family(key: Any) -> str:
    """A name without the number at its end."""
    return re.sub(r"\d+$", "", str(key))


def _families(node: dict[Any, Node]) -> dict[str, list[Any]]:
    """Keys that differ in a number at the end, in the order of the numbers."""
    families: dict[str, list[tuple[int, Any]]] = {}
    for key in node:
        name = _family(key)
        families.setdefault(name, []).append((int(str(key)[len(name) :] or -1), key))
    return {name: [key for _, key in sorted(members, key=lambda m: m[0])] for name, members in families.items()}


def renamed(present: Sequence[Path], small: Sequence[Path]) -> dict[Path, Path] | None:
    """Small path -> large path, where `present` are the leaves of the largest model that a smaller one has.

    Returns:
      None if they cannot be the same leaves.

    >>> renamed([("params", "Dense_0"), ("params", "Dense_2")], [("params", "Dense_0"), ("params", "Dense_1")])
    {('params', 'Dense_0'): ('params', 'Dense_0'), ('params', 'Dense_1'): ('params', 'Dense_2')}
    """
    large, smaller = (nested(dict.fromkeys(part)) for part in (present, small))
    found = _same(large, smaller)
    if found is None:
        return None
    return {(path[-1], *path[:-1]): (other[-1], *other[:-1]) for path, other in found.items()}


def _same(large: Node, small: Node) -> dict[Path, Path] | None:
    if not isinstance(large, dict) or not isinstance(small, dict):
        return None if isinstance(large, dict) or isinstance(small, dict) else {(): ()}
    if large.keys() == small.keys():
        pairs = [(key, key) for key in large]
    else:
        of_large, of_small = _families(large), _families(small)
        if {name: len(keys) for name, keys in of_large.items()} != {name: len(k) for name, k in of_small.items()}:
            return None
        pairs = [pair for name, keys in of_large.items() for pair in zip(keys, of_small[name])]
    found: dict[Path, Path] = {}
    for a, b in pairs:
        inner = _same(large[a], small[b])
        if inner is None:
            return None
        found.update({(b, *path): (a, *other) for path, other in inner.items()})
    return found
