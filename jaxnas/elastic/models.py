"""The models of all architectures of a space: by shapes alone, as functions, and sliced from the largest."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic import matching, programs
from jaxnas.elastic.adapters import Adapter, Variables
from jaxnas.elastic.choices import Choices
from jaxnas.elastic.matching import Path
from jaxnas.elastic.slices import Layout


def is_number(leaf: Any) -> bool:
    """Whether a leaf is an array of floating-point numbers, and not of integers or random keys."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


@dataclass(frozen=True)
class Abstract:
    """A model by shapes alone.

    Attributes:
      structure: tree of its variables.
      leaves: path -> shape and type.
      order: paths of parameters in the order in which they are made, as far as it is known.
    """

    structure: Any
    leaves: dict[Path, jax.ShapeDtypeStruct]
    order: tuple[Path, ...] = ()

    @functools.cached_property
    def sliced(self) -> dict[Path, jax.ShapeDtypeStruct]:
        """The leaves that are slices of the largest model's: all but counters, random keys and tables of indices.

        Those whose order is known come first.
        """
        first = [path for path in self.order if path in self.leaves]
        sliced = {path: self.leaves[path] for path in (*first, *self.leaves)}
        return {path: leaf for path, leaf in sliced.items() if path[0] == "params" or is_number(leaf)}

    def tree(self, leaves: Mapping[Path, Any]) -> Any:
        """The variables with these leaves."""
        return jax.tree.unflatten(self.structure, [leaves[path] for path in self.leaves])


@dataclass(frozen=True, eq=False)
class Models:
    """The models of all architectures, built when they are asked for.

    Attributes:
      adapter: of the user's framework.
      choices: of the space.
      inputs: of one call.
    """

    adapter: Adapter
    choices: Choices
    inputs: Any

    def abstract(self, arch: np.ndarray) -> Abstract:
        """Shapes of an architecture's variables."""
        return self._abstract(tuple(np.asarray(arch).tolist()))

    @functools.cached_property
    def _abstract(self) -> Callable[[tuple[int, ...]], Abstract]:
        @functools.lru_cache(maxsize=4096)
        def abstract(arch: tuple[int, ...]) -> Abstract:
            values = self.choices.values(arch)
            try:
                tree, order = self.adapter.shapes(values, self.inputs)
            except Exception as error:
                error.add_note(f"while building make({', '.join(f'{k}={v!r}' for k, v in values.items())})")
                raise
            return Abstract(jax.tree.structure(tree), matching.paths(tree), tuple(("params", *p) for p in order))

        return abstract

    @property
    def largest(self) -> Abstract:
        """Shapes of the largest model."""
        return self.abstract(self.choices.largest)

    def extract(self, layout: Layout, leaves: Mapping[Path, Any], arch: np.ndarray) -> Variables:
        """The variables of an architecture's own model, sliced from those of the largest.

        What is no slice is the largest model's where it has the same shape, and else as the model itself begins.
        """
        abstract = self.abstract(arch)
        extracted = layout.extract(leaves, arch, list(abstract.sliced))
        own = {path: leaf for path, leaf in abstract.leaves.items() if path not in abstract.sliced}
        extracted |= {path: leaves[path] for path in own if path in leaves and leaves[path].shape == own[path].shape}
        if len(extracted) < len(abstract.leaves):
            begun = matching.paths(initial(self, arch, jax.random.key(0)))
            extracted |= {path: begun[path] for path in own if path not in extracted}
        return abstract.tree(extracted)

    def function(self, arch: np.ndarray) -> Callable[[Variables, Any], Any]:
        """(variables, inputs) -> outputs of an architecture's own model, in evaluation."""
        values = self.choices.values(arch)
        return lambda variables, inputs: self.adapter.apply(values, variables, inputs)[0]


def initial(models: Models, arch: np.ndarray, key: jax.Array) -> Variables:
    """Fresh variables of an architecture's own model."""
    values = models.choices.values(arch)

    def init(key: jax.Array) -> Variables:
        return models.adapter.init(values, key, models.inputs)

    return programs.compile_fast(init, key)(key)


def on_host(leaf: Any) -> Any:
    """A leaf as a numpy array; random keys stay what they are."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


def accepts(models: Models, inputs: Any) -> bool:
    """Whether the largest model, with the variables it has, can be called with these inputs."""
    largest = models.largest
    try:
        jax.eval_shape(models.function(models.choices.largest), largest.tree(largest.leaves), inputs)
    except Exception:  # whatever a user's model raises on a shape that is not its own
        return False
    return True
