"""One interface to models of any framework: Flax Linen, Flax NNX, or a pair of functions (init, apply).

A model is built again wherever it is needed: Linen modules and pairs are cheap to make, and an NNX module that is made
inside a traced function leaves its initial values to dead code elimination. Variables are one tree,
{"params": what is trained, "state": the rest (batch statistics, counters of random streams, constants)}.

Two modes. In training, with a random key, dropout is on. In evaluation dropout is off; batch norm takes the statistics
of the minibatch in both, since running averages of many architectures mean nothing (METHOD, traps).
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

Values = Mapping[str, Any]  # hyperparameters: the keywords of `make`
Variables = dict[str, Any]  # {"params": ..., "state": ...}

# Keywords of a call that tell training from evaluation, and their value in training.
MODE_KEYWORDS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "eval": False,
    "evaluate": False,
}
KEY_KEYWORDS = ("key", "rng", "rngs")  # of a pair's functions


class Adapter(Protocol):
    """What a framework's models look like to the rest of the package; every method may be traced."""

    def init(self, values: Values, key: jax.Array, inputs: Any) -> Variables:
        """Fresh variables of the model with these hyperparameters."""

    def shapes(self, values: Values, inputs: Any) -> tuple[Variables, list[tuple[Any, ...]]]:
        """What `init` returns, by shapes alone, and the paths of parameters in the order in which they are made.

        The order may be empty where layers have names of their own.
        """

    def apply(
        self, values: Values, variables: Variables, inputs: Any, key: jax.Array | None = None, running: bool = False
    ) -> tuple[Any, Any]:
        """Outputs, and the state as the call left it.

        Args:
          values: hyperparameters.
          variables: as `init` returns them.
          inputs: one argument of the call, or a tuple of all of them.
          key: random key of a call in training; None for evaluation.
          running: whether batch norm takes its running averages, as in a deployed network; in evaluation only.
        """

    def model(self, values: Values, variables: Variables | None = None) -> Any:
        """The user's own object with these hyperparameters; NNX modules are given the variables, if there are any."""

    def statistics(self, values: Values, state: Any) -> Any:
        """The state with True for each running average of batch norm, and False for all else."""

    def state_of_model(self, state: Any) -> Any:
        """The state as the user's model takes it."""

    def state_from_model(self, state: Any) -> Any:
        """The inverse of `state_of_model`."""


def arguments(inputs: Any) -> tuple[Any, ...]:
    """The positional arguments that `inputs` stands for: those of a tuple, or itself."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def mode_keywords(function: Callable[..., Any], training: bool) -> dict[str, bool]:
    """Those of `MODE_KEYWORDS` that a function takes.

    >>> mode_keywords(lambda x, train: x, training=True), mode_keywords(lambda x, deterministic: x, training=True)
    ({'train': True}, {'deterministic': False})
    """
    return {name: value == training for name, value in MODE_KEYWORDS.items() if name in parameters_of(function)}


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function, or of a class's constructor; empty where they cannot be known."""
    try:
        if inspect.isclass(function):  # its metaclass may take anything, as that of NNX modules does
            parameters = dict(inspect.signature(function.__init__).parameters)
            del parameters[next(iter(parameters))]
            return parameters
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return {}


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


