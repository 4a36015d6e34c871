"""Flax Linen modules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util

from jaxnas.elastic.adapters.base import Values, Variables, arguments, mode_keywords


@dataclass(frozen=True)
class LinenAdapter:
    """Flax Linen modules; all collections but "params" are state.

    Attributes:
      make: hyperparameters to a module.
    """

    make: Callable[..., nn.Module]

    def init(self, values: Values, key: jax.Array, inputs: Any) -> Variables:
        """See `Adapter`."""
        module = self.make(**values)
        keywords = mode_keywords(type(module).__call__, training=False)
        # One stream serves for all the others that a module asks for (Scope.make_rng).
        variables = module.init(key, *arguments(inputs), **keywords)
        collections = {name: tree for name, tree in variables.items() if name not in ("params", "intermediates")}
        return {"params": variables.get("params", {}), "state": _by_module(collections)}

    def shapes(self, values: Values, inputs: Any) -> tuple[Variables, list[tuple[Any, ...]]]:
        """See `Adapter`."""
        order: list[tuple[Any, ...]] = []

        def init(key: jax.Array) -> Variables:
            variables = self.init(values, key, inputs)
            order.extend(traverse_util.flatten_dict(variables["params"]))  # a traced function's result is sorted
            return variables

        return jax.eval_shape(init, jax.random.key(0)), order

    def apply(
        self, values: Values, variables: Variables, inputs: Any, key: jax.Array | None = None, running: bool = False
    ) -> tuple[Any, Any]:
        """See `Adapter`."""
        module = self.make(**values)
        training = key is not None
        key = jax.random.key(0) if key is None else key
        keywords = mode_keywords(type(module).__call__, training)
        state = _by_collection(variables["state"])
        with nn.intercept_methods(_running_averages if running else _batch_statistics):
            outputs = module.apply(
                {"params": variables["params"], **state},
                *arguments(inputs),
                **keywords,
                rngs={"params": key},
                mutable=list(state) or False,
            )
        if not state:
            return outputs, {}
        outputs, state = outputs
        return outputs, _by_module(state)

    def model(self, values: Values, variables: Variables | None = None) -> nn.Module:
        """See `Adapter`."""
        del variables
        return self.make(**values)

    def statistics(self, values: Values, state: Any) -> Any:
        """See `Adapter`."""
        del values
        flat = traverse_util.flatten_dict(state)
        return traverse_util.unflatten_dict({path: path[-2] == "batch_stats" for path in flat})

    def state_of_model(self, state: Any) -> Any:
        """See `Adapter`."""
        return _by_collection(state)

    def state_from_model(self, state: Any) -> Any:
        """See `Adapter`."""
        return _by_module(state)


def _by_module(collections: Mapping[str, Any]) -> dict[str, Any]:
    """Collections of modules as modules with collections: what belongs to one layer stays together."""
    return traverse_util.unflatten_dict(
        {
            (*path[:-1], name, path[-1]): leaf
            for name, tree in collections.items()
            for path, leaf in traverse_util.flatten_dict(tree).items()
        }
    )


def _by_collection(modules: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_by_module`."""
    return traverse_util.unflatten_dict(
        {(path[-2], *path[:-2], path[-1]): leaf for path, leaf in traverse_util.flatten_dict(modules).items()}
    )


def _with_averages(call: Callable[..., Any], arguments: tuple[Any, ...], keywords: Any, context: Any, use: bool) -> Any:
    if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
        arguments, keywords = arguments[:1], {**keywords, "use_running_average": use}
        # The attribute and the argument exclude each other; the module is bound, so no one else's.
        object.__setattr__(context.module, "use_running_average", None)
    return call(*arguments, **keywords)


def _batch_statistics(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
    return _with_averages(call, arguments, keywords, context, use=False)


def _running_averages(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
    return _with_averages(call, arguments, keywords, context, use=True)
