"""Checkpoints of a job of one process or many: process 0 alone reads and writes, and sends the others what it read."""

import os
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp

from jaxnas.runtime import devices
from jaxnas.runtime.checkpoints import Checkpoints, Restored


@dataclass(eq=False)
class SharedCheckpoints:
    """`Checkpoints` for every process of a job; use it as a context manager. Only process 0 needs the folder.

    Attributes:
      directory: the folder, on process 0.
      keep: how many checkpoints to keep.
    """

    directory: str | os.PathLike
    keep: int = 2

    def __post_init__(self):
        self._own = Checkpoints(self.directory, self.keep) if devices.is_host_zero() else None

    def __enter__(self) -> "SharedCheckpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._own is not None:
            self._own.__exit__(*exception)

    def save(self, step: int, state: chex.ArrayTree) -> None:
        """Saves in the background; see `Checkpoints.save`."""
        if self._own is not None:
            self._own.save(step, state)

    def restore_newest(self, like: chex.ArrayTree) -> Restored | None:
        """The newest whole checkpoint, the same on every process; see `Checkpoints.restore_newest`.

        Raises:
          CheckpointError: on process 0; ValueError with its message on the others.
        """
        restored = devices.together(lambda: None if self._own is None else self._own.restore_newest(like))
        found = restored is not None
        step = int(devices.broadcast(jnp.int32(restored.step if found else -1)))
        if step < 0:
            return None
        state = devices.broadcast(restored.state if found else jax.tree.map(jnp.asarray, like))
        return Restored(step, state, restored.skipped if found else ())
