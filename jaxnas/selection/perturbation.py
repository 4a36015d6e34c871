"""DARTS-PT: keep the choice whose removal from the mixture hurts most, one decision after the other.

Paper: Wang et al., "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021, arXiv 2108.04392.

Idea: the weight of a choice is a poor measure of its value; the loss of the trained mixture without it is a better one.

Faithful: decisions in random order; for each choice the mixture is scored on the whole validation half, with batch norm
by the minibatch's statistics, with that choice's weight set to 0 and nothing renormalised; the choice whose removal
scores worst is kept, the first of equals; its row becomes one-hot and the supernet's weights are tuned before the next
decision, by a fresh optimiser at a tenth of the learning rate that does not decay (public code of DARTS-PT).

Deviations: Alpha is not tuned between decisions, as in the code's "blank" variant. All decisions are of one kind: the
removal of whole edges in the DARTS cell has no counterpart. A score that is not finite never wins. A supernet that was
trained by single paths has never seen a mixture.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data, distribution

# (params, weights [D, C]) -> loss or accuracy of the mixture
Score = Callable[[chex.ArrayTree, jax.Array], jax.Array]
# (params, weights [D, C], key) -> params, trained on for a while under these weights
Tune = Callable[[chex.ArrayTree, jax.Array, jax.Array], chex.ArrayTree]


@dataclass(frozen=True)
class Discretised:
    """What perturbation selected.

    Attributes:
      arch: int32 [D].
      scores: float64 [D, C], of the mixture without each choice, when its decision was taken; NaN in the padding.
      order: int [D], decisions in the order in which they were taken.
      weights: float32 [D, C], all rows one-hot.
      params: the tuned weights of the supernet.
      evaluations: number of scores.
    """

    arch: np.ndarray
    scores: np.ndarray
    order: np.ndarray
    weights: jax.Array
    params: chex.ArrayTree
    evaluations: int


def select(
    key: jax.Array,
    score: Score,
    params: chex.ArrayTree,
    num_choices: Sequence[int],
    weights: jax.Array | None = None,
    tune: Tune | None = None,
    *,
    higher_is_better: bool = False,
) -> Discretised:
    """Turns a mixture into one architecture.

    Args:
      key: of the order of decisions, and of tuning.
      score: of the mixture, on the whole validation half.
      params: weights of the supernet.
      num_choices: C_d of each decision.
      weights: float [D, C] to start from, such as softmax(alpha) or any strategy's theta_k; None for uniform ones.
      tune: trains the weights on after each decision but the last; None for not at all.
      higher_is_better: the score is an accuracy, not a loss.

    Returns:
      Discretised, after sum_d C_d evaluations.

    Raises:
      ValueError: if all scores of a decision are not finite.
    """
    valid = distribution.valid_choices(num_choices)
    weights = distribution.uniform(num_choices) if weights is None else jnp.asarray(weights, jnp.float32)
    chex.assert_shape(weights, valid.shape)
    order_key, tune_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, len(valid)))
    scores = np.full(valid.shape, np.nan)
    for place, d in enumerate(order.tolist()):
        for choice in range(num_choices[d]):
            scores[d, choice] = score(params, weights.at[d, choice].set(0.0))
        kept = _worst(scores[d], higher_is_better, d)
        weights = weights.at[d].set(jax.nn.one_hot(kept, valid.shape[1]))
        if tune is not None and place + 1 < len(order):
            params = tune(params, weights, jax.random.fold_in(tune_key, place))
    arch = np.asarray(distribution.mode(weights))
    return Discretised(arch, scores, order, weights, params, int(valid.sum()))


def _worst(scores: np.ndarray, higher_is_better: bool, decision: int) -> int:
    """The choice without which the score is worst, the first of equals; never one whose score is not finite."""
    harm = -scores if higher_is_better else scores
    if not np.isfinite(harm).any():
        raise ValueError(f"score must be finite for a choice of decision {decision} at least, got {scores.tolist()}")
    return int(np.where(np.isfinite(harm), harm, -np.inf).argmax())


def split_score(loss: Callable[..., jax.Array], split: Any, batch_size: int) -> Score:
    """The mean loss over a whole split, minibatch by minibatch.

    Args:
      loss: (params, weights [D, C], batch) -> float32 [], such as `relaxation.supernet_loss` makes.
      split: tree of arrays with a leading axis of N examples.
      batch_size: most examples in a minibatch. All are of one size, which leaves out fewer than there are minibatches.

    Returns:
      The score, compiled.

    Raises:
      ValueError: if the batch size is less than 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    examples = len(jax.tree.leaves(split)[0])
    count = -(-examples // batch_size)
    size = examples // count
    batches = jax.tree.map(lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), split)

    @jax.jit
    def score(params: chex.ArrayTree, weights: jax.Array) -> jax.Array:
        return jax.lax.map(lambda batch: loss(params, weights, batch), batches).mean()

    return score


def tuner(
    loss: Callable[..., jax.Array], split: Any, steps: int, batch_size: int, optimizer: optax.GradientTransformation
) -> Tune:
    """Training between decisions: `steps` minibatches of a split, with a fresh state of the optimiser each time.

    Args:
      loss: as in `split_score`.
      split: tree of arrays with a leading axis of N examples, the training half.
      steps: between two decisions.
      batch_size: B, at most N.
      optimizer: of the weights; in the paper's code SGD at a tenth of the supernet's learning rate.

    Returns:
      The tuning, compiled.
    """
    examples = len(jax.tree.leaves(split)[0])

    @jax.jit
    def tune(params: chex.ArrayTree, weights: jax.Array, key: jax.Array) -> chex.ArrayTree:
        def step(carry, _):
            params, state, cursor = carry
            indices, cursor = data.next_indices(key, cursor, batch_size)
            batch = jax.tree.map(lambda leaf: leaf[indices], split)
            updates, state = optimizer.update(jax.grad(loss)(params, weights, batch), state, params)
            return (optax.apply_updates(params, updates), state, cursor), None

        start = (params, optimizer.init(params), data.start(key, examples))
        return jax.lax.scan(step, start, length=steps)[0][0]

    return tune
