"""The linear model of `shared_model.py`: features of architectures, and the minimum of a model by coordinate descent.

P features: contrasts of single decisions (P1 of them), and products of two contrasts of different decisions (P2).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import distribution
from jaxnas.strategies import base

MAX_FEATURES = 640  # pairs enter where singles and pairs together are no more: a fit costs the cube of their number
COST_ROWS = (8, 64)  # architectures to fit a cost on: so many for each feature, and so many more


@dataclass(frozen=True, eq=False)
class Design:
    """Features phi(c) of architectures.

    The contrasts of a decision are orthogonal to the constant and to each other, and have mean square 1 under uniform
    choices: one prior variance for all of them favours no choice, however the choices are numbered. Products of
    contrasts inherit this (the functional analysis of variance).

    Attributes:
      num_choices: C_d of each decision.
      contrasts: float32 [D * C, P1], the contrasts as functions of the one-hot encoding; 0 in the padding.
      owner: int [P1], the decision of a contrast, ascending.
      left, right: int [P2], the contrasts multiplied in each pair feature; P2 = 0 where pairs would be too many.
    """

    num_choices: tuple[int, ...]
    contrasts: np.ndarray
    owner: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """0 for features of single decisions, 1 for those of pairs: int [P]."""
        return np.repeat([0, 1], [len(self.owner), len(self.left)])

    @property
    def size(self) -> int:
        """P."""
        return len(self.owner) + len(self.left)

    def columns(self, decision: int) -> slice:
        """Which contrasts a decision has."""
        return slice(*np.searchsorted(self.owner, [decision, decision + 1]).tolist())

    def table(self, decision: int) -> np.ndarray:
        """Contrasts of the choices of one decision: float32 [C_d, C_d - 1]."""
        start = decision * max(self.num_choices)
        return self.contrasts[start : start + self.num_choices[decision], self.columns(decision)]

    def sums(self, coefficients: np.ndarray) -> np.ndarray:
        """What each choice adds: coefficients [P1] -> float64 [D, C], infinite in the padding."""
        added = np.full((len(self.num_choices), max(self.num_choices)), np.inf)
        for d, count in enumerate(self.num_choices):
            added[d, :count] = self.table(d).astype(np.float64) @ coefficients[self.columns(d)]
        return added

    def singles(self, archs: jax.Array) -> jax.Array:
        """Contrasts of architectures: int [..., D] -> float32 [..., P1]."""
        chex.assert_axis_dimension(archs, -1, len(self.num_choices))
        one_hot = jax.nn.one_hot(archs, max(self.num_choices), dtype=jnp.float32)
        return one_hot.reshape(*archs.shape[:-1], -1) @ self.contrasts

    def features(self, archs: jax.Array) -> jax.Array:
        """Features of architectures: int [..., D] -> float32 [..., P]."""
        singles = self.singles(archs)
        parts = [singles]
        for decision in range(len(self.num_choices) - 1) if len(self.left) else ():
            own = self.columns(decision)
            # The pairs of a decision with all later ones: an outer product of slices, no gather.
            products = singles[..., own, None] * singles[..., None, own.stop :]
            parts.append(products.reshape(*archs.shape[:-1], -1))
        return jnp.concatenate(parts, axis=-1)

    def split(self, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A model as a linear and a quadratic form of the contrasts x: value = b . x + x' B x / 2.

        Args:
          coefficients: float [..., P].

        Returns:
          b [..., P1] and symmetric B [..., P1, P1], 0 between contrasts of one decision.
        """
        count = len(self.owner)
        position = np.full((count, count), self.size)  # of the coefficient of two contrasts; one zero is appended
        position[self.left, self.right] = position[self.right, self.left] = count + np.arange(len(self.left))
        padded = jnp.concatenate([coefficients, jnp.zeros_like(coefficients[..., :1])], axis=-1)
        quadratic = padded[..., position.ravel()].reshape(*coefficients.shape[:-1], count, count)
        return coefficients[..., :count], quadratic

    def pairs_of(self, matrix: jax.Array) -> jax.Array:
        """The entries of [..., P1, P1] that belong to pair features: [..., P2]."""
        return matrix[..., self.left, self.right]


