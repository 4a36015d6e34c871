"""Running averages of batch norm for one architecture, estimated again on batches.

The averages that a supernet gathers are of no architecture. A layer updates an average a to m a + (1 - m) b with the
batch's own statistic b: the updates of 0 and of 1 give m and b whatever the layer's momentum is, and b is averaged over
batches (as for stochastic weight averaging: Izmailov et al., arXiv 1803.05407).
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.elastic.adapters import Variables
from jaxnas.elastic.models import Models


def calibrate(models: Models, arch: np.ndarray, variables: Variables, batches: Iterable[Any]) -> Any:
    """The state of an architecture's own model with new running averages.

    Args:
      models: of the space.
      arch: int [D].
      variables: of that model.
      batches: inputs.

    Raises:
      ValueError: if there is no batch.
    """
    values = models.choices.values(arch)
    state = variables["state"]
    flags = models.adapter.statistics(values, state)
    if not any(jax.tree.leaves(flags)):
        return state

    @jax.jit
    def statistics(variables: Variables, inputs: Any) -> Any:
        def updated(average: float) -> Any:
            filled = jax.tree.map(
                lambda leaf, flag: jnp.full_like(leaf, average) if flag else leaf, variables["state"], flags
            )
            return models.adapter.apply(values, {**variables, "state": filled}, inputs)[1]

        zero, one = updated(0.0), updated(1.0)
        return jax.tree.map(lambda a, b, flag: a / (1 - (b - a)) if flag else a, zero, one, flags)

    total, count = None, 0
    for inputs in batches:
        found = statistics(variables, inputs)
        total = found if total is None else jax.tree.map(lambda a, b, flag: a + b if flag else a, total, found, flags)
        count += 1
    if total is None:
        raise ValueError("batches must hold at least one batch of inputs, got none")
    return jax.tree.map(lambda leaf, new, flag: new / count if flag else leaf, state, total, flags)
