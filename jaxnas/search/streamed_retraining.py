"""A discrete network trained from scratch on streamed images, on one device or all, and tested.

The steps are those of `jaxnas.search.retraining`. Images are cropped at random and mirrored on the host, as in a search
on streams; the augmentations "cutout" and "randaugment" come on top, on the device. Batch norm takes each device's own
statistics in training, and the running ones are averaged.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnas import data
from jaxnas.data.randaugment import randaugment
from jaxnas.data.streams import Stream
from jaxnas.runtime import loop
from jaxnas.runtime.placement import ALL_DEVICES, Placement
from jaxnas.search.retraining import RetrainSettings, RetrainState, Score, descend, first_state, records
from jaxnas.search.sources import Feed, Streamed


@dataclass(frozen=True, eq=False)
class StreamedRetraining:
    """A network and streams of images to train and test it on.

    Attributes:
      network: module with `__call__(images, train) -> logits`, see `networks.build`.
      train: augmented images.
      tested: images that no training step sees, not augmented.
      normalization: of both.
      settings: the rest; `crop_padding` is 0, since streams crop.
      test_every: epochs between tests that are recorded; 0 for none. No decision is taken on them.
      placement: the devices.
    """

    network: nn.Module
    train: Stream
    tested: Stream
    normalization: data.Normalization
    settings: RetrainSettings
    test_every: int = 0
    placement: Placement = ALL_DEVICES

    def __post_init__(self):
        size, count, images = self.settings.batch_size, self.placement.count, len(self.train)
        if size > images:
            raise ValueError(f"batch_size must be at most the {images} training images, got {size}")
        for stream in (self.train, self.tested):
            if stream.batch_size % count:
                raise ValueError(f"batch_size must be a multiple of the {count} devices, got {stream.batch_size}")
        if self.train.batch_size != size:
            raise ValueError(f"the stream must have minibatches of batch_size {size}, got {self.train.batch_size}")
        if self.settings.crop_padding:
            raise ValueError(f"crop_padding must be 0: streams crop, got {self.settings.crop_padding}")

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.settings.epochs * (len(self.train) // self.settings.batch_size)

    def init(self, seed: int, params: chex.ArrayTree | None = None) -> RetrainState:
        """The state before the first step, one copy; see `Retraining.init`. The order of images is the stream's."""
        keys = jax.random.split(jax.random.key(seed))
        return first_state(self.network, self.settings, self.total_steps, self.train.size, tuple(keys), params=params)

    def run(self, state: RetrainState, stop: Callable[[], bool] = loop.never) -> Iterator[tuple[RetrainState, Score]]:
        """Trains from `state` to the end; see `Retraining.run`.

        Raises:
          DeadImagesError: if too many images cannot be read.
        """
        step = int(state.step)
        advice = f"of {self.total_steps}; lower the learning rate ({self.settings.learning_rate})"
        feed = Feed(Streamed(self.train), self.placement.spread, step, 1, self.total_steps - step)
        try:
            dispatch = functools.partial(self._dispatch, feed)
            for live, score in loop.run_programs(
                self.placement.put(state), step, self.total_steps, dispatch, advice=lambda _: advice, stop=stop
            ):
                yield self.placement.get(live), Score(float(score.loss.mean()), float(score.accuracy.mean()))
        finally:
            feed.close()

    def records(self, step: int, state: RetrainState, score: Score) -> list[dict[str, Any]]:
        """A record for metrics.jsonl of what `run` yielded; `step` steps were done before."""
        return records(self, step, state, score)

    def _dispatch(self, feed: Feed, state: RetrainState, step: int) -> tuple[RetrainState, Score, bool]:
        """At most `steps_per_dispatch` steps."""
        scores = []
        for _ in range(min(self.settings.steps_per_dispatch, self.total_steps - step)):
            state, score = self._step(state, feed.take(), None)
            if scores:
                jax.block_until_ready(scores[-1])  # so that one step is under way, and not hundreds
            scores.append(self.placement.get(score))
        return state, jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(scores)), False

    @functools.cached_property
    def _step(self) -> Callable[..., tuple[RetrainState, Score]]:
        def step(state: RetrainState, minibatches: dict[str, jax.Array], unused: None) -> tuple[RetrainState, Score]:
            del unused
            augment_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
            minibatch = jax.tree.map(lambda leaf: leaf[0], minibatches)
            images = self._augmented(augment_key, minibatch["image"], minibatch["flip"])
            return descend(
                self.network,
                self.settings,
                self.total_steps,
                state,
                images,
                minibatch["label"],
                dropout_key,
                self.placement.average,
            )

        return self.placement.compile(step, donate=True)

    def _augmented(self, key: jax.Array, images: jax.Array, flips: jax.Array) -> jax.Array:
        given = self.settings
        policy_key, cutout_key = jax.random.split(key)
        images = jnp.where(flips[:, None, None, None], images[:, :, ::-1], images)
        if given.augmentation == "randaugment":
            images = randaugment(policy_key, images)
        images = data.normalize(images, self.normalization.mean, self.normalization.std)
        cutout = given.cutout if given.augmentation == "cutout" else 0
        return data.augment(cutout_key, images, crop_padding=0, flip=False, cutout=cutout)

    def test(self, variables: chex.ArrayTree) -> Score:
        """Cross-entropy and accuracy on all test images, which no training step has seen.

        Args:
          variables: "params" and "batch_stats", one copy.
        """
        placed, totals = self.placement.put(variables), np.zeros(3)
        for batch in self.tested.once():
            minibatch = self.placement.spread({name: leaf[None] for name, leaf in batch.items()})
            totals += np.asarray(self.placement.get(self._totals(placed, minibatch, None)), np.float64)
        loss, accuracy = (totals[:2] / max(totals[2], 1)).tolist()
        return Score(loss, accuracy)

    @functools.cached_property
    def _totals(self) -> Callable[..., jax.Array]:
        def totals(variables: chex.ArrayTree, minibatches: dict[str, jax.Array], unused: None) -> jax.Array:
            """Sums over the images of each device, averaged over devices: loss, hits, images."""
            del unused
            images, labels, weights = (minibatches[name][0] for name in ("image", "label", "weight"))
            normalised = data.normalize(images, self.normalization.mean, self.normalization.std)
            logits = self.network.apply(variables, normalised)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            sums = jnp.stack([losses, logits.argmax(-1) == labels, jnp.ones_like(losses)]) @ weights
            return self.placement.average(sums)

        return self.placement.compile(totals)
