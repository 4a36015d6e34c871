"""A discrete network trained from scratch, or from its supernet's weights, and tested.

Minibatch gradient descent with running batch norm, cosine schedule, label smoothing, augmentation, drop path and an
exponential moving average of the weights, which is what is tested and kept. As in a search, all that the next step
depends on is in the state and every random number comes from its key and its step, so that a training cut between two
programs continues as if nothing had happened.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data
from jaxnas.data.randaugment import randaugment
from jaxnas.runtime import loop, programs
from jaxnas.supernet.optimizers import sgd

Tree = TypeVar("Tree")

AUGMENTATIONS = ("standard", "cutout", "randaugment")


@dataclass(frozen=True)
class RetrainSettings:
    """How a network is trained.

    Attributes:
      epochs: passes over the training images.
      batch_size: images in a minibatch.
      learning_rate: peak of the cosine schedule.
      warmup: share of the steps in which the learning rate rises from 0.
      momentum: of SGD.
      weight_decay: added to the gradient of convolution and classifier kernels.
      clip_norm: largest global norm of the gradient.
      label_smoothing: in the training loss.
      augmentation: "standard" (random crop, and flip where the data set allows it), "cutout" or "randaugment" on top.
      crop_padding: zero padding before a random crop, pixels.
      cutout: side of the square that cutout masks, pixels.
      drop_path: rate in the last layer.
      average: share of itself that the moving average of the weights keeps in a step, once some steps are done.
      steps_per_dispatch: steps in one program on the device.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    label_smoothing: float = 0.1
    augmentation: str = "standard"
    crop_padding: int = 4
    cutout: int = 16
    drop_path: float = 0.0
    average: float = 0.999
    steps_per_dispatch: int = 50

    def __post_init__(self):
        for name in ("epochs", "batch_size", "steps_per_dispatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "drop_path", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {self.augmentation!r}")


@flax.struct.dataclass
class RetrainState:
    """All that the next step depends on.

    Attributes:
      step: int32 [], steps done.
      key: random key, constant; step t uses fold_in(key, t).
      variables: "params" and "batch_stats" of the network.
      average: their exponential moving average.
      optimizer: state of the optax chain.
      data_key: random key, constant, of the order of the images; None, as is the cursor, where they are streamed, and
        their position follows from `step`.
      cursor: position in the training images.
    """

    step: jax.Array
    key: jax.Array
    variables: chex.ArrayTree
    average: chex.ArrayTree
    optimizer: optax.OptState
    data_key: jax.Array | None = None
    cursor: data.Cursor | None = None


@flax.struct.dataclass
class Score:
    """Mean cross-entropy and accuracy, float32 [] each."""

    loss: jax.Array
    accuracy: jax.Array

    @property
    def finite(self) -> np.ndarray:
        """Whether the loss is finite, bool []."""
        return np.isfinite(self.loss)


