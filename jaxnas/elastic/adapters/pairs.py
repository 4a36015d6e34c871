"""Pairs of functions (init, apply)."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxnas.elastic.adapters.base import KEY_KEYWORDS, Values, Variables, arguments, mode_keywords, parameters_of


@dataclass(frozen=True)
class PairAdapter:
    """A pair of functions: `init(key)` or `init(key, inputs)`, and `apply(params, inputs)`.

    `apply` may take a random key, under the name key, rng or rngs, at any place (Haiku puts it second), and a keyword
    of `MODE_KEYWORDS`. Equinox modules come as `eqx.partition(model, eqx.is_inexact_array)` inside such a pair.

    Attributes:
      make: hyperparameters to (init, apply).
    """

    make: Callable[..., tuple[Callable[..., Any], Callable[..., Any]]]

    def init(self, values: Values, key: jax.Array, inputs: Any) -> Variables:
        """See `Adapter`."""
        init, _ = self.make(**values)
        parameters = parameters_of(init).values()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        several = sum(p.kind in positional and p.default is p.empty for p in parameters) > 1
        takes_inputs = several or any(p.kind is p.VAR_POSITIONAL for p in parameters)
        params = init(key, *arguments(inputs)) if takes_inputs else init(key)
        return {"params": params, "state": {}}

    def shapes(self, values: Values, inputs: Any) -> tuple[Variables, list[tuple[Any, ...]]]:
        """See `Adapter`."""
        return jax.eval_shape(lambda key: self.init(values, key, inputs), jax.random.key(0)), []

    def apply(
        self, values: Values, variables: Variables, inputs: Any, key: jax.Array | None = None, running: bool = False
    ) -> tuple[Any, Any]:
        """See `Adapter`."""
        del running
        _, apply = self.make(**values)
        keywords: dict[str, Any] = mode_keywords(apply, key is not None)
        given = [variables["params"], *arguments(inputs)]
        parameters = parameters_of(apply)
        for place, name in enumerate(parameters):
            if name in KEY_KEYWORDS:
                required = parameters[name].default is inspect.Parameter.empty
                value = jax.random.key(0) if key is None and required else key
                if place < len(given):
                    given.insert(place, value)
                else:
                    keywords[name] = value
        return apply(*given, **keywords), variables["state"]

    def model(self, values: Values, variables: Variables | None = None) -> tuple[Any, Any]:
        """See `Adapter`."""
        del variables
        return self.make(**values)

    def statistics(self, values: Values, state: Any) -> Any:
        """See `Adapter`."""
        del values
        return jax.tree.map(lambda _: False, state)

    def state_of_model(self, state: Any) -> Any:
        """See `Adapter`."""
        return state

    def state_from_model(self, state: Any) -> Any:
        """See `Adapter`."""
        return state
