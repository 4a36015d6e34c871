"""K architectures of different complexity from one Bayesian model of the loss: the default method, "shared_model".

As in `ImportanceSampling`, samples are drawn from a mixture of K distributions, and every sample serves every one. What
changes is how the distributions learn. The natural gradient of a product of categoricals is a regression on the choices
(METHOD, measured facts), and L(c) is one function for all k: so one linear model of it, on single choices and pairs of
choices, learns from all the remembered samples of all k, where importance weights have only those of one step. theta_k
is set to the probability that a choice belongs to the optimum of f_k:

    theta_k[d, j] = P(c*_k[d] = j | data),   c*_k = argmin_c  phi(c) . beta_k + eps_k R(c),   beta_k ~ posterior.

Of all products of categoricals it is the nearest, in KL divergence, to the posterior law of the optimum. But a product
ignores correlations between decisions, so that few of its samples are the optimum of any draw. Samples therefore come
from the draws themselves: p_k is uniform over M optima c*_k of the posterior, each decision of which is redrawn from
theta_k with a small probability. There is no step size; `spread`, which is set by hand, tempers the posterior. Results,
costs and variants that were tried: docs/explanation/ablation.md.

Paper: Noda, Saito, Shirakawa, arXiv 2207.10334, for K distributions and one mixture; Thompson, "On the likelihood that
one unknown probability exceeds another", Biometrika 25 (1933), and Russo and Van Roy, "Learning to optimize via
posterior sampling", arXiv 1301.2609, for the update.

Idea: One Bayesian model of the loss learns from every sample of all K distributions; theta_k is the probability that a
choice belongs to the optimum for penalty k.

Faithful: The mixture of K distributions that share every sample (`importance_sampling` is the paper's own form).

Deviations: The update is this library's: posterior sampling in a linear model on choices and pairs of choices replaces
importance weights and the natural gradient, and samples are optima of its draws, changed a little.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar

import chex
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxnas import asng, distribution, importance
from jaxnas.strategies import base
from jaxnas.strategies.shared_model import design as designs
from jaxnas.strategies.shared_model import posterior as posteriors

INITIAL_RATIO = (1.0, 10.0)  # noise over prior variance of single and of pair coefficients, before any fit
FIRST_SAMPLES = 40  # the first fit follows a first step of so many samples, or else the second
PROBABILITIES_AT_ONCE = 2**24  # 64 MiB
# S where `samples` is not given, whatever K is: every sample serves all distributions. Measured on recorded supernets
# with K = 4 and 16: docs/results.md.
STEP_SAMPLES = 16


@flax.struct.dataclass
class State:
    """State of the search; P is the number of features.

    Attributes:
      theta: float32 [K, D, C], the K distributions.
      shares: float32 [K], of each distribution in the mixture that samples are drawn from.
      coefficients: float32 [K, P], posterior means.
      log_ratio: float32 [2], log of noise over prior variance, of single and of pair coefficients.
      memory: past samples, and how many steps were told.
      next_fit: int32 [], the step of the next fit.
      fits: int32 [], fits that changed the distributions.
      optima: int32 [K, M, D], c*_k of M posterior draws of the last fit.
      penalties: float32 [K, J], eps_k of each of J costs, J = 1 unless `budgeted.py` is around this.
      key_data: uint32 [2], integers of the random key for posterior draws.
    """

    theta: jax.Array
    shares: jax.Array
    coefficients: jax.Array
    log_ratio: jax.Array
    memory: posteriors.Memory
    next_fit: jax.Array
    fits: jax.Array
    optima: jax.Array
    penalties: jax.Array
    key_data: jax.Array


@dataclass(frozen=True)
class SharedModel(base.Settings, base.DistributionStrategy):
    """One Bayesian model of the loss for all K distributions.

    Attributes:
      space: the search space.
      penalties: eps_k, the increase of the loss that is accepted for going from the highest cost (R = 1) to the lowest
        (R = 0); one network is found for each.
      samples: lambda, architectures drawn from each distribution in a step, on average; None for as many as make S =
        `STEP_SAMPLES` or just above. Half of the S = K lambda samples are allocated evenly, half by the regret that
        the posterior expects of each distribution's mode.
      cost: scaled cost R(c); None for the first cost of the space. The optimum of a draw is computed with its
        projection onto the features, which is exact for additive costs.
      memory: number of samples remembered; older ones are forgotten.
      draws: M, posterior draws that make up theta_k.
      worst: objectives f_k are capped at this quantile of those remembered, so that failed networks do not distort the
        model near the optimum. The cap is on f_k and not on L, so that cheap networks gain no advantage.
      spread: standard deviation of the draws, in units of the posterior's; 1 is Thompson sampling.
      growth: the model is fitted again when the number of steps has grown by this factor.
      redraw: probability that a decision of a sample is drawn from theta_k and not taken from the optimum of a draw;
        1 samples the products theta_k.
      sweeps: visits of each decision by the coordinate descent that finds the optimum of a draw.

    Raises:
      ValueError: if a setting is out of range.
    """

    samples: int | None = None
    step_of: ClassVar[int] = STEP_SAMPLES
    memory: int = 4096
    draws: int = 64
    worst: float = 0.7
    spread: float = 0.5
    growth: float = 1.12
    redraw: float = 0.25
    sweeps: int = 3

    def __post_init__(self):
        super().__post_init__()
        if self.memory < 2 * self.step_samples:
            raise ValueError(f"memory must hold at least 2 steps of {self.step_samples} samples, got {self.memory}")
        base.check_positive(self, "draws", "sweeps")
        if not 0 < self.worst <= 1:
            raise ValueError(f"worst must be a quantile above 0 and at most 1 (1 caps nothing), got {self.worst}")
        if not self.spread >= 0:
            raise ValueError(f"spread must not be negative (1 is the posterior's own), got {self.spread}")
        if not self.growth >= 1:
            raise ValueError(f"growth must be at least 1 (1 fits at every step), got {self.growth}")
        if not 0 < self.redraw <= 1:
            raise ValueError(f"redraw must be a probability above 0 (0 would never explore), got {self.redraw}")

    @property
    def first_fit(self) -> int:
        """Steps before the first fit, where their losses are usable; until then samples are uniform."""
        return 1 if self.step_samples >= FIRST_SAMPLES else 2

    @property
    def fewest_samples(self) -> int:
        """Usable samples that a fit takes: half of those that the first one would have."""
        return min(self.first_fit * self.step_samples, FIRST_SAMPLES) // 2

    @property
    def design(self) -> designs.Design:
        """The features of the model."""
        return designs.build(self.space.num_choices)

    @functools.cached_property
    def cost_coefficients(self) -> np.ndarray:
        """R(c) on the features of the model, float32 [J, P]."""
        rows = designs.rows_for_cost(self.design)
        archs = self.space.sample_uniform(np.random.default_rng(0), rows)
        return designs.project_cost(self.design, self.cost, archs)

    def init(self, key: jax.Array) -> State:
        """K uniform distributions and an empty memory; the key is kept for the posterior draws."""
        k = len(self.penalties)
        steps = -(-self.memory // self.step_samples)
        return State(
            theta=jnp.repeat(distribution.uniform(self.space.num_choices)[None], k, axis=0),
            shares=jnp.full(k, 1 / k, jnp.float32),
            coefficients=jnp.zeros((k, self.design.size), jnp.float32),
            log_ratio=jnp.log(jnp.asarray(INITIAL_RATIO, jnp.float32)),
            memory=posteriors.empty(self.design, steps, self.step_samples, len(self.cost_coefficients)),
            next_fit=jnp.int32(self.first_fit),
            fits=jnp.int32(0),
            optima=jnp.zeros((k, self.draws, len(self.space.decisions)), jnp.int32),
            penalties=base.initial_penalties(self.penalties),
            key_data=jax.random.key_data(key),
        )

    @functools.partial(jax.jit, static_argnums=0)
    def ask(self, key: jax.Array, state: State) -> tuple[jax.Array, State]:
        """Draws S architectures from the mixture: int32 [S, D], and the state as it was.

        The K M optima are visited at equal distances from a random one on (systematic sampling): each distribution gets
        its share of the samples, up to less than one sample.
        """
        offset_key, choice_key = jax.random.split(key)
        points = (jnp.arange(self.step_samples) + jax.random.uniform(offset_key, dtype=jnp.float32)) / self.step_samples
        bounds = jnp.cumsum(jnp.repeat(state.shares / self.draws, self.draws))[:-1]
        source = jnp.searchsorted(bounds, points)  # [S], into K M
        components = self.components(state).reshape(-1, *state.theta.shape[1:])
        archs = jax.random.categorical(choice_key, jnp.log(components[source]))
        return archs.astype(jnp.int32), state

    def components(self, state: State) -> jax.Array:
        """The products of categoricals, one around the optimum of each draw, that p_k is the mean of: [K, M, D, C]."""
        redraw = jnp.where(state.fits == 0, jnp.float32(1.0), self.redraw)  # no optimum is known before
        optima = jax.nn.one_hot(state.optima, self.space.max_choices, dtype=jnp.float32)
        return (1 - redraw) * optima + redraw * state.theta[:, None]

    def log_prob(self, state: State, archs: jax.Array) -> jax.Array:
        """Log p_k(c_i) of the laws that samples are drawn from: int [S, D] -> float32 [K, S]."""
        components = self.components(state)

        def of_some(archs: jax.Array) -> jax.Array:
            by_draw = jax.vmap(functools.partial(distribution.log_prob, archs=archs), in_axes=1)(components)
            return (jax.nn.logsumexp(by_draw, axis=0) - jnp.log(self.draws)).T  # [samples, K]

        # For each draw, distribution, sample and decision there is a number: not for all samples at once if K is large.
        at_once = max(1, PROBABILITIES_AT_ONCE // (components.size // self.space.max_choices))
        if at_once >= len(archs):
            return of_some(archs).T
        return jax.lax.map(lambda arch: of_some(arch[None])[0], archs, batch_size=at_once).T

    @functools.partial(jax.jit, static_argnums=0)
    def tell(
        self, state: State, archs: jax.Array, losses: jax.Array, costs: jax.Array | None = None
    ) -> tuple[State, base.DistributionInfo]:
        """Remembers the samples and, on a schedule that depends on the step alone, fits the model again.

        The step is the same for all seeds of a `vmap`, so that the fit stays a branch that is mostly not taken. It
        advances with every step, and takes a row of the memory, also where no sample of the step is usable; a fit that
        is due then, or before enough samples are usable, changes nothing.

        Args:
          state: the state that the architectures were drawn from.
          archs: int32 [S, D].
          losses: float [S], all measured on one minibatch.
          costs: None; the model looks for the best of all networks, also of those never evaluated.

        Returns:
          The next state and the diagnostics of the step; nothing learns from the importance weights.
        """
        why = "the model looks for the best of all networks, also of those never evaluated"
        base.refuse_measured_costs(costs, why)
        told = base.evaluations(self.cost, archs, losses)
        chex.assert_shape(told.archs, (self.step_samples, len(self.space.decisions)))
        log_weights = importance.balance_heuristic(self.log_prob(state, told.archs), state.shares)  # [K, S]
        log_weights = jnp.where(told.usable, log_weights, -jnp.inf)
        memory = posteriors.remember(state.memory, told.archs, told.losses, told.costs)
        due = memory.step >= state.next_fit
        enough = told.usable.any() & (memory.usable.sum() >= self.fewest_samples)
        state = state.replace(memory=memory, next_fit=jnp.where(due, self.fit_after(memory), state.next_fit))
        # The memory stays outside of the branches: passing through one would copy it in every step.
        changed = ("theta", "shares", "coefficients", "log_ratio", "optima", "fits")
        kept = tuple(getattr(state, name) for name in changed)

        def learn(state: State) -> tuple[jax.Array, ...]:
            *values, gram, counted = self.fit(state)
            return *(jnp.where(enough, new, old) for new, old in zip(values, kept)), gram, counted

        *values, gram, counted = jax.lax.cond(due, learn, lambda _: (*kept, memory.gram, memory.counted), state)
        memory = memory.replace(gram=gram, counted=counted)
        state = state.replace(memory=memory, **dict(zip(changed, values)))
        return state, base.DistributionInfo(
            objective=told.objective(state.penalties),
            ignored=told.ignored,
            weights=jnp.exp(log_weights),
            ess=importance.effective_sample_size(log_weights),
        )

    def modes(self, state: State) -> jax.Array:
        """The most probable architecture of each distribution, int32 [K, D]."""
        return distribution.mode(state.theta)

    def fit_after(self, memory: posteriors.Memory) -> jax.Array:
        """The step of the fit after this one, int32 []: ever later, by at most a quarter of the memory."""
        grown = jnp.ceil(memory.step * self.growth).astype(jnp.int32)
        longest = max(1, len(memory.losses) // 4)
        return jnp.clip(grown, memory.step + 1, memory.step + longest)

    def fit(self, state: State) -> tuple[jax.Array, ...]:
        """What a fit changes: theta, shares, coefficients, log_ratio, optima, fits; gram and counted of the memory."""
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.memory.step)
        posterior_key, start_key = jax.random.split(key)
        design, cost = self.design, self.cost_coefficients
        with jax.default_matmul_precision("highest"):  # accelerators round otherwise, and a Gram matrix must not
            gram, counted = posteriors.count(state.memory, design)
            memory = state.memory.replace(gram=gram, counted=counted)
            scale = posteriors.loss_scale(memory)
            penalties = jnp.minimum(state.penalties, posteriors.LARGEST_PENALTY * scale.width)
            equations = posteriors.normal_equations(memory, design, state.coefficients, penalties, self.worst)
            contrasts, pairs = len(design.owner), len(design.left)
            additive = posteriors.of_moderate(state.coefficients[:, :contrasts], penalties, scale)
            directions = designs.curvatures(design, additive, jnp.asarray(cost[:, :contrasts].mean(0)))
            posterior, log_ratio = posteriors.posterior(
                equations.augmented(directions),
                np.append(design.order, [2] * directions.shape[1]),
                state.log_ratio,
                posterior_key,
                self.draws,
            )

            def fold(coefficients: jax.Array) -> jax.Array:
                """The coefficients of the directions, which come last, as coefficients of pairs."""
                single, pair, bend = jnp.split(coefficients, [contrasts, contrasts + pairs], axis=-1)
                return jnp.concatenate([single, pair + bend @ directions.T], axis=-1)

            mean = fold(posterior.mean)
            deviations = jnp.sqrt(posterior.noise)[:, None, None] * fold(posterior.deviations)  # [K, M, P]
            drawn = (mean + penalties @ cost)[:, None] + self.spread * deviations
            start = jax.random.categorical(start_key, jnp.log(state.theta), shape=(self.draws, *state.theta.shape[:2]))
            optima = designs.descend(design, drawn, jnp.swapaxes(start, 0, 1), self.sweeps)  # [K, M, D]
            frequency = jax.nn.one_hot(optima, self.space.max_choices, dtype=jnp.float32).mean(1)  # [K, D, C]
            theta = jax.vmap(functools.partial(asng.apply_margin, num_choices=self.space.num_choices))(frequency)
            shares = posteriors.share_out(design, drawn, distribution.mode(theta), optima)
        return theta, shares, mean, log_ratio, optima, state.fits + 1, gram, counted
