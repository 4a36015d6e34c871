"""Which of two architectures has the smaller loss: a support vector machine on pairs, and the ranking it makes.

A pair is encoded as two one-hot architectures side by side, and enters in both orders. With a radial kernel K on the
encodings the kernel of pairs is a product, and that of pairs in both orders its antisymmetric part,

    k((a, b), (a', b')) = K(a, a') K(b, b') - K(a, b') K(b, a'),

so that the margin of (x, y) is exactly minus that of (y, x): Herbrich, Graepel, Obermayer, "Large margin rank
boundaries for ordinal regression", 2000, with a kernel that need not be a difference. Fitted by scikit-learn, on the
host.
"""

import functools
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies.related.archive import Archive, lessons, one_thread

SLACK = 1.0  # C of the machine
JUDGES = 256  # architectures, at most, that all evaluated ones are compared with when losses are read off the ranking


@flax.struct.dataclass
class Comparator:
    """A fitted machine of M pairs.

    Attributes:
      first: int32 [M, D].
      second: int32 [M, D].
      weights: float32 [M], positive where the first has the smaller loss; 0 without part in the margin.
    """

    first: jax.Array
    second: jax.Array
    weights: jax.Array


def untrained(pairs: int, decisions: int) -> Comparator:
    """Finds all architectures alike; M = `pairs`."""
    nothing = jnp.zeros((pairs, decisions), jnp.int32)
    return Comparator(nothing, nothing, jnp.zeros(pairs, jnp.float32))


def probabilities(machine: Comparator, archs: Any, others: Any, num_choices: tuple[int, ...]) -> Any:
    """Probability that an architecture has a smaller loss than another, p(x, y) = 1 - p(y, x).

    The logistic function of the margin. Takes arrays of JAX or of numpy, and returns the same.

    Args:
      machine: what `fit` made.
      archs: int [U, D], x.
      others: int [V, D], y.
      num_choices: C_d of each decision.

    Returns:
      float [U, V].
    """
    numpy = np if isinstance(archs, np.ndarray) else jnp
    near = functools.partial(_kernel, numpy, num_choices)
    forwards = (near(archs, machine.first) * machine.weights) @ near(others, machine.second).T
    backwards = (near(archs, machine.second) * machine.weights) @ near(others, machine.first).T
    return (1 + numpy.tanh((forwards - backwards) / 2)) / 2


def _kernel(numpy: Any, num_choices: tuple[int, ...], archs: Any, others: Any) -> Any:
    """exp(-distance^2 / variance), both summed over the one-hot encoding: int [U, D], int [V, D] -> float [U, V].

    The width is scikit-learn's gamma="scale" for uniform choices.
    """
    choices = numpy.arange(max(num_choices))
    one, other = ((rows[..., None] == choices).astype(numpy.float32).reshape(len(rows), -1) for rows in (archs, others))
    variance = sum(1 - 1 / count for count in num_choices) or 1.0
    return numpy.exp((one @ other.T - len(num_choices)) / variance)


def scores(machine: Comparator, archs: Any, pool: Any, members: Any, num_choices: tuple[int, ...]) -> Any:
    """Mean probability of having a smaller loss than a member of a pool, the higher the better.

    Args:
      machine: what `fit` made.
      archs: int [U, D].
      pool: int [V, D].
      members: bool [V], which rows of the pool count.
      num_choices: C_d of each decision.

    Returns:
      float [U].
    """
    return (probabilities(machine, archs, pool, num_choices) * members).sum(-1) / members.sum()


