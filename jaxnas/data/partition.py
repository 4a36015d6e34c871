"""A random partition of examples in two, class by class."""

import numpy as np


def stratified_partition(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of two parts of which the second has `fraction` of each class, rounded to whole examples.

    Args:
      labels: int [N].
      fraction: in (0, 1).
      seed: of the random choice.

    Returns:
      (rest, chosen), int64 arrays of increasing indices.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"valid_fraction must lie strictly between 0 and 1, got {fraction}")
    generator = np.random.default_rng(seed)
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = round(fraction * len(members))
        if not 0 < count < len(members):
            raise ValueError(
                f"valid_fraction {fraction} gives {count} of the {len(members)} examples of class {label} to one part "
                "and the rest to the other; each part needs at least one"
            )
        chosen[generator.permutation(members)[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
