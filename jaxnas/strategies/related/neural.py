"""Small networks inside strategies: training in one loop, a prediction of losses, a generator of architectures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import distribution
from jaxnas.strategies.related.archive import Archive, lessons

REINFORCE_STEPS, REINFORCE_RATE = 100, 1e-2
STEPS, BATCH, RATE, DECAY = 80, 64, 3e-3, 0.1  # of a prediction of losses: with many more steps it learns the noise


class Perceptron(nn.Module):
    """Two hidden layers with ReLU and one output: float [..., F] -> float [...].

    Attributes:
      width: of the hidden layers.
    """

    width: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """The output, without its last axis of length 1."""
        hidden = nn.relu(nn.Dense(self.width)(inputs))
        hidden = nn.relu(nn.Dense(self.width)(hidden))
        return nn.Dense(1)(hidden)[..., 0]

    def start(self, key: jax.Array, inputs: int) -> Any:
        """Parameters for F = `inputs`: biases 0, weights uniform up to 1 / sqrt(inputs of the layer) (as PyTorch's)."""
        shapes = jax.eval_shape(lambda: self.init(jax.random.key(0), jnp.zeros((1, inputs), jnp.float32)))
        spans = jax.tree.map(lambda leaf: leaf.shape[0] ** -0.5 * (len(leaf.shape) > 1), shapes)
        span = jax.tree.map(lambda leaf, value: jnp.full(leaf.shape, value, jnp.float32), shapes, spans)
        flat, unravel = jax.flatten_util.ravel_pytree(span)
        return unravel(flat * jax.random.uniform(key, flat.shape, jnp.float32, minval=-1.0))


def minimise(
    loss: Callable[[Any, Any], jax.Array], params: Any, optimizer: optax.GradientTransformation, batches: Any
) -> Any:
    """Takes one step of an optimiser, its state new, on loss(params, batch) for every batch; returns the parameters.

    Whatever is random about a step is drawn beforehand and part of its batch: one draw for all steps compiles and runs
    several times faster than one in each.

    Args:
      loss: to be minimised; a scalar.
      params: where to begin.
      optimizer: of optax.
      batches: a pytree with one more leading axis, the steps.
    """

    def step(carry: tuple[Any, Any], batch: Any) -> tuple[tuple[Any, Any], None]:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), batches)[0][0]


