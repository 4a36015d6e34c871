"""A complete table as a search task: the loss of an architecture is a lookup, so that its regret is known exactly.

A whole search is one `jax.lax.scan` over ask, evaluate and tell; its seeds are one `jax.vmap` over that.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.cost import objective, scale
from jaxnas.spaces.base import SearchSpace, rows_of, strides
from jaxnas.strategies.base import Strategy
from jaxnas.tasks.tables import Table


@dataclass(frozen=True, eq=False)
class TableCost:
    """Scaled cost R(c) of a table: 0 for its cheapest architecture, 1 for its most expensive; not additive in general.

    Hashable by identity, so that it can be part of a strategy's static settings.

    Attributes:
      num_choices: C_d of each decision.
      scaled: float64 [N], R of the rows in lexicographic order.
      lowest: the cheapest architecture's cost, in the table's unit.
      highest: that of the most expensive.
    """

    num_choices: tuple[int, ...]
    scaled: np.ndarray
    lowest: float = 0.0
    highest: float = 1.0

    def __call__(self, archs: jax.Array) -> jax.Array:
        """R(c), jit-compilable: int [S, D] -> float32 [S] in [0, 1]."""
        rows = (jnp.asarray(archs) * strides(self.num_choices).astype(np.int32)).sum(-1)
        return jnp.asarray(self.scaled, jnp.float32)[rows]

    def scale(self, total: float) -> float:
        """R of a cost in the table's unit; 0 if all architectures cost the same."""
        return scale(total, self.lowest, self.highest)


@dataclass(frozen=True, eq=False)
class TabularTask:
    """A table to search on. Build it with `TabularTask.from_table`.

    Attributes:
      space: the search space, one decision for each column of the table.
      error: float64 [N], true errors in lexicographic order of the architectures.
      cost: scaled cost R(c), 0 everywhere if all cost the same.
      noise: standard deviation of the Gaussian noise that a minibatch adds to an error.
    """

    space: SearchSpace
    error: np.ndarray
    cost: TableCost
    noise: float = 0.0

    @property
    def true_error(self) -> np.ndarray:
        """True errors of the networks, float64 [N]; `error`, unless the losses of a search are of another kind."""
        return self.error

    @classmethod
    def from_table(cls, table: Table, noise: float = 0.0, name: str = "table") -> "TabularTask":
        """Makes a task of a checked table.

        Args:
          table: what `read_table` or `Table.from_arrays` returned.
          noise: standard deviation of the evaluation noise.
          name: name of the search space.

        Raises:
          ValueError: if the noise is negative or not finite.
        """
        if not (math.isfinite(noise) and noise >= 0):
            raise ValueError(f"noise must be a standard deviation, finite and not negative, got {noise}")
        space = SearchSpace(name, table.decisions)
        lowest, highest = float(table.cost.min()), float(table.cost.max())
        cost = TableCost(space.num_choices, scale(table.cost, lowest, highest), lowest, highest)
        return cls(space, table.error, cost, float(noise))

    def rows(self, archs: np.ndarray) -> np.ndarray:
        """The rows of architectures in `error` and `cost.scaled`, on the host: int [..., D] -> int [...]."""
        return rows_of(self.space.num_choices, archs)

    def index(self, archs: jax.Array) -> jax.Array:
        """As `rows`, jit-compilable: int [S, D] -> int [S]."""
        chex.assert_axis_dimension(archs, -1, len(self.space.decisions))
        return (jnp.asarray(archs) * strides(self.space.num_choices).astype(np.int32)).sum(-1)

    def lookup(self, archs: jax.Array) -> jax.Array:
        """True errors, jit-compilable: int [S, D] -> float32 [S]."""
        return jnp.asarray(self.error, jnp.float32)[self.index(archs)]

    def evaluate(self, key: jax.Array, archs: jax.Array) -> jax.Array:
        """Errors as one minibatch would show them, with independent noise: int [S, D] -> float32 [S]."""
        errors = self.lookup(archs)
        return errors + self.noise * jax.random.normal(key, errors.shape)

    def objective(self, penalties: Sequence[float]) -> np.ndarray:
        """True f_k(c) = error + eps_k R(c) of all architectures, on the host: float64 [K, N]."""
        return objective(self.error, penalties, self.cost.scaled)


def search(
    task: TabularTask,
    method: Strategy,
    recorded: Sequence[int],
    key: jax.Array,
    read: Callable[[Any], jax.Array] | None = None,
) -> jax.Array:
    """One search of a strategy, as one scan; jit- and vmap-able in the key.

    Args:
      task: the table.
      method: a strategy on the task's space and cost.
      recorded: E evaluation counts, ascending. Steps are whole: the networks recorded at a count are those after the
        last step that does not exceed it.
      key: a JAX random key.
      read: what to record of a state; None for the strategy's modes.

    Returns:
      int32 [E, K, D], the K networks found by each count, or [E, ...] of what is read.

    Raises:
      ValueError: if the counts do not ascend, or the first is smaller than one step.
    """
    per_step = method.step_samples
    if not recorded or list(recorded) != sorted(set(recorded)):
        raise ValueError(f"recorded must be ascending evaluation counts, got {list(recorded)}")
    if recorded[0] < per_step:
        raise ValueError(
            f"evaluations must be at least one step of {per_step} (penalties times samples), got {recorded[0]}"
        )
    recorded_steps = np.asarray(recorded) // per_step
    steps, counts_of_a_step = np.unique(recorded_steps, return_inverse=True)
    slots = np.full(steps[-1], -1, np.int32)
    slots[steps - 1] = np.arange(len(steps))
    init_key, scan_key = jax.random.split(key)
    read = method.modes if read is None else read

    def step(carry, xs):
        state, found = carry
        step_key, slot = xs
        ask_key, noise_key = jax.random.split(step_key)
        archs, state = method.ask(ask_key, state)
        state, _ = method.tell(state, archs, task.evaluate(noise_key, archs))
        # Reading the networks out may cost more than the step: only where they are recorded.
        found = jax.lax.cond(slot >= 0, lambda: found.at[slot].set(read(state)), lambda: found)
        return (state, found), None

    state = method.init(init_key)
    like = jax.eval_shape(read, state)
    found = jnp.zeros((len(steps), *like.shape), like.dtype)
    xs = (jax.random.split(scan_key, len(slots)), jnp.asarray(slots))
    (_, found), _ = jax.lax.scan(step, (state, found), xs)
    return found[counts_of_a_step]


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 4))
def _search_keys(
    task: TabularTask,
    method: Strategy,
    recorded: tuple[int, ...],
    keys: jax.Array,
    read: Callable[[Any], jax.Array] | None,
) -> jax.Array:
    return jax.vmap(functools.partial(search, task, method, recorded, read=read))(keys)


def search_seeds(
    task: TabularTask,
    method: Strategy,
    recorded: Sequence[int],
    seeds: int,
    first_seed: int = 0,
    read: Callable[[Any], jax.Array] | None = None,
) -> np.ndarray:
    """Searches with seeds first_seed ... first_seed + seeds - 1, all in one program.

    Args:
      task: see `search`.
      method: see `search`.
      recorded: see `search`.
      seeds: number of searches.
      first_seed: the first seed.
      read: see `search`.

    Returns:
      int32 [seeds, E, K, D], the K networks found by each count, or what is read (see `search`).

    Raises:
      ValueError: as `search`, or if there is no seed.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    keys = jax.vmap(jax.random.key)(jnp.arange(first_seed, first_seed + seeds, dtype=jnp.uint32))
    return np.asarray(_search_keys(task, method, tuple(recorded), keys, read))