@dataclass(frozen=True)
class NNXAdapter:
    """Flax NNX modules; all variables that are no `nnx.Param` are state.

    Attributes:
      make: hyperparameters, and `rngs` if it takes one, to a module.
    """

    make: Callable[..., nnx.Module]

    def _build(self, values: Values, key: jax.Array) -> nnx.Module:
        return self.make(**values, rngs=nnx.Rngs(key)) if takes_rngs(self.make) else self.make(**values)

    def init(self, values: Values, key: jax.Array, inputs: Any) -> Variables:
        """See `Adapter`."""
        del inputs
        params, state = nnx.state(self._build(values, key), nnx.Param, ...)
        return {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}

    def shapes(self, values: Values, inputs: Any) -> tuple[Variables, list[tuple[Any, ...]]]:
        """See `Adapter`."""
        del inputs
        _, params, state = _split_nnx(self, tuple(values.items()))
        return {"params": nnx.to_pure_dict(params), "state": nnx.to_pure_dict(state)}, []

    def apply(
        self, values: Values, variables: Variables, inputs: Any, key: jax.Array | None = None, running: bool = False
    ) -> tuple[Any, Any]:
        """See `Adapter`."""
        model = self.model(values, variables)
        if key is None:
            model.eval()
        else:
            model.train()
            nnx.update(model, _with_fresh_keys(variables["state"], key))
        model.set_attributes(use_running_average=running, raise_if_not_found=False)
        outputs = model(*arguments(inputs), **mode_keywords(type(model).__call__, key is not None))
        return outputs, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))

    def model(self, values: Values, variables: Variables | None = None) -> nnx.Module:
        """See `Adapter`."""
        if variables is None:
            return self._build(values, jax.random.key(0))
        try:
            graph, *states = _abstract_nnx(self, tuple(values.items()))
            for state, tree in zip(states, (variables["params"], variables["state"])):
                nnx.replace_by_pure_dict(state, tree)
            return nnx.merge(graph, *states)
        except Exception:  # as under explicit sharding: then it is built for real, and updated
            model = self._build(values, jax.random.key(0))
            nnx.update(model, variables["params"])
            nnx.update(model, variables["state"])
            return model

    def statistics(self, values: Values, state: Any) -> Any:
        """See `Adapter`."""
        abstract = nnx.eval_shape(lambda: self._build(values, jax.random.key(0)))
        found = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(abstract, nnx.BatchStat)))
        return traverse_util.unflatten_dict({path: path in found for path in traverse_util.flatten_dict(state)})

    def state_of_model(self, state: Any) -> Any:
        """See `Adapter`."""
        return state

    def state_from_model(self, state: Any) -> Any:
        """See `Adapter`."""
        return state


def _abstract_nnx(adapter: NNXAdapter, values: tuple[tuple[str, Any], ...]) -> tuple[Any, nnx.State, nnx.State]:
    """Graph, parameters and state of a model by shapes; building one takes far longer than filling it."""
    graph, params, state = _split_nnx(adapter, values)
    return graph, jax.tree.map(lambda leaf: leaf, params), jax.tree.map(lambda leaf: leaf, state)


@functools.lru_cache(maxsize=256)
def _split_nnx(adapter: NNXAdapter, values: tuple[tuple[str, Any], ...]) -> tuple[Any, nnx.State, nnx.State]:
    model = nnx.eval_shape(lambda: adapter._build(dict(values), jax.random.key(0)))
    return nnx.split(model, nnx.Param, ...)


def _with_fresh_keys(state: Any, key: jax.Array) -> Any:
    """The state with all its random keys drawn again; those of scanned layers are arrays of keys."""
    leaves, structure = jax.tree.flatten(state)
    for place, leaf in enumerate(leaves):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaves[place] = jax.random.split(jax.random.fold_in(key, place), leaf.shape)
    return jax.tree.unflatten(structure, leaves)


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


def takes_rngs(make: Callable[..., Any]) -> bool:
    """Whether `make` has an argument named rngs."""
    return "rngs" in parameters_of(make)


def adapter_of(make: Callable[..., Any], values: Values) -> Adapter:
    """The adapter for what `make` returns, which is called once, abstractly.

    Raises:
      ValueError: if it returns none of a Linen module, an NNX module and a pair of functions.
    """
    made = []

    def call(key: jax.Array) -> chex.Array:
        made.append(make(**values, rngs=nnx.Rngs(key)) if takes_rngs(make) else make(**values))
        return jnp.zeros(())

    jax.eval_shape(call, jax.random.key(0))
    model = made[0]
    if isinstance(model, nn.Module):
        return LinenAdapter(make)
    if isinstance(model, nnx.Module):
        return NNXAdapter(make)
    if isinstance(model, tuple) and len(model) == 2 and all(callable(part) for part in model):
        return PairAdapter(make)
    raise ValueError(
        f"make must return a Flax Linen module, a Flax NNX module or a pair of functions (init, apply), "
        f"got {type(model).__name__}"
    )
