"""How a search went: the curves in metrics.jsonl, and theta, which is kept there now and then."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

THETA_RECORDS = 200  # at most about so many a run: enough for a picture, and little beside the other records
SERIES = ("loss", "accuracy", "ess", "entropy", "convergence", "finish_loss", "finish_accuracy")  # [K] a record
TRAINING = ("train_loss", "train_accuracy")  # one number a record


def keeps_theta(step: int, count: int, total: int) -> bool:
    """Whether the last record of a program keeps theta.

    It depends on nothing but the steps, so that a resumed run keeps the same records as an undisturbed one.

    Args:
      step: steps done after the program.
      count: steps of the program.
      total: steps of the whole search.

    >>> [step for step in range(25, 1001, 25) if keeps_theta(step, 25, 1000)] == list(range(25, 1001, 25))
    True
    >>> sum(keeps_theta(step, 25, 100_000) for step in range(25, 100_001, 25))
    200
    """
    every = max(1, -(-total // THETA_RECORDS))
    return step == total or step // every != (step - count) // every


def theta_field(theta: ArrayLike) -> dict[str, Any]:
    """Distributions [K, D, C] as a field of a record, rounded to four digits; padding is 0."""
    return {"theta": np.round(np.asarray(theta, np.float64), 4).tolist()}


@dataclasses.dataclass(frozen=True, eq=False)
class History:
    """The curves of one search.

    Attributes:
      series: name -> (steps [T], values [T, K]), of `SERIES`; what the search did not measure is not there.
      training: name -> (steps [T], values [T]), of `TRAINING`.
      theta_steps: int [T], the steps that theta was kept at; empty for runs that did not keep it.
      theta: float [T, K, D, C].
    """

    series: Mapping[str, tuple[np.ndarray, np.ndarray]]
    training: Mapping[str, tuple[np.ndarray, np.ndarray]]
    theta_steps: np.ndarray
    theta: np.ndarray


def read_history(records: Sequence[Mapping[str, Any]], distributions: int) -> History:
    """Sorts the records of metrics.jsonl into curves.

    Args:
      records: see `read_metrics`.
      distributions: K.

    Raises:
      ValueError: if a record is of another search, or holds something else than numbers.
    """
    series = {name: _curve(records, name, (distributions,)) for name in SERIES}
    training = {name: _curve(records, name, ()) for name in TRAINING}
    shapes = {np.shape(record["theta"]) for record in records if "theta" in record}
    if len(shapes) > 1:
        raise ValueError(f"theta must have one shape in all records, got {sorted(shapes)}")
    shape = shapes.pop() if shapes else (distributions, 0, 0)
    if len(shape) != 3 or shape[0] != distributions:
        raise ValueError(f"theta must be numbers [{distributions}, D, C], got shape {shape}")
    theta_steps, theta = _curve(records, "theta", shape)
    return History(
        {name: curve for name, curve in series.items() if len(curve[0])},
        {name: curve for name, curve in training.items() if len(curve[0])},
        theta_steps,
        theta,
    )


def _curve(records: Sequence[Mapping[str, Any]], name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Steps [T] and values [T, *shape] of the records that have the field; null is NaN."""
    found = [(record["step"], record[name]) for record in records if name in record]
    try:
        values = np.array([value for _, value in found], np.float64).reshape(len(found), *shape)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers of shape {list(shape)} in every record") from error
    return np.array([step for step, _ in found], np.int64), values
