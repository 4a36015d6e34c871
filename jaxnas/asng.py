"""Adaptive stochastic natural gradient on a product of categoricals.

Akimoto, Shirakawa, Yoshinari, Uchida, Saito, Nishida: "Adaptive Stochastic Natural Gradient Method for One-Shot Neural
Architecture Search", ICML 2019, arXiv 1905.08537. Written for one distribution; `jax.vmap` makes it K. The pair
(`init`, `update`) follows optax: state is explicit, functions are pure.
"""

from collections.abc import Sequence

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import distribution

ALPHA = 1.5  # threshold of the signal-to-noise ratio above which the trust region grows
DELTA_INIT = 1.0  # delta_0, the initial radius of the trust region
# Whitened gradients shorter than this are rounding, not signal: normalising one would turn it into a full step.
NO_SIGNAL = 1e-6


@flax.struct.dataclass
class ASNGState:
    """State of the step-size adaptation of one distribution.

    Attributes:
      trust: float [], Delta; the radius of the trust region is delta = delta_0 / Delta.
      gamma: float [], normalisation of the path.
      path: float [D, C], exponential average of the whitened, normalised gradients; 0 at each decision's last valid
        choice (the reference of the parametrisation) and in the padding.
    """

    trust: jax.Array
    gamma: jax.Array
    path: jax.Array


def init(num_choices: Sequence[int]) -> ASNGState:
    """The initial state for one distribution over decisions with `num_choices` choices.

    >>> init([2, 3]).path.shape
    (2, 3)
    """
    return ASNGState(
        trust=jnp.float32(1.0),
        gamma=jnp.float32(0.0),
        path=jnp.zeros(distribution.valid_choices(num_choices).shape, jnp.float32),
    )


def margin(num_choices: Sequence[int]) -> np.ndarray:
    """Smallest probability of each choice: 1 / (D' (C_d - 1)), D' = decisions with more than one choice.

    In spaces so small that this leaves no freedom (not below 1 / C_d), it is 1 / (2 C_d).

    Args:
      num_choices: C_d for each of the D decisions.

    Returns:
      float32 [D, C], 0 in the padding; 1 for a decision with one choice.

    >>> margin([2, 3]).tolist()  # the first row: 1 / (2 * 1) would leave no freedom
    [[0.25, 0.25, 0.0], [0.25, 0.25, 0.25]]
    """
    valid = distribution.valid_choices(num_choices)
    counts = valid.sum(-1)
    free = max(int((counts > 1).sum()), 1)
    smallest = 1.0 / (free * np.maximum(counts - 1, 1))
    smallest = np.where(smallest < 1.0 / counts, smallest, 0.5 / counts)
    smallest = np.where(counts == 1, 1.0, smallest)
    return (smallest[:, None] * valid).astype(np.float32)


def apply_margin(theta: jax.Array, num_choices: Sequence[int]) -> jax.Array:
    """Raises probabilities to the margin and rescales the excess above it so that each row sums to 1.

    Args:
      theta: float [D, C], rows sum to about 1, entries may be slightly negative.
      num_choices: C_d of each decision.

    Returns:
      float [D, C].

    >>> apply_margin(jnp.array([[1.0, 0.0], [0.5, 0.5]]), [2, 2]).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    smallest = margin(num_choices)
    excess = jnp.maximum(theta - smallest, 0)
    room = 1 - smallest.sum(-1, keepdims=True)
    total = excess.sum(-1, keepdims=True)
    return smallest + excess * (room / jnp.where(total > 0, total, 1))


def whiten(theta: jax.Array, gradient: jax.Array, num_choices: Sequence[int]) -> jax.Array:
    """The gradient in coordinates in which the Fisher metric is the identity.

    Per decision, with its last valid choice K_c as reference and j < K_c:
    s_j = G_j / sqrt(theta_j) + sqrt(theta_j) sum_{l < K_c} G_l / (theta_Kc + sqrt(theta_Kc)).

    Args:
      theta: float [D, C].
      gradient: float [D, C], rows sum to 0.
      num_choices: C_d of each decision.

    Returns:
      float [D, C], 0 at the reference choices and in the padding; its squared norm is sum_dj G_dj^2 / theta_dj.
    """
    valid = distribution.valid_choices(num_choices)
    last = valid.sum(-1) - 1
    free = valid & (np.arange(valid.shape[1]) != last[:, None])
    reference = theta[np.arange(len(last)), last][:, None]
    root = jnp.sqrt(jnp.where(free, theta, 1.0))
    total = jnp.where(free, gradient, 0).sum(-1, keepdims=True)
    whitened = gradient / root + root * total / (reference + jnp.sqrt(reference))
    return jnp.where(free, whitened, 0)


def update(
    theta: jax.Array, state: ASNGState, gradient: jax.Array, num_choices: Sequence[int]
) -> tuple[jax.Array, ASNGState]:
    """One step uphill along the natural gradient, with the step size adapted to its signal-to-noise ratio.

    Args:
      theta: float [D, C], one distribution.
      state: its ASNG state.
      gradient: float [D, C], natural gradient G of the utility (METHOD, step 5).
      num_choices: C_d of each decision.

    Returns:
      The next theta and state; unchanged if the gradient has no signal (all utilities equal).

    >>> num_choices = [2, 2, 2, 2]
    >>> theta = distribution.uniform(num_choices)
    >>> gradient = jnp.zeros_like(theta).at[0].set(jnp.array([0.5, -0.5]))
    >>> theta, state = update(theta, init(num_choices), gradient, num_choices)
    >>> theta[0].tolist(), theta[1].tolist()  # as far as the margin
    ([0.75, 0.25], [0.5, 0.5])
    """
    chex.assert_rank([theta, gradient], 2)
    chex.assert_equal_shape([theta, gradient, state.path])
    degrees_of_freedom = max(sum(num_choices) - len(num_choices), 1)
    radius = DELTA_INIT / state.trust
    # Only in spaces of a few decisions can the radius exceed sqrt(N); an averaging rate has to stay within 1.
    beta = jnp.minimum(radius / jnp.sqrt(float(degrees_of_freedom)), 1.0)

    whitened = whiten(theta, gradient, num_choices)
    norm = jnp.sqrt(jnp.square(whitened).sum())
    signal = norm > NO_SIGNAL
    norm = jnp.where(signal, norm, 1.0)

    next_theta = apply_margin(theta + radius * gradient / norm, num_choices)
    path = (1 - beta) * state.path + jnp.sqrt(beta * (2 - beta)) * whitened / norm
    gamma = (1 - beta) ** 2 * state.gamma + beta * (2 - beta)
    trust = state.trust * jnp.exp(beta * (gamma - jnp.square(path).sum() / ALPHA))
    stepped = (next_theta, ASNGState(trust=trust, gamma=gamma, path=path))
    return jax.tree.map(lambda new, old: jnp.where(signal, new, old), stepped, (theta, state))
