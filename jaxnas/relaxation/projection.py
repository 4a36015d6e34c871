"""The closest mixture whose expected costs are within bounds, by Kullback-Leibler divergence.

Minimising KL(p' || p) over products of categoricals p' subject to lo_j <= E_p'[R_j] <= hi_j has the solution

    alpha' = alpha - sum_j lambda_j c_j

with lambda_j > 0 where hi_j holds it, < 0 where lo_j does, and 0 elsewhere (exponential tilting). E[R_j] falls in
lambda_j, with slope -sum_d Var_p(c_jd), so that one multiplier is found by bisection; several by ascent of the concave
dual one coordinate at a time, each coordinate solved exactly in the same way.
"""

import chex
import jax
import jax.numpy as jnp

TOLERANCE = 1e-6  # of the span of a cost: what float32 makes of a sum of probabilities
DOUBLINGS = 30  # a multiplier of 1e6 and more leaves nothing but the cheapest choices
BISECTIONS = 50
SWEEPS = 200


def expected(alpha: jax.Array, tables: jax.Array, valid: jax.Array) -> jax.Array:
    """E[R_j] under softmax(alpha): [D, C], [J, D, C], bool [D, C] -> float32 [J]."""
    p = jax.nn.softmax(jnp.where(valid, alpha, -jnp.inf), axis=-1)
    return (p * tables).sum((-2, -1))


def project(alpha: jax.Array, tables: jax.Array, bounds: jax.Array, valid: jax.Array) -> jax.Array:
    """The KL-closest alpha' with expected costs within bounds.

    Args:
      alpha: float [D, C].
      tables: float [J, D, C], scaled costs of the choices, 0 in the padding.
      bounds: float [2, J], lower and upper bounds in the scale of the tables; infinite for none.
      valid: bool [D, C], what is no padding.

    Returns:
      float [D, C]; `alpha` itself where it is within the bounds already. Bounds that cannot be met are approached.
    """
    chex.assert_rank([alpha, tables, bounds, valid], [2, 3, 2, 2])
    chex.assert_shape(bounds, (2, len(tables)))
    lower, upper = bounds

    def tilted(multipliers: jax.Array) -> jax.Array:
        return alpha - jnp.einsum("j,jdc->dc", multipliers, tables, precision="highest")

    def residual(multipliers: jax.Array) -> jax.Array:
        """What the conditions of the optimum are missed by: bounds are kept, and met exactly where they push."""
        costs = expected(tilted(multipliers), tables, valid)
        exceeded = jnp.maximum(costs - upper, lower - costs)
        pushing = jnp.where(multipliers > 0, jnp.abs(costs - upper), jnp.abs(costs - lower))
        return jnp.where(multipliers == 0, exceeded, pushing).max()

    def sweep(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        multipliers, count = carry
        for j in range(len(tables)):
            others = tilted(multipliers.at[j].set(0.0))
            multipliers = multipliers.at[j].set(_multiplier(others, tables[j], lower[j], upper[j], valid))
        return multipliers, count + 1

    def unfinished(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        multipliers, count = carry
        return (residual(multipliers) > TOLERANCE) & (count < SWEEPS)

    start = (jnp.zeros(len(tables), alpha.dtype), jnp.int32(0))
    multipliers, _ = jax.lax.while_loop(unfinished, sweep, start)
    return tilted(multipliers)


def _multiplier(alpha: jax.Array, table: jax.Array, lower: jax.Array, upper: jax.Array, valid: jax.Array) -> jax.Array:
    """The multiplier of one cost, all others fixed: float32 []; the end of its bracket that keeps the bound."""
    at_zero = expected(alpha, table[None], valid)[0]
    # Raising a cost to its lower bound is lowering its negative: one bisection serves both.
    raising = at_zero < lower
    sign = jnp.where(raising, -1.0, 1.0)
    bound = jnp.where(raising, -lower, upper)

    def keeps(size: jax.Array) -> jax.Array:
        return sign * expected(alpha - sign * size * table, table[None], valid)[0] <= bound

    sizes = 2.0 ** (jnp.arange(DOUBLINGS) - 6)
    first = jnp.argmax(jax.vmap(keeps)(sizes).at[-1].set(True))

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        kept = keeps(middle)
        return jnp.where(kept, low, middle), jnp.where(kept, middle, high)

    start = (jnp.where(first > 0, sizes[first - 1], 0.0), sizes[first])
    _, size = jax.lax.fori_loop(0, BISECTIONS, halve, start)
    inside = (at_zero >= lower) & (at_zero <= upper)
    return jnp.where(inside, 0.0, sign * size)
