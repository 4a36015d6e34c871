"""Candidates for the last choice that agree with the main effects of the loss.

A supernet errs about single networks: the one of least loss among many is often one whose weights happen to go together
well. What it says of single choices, averaged over everything else, is worth more. So U architectures are drawn
uniformly and evaluated with the weights at the end of the search, `GROUP` of them on each minibatch, and an additive
function of the choices is fitted to their losses (the main effects of the functional analysis of variance):

    loss = offset of the minibatch + sum_d effect_d(c_d) + residual.

Of many draws from the distributions those of least effects + eps_k R(c) compete on the whole validation split. What it
gains on recorded supernets: docs/results.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import distribution
from jaxnas.strategies import robust
from jaxnas.strategies.shared_model import design

DRAWS = 256  # from each distribution, of which few compete
GROUP = 16  # architectures on one minibatch
RIDGE = 1.0  # as many evaluations as would say that a contrast has no effect


@dataclass(frozen=True, eq=False)
class MainEffects:
    """An additive function of the choices.

    Attributes:
      design: the contrasts of the choices.
      coefficients: float64 [P1], of the contrasts; 0 is the average architecture.
    """

    design: design.Design
    coefficients: np.ndarray

    def __call__(self, archs: np.ndarray) -> np.ndarray:
        """Losses above that of the average architecture: int [..., D] -> float64 [...]."""
        return _contrasts(self.design, archs) @ self.coefficients

    mean = __call__

    def tables(self) -> tuple[np.ndarray, list]:
        """What each choice adds, float64 [D, C], infinite in the padding; and no pairs, as of `LossModel.tables`."""
        return self.design.sums(self.coefficients), []


def groups(key: jax.Array, num_choices: Sequence[int], evaluations: int) -> np.ndarray:
    """Uniform architectures to evaluate, int32 [T, GROUP, D], one minibatch for each of the T groups.

    Args:
      key: a JAX random key.
      num_choices: C_d of each decision.
      evaluations: U, rounded up to whole groups.
    """
    theta = distribution.uniform(tuple(num_choices))
    count = -(-evaluations // GROUP)
    archs = distribution.sample(key, theta[None], count * GROUP)
    return np.asarray(archs, np.int32).reshape(count, GROUP, len(num_choices))


def fit(num_choices: Sequence[int], archs: np.ndarray, losses: np.ndarray) -> MainEffects:
    """Least squares with a small ridge, within each group.

    Losses that are not finite are left out, and a few that are far from all others are moved to them.

    Args:
      num_choices: C_d of each decision.
      archs: int [T, S, D], S architectures on each of T minibatches.
      losses: float [T, S].

    Raises:
      ValueError: if no group has two finite losses to compare.
    """
    chex.assert_rank([archs, losses], [3, 2])
    chex.assert_equal_shape_prefix([archs, losses], 2)
    usable = np.isfinite(losses)
    compared = usable.sum(1) > 1
    if not compared.any():
        raise ValueError(f"losses must have two finite values on some minibatch, got none in {losses.shape[0]} groups")
    archs, losses, usable = archs[compared], np.asarray(losses, np.float64)[compared], usable[compared]
    features = design.build(tuple(num_choices))
    x = _contrasts(features, archs)
    x = np.where(usable[..., None], x - _mean(x, usable[..., None]), 0.0)
    y = np.where(usable, losses - _mean(losses, usable), 0.0)
    scale = robust.scale(jnp.asarray(y, jnp.float32).ravel(), jnp.asarray(usable).ravel())
    y = np.where(usable, np.asarray(scale.cap(jnp.asarray(y, jnp.float32)), np.float64), 0.0)
    x, y = x.reshape(-1, x.shape[-1]), y.ravel()
    return MainEffects(features, np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y))


def best(archs: np.ndarray, objectives: np.ndarray, count: int) -> np.ndarray:
    """Those of N architectures that are among the `count` best for some k, in their order.

    Args:
      archs: int [N, D].
      objectives: float [K, N]; infinite ones are never taken.
      count: for each k.

    >>> best(np.array([[0], [1], [2]]), np.array([[3.0, 1.0, 2.0], [0.0, np.inf, np.inf]]), 2).tolist()
    [[0], [1], [2]]
    """
    order = np.argsort(objectives, axis=1, kind="stable")[:, :count]
    taken = order[np.isfinite(np.take_along_axis(objectives, order, 1))]
    return archs[np.unique(taken)]


def _mean(values: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The mean of the usable values of each group."""
    return np.where(usable, values, 0.0).sum(1, keepdims=True) / usable.sum(1, keepdims=True)


def _contrasts(features: design.Design, archs: np.ndarray) -> np.ndarray:
    return np.asarray(features.singles(jnp.asarray(archs, jnp.int32)), np.float64)