def fit(key: jax.Array, archive: Archive, num_choices: tuple[int, ...], pairs: int) -> tuple[Comparator, jax.Array]:
    """Learns from random pairs of evaluated architectures; equals are no lesson.

    Args:
      key: a JAX random key.
      archive: N places.
      num_choices: C_d of each decision.
      pairs: M.

    Returns:
      The machine, and the losses of the archive as its ranking sees them, float [N] (see `as_losses`).
    """
    chex.assert_axis_dimension(archive.archs, 1, len(num_choices))
    row = jax.ShapeDtypeStruct((pairs, len(num_choices)), jnp.int32)
    like = Comparator(row, row, jax.ShapeDtypeStruct((pairs,), jnp.float32))
    shapes = (like, jax.ShapeDtypeStruct(archive.losses.shape, jnp.float32))
    call = functools.partial(_fit, num_choices, pairs)
    arguments = (jax.random.bits(key), archive.archs, lessons(archive), archive.counts)
    return jax.pure_callback(call, shapes, *arguments, vmap_method="sequential")


def _fit(*arguments) -> tuple[Comparator, np.ndarray]:
    """`fit` on the host."""
    with one_thread():
        return _fit_alone(*arguments)


def _fit_alone(num_choices, pairs, seed, archs, losses, counts) -> tuple[Comparator, np.ndarray]:
    from sklearn.svm import SVC  # half a second to import: only when it is used

    rng = np.random.default_rng(int(seed))
    archs, losses, counts = (np.asarray(values) for values in (archs, losses, counts))
    known = np.flatnonzero(counts > 0)
    if len(known) == 0:  # a fit that is thrown away
        nothing = np.zeros((pairs, archs.shape[1]), np.int32)
        return Comparator(nothing, nothing, np.zeros(pairs, np.float32)), np.full(losses.shape, np.inf, np.float32)
    rows = rng.choice(known, size=(2, pairs))
    first_is_better = np.arange(pairs) % 2 == 0  # both answers occur
    swap = (losses[rows[0]] < losses[rows[1]]) != first_is_better
    rows = np.where(swap, rows[::-1], rows)
    first, second = archs[rows]
    weights = np.zeros(pairs, np.float32)
    lessons = np.flatnonzero(losses[rows[0]] != losses[rows[1]])
    if len(lessons) > 1 and 0 < first_is_better[lessons].sum() < len(lessons):
        near = functools.partial(_kernel, np, num_choices)
        one, two, cross = near(first, first), near(second, second), near(first, second)
        gram = (one * two - cross * cross.T)[np.ix_(lessons, lessons)].astype(np.float64)
        machine = SVC(kernel="precomputed", C=SLACK).fit(gram, np.where(first_is_better, 1, -1)[lessons])
        weights[lessons[machine.support_]] = machine.dual_coef_[0]
    fitted = Comparator(first.astype(np.int32), second.astype(np.int32), weights)
    judges = archs[rng.permutation(known)[:JUDGES]]
    ranking = scores(fitted, archs[known], judges, np.ones(len(judges)), num_choices)
    estimates = np.full(losses.shape, np.inf, np.float32)
    estimates[known] = as_losses(ranking, losses[known], counts[known])
    return fitted, estimates


def as_losses(ranking: np.ndarray, losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Reads scores as losses: the centred isotonic regression of the losses on the scores.

    It falls strictly with the score where a plain isotonic regression is flat, so that the order is kept: Oron and
    Flournoy, "Centered isotonic regression", Statistics in Biopharmaceutical Research 2017.

    Args:
      ranking: float [N], scores, the higher the smaller the loss.
      losses: float [N], measured.
      counts: int [N], how often.

    Returns:
      float [N].

    >>> as_losses(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.9, 0.4, 0.6, 0.1]), np.ones(4)).round(3).tolist()
    [0.9, 0.633, 0.367, 0.1]
    """
    from sklearn.isotonic import IsotonicRegression

    level = IsotonicRegression(increasing=False).fit(ranking, losses, counts).predict(ranking)
    values, block = np.unique(level, return_inverse=True)
    centres = np.bincount(block, ranking * counts) / np.bincount(block, counts)  # descending, as values ascend
    return np.interp(ranking, centres[::-1], values[::-1])
