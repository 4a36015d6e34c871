"""A search from its configuration: space, strategy, supernet and images, in memory or streamed."""

import dataclasses
from typing import Any

from jaxnas import data, strategies, supernet
from jaxnas.data import preprocessing, sources
from jaxnas.data.streams import Stream
from jaxnas.networks import latency
from jaxnas.runtime import devices
from jaxnas.search import budgets
from jaxnas.search.config import METHODS, SearchConfig, StreamedConfig
from jaxnas.search.image_search import image_search, streamed_image_search
from jaxnas.search.search import Search
from jaxnas.search.sources import Streamed
from jaxnas.spaces import SPACES
from jaxnas.spaces.base import SearchSpace
from jaxnas.strategies import Strategy


def build(config: SearchConfig) -> Search:
    """Space, strategy, supernet and data of a configuration: streams and all devices for a `StreamedConfig`.

    Raises:
      ValueError: on a name that is not known, or settings that do not fit each other or the data.
      DatasetNotFoundError: if the data set's files are absent.
    """
    if config.space.space not in SPACES:
        raise ValueError(f"space must be one of {', '.join(SPACES)}, got {config.space.space!r}")
    return _streamed(config) if isinstance(config, StreamedConfig) else _in_memory(config)


def _in_memory(config: SearchConfig) -> Search:
    # The strategy knows costs at full size: the supernet may be a smaller proxy.
    strategy = choose_strategy(config, search_space(config, SPACES[config.space.space]()))
    dataset = data.load(config.data.dataset, config.data.data_dir)
    train, valid = data.split(dataset, config.data.valid_fraction, config.run.seed)
    if config.data.image_size != dataset.train_images.shape[1]:
        train, valid = (
            dataclasses.replace(part, images=data.resize(part.images, config.data.image_size))
            for part in (train, valid)
        )
    network = supernet.build(_proxy(config, dataset.num_classes), _gather(config))
    return image_search(strategy, network, dataset, train, valid, config.training)


def _streamed(config: StreamedConfig) -> Search:
    settings, streams, seed = config.training, config.streams, config.run.seed
    source = sources.open_source(config.data.dataset, streams.folder or config.data.data_dir)
    halves = sources.halves(source, config.data.valid_fraction, seed, streams.classes, streams.images_per_class)
    train, valid = (
        Stream(
            source,
            subset,
            config.data.image_size,
            size // settings.accumulate,
            seed,
            augment,
            devices.process(),
            threads=streams.threads,
            workers=streams.workers,
            max_dead=streams.max_dead_images,
        )
        for subset, size, augment in zip(halves, (settings.batch_size, settings.valid_batch_size), (True, False))
    )
    space = _proxy(config, len(train.subset.class_names))
    network = supernet.build(space, _gather(config), devices.AXIS if streams.sync_batch_norm else None)
    strategy = choose_strategy(config, search_space(config, space))
    normalization = preprocessing.normalization(source, train.subset, config.data.image_size, seed)
    return streamed_image_search(strategy, network, train, valid, settings, normalization, streams.evaluation_batches)


def _proxy(config: SearchConfig, num_classes: int) -> SearchSpace:
    """The space at the width and image size that the supernet has."""
    return SPACES[config.space.space](
        width=config.space.width, image_size=config.data.image_size, num_classes=num_classes
    )


def _gather(config: SearchConfig) -> bool:
    return supernet.resolve_batching(config.training.batching) == "vmap"


def search_space(config: SearchConfig, space: SearchSpace) -> SearchSpace:
    """The space, with latency among its costs where a table of it is given."""
    return space if config.method.latency is None else latency.read(config.method.latency).added_to(space)


def choose_strategy(config: SearchConfig, space: SearchSpace) -> Strategy:
    """The method, with penalties or within budgets.

    Raises:
      ValueError: on an unknown method or cost, or a budget that no network of the space meets.
    """
    settings = config.method
    strategies.check_name(settings.method, METHODS)
    cost = space.cost(settings.cost)
    if not settings.budgets:
        return strategies.make(settings.method, space, settings.penalties, samples=settings.samples, cost=cost)
    parsed = budgets.parse(settings.budgets, settings.cost)
    costs = [space.cost(name) for name in parsed[0]]
    method = strategies.STRATEGIES[settings.method]
    return strategies.within_budgets(
        method, space, costs, [list(budget.values()) for budget in parsed], samples=settings.samples
    )


def inputs(config: SearchConfig, search: Search | None = None) -> dict[str, Any]:
    """What files decide about a search beside its settings, JSON-ready.

    Args:
      config: the configuration.
      search: what was built of it; the images of one that streams them get a fingerprint.
    """
    found: dict[str, Any] = {}
    if config.method.latency is not None:
        table = latency.read(config.method.latency)
        found["latency"] = {"device": table.device, "batch_size": table.batch_size, "digest": table.digest}
    if search is not None and isinstance(search.train, Streamed):
        found["data"] = search.train.stream.source.fingerprint()[:16]
    return found
