"""The largest model with masked variables against the extracted model: how far their outputs are apart.

Both are compared in evaluation, in float32 at least and with random bits of 0 (`programs.exact_form`), on the user's
inputs, or random ones where those are constant, and on random parameters: fresh ones hide much behind zeros.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic import matching, programs
from jaxnas.elastic.matching import Path
from jaxnas.elastic.models import Models, accepts, initial, is_number, on_host
from jaxnas.elastic.slices import Layout

TOLERANCE = 1e-4  # relative to the largest output; float32 rounding is below 1e-5, the least inexact model above 1e-2
EXAMPLES = 4
DRAWS = 6  # of parameters and inputs, to tell resting units from masked ones


@dataclass(frozen=True, eq=False)
class Comparison:
    """Models with random parameters, ready to be compared.

    Attributes:
      models: of the space.
      inputs: that they are compared on.
      leaves: random variables of the largest model.
    """

    models: Models
    inputs: Any
    leaves: dict[Path, Any]

    def masked_leaves(self, layout: Layout, arch: np.ndarray) -> dict[Path, Any]:
        """The variables with 0 in all that an architecture does not have; on the host."""
        masks = layout.masks(arch)
        return {
            path: np.where(masks[path], leaf, np.zeros((), leaf.dtype)) if path in masks and is_number(leaf) else leaf
            for path, leaf in self.leaves.items()
        }

    def masked(self, layout: Layout, arch: np.ndarray) -> list[np.ndarray]:
        """Outputs of the largest model with masked variables."""
        return self.run_largest(self.masked_leaves(layout, arch))

    def run_largest(self, leaves: Mapping[Path, Any]) -> list[np.ndarray]:
        """Outputs of the largest model."""
        return self.numbers(self._largest(self.models.largest.tree(leaves), self.inputs))

    @functools.cached_property
    def _largest(self) -> Callable[..., Any]:
        function = programs.exact_form(self.models.function(self.models.choices.largest))
        return programs.compile_fast(function, self.models.largest.tree(self.leaves), self.inputs)

    def extracted(self, layout: Layout, arch: np.ndarray, zero_units: bool = False) -> list[np.ndarray]:
        """Outputs of an architecture's own model with sliced variables."""
        variables = self.models.extract(layout, self.leaves, arch)
        return self.numbers(self._extracted(tuple(np.asarray(arch).tolist()), zero_units)(variables, self.inputs))

    @functools.cached_property
    def _extracted(self) -> Callable[[tuple[int, ...], bool], Callable[..., Any]]:
        @functools.lru_cache(maxsize=64)
        def compiled(arch: tuple[int, ...], zero_units: bool) -> Callable[..., Any]:
            abstract = self.models.abstract(np.asarray(arch))
            function = programs.exact_form(self.models.function(np.asarray(arch)), zero_units)
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.inputs)
            return programs.compile_fast(function, abstract.tree(abstract.leaves), shapes)

        return compiled

    @staticmethod
    def numbers(outputs: Any) -> list[np.ndarray]:
        """The floating-point outputs, float32."""
        leaves = [leaf for leaf in jax.tree.leaves(outputs) if hasattr(leaf, "dtype")]
        return [np.asarray(leaf, np.float32) for leaf in leaves if is_number(leaf)]

    def difference(self, layout: Layout, arch: np.ndarray) -> float:
        """Largest difference of masked and extracted outputs, relative to the largest output.

        Raises:
          ValueError: if the slices do not fit the model, or its outputs have another shape.
        """
        self.check_shapes(layout, arch)
        return distance(self.masked(layout, arch), self.extracted(layout, arch), self.describe(arch))

    def check_shapes(self, layout: Layout, arch: np.ndarray) -> None:
        """Raises ValueError unless the slices have the shapes of the architecture's own model."""
        abstract = self.models.abstract(arch)
        names = layout.names(arch, list(abstract.sliced))
        for path, leaf in abstract.sliced.items():
            if layout.shape(names[path], arch) != leaf.shape:
                raise ValueError(
                    f"leaf {matching.name_of(names[path])} has shape {leaf.shape} for {self.describe(arch)}, where the "
                    f"choices one by one leave {layout.shape(names[path], arch)}: a size must be a sum or product of "
                    f"what single decisions give, not their maximum; make one decision of them"
                )

    def describe(self, arch: np.ndarray) -> str:
        """The hyperparameters of an architecture, for messages."""
        return ", ".join(f"{name}={value!r}" for name, value in self.models.choices.values(arch).items())

    def live(self, leaves: Mapping[Path, Any]) -> dict[Path, np.ndarray]:
        """Where the outputs of the largest model depend on its variables: leaf -> bool, of the leaf's shape.

        A unit may rest on a few examples: several draws of parameters and inputs are looked at.
        """
        rng = np.random.default_rng(0)
        found: dict[Path, np.ndarray] = {}
        for draw in range(DRAWS):
            scale = 0.5 if draw else 0.0
            varied = {
                path: _disturbed(leaf, rng, scale, keep=True) if path[0] == "params" and is_number(leaf) else leaf
                for path, leaf in leaves.items()
            }
            sign = -1.0 if draw % 2 else 1.0
            inputs = jax.tree.map(lambda x, sign=sign: (sign * x).astype(x.dtype) if is_number(x) else x, self.inputs)
            gradients = self._gradients(self.models.largest.tree(varied), inputs)
            for path, leaf in matching.paths(gradients).items():
                if is_number(leaf):
                    live = np.asarray(leaf) != 0
                    found[path] = found[path] | live if path in found else live
        return found

    @functools.cached_property
    def _gradients(self) -> Callable[..., Any]:
        function = self.models.function(self.models.choices.largest)

        def total(numbers: list[Any], others: list[Any], inputs: Any) -> jax.Array:
            outputs = function(join(numbers, others), inputs)
            leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(outputs) if is_number(leaf)]
            keys = jax.random.split(jax.random.key(0), len(leaves))
            return sum((leaf * jax.random.normal(key, leaf.shape)).sum() for key, leaf in zip(keys, leaves))

        structure = self.models.largest.structure
        flags = [is_number(leaf) for leaf in self.models.largest.leaves.values()]

        def join(numbers: list[Any], others: list[Any]) -> Any:
            parts = {True: iter(numbers), False: iter(others)}
            return jax.tree.unflatten(structure, [next(parts[flag]) for flag in flags])

        def gradients(variables: Any, inputs: Any) -> Any:
            leaves = jax.tree.leaves(variables)
            numbers = [leaf for leaf, flag in zip(leaves, flags) if flag]
            others = [leaf for leaf, flag in zip(leaves, flags) if not flag]
            found = jax.grad(total)(numbers, others, inputs)
            return join(found, [jnp.zeros(leaf.shape, jnp.int32) for leaf in others])

        return programs.compile_fast(gradients, self.models.largest.tree(self.leaves), self.inputs)


