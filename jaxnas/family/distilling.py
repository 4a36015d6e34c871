"""What networks of a search of one call learn from a teacher's outputs: `Distillation`."""

import dataclasses
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxnas.family.batches import WithMetrics
from jaxnas.search.sandwich import Teacher
from jaxnas.search.search import Search
from jaxnas.supernet.distillation import SoftLoss


@dataclass(frozen=True, eq=False)
class Distillation:
    """Distillation in `jaxnas.search`: a share of the loss compares outputs with those of a teacher.

    The teacher is the most expensive network of each step, which learns from the data alone: with `sandwich` the
    largest model of the space (BigNAS, arXiv 2003.11142), and among the networks found the most expensive one. Or it is
    a trained network of your own, which teaches all. No gradient flows to the teacher.

    Attributes:
      share: share of the loss in the steps of the weights, in [0, 1); 0 for none.
      finish_share: share of the loss in the steps of the networks found, likewise.
      temperature: temperature of the softmax of outputs that are logits [B, ..., classes] (arXiv 1503.02531).
      soft_loss: function (outputs, outputs of the teacher) that returns their distance, a mean over the batch; needed
        for outputs that are not logits.
      teacher: pair of `apply(params, inputs)` and params of a trained network with the inputs and outputs of the model;
        its parameters do not change. None for the most expensive network of the step.

    Raises:
      ValueError: if a value is out of range, or both shares are 0.
    """

    share: float = 0.0
    finish_share: float = 0.0
    temperature: float = 1.0
    soft_loss: SoftLoss | None = None
    teacher: tuple[Callable[[Any, Any], Any], Any] | None = None

    def __post_init__(self):
        for name in ("share", "finish_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        if not self.share + self.finish_share > 0:
            raise ValueError(
                "share or finish_share must be positive, got 0.0 for both; leave distillation out for none"
            )
        if not 0 < self.temperature < math.inf:
            wanted = "finite" if self.temperature == math.inf else "positive"
            raise ValueError(f"temperature must be {wanted}, got {self.temperature}")
        if self.soft_loss is not None and not callable(self.soft_loss):
            raise ValueError(f"soft_loss must be a function of outputs and a teacher's, got {self.soft_loss!r:.60}")
        if self.teacher is not None and not (
            isinstance(self.teacher, tuple) and len(self.teacher) == 2 and callable(self.teacher[0])
        ):
            raise ValueError("teacher must be a pair of `apply(params, inputs)` and params")

    def check_networks(self, count: int) -> None:
        """Raises ValueError if none of as many networks found could learn from another."""
        if self.finish_share and self.teacher is None and count < 2:
            raise ValueError(
                f"finish_share needs a teacher or a second network: with one network there is none dearer, got "
                f"{self.finish_share}; leave it out"
            )

    def in_search(self, run: Search) -> Search:
        """The search with `share` in the steps of its weights."""
        return self._added_to(run, self.share)

    def in_finishing(self, run: Search) -> Search:
        """The steps of the networks found, which are steps of the weights of a search, with `finish_share`."""
        return self._added_to(run, self.finish_share)

    def _added_to(self, run: Search, share: float) -> Search:
        if not share:
            return run
        settings = dataclasses.replace(run.settings, distillation=share, distillation_temperature=self.temperature)
        teacher = soft_loss = None
        if self.teacher is not None:
            apply, params = self.teacher
            # It gets the inputs of the model out of what `jaxnas.family.batches.Prepare` makes.
            teacher = Teacher(lambda params, prepared: apply(params, prepared["inputs"]), params)
        if self.soft_loss is not None:
            checked = WithMetrics(self.soft_loss, "soft_loss")
            soft_loss = lambda outputs, targets: checked(outputs, targets)[0]  # noqa: E731
        return dataclasses.replace(run, settings=settings, teacher=teacher, soft_loss=soft_loss)

    def describe(self) -> dict[str, Any]:
        """What decides a search of it, JSON-ready; of functions nothing is known."""
        described = {"share": self.share, "finish_share": self.finish_share, "temperature": self.temperature}
        if self.teacher is not None:
            digest = hashlib.sha256()
            for leaf in jax.tree.leaves(self.teacher[1]):
                leaf = np.ascontiguousarray(leaf)
                digest.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
            described["teacher"] = digest.hexdigest()[:16]
        return described
