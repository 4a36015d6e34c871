"""Images for training: data sets, splits, shuffled minibatches and augmentation.

Data sets are read once, on the host, as uint8 arrays. Shuffling and augmentation are pure functions for use in jit:

    dataset = data.load("cifar10", data_dir)
    train, valid = data.split(dataset, 0.5, seed=0)
    cursor = data.start(data_key, len(train))
    indices, cursor = data.next_indices(data_key, cursor, batch_size)              # from here on inside jit
    batch = data.normalize(images[indices], dataset.mean, dataset.std)
    batch = data.augment(augment_key, batch, crop_padding=4, flip=dataset.flip, cutout=0)
"""

from jaxnas.data.augment import augment, normalize
from jaxnas.data.batches import Cursor, next_indices, start
from jaxnas.data.datasets import DATASETS, DatasetNotFoundError, ImageDataset, channel_statistics, load
from jaxnas.data.examples import Examples
from jaxnas.data.split import resize, resize_dataset, split

__all__ = [
    "DATASETS",
    "Cursor",
    "DatasetNotFoundError",
    "Examples",
    "ImageDataset",
    "augment",
    "channel_statistics",
    "load",
    "next_indices",
    "normalize",
    "resize",
    "resize_dataset",
    "split",
    "start",
]
