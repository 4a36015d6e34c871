"""When too many losses are ignored for a search to go on.

A loss that is not finite is left out of what the distributions learn from, and counted: `ignored` of
`strategies.base.Info`. A few do no harm. Where most are, the weights have diverged, and the search would run on without
learning anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxnas.runtime.loop import NonFiniteLossError

LIMIT = 0.5  # of the losses, in the running mean: weights that have diverged reach it after 7 steps
FORGETTING = 0.9  # of the running mean, a step


class TooManyIgnoredError(NonFiniteLossError):
    """Most losses of the distributions were not finite; the message names the step."""


@dataclass(frozen=True)
class IgnoredShare:
    """A running mean over steps of the share of losses that were ignored.

    Attributes:
      mean: in [0, 1], 0 at the start of a search and where it is resumed.
    """

    mean: float = 0.0

    def after(self, ignored: Sequence[int], samples: int, step: int = 0) -> "IgnoredShare":
        """The running mean after more steps.

        Args:
          ignored: losses ignored in each of these steps.
          samples: S, losses in a step.
          step: steps done before these.

        Raises:
          TooManyIgnoredError: in one line, at the first step whose running mean is above the limit.

        >>> IgnoredShare().after([0, 3, 0], samples=12).mean.__round__(4)
        0.0225
        """
        mean = self.mean
        for number, count in enumerate(ignored, start=step + 1):
            mean = FORGETTING * mean + (1 - FORGETTING) * float(count) / samples
            if mean > LIMIT:
                raise TooManyIgnoredError(
                    f"most losses are not finite at step {number} (a running mean of {mean:.0%} of them); lower the "
                    "learning rate or the clipping norm"
                )
        return IgnoredShare(mean)
