"""Linear models of the loss with an idea of their error: an ensemble in which each leaves out a part of the data.

On the host, in numpy: the numbers of architectures differ from fit to fit, and a program of JAX would pay for the most.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies.related.archive import Archive, lessons, one_thread
from jaxnas.strategies.shared_model.design import Design

MODELS = 5
RIDGES = (1.0, 4.0, 16.0, 64.0, 256.0)  # tried: pseudo-observations that pull coefficients to 0
PAIRS = 10.0  # pairs are pulled as much harder: METHOD's interactions are small


def features(design: Design, archs: np.ndarray) -> np.ndarray:
    """The design's features and a constant, int [N, D] -> float64 [N, P + 1]."""
    one_hot = archs[..., None] == np.arange(max(design.num_choices))
    singles = one_hot.reshape(len(archs), -1).astype(np.float64) @ design.contrasts
    return np.concatenate([singles, singles[:, design.left] * singles[:, design.right], np.ones((len(archs), 1))], 1)


def fit(design: Design, archs: np.ndarray, losses: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Fits M ridge regressions, each without every M-th architecture; all with the ridge of least held-out error.

    Args:
      design: the features.
      archs: int [N, D].
      losses: float [N].
      counts: int [N], how often each was measured: its weight.

    Returns:
      float [M, P + 1].
    """
    rows, mean = features(design, archs), np.average(losses, weights=counts)
    fold = np.arange(len(rows)) % MODELS
    pull = np.append(np.where(design.order == 1, PAIRS, 1.0), 1e-6)
    weighted = rows * counts[:, None]
    grams, moments = [], []
    for model in range(MODELS):
        held = fold == model
        grams.append(weighted[held].T @ rows[held])
        moments.append(weighted[held].T @ (losses[held] - mean))
    gram, moment = sum(grams), sum(moments)
    best, least = None, np.inf
    for ridge in RIDGES:
        fitted = np.stack(
            [
                np.linalg.solve(gram - own_gram + np.diag(ridge * pull), moment - own_moment)
                for own_gram, own_moment in zip(grams, moments)
            ]
        )
        error = np.average(((rows * fitted[fold]).sum(-1) + mean - losses) ** 2, weights=counts)
        if error < least:
            best, least = fitted, error
    best[:, -1] += mean
    return best


def predict(design: Design, coefficients: np.ndarray, archs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The models' mean, and its standard error by the grouped jackknife: int [N, D] -> float [N], float [N]."""
    each = features(design, archs) @ np.asarray(coefficients, np.float64).T
    return each.mean(-1), np.sqrt((len(coefficients) - 1) * each.var(-1))


def fit_archive(design: Design, archive: Archive) -> tuple[jax.Array, jax.Array]:
    """Fits the models to an archive, within a program: coefficients [M, P + 1], and their mean for the archive [N]."""
    shapes = (
        jax.ShapeDtypeStruct((MODELS, design.size + 1), jnp.float32),
        jax.ShapeDtypeStruct(archive.losses.shape, jnp.float32),
    )
    arguments = (archive.archs, lessons(archive), archive.counts)
    return jax.pure_callback(functools.partial(_fit, design), shapes, *arguments, vmap_method="sequential")


def _fit(design, archs, losses, counts) -> tuple[np.ndarray, np.ndarray]:
    """`fit_archive` on the host."""
    archs, losses, counts = (np.asarray(values) for values in (archs, losses, counts))
    known = counts > 0
    estimates = np.full(losses.shape, np.inf, np.float32)
    if not known.any():  # a fit that is thrown away
        return np.zeros((MODELS, design.size + 1), np.float32), estimates
    with one_thread():
        coefficients = fit(design, archs[known], losses[known], counts[known])
        estimates[known] = predict(design, coefficients, archs[known])[0]
    return coefficients.astype(np.float32), estimates
