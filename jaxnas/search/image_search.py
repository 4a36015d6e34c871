"""Searches on labelled images, in memory or streamed."""

import functools
from typing import Any

from jaxnas import data
from jaxnas.data.streams import Stream
from jaxnas.runtime.placement import ALL_DEVICES, ONE_DEVICE, Placement
from jaxnas.search.images import CrossEntropy, PrepareImages, as_examples
from jaxnas.search.search import Search
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import InMemory, Streamed
from jaxnas.strategies.base import Strategy


def image_search(
    strategy: Strategy,
    supernet: Any,
    dataset: data.ImageDataset,
    train: data.Examples,
    valid: data.Examples,
    settings: SearchSettings,
    placement: Placement = ONE_DEVICE,
) -> Search:
    """A search on images in memory, cropped, mirrored and masked on the device.

    Args:
      strategy: what proposes and learns.
      supernet: module with `apply({"params": params}, images, arch) -> logits` and `init_params(key)`.
      dataset: its normalisation, and whether flips keep the classes.
      train: training split, for the weights.
      valid: validation split, for the distributions.
      settings: the rest.
      placement: the devices.
    """
    prepare = PrepareImages(dataset.mean, dataset.std, settings.crop_padding, dataset.flip, settings.cutout)
    return Search(
        strategy,
        supernet,
        InMemory(train),
        InMemory(valid),
        settings,
        prepare=prepare,
        train_loss=CrossEntropy(settings.label_smoothing),
        placement=placement,
    )


def streamed_image_search(
    strategy: Strategy,
    supernet: Any,
    train: Stream,
    valid: Stream,
    settings: SearchSettings,
    normalization: data.Normalization,
    evaluation_batches: int = 50,
    placement: Placement = ALL_DEVICES,
) -> Search:
    """A search on images from disk, cropped and, as the streams say, mirrored.

    Args:
      strategy: what proposes and learns.
      supernet: as for `image_search`; its batch norm is over `devices.AXIS`, or each device's own.
      train: for the weights; its minibatches are the parts that `settings.accumulate` names.
      valid: for the distributions, likewise.
      settings: the rest.
      normalization: of the images, see `jaxnas.data.preprocessing.normalization`.
      evaluation_batches: validation minibatches that `evaluate` uses at most.
      placement: the devices.
    """
    for name in ("crop_padding", "cutout"):
        if getattr(settings, name):
            raise ValueError(f"{name} must be 0: streams crop and flip, got {getattr(settings, name)}")
    sources = (
        Streamed(stream, evaluation_batches, functools.partial(as_examples, size=stream.size))
        for stream in (train, valid)
    )
    return Search(
        strategy,
        supernet,
        *sources,
        settings,
        prepare=PrepareImages(normalization.mean, normalization.std),
        train_loss=CrossEntropy(settings.label_smoothing),
        placement=placement,
    )
