"""Latency tables from measured whole networks: of a file that others made, or of a few on a new device.

The additive model of `jaxnas.networks.latency` is fitted by ridge regression (`jaxnas.networks.ridge`). Where the table
of another device is known, its prediction is one more feature, which is not shrunk: few measurements then tell how the
new device differs, and no more. Where the space counts products of choices, as models of one's own do, the models of
`jaxnas.networks.latency_model` take its place.
"""

import csv
import os
import re

import numpy as np

from jaxnas.cost import AdditiveCost, Cost
from jaxnas.networks import latency_model
from jaxnas.networks.latency import NAME, UNIT, LatencyTable
from jaxnas.networks.latency_model import FEWEST
from jaxnas.networks.ridge import ridge, shared_choices
from jaxnas.networks.timing import compare
from jaxnas.spaces import SearchSpace

LARGEST_FILE = 2**26  # bytes
_FOLDS = 5
_ENCODING = re.compile(r"[\[(]?\s*\d+(?:[\s,;-]+\d+)*\s*[\])]?")


def read_csv(path: str | os.PathLike[str], space: SearchSpace) -> tuple[np.ndarray, np.ndarray]:
    """Reads measured networks, a row each: the encoding, in one cell or in one for each decision, and milliseconds.

    A first row of names is passed over.

    Args:
      path: the file, such as the lines "encoding,milliseconds" and "0 2 1 1,3.25".
      space: that the encodings are of.

    Returns:
      Architectures int32 [N, D] and seconds float64 [N].

    Raises:
      ValueError: in one line, naming the line of the file, if it cannot be read or a row is not of the space.
    """
    counts, archs, seconds = space.num_choices, [], []
    try:
        if os.stat(path).st_size > LARGEST_FILE:
            raise ValueError(f"{path} is larger than {LARGEST_FILE} bytes")
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), 1):
                cells = [cell.strip() for cell in row if cell.strip()]
                if not cells or (number == 1 and not re.search(r"\d", cells[-1])):
                    continue
                text = " ".join(cells[:-1])
                choices = [int(digits) for digits in re.findall(r"\d{1,9}", text)] if _ENCODING.fullmatch(text) else []
                if len(choices) != len(counts) or any(c >= n for c, n in zip(choices, counts)):
                    raise ValueError(
                        f"{path}, line {number}: an encoding must be {len(counts)} choices below {list(counts)}, "
                        f"got {text!r:.60}"
                    )
                try:
                    milliseconds = float(cells[-1])
                except ValueError:
                    milliseconds = np.nan
                if not 0 < milliseconds < np.inf:
                    raise ValueError(f"{path}, line {number}: milliseconds must be positive, got {cells[-1]!r:.60}")
                archs.append(choices)
                seconds.append(milliseconds / 1000)
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"measurements {path} cannot be read ({error})") from error
    return np.asarray(archs, np.int32).reshape(-1, len(counts)), np.asarray(seconds, np.float64)


def fit(
    space: SearchSpace,
    archs: np.ndarray,
    seconds: np.ndarray,
    *,
    device: str,
    batch_size: int = 1,
    known: LatencyTable | None = None,
    seed: int = 0,
) -> LatencyTable:
    """A model of measured networks, as a latency table.

    Args:
      space: of the networks.
      archs: int [N, D]; `FEWEST` or more.
      seconds: float [N], measured.
      device: in words.
      batch_size: images of one call.
      known: the table of another device of the same space, to begin from: 20 measurements may do then.
      seed: of the parts of the cross-validation.

    Returns:
      The table. Its `check` compares predictions with networks that were not fitted, in five-fold cross-validation: the
      error to expect, though the table itself is fitted to all.

    Raises:
      ValueError: on too few measurements, equal ones, or a known table of another space.
    """
    archs, seconds = np.asarray(archs, int), np.asarray(seconds, np.float64)
    if len(archs) < FEWEST:
        raise ValueError(f"measurements must be of {FEWEST} networks or more, got {len(archs)}")
    if len(np.unique(archs, axis=0)) < FEWEST:
        raise ValueError(f"measurements must be of {FEWEST} different networks or more")
    if known is not None:
        known.added_to(space, "known")  # refuses one of another space
    parts = np.random.default_rng(seed).permutation(len(archs)) % _FOLDS
    held_out = np.empty(len(archs))
    for part in range(_FOLDS):
        rest = parts != part
        held_out[~rest] = _cost(space, archs[rest], seconds[rest], known).total(archs[~rest])
    return LatencyTable.of(
        space,
        _cost(space, archs, seconds, known),
        device=device,
        batch_size=batch_size,
        check=compare(held_out, seconds),
    )


def _cost(space: SearchSpace, archs: np.ndarray, seconds: np.ndarray, known: LatencyTable | None) -> Cost:
    """The cost of measured networks: of single choices, unless the space or the known table has products of choices."""
    costs = [*space.costs, *([] if known is None else [known.cost])]
    if all(isinstance(cost, AdditiveCost) for cost in costs):
        fixed, table = _fitted(space, archs, seconds, known)
        return AdditiveCost(NAME, UNIT, fixed, table)
    return latency_model.fit(space if known is None else known.added_to(space, "known"), archs, seconds)


def _fitted(
    space: SearchSpace, archs: np.ndarray, seconds: np.ndarray, known: LatencyTable | None
) -> tuple[float, tuple[tuple[float, ...], ...]]:
    """The constant and the table of the model, no entry below 0."""
    counts = space.num_choices
    one_hot = np.concatenate([np.eye(n)[archs[:, d]] for d, n in enumerate(counts)], axis=1)
    expand = np.concatenate([np.eye(sum(counts)), shared_choices(space)], axis=1)
    unit = seconds.mean()
    target = seconds / unit
    free = [np.ones(len(archs))]  # what is not shrunk
    if known is not None:
        other = np.concatenate([np.asarray(row) for row in known.table])
        other = other / max((one_hot @ other).std(), 1e-300)
        free.append(one_hot @ other)
    fitted = ridge(np.stack(free, axis=1), one_hot @ expand, target)
    weights = expand @ fitted.weights
    if known is not None:
        # A device on which more of the same takes less time is not to be had from few measurements.
        weights = weights + max(fitted.free[1], 0.0) * other
    rows = np.split(unit * weights, np.cumsum(counts)[:-1])
    table = tuple(tuple((row - row.min()).tolist()) for row in rows)
    operations = sum(np.asarray(row)[archs[:, d]] for d, row in enumerate(table))
    return max(0.0, float((seconds - operations).mean())), table
