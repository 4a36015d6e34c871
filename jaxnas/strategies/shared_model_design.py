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
      left, right: int [P2], the contrasts multiplied in each pair feature; P2 = 0 where pairs would be too many.
    """

    num_choices: tuple[int, ...]
    contrasts: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """0 for features of single decisions, 1 for those of pairs: int [P]."""
        return np.repeat([0, 1], [self.contrasts.shape[1], len(self.left)])

    @property
    def size(self) -> int:
        """P."""
        return self.contrasts.shape[1] + len(self.left)

    def features(self, archs: jax.Array) -> jax.Array:
        """Features of architectures: int [N, D] -> float32 [N, P]."""
        chex.assert_shape(archs, (None, len(self.num_choices)))
        one_hot = distribution.one_hot(archs, max(self.num_choices)).reshape(len(archs), -1)
        singles = one_hot @ self.contrasts
        # Selecting columns by a product with 0 and 1 is faster than XLA's gather on CPUs.
        selection = np.eye(self.contrasts.shape[1], dtype=np.float32)
        pairs = (singles @ selection[:, self.left]) * (singles @ selection[:, self.right])
        return jnp.concatenate([singles, pairs], axis=-1)

    def tables(self, coefficients: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A model as tables over choices: what each choice adds, and what each pair of choices adds.

        Args:
          coefficients: float [..., P].

        Returns:
          float [..., D * C] and symmetric [..., D * C, D * C]; each pair stands in it twice.
        """
        count = self.contrasts.shape[1]
        position = np.full((count, count), self.size)  # of the coefficient of two contrasts; one zero is appended
        position[self.left, self.right] = position[self.right, self.left] = count + np.arange(len(self.left))
        padded = jnp.concatenate([coefficients, jnp.zeros_like(coefficients[..., :1])], axis=-1)
        pairs = padded[..., position.ravel()].reshape(*coefficients.shape[:-1], count, count)
        pairs = jnp.einsum("...pq,bq->...pb", pairs, self.contrasts)
        return coefficients[..., :count] @ self.contrasts.T, jnp.einsum("ap,...pb->...ab", self.contrasts, pairs)


@functools.cache
def build(num_choices: tuple[int, ...]) -> Design:
    """The design of a space, with pairs where there are at most `MAX_FEATURES` features in all."""
    valid = distribution.valid_choices(num_choices)
    columns, owner = [], []  # owner: the decision that a contrast belongs to
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
    return Design(tuple(num_choices), contrasts, left, right)


def project_cost(design: Design, cost: Callable[[jax.Array], jax.Array], archs: np.ndarray) -> np.ndarray:
    """The scaled cost R(c) as coefficients of the same features, by least squares without the constant.

    Exact for additive costs, and where there are pair features for costs of pairs. Runs on the host, also while a
    program is traced.

    Args:
      design: the features.
      cost: R, int [N, D] -> float [N].
      archs: int [N, D], uniform architectures; several for each feature.

    Returns:
      float32 [P].
    """
    with jax.ensure_compile_time_eval():
        features = np.asarray(design.features(jnp.asarray(archs)), np.float64)
        costs = np.asarray(cost(jnp.asarray(archs)), np.float64)
    with_constant = np.concatenate([features, np.ones((len(archs), 1))], axis=1)
    return np.linalg.lstsq(with_constant, costs, rcond=1e-6)[0][:-1].astype(np.float32)


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
    valid = distribution.valid_choices(design.num_choices)
    decisions, choices = valid.shape
    chex.assert_shape(start, (*coefficients.shape[:-1], decisions))
    if not len(design.left):
        energy = jnp.where(valid, (coefficients @ design.contrasts.T).reshape(*start.shape, choices), jnp.inf)
        return jnp.argmin(energy, axis=-1).astype(jnp.int32)
    singles, pairs = design.tables(coefficients)
    singles = jnp.where(valid.ravel(), singles, jnp.inf)

    def visit(index: jax.Array, chosen: jax.Array) -> jax.Array:
        at = (index % decisions) * choices
        rows = jax.lax.dynamic_slice_in_dim(pairs, at, choices, axis=-2)
        energy = jax.lax.dynamic_slice_in_dim(singles, at, choices, axis=-1)
        energy = energy + (rows * chosen[..., None, :]).sum(-1)
        best = jax.nn.one_hot(jnp.argmin(energy, axis=-1), choices)
        return jax.lax.dynamic_update_slice_in_dim(chosen, best, at, axis=-1)

    chosen = jax.nn.one_hot(start, choices).reshape(*start.shape[:-1], decisions * choices)
    chosen = jax.lax.fori_loop(0, decisions * sweeps, visit, chosen)
    return jnp.argmax(chosen.reshape(*start.shape, choices), axis=-1).astype(jnp.int32)


def rows_for_cost(design: Design) -> int:
    """How many architectures `project_cost` should see."""
    for_each, more = COST_ROWS
    return for_each * design.size + more
