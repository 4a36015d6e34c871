"""Ridge regression whose strength is chosen by leave-one-out errors.

These are exact without fitting again (Golub, Heath, Wahba: "Generalized cross-validation as a method for choosing a
good ridge parameter", Technometrics 21, 1979).
"""

import re
from dataclasses import dataclass

import chex
import numpy as np

from jaxnas.spaces import SearchSpace

_STRENGTHS = np.geomspace(1e-8, 1e6, 57)  # from what the features explain alone to nothing
_DEPENDENT = 1e-10  # of the largest singular value, below which unshrunk features say nothing of their own
_SPARE = 1e-9  # of an observation, that the others leave undecided: with less it has no leave-one-out error
_PLACE = re.compile(r"\[\d+\]")


@dataclass(frozen=True)
class Ridge:
    """A fit.

    Attributes:
      free: float [F0], weights of the features that are not shrunk.
      weights: float [F], of those that are.
      errors: float [N], leave-one-out errors; infinite where no strength has any.
    """

    free: np.ndarray
    weights: np.ndarray
    errors: np.ndarray


def ridge(free: np.ndarray, features: np.ndarray, target: np.ndarray) -> Ridge:
    """Fits target = free @ Ridge.free + features @ Ridge.weights.

    Args:
      free: float [N, F0], features that are not shrunk, at least one; they may depend on each other.
      features: float [N, F], those that are; F may exceed N.
      target: float [N].
    """
    chex.assert_rank([free, features, target], [2, 2, 1])
    chex.assert_equal_shape_prefix([free, features, target], 1)
    spanned, sizes, _ = np.linalg.svd(free, full_matrices=False)
    basis = spanned[:, sizes > _DEPENDENT * sizes[0]]
    inner_x = features - basis @ (basis.T @ features)
    inner_y = target - basis @ (basis.T @ target)
    left, singular, right = np.linalg.svd(inner_x, full_matrices=False)
    least, best = np.inf, Ridge(np.zeros(free.shape[1]), np.zeros(features.shape[1]), np.full(len(target), np.inf))
    for strength in _STRENGTHS:
        shrunk = singular**2 / (singular**2 + strength)
        residual = inner_y - left @ (shrunk * (left.T @ inner_y))
        spare = 1 - (basis**2).sum(1) - (left**2) @ shrunk
        errors = residual / np.maximum(spare, _SPARE)
        if (spare > _SPARE).all() and np.mean(errors**2) < least:
            least = np.mean(errors**2)
            weights = right.T @ ((singular / (singular**2 + strength)) * (left.T @ inner_y))
            best = Ridge(best.free, weights, errors)
    own = np.linalg.lstsq(free, target - features @ best.weights, rcond=None)[0]
    return Ridge(own, best.weights, best.errors)


def shared_choices(space: SearchSpace) -> np.ndarray:
    """Which choices of all decisions have the same name, but for the place in a list: float [sum of C_d, names].

    What a choice costs wherever it stands, of which each decision's own cost is a deviation: a ridge shrinks both.

    >>> from jaxnas.spaces.base import Decision
    >>> space = SearchSpace("toy", (Decision("w[0]", ("w[0]=2", "w[0]=4")), Decision("w[1]", ("w[1]=4",))))
    >>> shared_choices(space).tolist()
    [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    names = [without_place(choice) for decision in space.decisions for choice in decision.choices]
    return np.equal.outer(names, list(dict.fromkeys(names))).astype(float)


def without_place(name: str) -> str:
    """A name of an elastic space without the place in a list.

    >>> without_place("hidden[2]=64"), without_place("layer 3")
    ('hidden=64', 'layer 3')
    """
    return _PLACE.sub("", name)