@functools.cache
def build(num_choices: tuple[int, ...]) -> Design:
    """The design of a space, with pairs where there are at most `MAX_FEATURES` features in all."""
    valid = distribution.valid_choices(num_choices)
    columns, owner = [], []
    for decision, count in enumerate(num_choices):
        centring = np.eye(count) - 1 / count
        basis = np.linalg.svd(centring)[0][:, : count - 1]  # orthonormal, orthogonal to the constant
        for contrast in np.sqrt(count) * basis.T:
            column = np.zeros(valid.shape)
            column[decision, :count] = contrast
            columns.append(column.ravel())
            owner.append(decision)
    owner = np.asarray(owner, int)
    contrasts = np.asarray(columns, np.float32).reshape(len(columns), valid.size).T
    left, right = np.nonzero(owner[:, None] < owner[None, :])
    if len(owner) + len(left) > MAX_FEATURES:
        left, right = left[:0], right[:0]
    return Design(tuple(num_choices), contrasts, owner, left, right)


def curvatures(design: Design, additive: jax.Array, cost: jax.Array) -> jax.Array:
    """Directions among the pairs in which a loss that saturates would bend.

    Were the loss a curved function of one additive score, as of the cost, its pair coefficients would be products of
    the single ones. Three such directions take most of what pairs hold on complete tables, and need three
    coefficients and not P2.

    Args:
      design: the features.
      additive: float [P1], coefficients of single decisions, of the loss.
      cost: float [P1], likewise of the scaled cost.

    Returns:
      float [P2, 3], unit columns (0 where there is no such direction): score squared, score times cost, cost squared.
    """

    def product(u: jax.Array, v: jax.Array) -> jax.Array:
        return design.pairs_of(u[:, None] * v + v[:, None] * u)

    directions = jnp.stack([product(additive, additive), product(additive, cost), product(cost, cost)], axis=1)
    return directions / jnp.maximum(jnp.linalg.norm(directions, axis=0), jnp.finfo(jnp.float32).tiny)


def project_cost(design: Design, cost: Callable[[jax.Array], jax.Array], archs: np.ndarray) -> np.ndarray:
    """The scaled cost R(c) as coefficients of the same features, by least squares without the constant.

    Exact for additive costs, and where there are pair features for costs of pairs. Runs on the host, also while a
    program is traced.

    Args:
      design: the features.
      cost: R, int [N, D] -> float [N] or, of J costs, [N, J].
      archs: int [N, D], uniform architectures; several for each feature.

    Returns:
      float32 [J, P].
    """
    with jax.ensure_compile_time_eval():
        features = np.asarray(design.features(jnp.asarray(archs)), np.float64)
        costs = np.asarray(base.costs_of(cost, jnp.asarray(archs)), np.float64)
    with_constant = np.concatenate([features, np.ones((len(archs), 1))], axis=1)
    return np.linalg.lstsq(with_constant, costs, rcond=1e-6)[0][:-1].T.astype(np.float32)


def descend(design: Design, coefficients: jax.Array, start: jax.Array, sweeps: int) -> jax.Array:
    """Minimises phi(c) . coefficients over architectures, one decision after another.

    Exact without pairs. With pairs it ends where no single decision can improve, given enough sweeps: iterated
    conditional modes (Besag, "On the statistical analysis of dirty pictures", JRSS B, 1986).

    Args:
      design: the features.
      coefficients: float [..., P].
      start: int [..., D], where to begin.
      sweeps: visits of every decision.

    Returns:
      int32 [..., D].
    """
    chex.assert_shape(start, (*coefficients.shape[:-1], len(design.num_choices)))
    linear, quadratic = design.split(coefficients)
    tables = [design.table(decision) for decision in range(len(design.num_choices))]

    def sweep(_: jax.Array, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        singles, chosen = state
        for decision, table in enumerate(tables):
            own = design.columns(decision)
            slope = linear[..., own] + (quadratic[..., own, :] * singles[..., None, :]).sum(-1)
            choice = (slope[..., None, :] * table).sum(-1).argmin(-1)
            best = jax.nn.one_hot(choice, len(table), dtype=jnp.float32)
            singles = singles.at[..., own].set((best[..., None] * table).sum(-2))
            chosen = chosen.at[..., decision].set(choice.astype(jnp.int32))
        return singles, chosen

    sweeps = sweeps if len(design.left) else 1
    return jax.lax.fori_loop(0, sweeps, sweep, (design.singles(start), jnp.asarray(start, jnp.int32)))[1]


def rows_for_cost(design: Design) -> int:
    """How many architectures `project_cost` should see."""
    for_each, more = COST_ROWS
    return for_each * design.size + more
