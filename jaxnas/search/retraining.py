"""A discrete network trained from scratch, or from its supernet's weights, and tested.

Images come from memory, where many steps are one program on the device, or from a stream, where a step is one. Streams
crop and mirror on the host; all other augmentation is on the device. On many devices batch norm takes each device's own
statistics in training, and the running ones are averaged. The moving average of the weights is what is tested and kept.
A training that is stopped between two programs and resumed gives the same numbers.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax
import numpy as np

from jaxnas import data
from jaxnas.data.randaugment import randaugment
from jaxnas.runtime import loop
from jaxnas.runtime.placement import ONE_DEVICE, Placement
from jaxnas.search import network_steps
from jaxnas.search.dispatch import Dispatcher, run_dispatched
from jaxnas.search.images import PrepareImages, shown
from jaxnas.search.network_steps import RetrainState, Score
from jaxnas.search.recipes import RetrainSettings
from jaxnas.search.sources import Feed, InMemory, OnHost, Source, Streamed


@dataclass(frozen=True, eq=False)
class Retraining:
    """A network and sources of labelled images to train and test it on.

    Attributes:
      network: module with `__call__(images, train) -> logits`, see `networks.build`.
      train: source of `data.Examples`, in memory or streamed; a stream augments.
      tested: images that no training step sees.
      normalization: of both.
      settings: the rest; `crop_padding` is 0 for streams, since these crop.
      mirror: whether training mirrors images at random, beside what a stream mirrors.
      test_every: epochs between tests that are recorded; 0 for none. No decision is taken on them.
      placement: the devices.
    """

    network: nn.Module
    train: Source
    tested: OnHost | Streamed
    normalization: data.Normalization
    settings: RetrainSettings
    mirror: bool = False
    test_every: int = 0
    placement: Placement = ONE_DEVICE

    def __post_init__(self):
        size, count, images = self.settings.batch_size, self.placement.count, len(self.train)
        if size > images:
            raise ValueError(f"batch_size must be at most the {images} training images, got {size}")
        streams = [source.stream for source in (self.train, self.tested) if isinstance(source, Streamed)]
        for together in (size, *(stream.batch_size for stream in streams)):
            if together % count:
                raise ValueError(f"batch_size must be a multiple of the {count} devices, got {together}")
        if isinstance(self.train, Streamed):
            if self.train.stream.batch_size != size:
                raise ValueError(
                    f"the stream must have minibatches of batch_size {size}, got {self.train.stream.batch_size}"
                )
            if self.settings.crop_padding:
                raise ValueError(f"crop_padding must be 0: streams crop, got {self.settings.crop_padding}")

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * (len(self.train) // self.settings.batch_size)

    @functools.cached_property
    def _prepare(self) -> PrepareImages:
        given = self.settings
        cutout = given.cutout if given.augmentation == "cutout" else 0
        mean, std = self.normalization.mean, self.normalization.std
        return PrepareImages(mean, std, given.crop_padding, self.mirror, cutout)

    def init(self, seed: int, params: chex.ArrayTree | None = None) -> RetrainState:
        """The state before the first step, one copy.

        Args:
          seed: of first weights and augmentation, and of the order of images in memory; a stream has its own seed.
          params: first weights, such as `networks.inherit` gives them; None for random ones.
        """
        fields: dict[str, Any] = {}
        if isinstance(self.train, InMemory):
            *keys, data_key = jax.random.split(jax.random.key(seed), 3)
            fields = {"data_key": data_key, "cursor": data.start(data_key, len(self.train))}
            size = self.train.examples.images.shape[1]
        else:
            keys, size = jax.random.split(jax.random.key(seed)), self.train.stream.size
        return network_steps.first_state(
            self.network, self.settings, self.total_steps, size, tuple(keys), params, **fields
        )

    def run(self, state: RetrainState, stop: Callable[[], bool] = loop.never) -> Iterator[tuple[RetrainState, Score]]:
        """Trains from `state` to the end.

        On one device the arrays of a yielded state are donated to the next program: save or copy it before going on.

        Args:
          state: from `init`, an earlier run or a checkpoint; one copy.
          stop: asked after each program whether to end the training there.

        Yields:
          After at most `steps_per_dispatch` steps: the state (one copy), and the mean score of its training
          minibatches.

        Raises:
          NonFiniteLossError: naming the first step (from 1) with a loss that is not finite; the state is lost.
          RunInterruptedError: after `stop` asked for it; the state yielded last holds all that was done.
          DeadImagesError: if too many images of a stream cannot be read.
        """
        step = int(state.step)
        feeds: tuple[Feed, ...] = ()
        if isinstance(self.train, Streamed):
            feeds = (Feed(self.train, self.placement.spread, step, 1, self.total_steps - step),)

        def dispatch(state: RetrainState, step: int) -> tuple[RetrainState, Score, bool]:
            count = min(self.settings.steps_per_dispatch, self.total_steps - step)
            return self._dispatcher(state, "", count, feeds[0].take if feeds else None, stop)

        advice = f"of {self.total_steps}; lower the learning rate ({self.settings.learning_rate})"
        programs = run_dispatched(
            self.placement,
            state,
            step,
            self.total_steps,
            dispatch,
            feeds=feeds,
            advice=lambda _: advice,
            stop=stop,
        )
        for state, score in programs:
            yield state, Score(float(score.loss.mean()), float(score.accuracy.mean()))

    def records(self, step: int, state: RetrainState, score: Score) -> list[dict[str, Any]]:
        """A record for metrics.jsonl of what `run` yielded; `step` steps were done before."""
        done = int(state.step)
        before, after = (number * self.settings.epochs / self.total_steps for number in (step, done))
        record = {
            "step": done,
            "epoch": round(after, 3),
            "train_loss": score.loss,
            "train_accuracy": score.accuracy,
        }
        if self.test_every and int(after) // self.test_every > int(before) // self.test_every:
            test = self.test(state.average)
            record |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
        return [record]

    def lower(self, state: RetrainState) -> jax.stages.Lowered:
        """The program of these steps, to be compiled and looked at, where the images are in memory.

        Args:
          state: one copy, or shapes of it.
        """
        return self._dispatcher.lower(state, "", None)

    @functools.cached_property
    def _dispatcher(self) -> Dispatcher:
        in_memory = isinstance(self.train, InMemory)
        examples = self.placement.put(self.train.examples) if in_memory else None
        length = self.settings.steps_per_dispatch if in_memory else 1
        return Dispatcher(self._step, self.placement, examples, length)

    def _step(
        self, state: RetrainState, examples: data.Examples | None, minibatches: data.Examples | None, phase: str
    ) -> tuple[RetrainState, Score]:
        del phase  # there is one
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        if examples is None:
            batch = jax.tree.map(lambda leaf: leaf[0], minibatches)
            inputs, labels = self._augmented(augment_key, batch), batch.labels
        else:
            indices, cursor = data.next_indices(state.data_key, state.cursor, self.settings.batch_size)
            state = state.replace(cursor=cursor)
            batch = jax.tree.map(lambda leaf: leaf[indices], examples)
            # Augmented whole, then cut: what is random in it does not depend on the number of devices.
            inputs, labels = self.placement.part((self._augmented(augment_key, batch), batch.labels))
        average = self.placement.average
        return network_steps.descend(
            self.network, self.settings, self.total_steps, state, inputs, labels, dropout_key, average
        )

    def _augmented(self, key: jax.Array, batch: data.Examples) -> jax.Array:
        policy_key, key = jax.random.split(key)
        if self.settings.augmentation == "randaugment":
            batch = data.Examples(randaugment(policy_key, shown(batch)), batch.labels)
        return self._prepare(batch, key)

    def test(self, variables: chex.ArrayTree) -> Score:
        """Cross-entropy and accuracy on all test images, which no training step has seen.

        Args:
          variables: "params" and "batch_stats", one copy.
        """
        placed, totals = self.placement.put(variables), np.zeros(3)
        for batch in self.tested.once(self.placement.count):
            minibatches = self.placement.spread(jax.tree.map(lambda leaf: leaf[None], batch))
            totals += np.asarray(self.placement.get(self._totals(placed, minibatches, None)), np.float64)
        loss, accuracy = (totals[:2] / max(totals[2], 1)).tolist()
        return Score(loss, accuracy)

    @functools.cached_property
    def _totals(self) -> Callable[..., jax.Array]:
        def totals(variables: chex.ArrayTree, minibatches: tuple[data.Examples, jax.Array], unused: None) -> jax.Array:
            """Sums over the images of each device, averaged over devices: loss, hits, images."""
            del unused
            batch, weights = jax.tree.map(lambda leaf: leaf[0], minibatches)
            images = self._prepare(batch, None)
            return self.placement.average(network_steps.totals(self.network, variables, images, batch.labels, weights))

        return self.placement.compile(totals)
