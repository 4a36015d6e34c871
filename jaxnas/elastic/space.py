"""Any JAX model as a search space: `elastic`.

A sampled architecture is the largest model with its parameters multiplied by masks, one program for all architectures;
`extract` slices the parameters of the architecture's own model out of them. That both compute the same function is
checked when the space is built.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic import comparison as comparisons
from jaxnas.elastic import counting, matching, sorting
from jaxnas.elastic.choices import choices_of
from jaxnas.elastic.comparison import Comparison
from jaxnas.elastic.discovery import ByHand, discover
from jaxnas.elastic.model_space import ModelSpace, models_of
from jaxnas.elastic.slices import Layout


@dataclass(frozen=True, eq=False)
class ElasticSpace(ModelSpace):
    """The architectures of one model function, which share the weights of the largest one; made by `elastic`.

    Attributes:
      name, decisions, costs: see `SearchSpace`; the costs are "macs", of one example, and "params".
      choices, models: see `ModelSpace`.
      layout: the slices that architectures keep.
      comparison: the models with random parameters, for `check`.
      state: the other variables of the largest model, as initialised.
      params: parameters that a search starts from, sorted; None for fresh ones.
    """

    layout: Layout = None
    comparison: Comparison = None
    state: Any = None
    params: Any = None

    def init_params(self, key: jax.Array) -> Any:
        """Parameters of the largest model, in the form of its framework (nested dictionaries for NNX).

        They are fresh, or those that the space was built with.
        """
        if self.params is not None:
            return self.params
        return comparisons.initial(self.models, self.choices.largest, key)["params"]

    def apply(self, params: Any, inputs: Any, arch: jax.Array, key: jax.Array | None = None) -> Any:
        """Outputs of an architecture: the largest model with masked parameters.

        May be traced, and vmapped over `arch`.

        Args:
          params: of the largest model.
          inputs: the argument of the model's call, or a tuple of all arguments; only the size of the batch may differ
            from the inputs that the space was built with.
          arch: int [D].
          key: random key for training, with dropout; None for evaluation, without. Batch norm uses the statistics of
            the minibatch in both.

        Returns:
          The outputs of the model.

        Raises:
          ValueError: if the inputs have another shape.
        """
        self.check_inputs(inputs)
        variables = self.layout.mask({"params": params, "state": self.state}, jnp.asarray(arch))
        values = self.choices.values(self.choices.largest)
        return self.models.adapter.apply(values, variables, inputs, key)[0]

    def supernet(self) -> "Supernet":
        """The space in the form in which a search takes its supernet."""
        return Supernet(self)

    def extract(self, params: Any, arch: Sequence[int] | np.ndarray) -> Any:
        """The parameters of an architecture's own model, sliced from those of the largest; on the host.

        Args:
          params: parameters of the largest model.
          arch: D choice indices.

        Raises:
          ValueError: if `arch` is not an architecture of the space.
        """
        return self.extract_variables({"params": params, "state": self.state}, arch)["params"]

    def init_own_params(self, key: jax.Array) -> Callable[[Sequence[int] | np.ndarray], Any]:
        """See `ModelSpace`; slices of fresh parameters of the largest model, which are made once."""
        params = self.init_params(key)
        return lambda arch: self.extract(params, arch)

    def extract_variables(self, variables: Any, arch: Sequence[int] | np.ndarray) -> Any:
        """As `extract`, for all variables of the model: {"params": ..., "state": ...}."""
        arch = self.validate(arch)
        leaves = {path: comparisons.on_host(leaf) for path, leaf in matching.paths(variables).items()}
        return jax.tree.map(jnp.asarray, self.models.extract(self.layout, leaves, arch))

    def sort_params(self, params: Any, score: Callable[[Any], jax.Array] | None = None) -> Any:
        """Parameters of the largest model with the most important units first, which slices then keep.

        The function of the model does not change.

        Args:
          params: of the largest model.
          score: function from parameters to a loss on some batches; the importance of a unit is the change of the loss
            without it, to first order. None to sort by magnitude.

        Raises:
          ValueError: if they are not the largest model's parameters.
        """
        leaves = {path: comparisons.on_host(leaf) for path, leaf in matching.paths({"params": params}).items()}
        expected = {path: leaf for path, leaf in self.models.largest.leaves.items() if path[0] == "params"}
        shapes = [{path: leaf.shape for path, leaf in part.items()} for part in (expected, leaves)]
        if shapes[0] != shapes[1]:
            wrong = next(path for path in {**shapes[0], **shapes[1]} if shapes[0].get(path) != shapes[1].get(path))
            raise ValueError(
                f"params must be those of the model with {self.comparison.describe(self.choices.largest)}: leaf "
                f"{matching.name_of(wrong)} has shape {shapes[1].get(wrong)}, not {shapes[0].get(wrong)}"
            )
        leaves |= {path: leaf for path, leaf in self.comparison.leaves.items() if path[0] != "params"}
        ordered = sorting.sort(self.layout, self.comparison, leaves, score)
        return jax.tree.map(jnp.asarray, self.models.largest.tree(ordered)["params"])

    def check(self, archs: Sequence[Sequence[int]] | None = None) -> "Check":
        """Compares masked with extracted outputs.

        Args:
          archs: int [N, D]; None for every choice of every decision, with all other decisions at their largest.

        Returns:
          A table of differences, relative to the largest output.
        """
        if archs is None:
            archs = [
                self.choices.changed(decision, choice)
                for decision, count in enumerate(self.num_choices)
                for choice in range(count - (decision > 0))
            ]
        archs = [self.validate(arch) for arch in archs]
        return Check(tuple((self.describe(arch), self.comparison.difference(self.layout, arch)) for arch in archs))

    def _state(self, arch: Sequence[int] | np.ndarray) -> Any:
        """What the largest model has beside parameters, at the size of an architecture."""
        return self.extract_variables(self._initial(), arch)["state"]

    def _initial(self) -> Any:
        leaves = self.models.largest.leaves
        zeros = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in leaves.items() if path[0] == "params"}
        return {"params": self._params_tree(zeros), "state": self.state}

    def _params_tree(self, leaves: Mapping[Any, Any]) -> Any:
        abstract = self.models.largest
        placeholders = {path: leaves.get(path, 0) for path in abstract.leaves}
        return abstract.tree(placeholders)["params"]


@dataclass(frozen=True)
class Supernet:
    """An elastic space as a search takes its supernet.

    Attributes:
      space: the space.
    """

    space: ElasticSpace

    def init_params(self, key: jax.Array) -> Any:
        """Fresh parameters of the largest model."""
        return self.space.init_params(key)

    def apply(self, variables: Mapping[str, Any], inputs: Any, arch: jax.Array, key: jax.Array | None = None) -> Any:
        """Outputs of an architecture from {"params": ...}; see `ElasticSpace.apply`."""
        return self.space.apply(variables["params"], inputs, arch, key)


@dataclass(frozen=True)
class Check:
    """Differences of masked and extracted outputs.

    Attributes:
      rows: (description, largest difference relative to the largest output).
    """

    rows: tuple[tuple[str, float], ...]

    @property
    def largest(self) -> float:
        """The largest difference."""
        return max(difference for _, difference in self.rows)

    def __str__(self) -> str:
        width = max(len(description) for description, _ in self.rows)
        return "\n".join(f"{description:<{width}}  {difference:.1e}" for description, difference in self.rows)


def elastic(
    make: Callable[..., Any],
    inputs: Any,
    *,
    slices: ByHand | None = None,
    params: Any = None,
    score: Callable[[Any], jax.Array] | None = None,
    name: str | None = None,
    **choices: tuple[Any, ...] | list[tuple[Any, ...]],
) -> ElasticSpace:
    """Makes a search space of any JAX model, unchanged.

    Args:
      make: function from hyperparameters to a model: a Flax Linen module, a Flax NNX module (`make` may take `rngs`),
        or a pair of functions `init(key)` and `apply(params, inputs)`.
      inputs: inputs of one call, a batch of real examples or of random numbers: the argument, or a tuple of all
        arguments. The first axis is the batch.
      slices: the slices to keep where they are not found: {leaf name: {axis: "leading", "middle", "trailing", a number
        of groups (leading in each), or the positions that each choice keeps}}.
      params: parameters of the largest model that a search starts from; sorted by `ElasticSpace.sort_params`.
      score: see `ElasticSpace.sort_params`.
      name: name of the space; None for the name of `make`.
      **choices: for each argument of `make` to search, a tuple of choices, smallest to largest (one decision), or a
        list of such tuples (one decision for each entry; `make` gets a tuple of values).

    Returns:
      The space, with the costs "macs" (multiply-adds of one example) and "params". Its masked and extracted models were
      found to compute the same functions.

    Raises:
      ValueError: if choices are not ascending or change nothing, or if masks cannot be exact; the message then names
        decision, leaf, difference, likely cause and remedy.
    """
    parsed = choices_of(choices)
    models = models_of(make, parsed, inputs)
    comparison = comparisons.prepare(models)
    layout = discover(comparison, slices or {})
    costs = (counting.macs_cost(models, layout), counting.params_cost(models, layout))
    space = ElasticSpace(
        name=name or f"elastic {getattr(make, '__name__', type(make).__name__)}",
        decisions=parsed.decisions,
        costs=costs,
        choices=parsed,
        models=models,
        layout=layout,
        comparison=comparison,
        state=jax.tree.map(jnp.asarray, models.largest.tree(comparison.leaves)["state"]),
    )
    return space if params is None else replace(space, params=space.sort_params(params, score))
