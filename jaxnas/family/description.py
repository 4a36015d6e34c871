"""A space and the inputs of its models as JSON, enough to make the models again from the function that makes them."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost import AdditiveCost, Cost, InteractionCost, LargestCost
from jaxnas.elastic.choices import Axis, Choices
from jaxnas.elastic.model_space import ModelSpace, model_space
from jaxnas.spaces.base import Decision, SearchSpace

_KINDS = {AdditiveCost: "sum", InteractionCost: "sum with products", LargestCost: "largest part"}


def describe(space: ModelSpace) -> dict[str, Any]:
    """A space, JSON-ready.

    Raises:
      ValueError: if the models' inputs are in a container that JSON does not know.
    """
    return {
        "name": space.name,
        "decisions": [dataclasses.asdict(decision) for decision in space.decisions],
        "costs": [{"kind": _KINDS[type(cost)], **dataclasses.asdict(cost)} for cost in space.costs],
        "axes": [dataclasses.asdict(axis) for axis in space.choices.axes],
        "inputs": _shapes(space.models.inputs),
    }


def space_of(document: Mapping[str, Any], make: Callable[..., Any] | None) -> SearchSpace:
    """The space that `describe` described.

    Args:
      document: of `describe`.
      make: the function that makes the models; None for a space without them.

    Raises:
      ValueError: if the document is none, or the function does not make models with these arguments.
    """
    try:
        name = str(document["name"])
        decisions = tuple(
            Decision(str(each["name"]), tuple(map(str, each["choices"]))) for each in document["decisions"]
        )
        costs = tuple(map(_cost, document["costs"]))
        choices = choices_of(document)
        inputs = _zeros(document["inputs"])
        space = SearchSpace(name, decisions, costs)
        if choices.num_choices != space.num_choices:
            raise ValueError(f"it has other values than choices: {choices.num_choices}, not {space.num_choices}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"it describes no space: {type(error).__name__}, {error}") from error
    if make is None:
        return space
    return dataclasses.replace(model_space(make, choices, inputs, name, costs), decisions=decisions)


def choices_of(document: Mapping[str, Any]) -> Choices:
    """The values of the choices in what `describe` described."""
    axes = ((each["keyword"], each["place"], each["values"]) for each in document["axes"])
    return Choices(tuple(Axis(str(keyword), place, tuple(values)) for keyword, place, values in axes))


def _cost(document: Mapping[str, Any]) -> Cost:
    name, unit, fixed = (document[key] for key in ("name", "unit", "fixed"))
    if document.get("kind") == _KINDS[LargestCost]:  # files of earlier versions name no kind
        return LargestCost(name, unit, fixed, document["table"])
    if "interactions" not in document:
        return AdditiveCost(name, unit, fixed, document["table"])
    return InteractionCost(name, unit, fixed, document["table"], document["interactions"])


def _shapes(inputs: Any) -> Any:
    """The tree of a call's inputs with shapes in place of arrays."""
    if isinstance(inputs, Mapping):
        return {"dict": {str(key): _shapes(value) for key, value in inputs.items()}}
    if type(inputs) in (tuple, list):
        return {type(inputs).__name__: [_shapes(value) for value in inputs]}
    if not hasattr(inputs, "shape"):
        raise ValueError(
            f"inputs must be arrays in tuples, lists and dictionaries to be saved, got {type(inputs).__name__}"
        )
    return {"shape": list(inputs.shape), "dtype": jnp.dtype(inputs.dtype).name}


def _zeros(document: Mapping[str, Any]) -> Any:
    """Zeros of the described shapes, as the models are called with."""
    if "shape" in document:
        shape = jax.ShapeDtypeStruct(tuple(map(int, document["shape"])), jnp.dtype(document["dtype"]))
        return np.broadcast_to(np.zeros((), shape.dtype), shape.shape)  # takes no memory, whatever the shape claims
    if "dict" in document:
        return {key: _zeros(value) for key, value in document["dict"].items()}
    kind = tuple if "tuple" in document else list
    return kind(_zeros(value) for value in document[kind.__name__])