def first_state(
    network: nn.Module,
    settings: RetrainSettings,
    total_steps: int,
    image_size: int,
    keys: tuple[jax.Array, jax.Array],
    **fields: Any,
) -> RetrainState:
    """The state before the first step.

    Args:
      network: what is trained.
      settings: how.
      total_steps: of the whole training.
      image_size: height and width of images.
      keys: random keys of the steps and of the first weights.
      **fields: others of the state; `params` in place of random weights.
    """
    step_key, params_key = keys
    variables = _init_variables(network, image_size, params_key)
    params = fields.pop("params", None)
    if params is not None:
        chex.assert_trees_all_equal_shapes(params, variables["params"])
        variables = {**variables, "params": jax.tree.map(jnp.asarray, params)}
    return RetrainState(
        step=jnp.int32(0),
        key=step_key,
        variables=variables,
        average=jax.tree.map(jnp.copy, variables),
        optimizer=make_optimizer(settings, total_steps).init(variables["params"]),
        **fields,
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init_variables(network: nn.Module, image_size: int, key: jax.Array) -> chex.ArrayTree:
    return dict(network.init(key, jnp.zeros((1, image_size, image_size, 3))))


def make_optimizer(settings: RetrainSettings, total_steps: int) -> optax.GradientTransformation:
    """The optax chain of a training."""
    return sgd(
        settings.learning_rate,
        steps=total_steps,
        warmup=settings.warmup,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
    )


def descend(
    network: nn.Module,
    settings: RetrainSettings,
    total_steps: int,
    state: RetrainState,
    images: jax.Array,
    labels: jax.Array,
    dropout_key: jax.Array,
    average: Callable[[Tree], Tree] = lambda tree: tree,
) -> tuple[RetrainState, Score]:
    """One step on augmented images [B, H, W, 3]; `average` is the mean over devices, each with its own images."""

    def loss(params: chex.ArrayTree) -> tuple[jax.Array, tuple[jax.Array, chex.ArrayTree]]:
        variables = {**state.variables, "params": params}
        rngs = {"dropout": dropout_key}
        logits, updates = network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), settings.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), (logits, updates)

    (value, (logits, updates)), gradient = jax.value_and_grad(loss, has_aux=True)(state.variables["params"])
    score = Score(value, (logits.argmax(-1) == labels).mean())
    gradient, updates, score = average((gradient, updates, score))
    optimizer = make_optimizer(settings, total_steps)
    change, optimizer = optimizer.update(gradient, state.optimizer, state.variables["params"])
    variables = {"params": optax.apply_updates(state.variables["params"], change), **updates}
    # Early averages would hold on to the first weights; the share grows to its final value (as TensorFlow's do).
    kept = jnp.minimum(settings.average, (1 + state.step) / (10 + state.step))
    state = state.replace(
        step=state.step + 1,
        variables=variables,
        average=optax.incremental_update(variables, state.average, 1 - kept),
        optimizer=optimizer,
    )
    return state, score


class Trainer(Protocol):
    """What a training offers, whatever its images come from.

    Attributes:
      settings: of the training.
      total_steps: of the whole training.
      test_every: epochs between tests that are recorded; 0 for none.
    """

    settings: RetrainSettings
    total_steps: int
    test_every: int

    def init(self, seed: int, params: chex.ArrayTree | None = None) -> RetrainState:
        """The state before the first step."""

    def run(self, state: RetrainState, stop: Callable[[], bool] = loop.never) -> Iterator[tuple[RetrainState, Score]]:
        """Trains from `state` to the end."""

    def records(self, step: int, state: RetrainState, score: Score) -> list[dict[str, Any]]:
        """A record for metrics.jsonl of what `run` yielded."""

    def test(self, variables: chex.ArrayTree) -> Score:
        """The score on all test images."""


def records(trainer: Trainer, step: int, state: RetrainState, score: Score) -> list[dict[str, Any]]:
    """A record for metrics.jsonl of what a training yielded; `step` steps were done before."""
    done = int(state.step)
    before, after = (number * trainer.settings.epochs / trainer.total_steps for number in (step, done))
    record = {
        "step": done,
        "epoch": round(after, 3),
        "train_loss": score.loss,
        "train_accuracy": score.accuracy,
    }
    if trainer.test_every and int(after) // trainer.test_every > int(before) // trainer.test_every:
        test = trainer.test(state.average)
        record |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
    return [record]


