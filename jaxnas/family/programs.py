"""A model as StableHLO, written by `jax.export`: it runs without the code that made it, and is read without any."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxnas.export.formats import PLATFORMS, parse_stablehlo


@dataclass(frozen=True, eq=False)
class Program:
    """A function of batches.

    Attributes:
      call: inputs to outputs.
      batch_size: the only number of examples that `call` takes; None for any.
    """

    call: Callable[[Any], Any]
    batch_size: int | None

    def __call__(self, inputs: Any) -> Any:
        """Outputs of any number of examples: where the program is of one size, in parts that are filled up to it."""
        if self.batch_size is None:
            return self.call(inputs)
        count = len(jax.tree.leaves(inputs)[0])
        if count == 0:
            raise ValueError("inputs must hold at least one example, got none")
        parts = [self._part(inputs, start) for start in range(0, count, self.batch_size)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)

    def _part(self, inputs: Any, start: int) -> Any:
        def filled(leaf: Any) -> jax.Array:
            part = jnp.asarray(leaf)[start : start + self.batch_size]
            return jnp.concatenate([part, jnp.repeat(part[-1:], self.batch_size - len(part), axis=0)])

        return self.call(jax.tree.map(filled, inputs))


def write(function: Callable[[Any], Any], inputs: Any) -> bytes:
    """A function as StableHLO, for any number of examples if it takes that, else for that of the inputs.

    Args:
      function: inputs to outputs.
      inputs: arrays, or their shapes, in tuples, lists and dictionaries.

    Raises:
      ValueError: if it cannot be exported.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), inputs)
    (batch,) = jax.export.symbolic_shape("batch")
    leaves = jax.tree.leaves(shapes)
    options = [shapes]
    if all(leaf.shape and leaf.shape[0] == leaves[0].shape[0] for leaf in leaves):
        options.insert(0, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), shapes))
    for option in options:
        try:
            return bytes(jax.export.export(jax.jit(function), platforms=PLATFORMS)(option).serialize())
        except Exception as error:  # whatever a user's model raises on a size that is no number
            reason = error
    raise ValueError(f"the model cannot be exported as StableHLO: {str(reason).splitlines()[0]:.300}") from reason


def read(content: bytes, path: Any) -> Program:
    """Reads what `write` wrote.

    Args:
      content: of the file.
      path: of the file, for messages.

    Raises:
      ValueError: in one line, if it is damaged, or calls anything outside of StableHLO.
    """
    exported = parse_stablehlo(content, path)
    sizes = [aval.shape[0] if aval.shape else None for aval in exported.in_avals]
    batch_size = sizes[0] if sizes and isinstance(sizes[0], int) else None
    call = jax.jit(exported.call)
    return Program(call, batch_size)
