"""Flax NNX modules."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from jaxnas.elastic.adapters.base import (
    Values,
    Variables,
    arguments,
    mode_keywords,
    takes_rngs,
)


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
