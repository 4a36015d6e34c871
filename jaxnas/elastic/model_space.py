"""A space of models, each at its own size: hyperparameters, shapes, models and their inference.

It has no shared weights and is built at once: networks that were found and saved are read with it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnas.cost import Cost
from jaxnas.elastic import calibration, counting
from jaxnas.elastic import comparison as comparisons
from jaxnas.elastic.adapters import adapter_of
from jaxnas.elastic.choices import Choices, check_arguments
from jaxnas.elastic.comparison import Models
from jaxnas.spaces.base import SearchSpace


@dataclass(frozen=True, eq=False)
class ModelSpace(SearchSpace):
    """The models that a function makes.

    Attributes:
      name, decisions, costs: see `SearchSpace`.
      choices: the decisions with their values.
      models: the models of all architectures.
    """

    choices: Choices = None
    models: Models = None

    __hash__ = object.__hash__  # by identity: strategies are static arguments of compiled programs
    __eq__ = object.__eq__

    def hyperparameters(self, arch: Sequence[int] | np.ndarray) -> dict[str, Any]:
        """The keyword arguments of `make` for one architecture, D choice indices."""
        return self.choices.values(self.validate(arch))

    def shapes(self, arch: Sequence[int] | np.ndarray) -> tuple[Any, Any]:
        """Shapes of the parameters and of the other variables of an architecture, in the form of its framework."""
        abstract = self.models.abstract(self.validate(arch))
        variables = abstract.tree(abstract.leaves)
        return variables["params"], self.models.adapter.state_of_model(variables["state"])

    def model(self, arch: Sequence[int] | np.ndarray, params: Any = None, state: Any = None) -> Any:
        """The user's own model of an architecture: what `make` returns.

        Args:
          arch: int [D].
          params: parameters of that model, which an NNX module is given; None for fresh ones.
          state: the other variables of the model, likewise; None for those of a fresh model.
        """
        values = self.hyperparameters(arch)
        if params is None:
            return self.models.adapter.model(values)
        state = self._state(arch) if state is None else self.models.adapter.state_from_model(state)
        return self.models.adapter.model(values, {"params": params, "state": state})

    def deployed(self, arch: Sequence[int] | np.ndarray, params: Any, state: Any = None) -> Callable[[Any], Any]:
        """The inference function of an architecture's own model.

        Args:
          arch: int [D].
          params: parameters of that model.
          state: its other variables, in the form of its framework; None for those of a fresh model.

        Returns:
          A function from inputs to outputs, with dropout off and batch norm with running averages; may be traced.
        """
        values, adapter = self.hyperparameters(arch), self.models.adapter
        state = self._state(arch) if state is None else adapter.state_from_model(state)
        variables = {"params": params, "state": state}
        return lambda inputs: adapter.apply(values, variables, inputs, running=True)[0]

    def calibrate(self, params: Any, arch: Sequence[int] | np.ndarray, batches: Iterable[Any]) -> Any:
        """Running averages of batch norm, estimated again for one architecture on training inputs.

        Args:
          params: parameters of the architecture's own model.
          arch: int [D].
          batches: inputs, each of a batch size that the model trains with; all batches have equal weight.

        Returns:
          The other variables of the model, in the form of its framework: Linen's collections, to be used with
          {"params": params}, or the state of an NNX module, for `model`.
        """
        arch = self.validate(arch)
        state = calibration.calibrate(self.models, arch, {"params": params, "state": self._state(arch)}, batches)
        return self.models.adapter.state_of_model(state)

    def init_own_params(self, key: jax.Array) -> Callable[[Sequence[int] | np.ndarray], Any]:
        """Fresh parameters of any architecture's own model: int [D] to parameters in the form of its framework."""
        return lambda arch: comparisons.initial(self.models, self.validate(arch), key)["params"]

    def check_inputs(self, inputs: Any) -> None:
        """Raises ValueError unless inputs have the shapes that the space was built with, but for the first axis."""
        expected, given = (jax.tree.map(lambda leaf: np.shape(leaf)[1:], tree) for tree in (self.models.inputs, inputs))
        if expected != given:
            raise ValueError(
                f"inputs must have the shapes that the space was built with but for the first axis, {expected}, "
                f"got {given}; build the space with inputs of the shape that is searched"
            )

    def count(self, name: str, arch: Sequence[int] | np.ndarray) -> int:
        """Parameters ("params") or multiply-adds of one example ("macs") of an architecture, counted on its own model.

        Raises:
          ValueError: if `name` is another one, or `arch` is not an architecture of the space.
        """
        counted = {"params": counting.count_params, "macs": counting.count_macs}
        if name not in counted:
            raise ValueError(f"name must be one of {', '.join(counted)}, got {name!r}")
        return counted[name](self.models, self.validate(arch))

    def _state(self, arch: Sequence[int] | np.ndarray) -> Any:
        """What a fresh model has beside parameters."""
        return comparisons.initial(self.models, self.validate(arch), jax.random.key(0))["state"]


def models_of(make: Callable[..., Any], choices: Choices, inputs: Any) -> Models:
    """The models of a function.

    Args:
      make: see `jaxnas.elastic.elastic`.
      choices: of its arguments.
      inputs: of one call.

    Raises:
      ValueError: if the function does not take these arguments, or returns no model.
    """
    check_arguments(make, choices)
    return Models(adapter_of(make, choices.values(choices.largest)), choices, inputs)


def model_space(
    make: Callable[..., Any], choices: Choices, inputs: Any, name: str, costs: tuple[Cost, ...]
) -> ModelSpace:
    """The space of a function's models, with costs that are known; `jaxnas.elastic.elastic` finds them out."""
    return ModelSpace(name, choices.decisions, costs, choices=choices, models=models_of(make, choices, inputs))
