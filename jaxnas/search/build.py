"""A search from its configuration: space, strategy, supernet and images, in memory or streamed."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from jaxnas import data, strategies, supernet
from jaxnas.data import parts, preprocessing, sources
from jaxnas.data.cached_streams import CachedStream
from jaxnas.data.streams import Stream
from jaxnas.runtime import devices
from jaxnas.search import budgets, device_tables, image_caches
from jaxnas.search.config import METHODS, SearchConfig, StreamedConfig
from jaxnas.search.image_search import image_search, streamed_image_search
from jaxnas.search.search import Search
from jaxnas.search.settings import SearchSettings
from jaxnas.search.sources import Streamed
from jaxnas.spaces import SPACES, memory
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import Strategy

# What an earlier start could not read: for each split, files and their sizes.
KnownBad = Mapping[str, Iterable[tuple[str, int]]]
# The data set of a search, streamed or in memory.
Images = sources.Splits | data.ImageDataset


def open_images(config: SearchConfig, known_bad: KnownBad | None = None) -> Images:
    """The data set of a search: opened where images are streamed, else read into memory.

    Args:
      config: the settings.
      known_bad: images of a folder that are passed over, see `jaxnas.data.FolderSource`.

    Raises:
      ValueError, DatasetNotFoundError: as `jaxnas.data.sources.open_splits` and `jaxnas.data.load`.
    """
    if not isinstance(config, StreamedConfig):
        return data.load(config.data.dataset, config.data.data_dir)
    streams = config.streams
    root = streams.folder or config.data.data_dir
    return sources.open_splits(config.data.dataset, root, streams.valid_folder, known_bad)


def build(config: SearchConfig, images: Images | None = None) -> Search:
    """Space, strategy, supernet and data of a configuration: streams and all devices for a `StreamedConfig`.

    Args:
      config: the settings.
      images: what `open_images` gave; None to call it here.

    Raises:
      ValueError: on a name that is not known, or settings that do not fit each other or the data.
      DatasetNotFoundError: if the data set's files are absent.
    """
    if config.space.space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {config.space.space!r}")
    images = open_images(config) if images is None else images
    return _streamed(config, images) if isinstance(config, StreamedConfig) else _in_memory(config, images)


def _in_memory(config: SearchConfig, dataset: data.ImageDataset) -> Search:
    # Costs are those of the network for the data set's own images, at full width: the supernet may be a smaller proxy.
    meant = SPACES[config.space.space](image_size=dataset.train_images.shape[1], num_classes=dataset.num_classes)
    strategy = choose_strategy(config, search_space(config, meant))
    train, valid = data.split(dataset, config.data.valid_fraction, config.run.seed)
    if config.data.image_size != dataset.train_images.shape[1]:
        train, valid = (
            dataclasses.replace(part, images=data.resize(part.images, config.data.image_size))
            for part in (train, valid)
        )
    training = _with_batching(config, count=1)
    network = _supernet(config, training, _proxy(config, dataset.num_classes))
    return image_search(strategy, network, dataset, train, valid, training)


def search_parts(config: StreamedConfig, splits: sources.Splits) -> tuple[parts.Part, parts.Part]:
    """The images that weights and distributions learn on."""
    streams = config.streams
    return parts.search_parts(
        splits,
        config.data.valid_fraction,
        config.run.seed,
        streams.classes,
        streams.images_per_class,
        streams.test_fraction,
    )


def make_stream(
    config: StreamedConfig, part: parts.Part, batch_size: int, augment: bool, cached: bool = True, **changes: Any
) -> Stream:
    """A stream of images as a configuration wants it.

    Args:
      config: the settings.
      part: the images.
      batch_size: of the whole job.
      augment: random crops and flips; else central crops.
      cached: read the images from the cache, where the configuration names one.
      **changes: fields of `Stream`.

    Raises:
      ValueError: as `Stream`, or if the cache is not complete or of something else.
    """
    streams = config.streams
    cache = image_caches.opened(config, part[0]) if cached else None
    make = Stream if cache is None else functools.partial(CachedStream, cache=cache)
    return make(
        *part,
        **{
            "size": config.data.image_size,
            "batch_size": batch_size,
            "seed": config.run.seed,
            "augment": augment,
            "host": devices.process(),
            "threads": streams.threads,
            "workers": streams.workers,
            "max_dead": streams.max_dead_images,
            "mirror": streams.mirror,
            "background": streams.background,
            **changes,
        },
    )


def normalization(config: StreamedConfig, part: parts.Part) -> data.Normalization:
    """As given, or of the training images."""
    streams, size, seed = config.streams, config.data.image_size, config.run.seed
    if streams.mean and streams.std:
        return data.Normalization(streams.mean, streams.std)
    measured = preprocessing.normalization(*part, size, seed, background=streams.background)
    return data.Normalization(streams.mean or measured.mean, streams.std or measured.std)


def _streamed(config: StreamedConfig, splits: sources.Splits) -> Search:
    settings, streams = _with_batching(config, devices.device_count()), config.streams
    learnt = search_parts(config, splits)
    sizes = settings.batch_size, settings.valid_batch_size
    train, valid = (
        make_stream(config, part, size // settings.accumulate, augment)
        for part, size, augment in zip(learnt, sizes, (True, False))
    )
    space = _proxy(config, len(train.subset.class_names))
    network = _supernet(config, settings, space, devices.AXIS if streams.sync_batch_norm else None)
    strategy = choose_strategy(config, search_space(config, space))
    measured = normalization(config, learnt[0])
    return streamed_image_search(strategy, network, train, valid, settings, measured, streams.evaluation_batches)


def _proxy(config: SearchConfig, num_classes: int) -> SearchSpace:
    """The space at the width and image size that the supernet has."""
    return SPACES[config.space.space](
        width=config.space.width, image_size=config.data.image_size, num_classes=num_classes
    )


def _with_batching(config: SearchConfig, count: int) -> SearchSettings:
    """The settings of the search with `batching` as it is on this number of devices, "vmap" or "map"."""
    training = config.training
    pixels = training.batch_size // training.accumulate // count * config.data.image_size**2
    return dataclasses.replace(training, batching=supernet.resolve_batching(training.batching, pixels=pixels))


def _supernet(config: SearchConfig, training: SearchSettings, space: SearchSpace, axis_name: str | None = None) -> Any:
    gather = training.batching == "vmap"
    options = {"axis_name": axis_name, "sharing": config.space.sharing}
    # What is as usual is left out: a supernet that was registered for a space of its own need not know it.
    return supernet.build(space, gather, **{k: v for k, v in options.items() if v not in (None, "separate")})


def search_space(config: SearchConfig, space: SearchSpace) -> SearchSpace:
    """The space, with latencies among its costs where tables of them are given, and memory where it is named.

    Raises:
      ValueError: as `device_tables.read`, `memory.check_bits` and `memory.added_to`.
    """
    settings = config.method
    bits = {name: getattr(settings, name) for name in ("weight_bits", "activation_bits")}
    memory.check_bits(settings.costs, **{name: value for name, value in bits.items() if value != memory.BITS})
    space = device_tables.added_to(space, device_tables.read(settings.latency))
    return memory.added_to(space, settings.costs, settings.weight_bits, settings.activation_bits)


def choose_strategy(config: SearchConfig, space: SearchSpace) -> Strategy:
    """The method, with penalties or within budgets.

    Raises:
      ValueError: on an unknown method or cost, or a budget that no network of the space meets, or of a device without
        a latency table.
    """
    settings = config.method
    strategies.check_name(settings.method, METHODS)
    cost = space.cost(settings.cost)
    samples = {} if settings.samples is None else {"samples": settings.samples}
    if not settings.budgets:
        return strategies.make(settings.method, space, settings.penalties, cost=cost, **samples)
    parsed = budgets.parse(settings.budgets, settings.cost)
    names = list(dict.fromkeys(name for budget in parsed for name in budget))
    known = list(dict.fromkeys([*(cost.name for cost in space.costs), *memory.NAMES]))
    for name in names:
        if name not in known and name not in budgets.COSTS:
            raise ValueError(
                f"budgets name {name!r}, which is none of {', '.join(known)}, nor a device with a latency table; "
                f"give its table: --latency {name}=FILE.json"
            )
    costs = [space.cost(name) for name in names]
    # A network that does not name a cost may have as much of it as it likes.
    rows = [[budget.get(name, math.inf) for name in names] for budget in parsed]
    return strategies.within_budgets(strategies.STRATEGIES[settings.method], space, costs, rows, **samples)


def inputs(config: SearchConfig, search: Search | None = None, splits: sources.Splits | None = None) -> dict[str, Any]:
    """What files decide about a search beside its settings, JSON-ready.

    Args:
      config: the configuration.
      search: what was built of it; of one that streams its images, these get a fingerprint, classes and, where they are
        known without reading all records, counts.
      splits: what `open_images` opened, where images are streamed; None to open it here.
    """
    found: dict[str, Any] = device_tables.describe(device_tables.read(config.method.latency))
    if search is not None and isinstance(search.train, Streamed):
        streams = search.train.stream, search.valid.stream
        found["data"] = fingerprint([stream.source for stream in streams])
        found["classes"] = list(streams[0].subset.class_names)
        held_out = parts.held_out_part(
            open_images(config) if splits is None else splits, streams[0].subset, config.streams.test_fraction
        )
        used = [(stream.source, stream.subset) for stream in streams]
        counts = parts.class_counts(*used, *([] if held_out is None else [held_out]))
        if counts is not None:
            found["images"] = counts
        if held_out is not None:
            found["test_images"] = len(held_out[1].indices)
        cache_size = image_caches.size(config)
        if cache_size is not None:
            found["image_cache_size"] = cache_size
        found["normalization"] = {name: list(getattr(search.prepare, name)) for name in ("mean", "std")}
    return found


def fingerprint(found: list[sources.ImageSource]) -> str:
    """Of one source or, where the distributions have images of their own, of both."""
    prints = [source.fingerprint() for source in dict.fromkeys(found)]
    whole = prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()
    return whole[:16]
