"""The Bayesian linear regression of `shared_model.py`: memory, responses, normal equations, posterior.

Notation beyond METHOD's: T steps are remembered, P features, M posterior draws. There is one response for each k, all
on the same features, so that the costly matrix is shared.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas.strategies.shared_model_design import Design

BLOCK_ROWS = 256  # samples whose features are held at a time: a whole design of T S rows would take P times the memory
BISECTIONS = 18  # of the span of the objective: resolves 4e-6 of it
RATIO_RANGE = (1e-2, 1e5)  # of noise over prior variance
SMALLEST_ERROR = 1e-9  # of the response's mean square: keeps the noise positive where the model fits exactly


@flax.struct.dataclass
class Memory:
    """The last T steps, as a ring.

    Attributes:
      archs: int32 [T, S, D].
      losses: float32 [T, S].
      costs: float32 [T, S], R of the architectures.
      step: int32 [], steps told so far, those forgotten included.
    """

    archs: jax.Array
    losses: jax.Array
    costs: jax.Array
    step: jax.Array

    @property
    def live(self) -> jax.Array:
        """Which rows have been written: bool [T]."""
        return jnp.arange(len(self.losses)) < self.step


def empty(steps: int, samples: int, decisions: int) -> Memory:
    """Nothing told yet; T = `steps` rounded up to whole blocks."""
    block = _block_steps(samples)
    steps = -(-steps // block) * block
    zeros = jnp.zeros((steps, samples), jnp.float32)
    return Memory(jnp.zeros((steps, samples, decisions), jnp.int32), zeros, zeros, jnp.int32(0))


def remember(memory: Memory, archs: jax.Array, losses: jax.Array, costs: jax.Array) -> Memory:
    """Writes one step over the oldest: int32 [S, D], float [S], float [S]."""
    row = memory.step % len(memory.losses)
    return Memory(
        memory.archs.at[row].set(archs),
        memory.losses.at[row].set(losses),
        memory.costs.at[row].set(costs),
        memory.step + 1,
    )


def responses(memory: Memory, design: Design, coefficients: jax.Array, penalties: jax.Array, worst: float) -> jax.Array:
    """What is regressed for each k: the loss, with f_k capped at a quantile, centred in each step.

    Centring removes an offset common to a minibatch. The cap is one quantile of f_k over all steps, so they have to
    be brought to one level first; the model of the previous fit says how much of a step's mean is its architectures'.

    Args:
      memory: the samples.
      design: the features.
      coefficients: float [K, P], of the previous fit.
      penalties: float [K].
      worst: objectives beyond this quantile count as equal to it.

    Returns:
      float [K, T, S], 0 in rows that are not live.
    """
    mean_coefficients = coefficients.mean(0)

    def predict(index: jax.Array, predicted: jax.Array) -> jax.Array:
        rows = _block_features(memory, design, index) @ mean_coefficients
        return jax.lax.dynamic_update_slice_in_dim(predicted, rows, index * len(rows), 0)

    predicted = jax.lax.fori_loop(0, _live_blocks(memory), predict, jnp.zeros_like(memory.losses))
    levelled = memory.losses - (memory.losses - predicted).mean(1, keepdims=True)
    live = memory.live[:, None]
    price = penalties[:, None, None] * memory.costs
    objective = levelled + price  # [K, T, S]
    response = jnp.minimum(objective, masked_quantile(objective, live, worst)[:, None, None]) - price
    return (response - response.mean(-1, keepdims=True)) * live


def masked_quantile(values: jax.Array, live: jax.Array, quantile: float) -> jax.Array:
    """Quantile of the live entries, by bisection: float [K, T, S], bool [T, 1] -> float [K].

    Only counts are needed, so nothing is sorted; `BISECTIONS` bounds the error.
    """
    low = jnp.where(live, values, jnp.inf).min((1, 2))
    high = jnp.where(live, values, -jnp.inf).max((1, 2))
    wanted = quantile * live.sum() * values.shape[-1]

    def halve(_: jax.Array, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        too_low = ((values <= middle[:, None, None]) & live).sum((1, 2)) < wanted
        return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

    return jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))[1]


@flax.struct.dataclass
class NormalEquations:
    """Sufficient statistics of K regressions on one design, features and responses centred in each step.

    Attributes:
      gram: float32 [P, P].
      moment: float32 [K, P], features times responses.
      square: float32 [K], sum of squared responses.
      rows: float32 [], degrees of freedom, S - 1 for each remembered step.
    """

    gram: jax.Array
    moment: jax.Array
    square: jax.Array
    rows: jax.Array


def normal_equations(memory: Memory, design: Design, response: jax.Array) -> NormalEquations:
    """Sums over all remembered steps, block by block; `response` float [K, T, S] as `responses` gives it."""
    samples = memory.losses.shape[1]
    block = _block_steps(samples)

    def accumulate(index: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gram, moment = sums
        features = _block_features(memory, design, index)
        live = jax.lax.dynamic_slice_in_dim(memory.live, index * block, block)
        features = (features - features.mean(1, keepdims=True)) * live[:, None, None]
        features = features.reshape(block * samples, design.size)
        part = jax.lax.dynamic_slice_in_dim(response, index * block, block, axis=1)
        return gram + features.T @ features, moment + part.reshape(len(part), block * samples) @ features

    zero = (jnp.zeros((design.size, design.size)), jnp.zeros((len(response), design.size)))
    gram, moment = jax.lax.fori_loop(0, _live_blocks(memory), accumulate, zero)
    rows = jnp.minimum(memory.step, len(memory.losses)) * (samples - 1.0)
    return NormalEquations(gram, moment, jnp.square(response).sum((1, 2)), rows)


@flax.struct.dataclass
class Posterior:
    """The posterior of the coefficients, a normal law for each k with one covariance.

    Attributes:
      mean: float32 [K, P].
      noise: float32 [], variance of the noise.
      deviations: float32 [M, P], draws of mean 0 from the posterior.
    """

    mean: jax.Array
    noise: jax.Array
    deviations: jax.Array


def posterior(
    equations: NormalEquations, order: np.ndarray, log_ratio: jax.Array, key: jax.Array, draws: int
) -> tuple[Posterior, jax.Array]:
    """The posterior under given variance ratios, and one fixed-point step of empirical Bayes on the ratios.

    MacKay, "Bayesian interpolation", Neural Computation 4 (1992): a prior variance is the sum of squared
    coefficients over the number that the data determine. One prior variance for each order, the same for all k.

    Args:
      equations: of the samples.
      order: int [P], 0 or 1: which of the two ratios belongs to a feature.
      log_ratio: float [2], log of noise variance over prior variance.
      key: a random key for the draws, which also estimate the trace of the posterior covariance.
      draws: M.

    Returns:
      The posterior, and the next log_ratio [2].
    """
    ratio = jnp.exp(log_ratio)[order]  # [P]
    inverse = invert_lower(jnp.linalg.cholesky(equations.gram + jnp.diag(ratio)))
    mean = equations.moment @ inverse.T @ inverse
    standard = jax.random.normal(key, (len(order), draws)).T @ inverse  # covariance: the inverse matrix
    determined = 1 - ratio * jnp.square(standard).mean(0)  # [P], in all the effective number of parameters
    error = (equations.square - (mean * equations.moment).sum(-1) - (jnp.square(mean) * ratio).sum(-1)).mean()
    error = jnp.maximum(error, SMALLEST_ERROR * equations.square.mean())
    noise = error / jnp.maximum(equations.rows - determined.sum(), 1.0) + jnp.finfo(jnp.float32).tiny

    def by_order(values: jax.Array) -> jax.Array:
        return jnp.stack([values[order == 0].sum(), values[order == 1].sum()])

    power = by_order(jnp.square(mean).mean(0)) + 1e-12 * noise
    next_ratio = jnp.clip(noise * jnp.maximum(by_order(determined), 1e-3) / power, *RATIO_RANGE)
    return Posterior(mean, noise, standard * jnp.sqrt(noise)), jnp.log(next_ratio)


def invert_lower(lower: jax.Array) -> jax.Array:
    """Inverse of a lower triangular matrix [P, P], by doubling: matrix products only.

    XLA's batched triangular solve on CPUs is not LAPACK's and took most of a fit.
    """
    side = len(lower)
    size = 1 << max(side - 1, 0).bit_length()
    lower = jnp.eye(size).at[:side, :side].set(lower)
    inverse, width = (1 / jnp.diag(lower))[:, None, None], 1  # of the diagonal tiles, [size / width, width, width]
    while width < size:
        tiles = lower.reshape(size // width, width, size // width, width).swapaxes(1, 2)
        even = np.arange(0, size // width, 2)
        corner = -inverse[1::2] @ tiles[even + 1, even] @ inverse[0::2]
        top = jnp.concatenate([inverse[0::2], jnp.zeros_like(corner)], axis=2)
        bottom = jnp.concatenate([corner, inverse[1::2]], axis=2)
        inverse, width = jnp.concatenate([top, bottom], axis=1), 2 * width
    return inverse[0, :side, :side]


def _block_steps(samples: int) -> int:
    return max(1, BLOCK_ROWS // samples)


def _live_blocks(memory: Memory) -> jax.Array:
    """How many blocks hold anything: the loops over blocks end there."""
    steps, samples = memory.losses.shape
    return -(-jnp.minimum(memory.step, steps) // _block_steps(samples))


def _block_features(memory: Memory, design: Design, index: jax.Array) -> jax.Array:
    """Features of one block of steps, float [block, S, P]."""
    block = _block_steps(memory.losses.shape[1])
    archs = jax.lax.dynamic_slice_in_dim(memory.archs, index * block, block)
    features = design.features(archs.reshape(-1, archs.shape[-1]))
    return features.reshape(*archs.shape[:2], design.size)
