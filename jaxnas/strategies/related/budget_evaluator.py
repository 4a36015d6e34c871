"""Which of two architectures is to be preferred at a budget, as a perceptron learns it: the evaluator of PNAG.

After core/engine/reward_estimator.py of guoyongcs/PNAG (arXiv 2210.07634); see `pnag.py`.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxnas.strategies.constrained import ROUNDING
from jaxnas.strategies.related import neural
from jaxnas.strategies.related.archive import Archive

STEPS = 160  # from new parameters: with many more it learns the noise
BATCH = 64  # architectures in a minibatch, all pairs of which are compared at one budget
RATE, DECAY, LONGEST = 0.2, 3e-5, 1.0  # of stochastic gradient descent with momentum 0.9; of the gradient


def preferred(losses: jax.Array, costs: jax.Array, budget: jax.Array) -> jax.Array:
    """Which of two architectures is better at a budget: float [S], float [S] -> float [S, S], 1 for the first, else -1.

    If both are within the budget, that of smaller loss; otherwise the cheaper one. Equals count as -1 both ways.
    """
    chex.assert_rank([losses, costs], 1)
    within = costs <= budget + ROUNDING
    better = losses[:, None] < losses
    return jnp.where(jnp.where(within[:, None] & within, better, costs[:, None] < costs), 1.0, -1.0)


def scores(params: Any, archs: jax.Array, at: jax.Array, num_choices: tuple[int, ...], budgets: int) -> jax.Array:
    """Scores at budgets, the higher the better.

    Args:
      params: what `train` returned.
      archs: int [S, D].
      at: int [S], which of the K = `budgets` budgets.
      num_choices: C_d of each decision.
      budgets: K.

    Returns:
      float [S].
    """
    width = params["params"]["Dense_0"]["bias"].size
    condition = jax.nn.one_hot(at, budgets, dtype=jnp.float32)
    encoded = jnp.concatenate([neural.flat_one_hot(archs, num_choices), condition], axis=1)
    return neural.Perceptron(width).apply(params, encoded)


def train(
    key: jax.Array, archive: Archive, budgets: tuple[float, ...], num_choices: tuple[int, ...], width: int
) -> Any:
    """Learns from all pairs in minibatches of the archive, each minibatch at one random budget.

    Args:
      key: a JAX random key.
      archive: evaluated architectures.
      budgets: K, on the scale of R.
      num_choices: C_d of each decision.
      width: hidden units.

    Returns:
      Parameters for `scores`.
    """
    start_key, row_key, budget_key = jax.random.split(key, 3)
    levels = jnp.asarray(budgets, jnp.float32)

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        rows, at = batch
        score = scores(params, archive.archs[rows], jnp.full(len(rows), at), num_choices, len(budgets))
        labels = preferred(archive.losses[rows], archive.costs[rows], levels[at])
        return jax.nn.softplus(-labels * (score[:, None] - score)).mean()

    rows = jax.random.randint(row_key, (STEPS, BATCH), 0, (archive.counts > 0).sum())
    at = jax.random.randint(budget_key, (STEPS,), 0, len(budgets))
    sgd = optax.sgd(RATE, momentum=0.9, nesterov=True)
    careful = optax.chain(optax.clip_by_global_norm(LONGEST), optax.add_decayed_weights(DECAY), sgd)
    start = neural.Perceptron(width).start(start_key, len(num_choices) * max(num_choices) + len(budgets))
    return neural.minimise(loss, start, careful, (rows, at))
