"""What limits a search on a recorded supernet: how far its losses lead from what networks are worth.

Searches that make no mistake are compared: the least objective L(c) + eps R(c) over all networks, for L the loss on all
recorded minibatches, on half of them, on one; and for the main effects of L, the additive function of the choices that
is closest to it (the functional analysis of variance). Weights that are shared know a network by its choices more than
by which of them go together: where the true errors are nearly additive, what L has beyond its main effects is more of
the sharing than of the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxnas.strategies.shared_model import design
from jaxnas.tasks import judge
from jaxnas.tasks.recorded import Recording
from jaxnas.tasks.tables import Table
from jaxnas.tasks.tabular import TabularTask

SCORES = ("all minibatches", "half of them", "one of them", "main effects", "half main effects")


@dataclass(frozen=True)
class RecordedTruth:
    """What one recorded supernet is worth.

    Attributes:
      rank_correlation: score -> Kendall's tau with the true errors, see `judge.rank_correlations`.
      distance: score -> mean over the penalties of the true error's distance to the least that costs no more, of the
        network with the least objective.
      spread: standard deviation of the mean losses over networks, nats.
      minibatch: standard deviation of what one minibatch adds to a loss, nats.
      common_minibatch: the same where all networks see the same minibatch.
    """

    rank_correlation: dict[str, dict[str, float]]
    distance: dict[str, float]
    spread: float
    minibatch: float
    common_minibatch: float


def measure(recording: Recording, table: Table, penalties: Sequence[float]) -> RecordedTruth:
    """Compares the losses of a recording with the true errors of a table.

    Args:
      recording: of N networks.
      table: of the same networks.
      penalties: K coefficients.

    Raises:
      ValueError: if the table has another number of networks.
    """
    task = TabularTask.from_table(table)
    losses = np.asarray(recording.losses, np.float64)
    if losses.shape[1] != len(table.error):
        raise ValueError(
            f"recording has {losses.shape[1]} networks, the table {len(table.error)}: give that of its space"
        )
    mean = losses.mean(0)
    additive = main_effects(mean, task)
    scores = {
        "all minibatches": mean[None],
        "half of them": np.stack([losses[: len(losses) // 2].mean(0), losses[len(losses) // 2 :].mean(0)]),
        "one of them": losses,
        "main effects": additive[None],
        "half main effects": ((mean + additive) / 2)[None],
    }
    noise = losses - mean
    return RecordedTruth(
        {name: _mean_correlations(each, table) for name, each in scores.items() if name != "half of them"},
        {name: float(np.mean([_distance(task, one, penalties) for one in each])) for name, each in scores.items()},
        spread=float(mean.std()),
        minibatch=float(noise.std(0, ddof=1).mean()),
        common_minibatch=float((noise - noise.mean(1, keepdims=True)).std(0, ddof=1).mean()),
    )


def main_effects(losses: np.ndarray, task: TabularTask) -> np.ndarray:
    """The additive function of the choices that is closest to losses [N] of all networks, float64 [N]."""
    space = task.space
    singles = np.asarray(design.build(space.num_choices).singles(space.enumerate()), np.float64)
    rows = np.concatenate([np.ones((len(singles), 1)), singles], axis=1)
    return rows @ np.linalg.lstsq(rows, losses, rcond=None)[0]


def _mean_correlations(scores: np.ndarray, table: Table) -> dict[str, float]:
    found = [judge.rank_correlations(each, table.error, table.cost) for each in scores]
    return {name: float(np.mean([each[name] for each in found])) for name in found[0]}


def _distance(task: TabularTask, losses: np.ndarray, penalties: Sequence[float]) -> float:
    objective = losses + np.multiply.outer(np.asarray(penalties, np.float64), task.cost.scaled)  # [K, N]
    return float(judge.distance_to_front(task, objective.argmin(1)).mean())
