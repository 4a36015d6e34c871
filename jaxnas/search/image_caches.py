"""The caches of decoded images that a search on streams reads: DIR/train and, where there is such a split, DIR/valid.

Images that networks are tested on are not cached: they are decoded, as those that the networks will meet.
"""

from collections.abc import Callable
from pathlib import Path

from jaxnas.data import caching
from jaxnas.data.cached_images import Contents, ImageCache
from jaxnas.data.crops import CENTRAL
from jaxnas.data.sources import ImageSource, Splits
from jaxnas.search.config import StreamedConfig


def size(config: StreamedConfig) -> int | None:
    """Pixels of the shorter side of cached images; None where the search decodes.

    Raises:
      ValueError: if it is smaller than the images of the search, or given without a folder for the cache.
    """
    streams, least = config.streams, config.data.image_size
    if streams.image_cache is None:
        if streams.image_cache_size is not None:
            raise ValueError(
                f"image_cache_size needs image_cache, a folder for the cached images, got {streams.image_cache_size}"
            )
        return None
    chosen = round(least / CENTRAL) if streams.image_cache_size is None else streams.image_cache_size
    if chosen < least:
        raise ValueError(f"image_cache_size must be at least image_size, {least}, got {chosen}")
    return chosen


def build(config: StreamedConfig, splits: Splits, announce: Callable[[str], None] = lambda text: None) -> None:
    """Makes what is missing of the caches that a search reads; of all processes together.

    Raises:
      ValueError, OSError: as `jaxnas.data.caching.build`.
    """
    chosen, streams = size(config), config.streams
    if chosen is None:
        return
    for source in (splits.train, splits.valid):
        if source is not None:
            caching.build(_folder(config, source), source, chosen, streams.background, streams.threads, announce)


def opened(config: StreamedConfig, source: ImageSource) -> ImageCache | None:
    """The cache of a source, which is complete; None where the search decodes.

    Raises:
      ValueError: as `jaxnas.data.cached_images.ImageCache`.
    """
    chosen = size(config)
    if chosen is None:
        return None
    return ImageCache(_folder(config, source), Contents.of(source, chosen, config.streams.background))


def _folder(config: StreamedConfig, source: ImageSource) -> Path:
    return config.streams.image_cache / source.split
