"""The Bayesian linear regression of `shared_model.py`: memory, responses, normal equations, posterior.

Notation beyond METHOD's: T steps are remembered, P features, M posterior draws. There is one response for each k, all
on the same features, so that the costly matrix is shared.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnas import cost as cost_lib
from jaxnas.strategies import robust
from jaxnas.strategies.shared_model.design import Design

BLOCK_ROWS = 256  # samples whose features are held at a time: a whole design of T S rows would take P times the memory
QUANTILE_ROWS = 512  # samples, evenly spaced over all steps, that the cap of the responses is estimated from
RATIO_RANGE = (1e-2, 1e5)  # of noise over prior variance
# Penalties beyond so many times the spread of the losses count as equal to it. Costs decide alone then, also where they
# differ by a thousandth, and a float32 sum of the two still holds the loss to 1 % of its spread.
LARGEST_PENALTY = 1e5
MODERATE_PENALTY = 1e3  # likewise; what is common to all k is learnt from those with penalties up to this
SMALLEST_ERROR = 1e-9  # of the response's mean square: keeps the noise positive where the model fits exactly
EVEN_SHARE = 0.5  # of the samples that all distributions get alike; the rest follows their expected regret


@flax.struct.dataclass
class Memory:
    """The last T steps, as a ring, and the Gram matrix of those that a fit has seen.

    Attributes:
      archs: int32 [T, S, D].
      losses: float32 [T, S]; 0 where not usable.
      costs: float32 [T, S, J], R of the architectures.
      usable: bool [T, S], whether a loss was finite; False in rows that nothing was written to.
      step: int32 [], steps told so far, those forgotten included.
      gram: float32 [P, P], of features centred in each step, over the first `counted` steps.
      counted: int32 [].
    """

    archs: jax.Array
    losses: jax.Array
    costs: jax.Array
    usable: jax.Array
    step: jax.Array
    gram: jax.Array
    counted: jax.Array


def empty(design: Design, steps: int, samples: int, costs: int) -> Memory:
    """Nothing told yet; T = `steps` rounded up to whole blocks."""
    block = _block_steps(samples)
    steps = -(-steps // block) * block
    zeros = jnp.zeros((steps, samples), jnp.float32)
    archs = jnp.zeros((steps, samples, len(design.num_choices)), jnp.int32)
    return Memory(
        archs,
        zeros,
        jnp.zeros((steps, samples, costs), jnp.float32),
        jnp.zeros((steps, samples), bool),
        jnp.int32(0),
        jnp.zeros((design.size, design.size), jnp.float32),
        jnp.int32(0),
    )


def remember(memory: Memory, archs: jax.Array, losses: jax.Array, costs: jax.Array) -> Memory:
    """Writes one step over the oldest: int32 [S, D], float [S], infinite where not usable, float [S, J]."""
    row, usable = memory.step % len(memory.losses), jnp.isfinite(losses)
    return memory.replace(
        archs=memory.archs.at[row].set(archs),
        losses=memory.losses.at[row].set(jnp.where(usable, losses, 0.0)),
        costs=memory.costs.at[row].set(costs),
        usable=memory.usable.at[row].set(usable),
        step=memory.step + 1,
    )


def count(memory: Memory, design: Design) -> tuple[jax.Array, jax.Array]:
    """The Gram matrix over all remembered steps, and their number: the next `gram` and `counted`.

    Only steps that are new are visited, unless the ring has begun to forget: then all are.
    """
    samples = memory.losses.shape[1]
    block = _block_steps(samples)
    forgets = memory.step > len(memory.losses)
    first, live = jnp.where(forgets, 0, memory.counted), _live_steps(memory)

    def add(index: jax.Array, gram: jax.Array) -> jax.Array:
        archs, usable = (
            jax.lax.dynamic_slice_in_dim(leaf, index * block, block) for leaf in (memory.archs, memory.usable)
        )
        features = design.features(archs)
        steps = index * block + jnp.arange(block)
        new = usable & ((steps >= first) & (steps < live))[:, None]
        features = (features - robust.mean(features, usable[..., None], 1)) * new[..., None]
        features = features.reshape(block * samples, design.size)
        return gram + features.T @ features

    gram = jnp.where(forgets, 0.0, memory.gram)
    return jax.lax.fori_loop(first // block, -(-live // block), add, gram), live


@flax.struct.dataclass
class NormalEquations:
    """Sufficient statistics of K regressions on one design, features and responses centred in each step.

    Attributes:
      gram: float32 [P, P].
      moment: float32 [K, P], features times responses.
      square: float32 [K], sum of squared responses.
      rows: float32 [], degrees of freedom, one less than its usable samples for each remembered step.
    """

    gram: jax.Array
    moment: jax.Array
    square: jax.Array
    rows: jax.Array

    def augmented(self, directions: jax.Array) -> "NormalEquations":
        """With one more feature for each direction [P2, N] among the pair features, which are the last ones."""
        first = len(self.gram) - len(directions)
        cross = self.gram[:, first:] @ directions
        gram = jnp.block([[self.gram, cross], [cross.T, directions.T @ cross[first:]]])
        return self.replace(gram=gram, moment=jnp.concatenate([self.moment, self.moment[:, first:] @ directions], 1))


def loss_scale(memory: Memory) -> robust.Scale:
    """The scale of the remembered losses, from some of them."""
    sample = _some_steps(memory)
    return robust.scale(memory.losses[sample].ravel(), memory.usable[sample].ravel())


def of_moderate(coefficients: jax.Array, penalties: jax.Array, scale: robust.Scale) -> jax.Array:
    """The mean model of the loss, of those k where it is not drowned by costs: float [K, P], float [K, J] -> [P].

    Responses are capped at a quantile of f_k, and under a huge penalty nearly all that is left of them is cost.
    """
    moderate = (penalties <= MODERATE_PENALTY * scale.width).all(-1, keepdims=True)
    return robust.mean(coefficients, moderate | ~moderate.any(), 0)[0]


def normal_equations(
    memory: Memory, design: Design, coefficients: jax.Array, penalties: jax.Array, worst: float
) -> NormalEquations:
    """Statistics of the responses: for each k the loss, with f_k capped at a quantile, centred in each step.

    Centring removes an offset common to a minibatch. The cap is one quantile of f_k over all steps, so they have to
    be brought to one level first; the model of the previous fit says how much of a step's mean is its architectures'.

    Args:
      memory: the samples; its Gram matrix must count all of them.
      design: the features.
      coefficients: float [K, P], of the previous fit.
      penalties: float [K, J].
      worst: objectives beyond this quantile count as equal to it; 1 caps nothing.
    """
    samples, scale = memory.losses.shape[1], loss_scale(memory)
    block, live = _block_steps(samples), _live_steps(memory)
    linear, quadratic = design.split(of_moderate(coefficients, penalties, scale))

    def level(archs: jax.Array, losses: jax.Array, usable: jax.Array) -> tuple[jax.Array, jax.Array]:
        singles, losses = design.singles(archs), scale.cap(losses)
        predicted = singles @ linear + ((singles @ quadratic) * singles).sum(-1) / 2
        return losses - robust.mean(losses - predicted, usable, -1), singles

    sample = _some_steps(memory)
    usable = memory.usable[sample]
    levelled, _ = level(memory.archs[sample], memory.losses[sample], usable)
    objective = cost_lib.objective(levelled, penalties, memory.costs[sample]).reshape(len(penalties), -1)
    cap = robust.quantile(objective, usable.ravel(), worst)[:, None, None] if worst < 1 else jnp.inf

    def add(index: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        single, pair, square = sums
        archs, losses, costs, usable = (
            jax.lax.dynamic_slice_in_dim(leaf, index * block, block)
            for leaf in (memory.archs, memory.losses, memory.costs, memory.usable)
        )
        levelled, singles = level(archs, losses, usable)
        price = cost_lib.price(penalties, costs)
        response = jnp.minimum(levelled + price, cap) - price  # [K, block, S]
        response = (response - robust.mean(response, usable, -1)) * usable
        response, singles = response.reshape(len(penalties), -1), singles.reshape(block * samples, -1)
        # Moments of products of contrasts, for every two contrasts: cheaper than to form the pair features.
        products = jnp.einsum("knp,nq->kpq", response[..., None] * singles, singles)
        return single + response @ singles, pair + products, square + jnp.square(response).sum(1)

    k, contrasts = len(penalties), len(design.owner)
    zeros = tuple(jnp.zeros(shape, jnp.float32) for shape in ((k, contrasts), (k, contrasts, contrasts), (k,)))
    single, pair, square = jax.lax.fori_loop(0, -(-live // block), add, zeros)
    moment = jnp.concatenate([single, design.pairs_of(pair)], axis=1)
    rows = jnp.maximum(memory.usable.sum(-1) - 1, 0).sum().astype(jnp.float32)
    return NormalEquations(memory.gram, moment, square, rows)


@flax.struct.dataclass
class Posterior:
    """The posterior of the coefficients, a normal law for each k.

    Attributes:
      mean: float32 [K, P].
      noise: float32 [K], variance of the noise.
      deviations: float32 [M, P], draws of mean 0 from the posterior for noise 1, common to all k.
    """

    mean: jax.Array
    noise: jax.Array
    deviations: jax.Array


def posterior(
    equations: NormalEquations, order: np.ndarray, log_ratio: jax.Array, key: jax.Array, draws: int
) -> tuple[Posterior, jax.Array]:
    """The posterior under given variance ratios, and one fixed-point step of empirical Bayes on the ratios.

    MacKay, "Bayesian interpolation", Neural Computation 4 (1992): a prior variance is the sum of squared
    coefficients over the number that the data determine. Prior variances are relative to the noise of each k, and
    then the same for all k; noises differ, since a response that is capped hard hardly varies.

    Args:
      equations: of the samples.
      order: int [P], 0, 1 or 2: single decisions, pairs, and directions that may each hold as much variance as all
        single decisions together.
      log_ratio: float [2], log of noise over prior variance of orders 0 and 1.
      key: a random key for the draws, which also estimate the trace of the posterior covariance.
      draws: M.

    Returns:
      The posterior, and the next log_ratio [2].
    """
    ratios = jnp.exp(log_ratio)
    ratio = jnp.append(ratios, ratios[0] / max(1, (order == 0).sum()))[order]  # [P]
    factor = jnp.linalg.cholesky(equations.gram + jnp.diag(ratio))
    inverse = lax.linalg.triangular_solve(factor, jnp.eye(len(ratio), dtype=jnp.float32), left_side=True, lower=True)
    mean = equations.moment @ inverse.T @ inverse
    deviations = jax.random.normal(key, (len(order), draws), jnp.float32).T @ inverse  # covariance: the inverse matrix
    determined = 1 - ratio * jnp.square(deviations).mean(0)  # [P], in all the effective number of parameters
    error = equations.square - (mean * equations.moment).sum(-1) - (jnp.square(mean) * ratio).sum(-1)
    error = jnp.maximum(error, SMALLEST_ERROR * equations.square)
    noise = error / jnp.maximum(equations.rows - determined.sum(), 1.0) + jnp.finfo(jnp.float32).tiny

    def by_order(values: jax.Array) -> jax.Array:
        return jnp.stack([values[order == 0].sum(), values[order == 1].sum()])

    power = by_order((jnp.square(mean) / noise[:, None]).mean(0)) + 1e-12
    next_ratio = jnp.clip(jnp.maximum(by_order(determined), 1e-3) / power, *RATIO_RANGE)
    return Posterior(mean, noise, deviations), jnp.log(next_ratio)


def share_out(design: Design, drawn: jax.Array, modes: jax.Array, optima: jax.Array) -> jax.Array:
    """Shares of the distributions in the samples, by the regret that the draws expect of each mode.

    Args:
      design: the features of the models.
      drawn: float [K, M, P], models of f_k.
      modes: int [K, D].
      optima: int [K, M, D], of the draws.

    Returns:
      float [K], sum 1.
    """
    behind = design.features(modes)[:, None] - design.features(optima)  # [K, M, P]
    regret = jnp.maximum((drawn * behind).sum(-1), 0).mean(1)
    total = regret.sum()
    by_regret = jnp.where(total > 0, regret / jnp.where(total > 0, total, 1), 1 / len(regret))
    return EVEN_SHARE / len(regret) + (1 - EVEN_SHARE) * by_regret


def _block_steps(samples: int) -> int:
    return max(1, BLOCK_ROWS // samples)


def _some_steps(memory: Memory) -> jax.Array:
    """Indices of steps, evenly spaced over all live ones, that quantiles are estimated from; while few, some twice."""
    steps, samples = memory.losses.shape
    picked = max(1, min(steps, QUANTILE_ROWS // samples))
    return (jnp.arange(picked) * _live_steps(memory)) // picked


def _live_steps(memory: Memory) -> jax.Array:
    return jnp.minimum(memory.step, len(memory.losses))