@dataclass(frozen=True, eq=False)
class Retraining:
    """A network and the data to train and test it on.

    Attributes:
      network: module with `__call__(images, train) -> logits`, see `networks.build`.
      dataset: its images at the network's resolution.
      settings: the rest.
      test_every: epochs between tests that are recorded; 0 for none. No decision is taken on them.
    """

    network: nn.Module
    dataset: data.ImageDataset
    settings: RetrainSettings
    test_every: int = 0

    def __post_init__(self):
        examples = len(self.dataset.train_labels)
        if self.settings.batch_size > examples:
            raise ValueError(
                f"batch_size must be at most the {examples} training images, got {self.settings.batch_size}"
            )

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * (len(self.dataset.train_labels) // self.settings.batch_size)

    @functools.cached_property
    def train(self) -> data.Examples:
        """Training images, on the device for the whole training."""
        return data.Examples(jnp.asarray(self.dataset.train_images), jnp.asarray(self.dataset.train_labels))

    def init(self, seed: int, params: chex.ArrayTree | None = None) -> RetrainState:
        """The state before the first step.

        Args:
          seed: of first weights, order and augmentation.
          params: first weights, such as `networks.inherit` gives them; None for random ones.
        """
        key, params_key, data_key = jax.random.split(jax.random.key(seed), 3)
        return first_state(
            self.network,
            self.settings,
            self.total_steps,
            self.dataset.train_images.shape[1],
            (key, params_key),
            params=params,
            data_key=data_key,
            cursor=data.start(data_key, len(self.dataset.train_labels)),
        )

    def run(self, state: RetrainState, stop: Callable[[], bool] = loop.never) -> Iterator[tuple[RetrainState, Score]]:
        """Trains from `state` to the end.

        The arrays of a yielded state are donated to the next program: save or copy it before going on.

        Args:
          state: from `init`, an earlier run or a checkpoint.
          stop: asked after each program whether to end the training there.

        Yields:
          After each program: the state, and the mean score of its training minibatches.

        Raises:
          NonFiniteLossError: naming the first step (from 1) with a loss that is not finite; the state is lost.
          RunInterruptedError: after `stop` asked for it; the state yielded last holds all that was done.
        """
        advice = f"of {self.total_steps}; lower the learning rate ({self.settings.learning_rate})"
        steps = loop.run_programs(
            state, int(state.step), self.total_steps, self._dispatch, advice=lambda _: advice, stop=stop
        )
        for state, score in steps:
            yield state, Score(float(score.loss.mean()), float(score.accuracy.mean()))

    def records(self, step: int, state: RetrainState, score: Score) -> list[dict[str, Any]]:
        """A record for metrics.jsonl of what `run` yielded; `step` steps were done before."""
        return records(self, step, state, score)

    def _dispatch(self, state: RetrainState, step: int) -> tuple[RetrainState, Score, bool]:
        count = min(self.settings.steps_per_dispatch, self.total_steps - step)
        state, score = self._run_steps(state, self.train, jnp.int32(count))
        return state, jax.tree.map(lambda leaf: np.asarray(leaf)[:count], score), False

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _run_steps(self, state: RetrainState, train: data.Examples, count: jax.Array) -> tuple[RetrainState, Score]:
        step = functools.partial(self._step, train=train)
        return programs.first_steps(step, state, count, self.settings.steps_per_dispatch)

    def _step(self, state: RetrainState, train: data.Examples) -> tuple[RetrainState, Score]:
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        indices, cursor = data.next_indices(state.data_key, state.cursor, self.settings.batch_size)
        images, labels = self._augmented(augment_key, train.images[indices]), train.labels[indices]
        state, score = descend(self.network, self.settings, self.total_steps, state, images, labels, dropout_key)
        return state.replace(cursor=cursor), score

    def _augmented(self, key: jax.Array, images: jax.Array) -> jax.Array:
        given = self.settings
        policy_key, key = jax.random.split(key)
        if given.augmentation == "randaugment":
            images = randaugment(policy_key, images)
        return data.augment(
            key,
            data.normalize(images, self.dataset.mean, self.dataset.std),
            crop_padding=given.crop_padding,
            flip=self.dataset.flip,
            cutout=given.cutout if given.augmentation == "cutout" else 0,
        )

    def test(self, variables: chex.ArrayTree, batch_size: int = 500) -> Score:
        """Cross-entropy and accuracy on all test images, which no training step has seen.

        Args:
          variables: "params" and "batch_stats".
          batch_size: images at a time.
        """
        images, labels = self.dataset.test_images, self.dataset.test_labels
        totals = np.zeros(2)
        for begin in range(0, len(labels), batch_size):
            part = slice(begin, begin + batch_size)
            totals += self._totals(variables, jnp.asarray(images[part]), jnp.asarray(labels[part]))
        loss, accuracy = (totals / len(labels)).tolist()
        return Score(loss, accuracy)

    @functools.partial(jax.jit, static_argnums=0)
    def _totals(self, variables: chex.ArrayTree, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = self.network.apply(variables, data.normalize(images, self.dataset.mean, self.dataset.std))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.stack([losses.sum(), (logits.argmax(-1) == labels).sum()])
