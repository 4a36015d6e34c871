"""Models of any framework behind one interface: Flax Linen, Flax NNX, or a pair of functions (init, apply)."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from jaxnas.elastic.adapters.base import Adapter, Values, Variables, parameters_of, takes_rngs
from jaxnas.elastic.adapters.linen import LinenAdapter
from jaxnas.elastic.adapters.nnx_modules import NNXAdapter
from jaxnas.elastic.adapters.pairs import PairAdapter


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


__all__ = ["Adapter", "LinenAdapter", "NNXAdapter", "PairAdapter", "Values", "Variables", "adapter_of", "parameters_of"]