@dataclass(frozen=True)
class Generator:
    """An autoregressive model of architectures given one of K conditions: an LSTM that makes a decision at a time.

    The first input is the embedding of the condition, each later one that of the choice before. Decisions between the
    same choices are of one kind, and share embeddings and output layer.

    Attributes:
      num_choices: C_d of each decision.
      kinds: of each decision, counted from 0.
      conditions: K.
      hidden: H, units of the LSTM and length of embeddings.
    """

    num_choices: tuple[int, ...]
    kinds: tuple[int, ...]
    conditions: int
    hidden: int

    @classmethod
    def of_choices(cls, choices: Sequence[tuple[str, ...]], conditions: int, hidden: int) -> "Generator":
        """For decisions between these choices."""
        kinds = {names: kind for kind, names in enumerate(dict.fromkeys(choices))}
        return cls(tuple(map(len, choices)), tuple(kinds[names] for names in choices), conditions, hidden)

    @property
    def _cell(self) -> nn.OptimizedLSTMCell:
        return nn.OptimizedLSTMCell(self.hidden, parent=None)

    def init(self, key: jax.Array, span: float = 0.1) -> dict[str, Any]:
        """Parameters, all uniform from -span to span."""
        row = jnp.zeros((1, self.hidden), jnp.float32)
        kinds, choices = max(self.kinds) + 1, max(self.num_choices)
        cell = jax.eval_shape(lambda: self._cell.init(jax.random.key(0), (row, row), row))
        zeros = {
            "cell": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), cell),
            "condition": jnp.zeros((self.conditions, self.hidden), jnp.float32),
            "choice": jnp.zeros((kinds, choices, self.hidden), jnp.float32),
            "head": jnp.zeros((kinds, self.hidden, choices), jnp.float32),
            "bias": jnp.zeros((kinds, choices), jnp.float32),
        }
        flat, unravel = jax.flatten_util.ravel_pytree(zeros)
        return unravel(jax.random.uniform(key, flat.shape, jnp.float32, minval=-span, maxval=span))

    def noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """What `sample` makes choices with: Gumbel noise [..., D, C], the last of `shape` being S."""
        return jax.random.gumbel(key, (*shape, len(self.num_choices), max(self.num_choices)), jnp.float32)

    def sample(
        self, params: dict[str, Any], noise: jax.Array, conditions: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws one architecture for each condition given.

        Args:
          params: what `init` made.
          noise: float [S, D, C], from `noise`.
          conditions: int [S], from 0 to K - 1.

        Returns:
          int32 [S, D]; float [S], log-probabilities; float [S], sums over decisions of the entropy of the choice given
          those before. The last two can be differentiated in `params`.
        """
        chex.assert_rank(conditions, 1)
        valid = jnp.asarray(distribution.valid_choices(self.num_choices))
        kinds = jnp.asarray(self.kinds)

        def decide(carry, xs):
            state, inputs = carry
            gumbel, kind, valid = xs
            state, output = self._cell.apply(params["cell"], state, inputs)
            logits = output @ params["head"][kind] + params["bias"][kind]
            log_probs = jax.nn.log_softmax(jnp.where(valid, logits, -1e9))  # [S, C]
            choice = (log_probs + gumbel).argmax(-1)
            chosen = jnp.take_along_axis(log_probs, choice[:, None], axis=-1)[:, 0]
            entropy = -(jnp.exp(log_probs) * jnp.where(valid, log_probs, 0.0)).sum(-1)
            return (state, params["choice"][kind, choice]), (choice, chosen, entropy)

        start = jnp.zeros((len(conditions), self.hidden), jnp.float32)
        carry = ((start, start), params["condition"][conditions])
        _, (archs, log_probs, entropies) = jax.lax.scan(decide, carry, (jnp.swapaxes(noise, 0, 1), kinds, valid))
        return archs.T.astype(jnp.int32), log_probs.sum(0), entropies.sum(0)


def reinforce(
    generator: Generator, params: Any, reward: Callable, key: jax.Array, conditions: jax.Array, entropy: float
) -> Any:
    """Trains a generator towards a reward, by REINFORCE and Adam (Williams, Machine Learning 1992).

    Args:
      generator: its shapes.
      params: its parameters, where to begin.
      reward: int [S, D], int [S] -> float [S], of architectures given their conditions.
      key: a JAX random key.
      conditions: int [S], of the samples of a step, 0 ... K - 1 and again; the mean reward of each is its baseline.
      entropy: the weight of the entropy, relative to the reward.

    Returns:
      The parameters after `REINFORCE_STEPS` steps.
    """

    def loss(params: Any, noise: jax.Array) -> jax.Array:
        archs, log_probs, spread = generator.sample(params, noise, conditions)
        rewards = reward(archs, conditions).reshape(-1, generator.conditions)
        return -(log_probs * (rewards - rewards.mean(0)).ravel() + entropy * spread).mean()

    noise = generator.noise(key, (REINFORCE_STEPS, len(conditions)))
    return minimise(loss, params, optax.adam(REINFORCE_RATE), noise)


def predicted_losses(
    key: jax.Array, archive: Archive, archs: jax.Array, num_choices: tuple[int, ...], width: int
) -> jax.Array:
    """Trains a perceptron to predict losses, by least squares on the archive, and asks it.

    Args:
      key: a JAX random key.
      archive: evaluated architectures.
      archs: int [M, D].
      num_choices: C_d of each decision.
      width: hidden units.

    Returns:
      float [M].
    """
    start_key, row_key = jax.random.split(key)
    encoded, live = flat_one_hot(archive.archs, num_choices), archive.counts > 0
    count, losses = live.sum(), lessons(archive)
    mean = jnp.where(live, losses, 0).sum() / count
    spread = jnp.sqrt(jnp.where(live, (losses - mean) ** 2, 0).sum() / count + 1e-12)
    perceptron = Perceptron(width)

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        return ((perceptron.apply(params, encoded[rows]) - (losses[rows] - mean) / spread) ** 2).mean()

    rows = jax.random.randint(row_key, (STEPS, BATCH), 0, count)
    adamw = optax.adamw(optax.cosine_decay_schedule(RATE, STEPS), weight_decay=DECAY)
    params = minimise(loss, perceptron.start(start_key, encoded.shape[1]), adamw, rows)
    return perceptron.apply(params, flat_one_hot(archs, num_choices)) * spread + mean


def flat_one_hot(archs: jax.Array, num_choices: tuple[int, ...]) -> jax.Array:
    """Architectures as indicators, int [S, D] -> float32 [S, D * C]."""
    return distribution.one_hot(archs, int(np.max(num_choices))).reshape(len(archs), -1)
