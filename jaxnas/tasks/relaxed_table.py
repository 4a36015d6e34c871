"""A complete table as a differentiable loss: the expected error of a product of categoricals.

The multilinear extension of the table, sum over all architectures c of error(c) prod_d weights[d, c_d], replaces the
mixture of a supernet: methods that follow gradients can be tried on it in seconds, and their regret is exact. Its
gradient depends on all architectures of the table, so a comparison with methods that evaluate single architectures
would not be fair.
"""

from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxnas.tasks.tabular import TabularTask


@dataclass(frozen=True, eq=False)
class RelaxedTable:
    """E over c ~ prod_d weights[d] of the true error, as a loss of `jaxnas.relaxation`: hashable by identity.

    Attributes:
      task: the table; its noise plays no part.

    >>> from jaxnas.tasks import synthetic_table
    >>> task = TabularTask.from_table(synthetic_table((2, 3)))
    >>> even = jnp.asarray([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    >>> bool(jnp.isclose(RelaxedTable(task)({}, even), task.error.mean()))
    True
    """

    task: TabularTask

    def __call__(self, params: chex.ArrayTree, weights: jax.Array, batch: Any = None) -> jax.Array:
        """The loss, exact by contraction over one decision after the other.

        Args:
          params: not used; a table has no weights.
          weights: float [D, C]; the padding is ignored, and rows need not sum to 1.
          batch: not used.

        Returns:
          float32 [].
        """
        del params, batch
        num_choices = self.task.space.num_choices
        chex.assert_shape(weights, (len(num_choices), max(num_choices)))
        error = jnp.asarray(self.task.error.reshape(num_choices), jnp.float32)
        for row, count in zip(weights, num_choices):
            error = jnp.tensordot(row[:count], error, axes=1, precision="highest")
        return error