def distance(masked: list[np.ndarray], extracted: list[np.ndarray], described: str) -> float:
    """Largest difference of two lists of outputs, relative to the largest of the second.

    Raises:
      ValueError: if their shapes differ.
    """
    shapes = [[output.shape for output in outputs] for outputs in (masked, extracted)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"outputs must have one shape whatever is chosen, got {shapes[1]} for {described} and {shapes[0]} for the "
            f"largest model; keep the last layer's size fixed"
        )
    differences = [0.0]
    for a, b in zip(masked, extracted):
        if b.size:
            scale = np.abs(b).max() or np.abs(a).max() or 1.0
            with np.errstate(invalid="ignore"):
                difference = float(np.abs(a - b).max() / scale)
            differences.append(difference if np.isfinite(difference) else np.inf)
    return max(differences)


def prepare(models: Models) -> Comparison:
    """Random parameters and inputs to compare models on.

    Raises:
      ValueError: if the largest model's outputs are not finite or all 0 on them.
    """
    rng = np.random.default_rng(0)
    inputs = _inputs(models, rng)
    variables = initial(models, models.choices.largest, jax.random.key(0))
    leaves = {path: on_host(leaf) for path, leaf in matching.paths(variables).items()}
    for scale in (0.1, 0.01, 0.0):
        random = {
            path: _disturbed(leaf, rng, scale) if path[0] == "params" and is_number(leaf) else leaf
            for path, leaf in leaves.items()
        }
        comparison = Comparison(models, inputs, random)
        outputs = comparison.run_largest(random)
        if outputs and all(np.isfinite(output).all() for output in outputs) and any(o.any() for o in outputs):
            return comparison
    raise ValueError(
        "inputs must give the largest model finite outputs that are not all 0, got "
        f"{'none of floating point' if not outputs else 'others'}; give real data as inputs"
    )


def _disturbed(leaf: np.ndarray, rng: np.random.Generator, scale: float, keep: bool = False) -> np.ndarray:
    """A leaf with noise, so that no zeros and ones hide what depends on it; what must be positive stays so.

    Args:
      leaf: parameters.
      rng: random numbers.
      scale: of the noise, relative to the parameter; absolute where that is 0.
      keep: whether zeros stay, being masked.
    """
    value = np.asarray(leaf, np.float32)
    noise = rng.standard_normal(leaf.shape).astype(np.float32) * scale
    return np.where(value == 0, 0 if keep else noise, value * np.exp(noise)).astype(leaf.dtype)


def _inputs(models: Models, rng: np.random.Generator) -> Any:
    """A few examples, random where all are the same; the inputs as they are if the model takes no fewer or more."""
    leaves, structure = jax.tree.flatten(models.inputs)
    leaves = [np.asarray(leaf) for leaf in leaves]
    as_given = jax.tree.unflatten(structure, [_varied(leaf, leaf.shape, rng) for leaf in leaves])
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
    if sizes == {EXAMPLES} or len(sizes) > 1 or None in sizes:
        return as_given
    few = jax.tree.unflatten(structure, [_varied(leaf, (EXAMPLES, *leaf.shape[1:]), rng) for leaf in leaves])
    return few if accepts(models, few) else as_given


def _varied(leaf: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if is_number(leaf) and np.asarray(leaf, np.float32).std() == 0:
        return rng.standard_normal(shape).astype(leaf.dtype)
    if leaf.shape == shape:
        return leaf
    if len(leaf) >= shape[0]:
        return leaf[: shape[0]]
    if is_number(leaf):
        value = np.asarray(leaf, np.float32)
        return (value.mean() + value.std() * rng.standard_normal(shape)).astype(leaf.dtype)
    return rng.choice(leaf.reshape(-1), size=shape) if leaf.size else np.zeros(shape, leaf.dtype)
