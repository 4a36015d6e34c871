"""Images for training: data sets, splits, shuffled minibatches and augmentation.

`decode` gives any image file as a viewer shows it, `open_folder` images in folders of classes or splits. Data sets in
memory are read once, on the host, as uint8 arrays. Shuffling and augmentation are pure functions for use in jit:

    dataset = data.load("cifar10", data_dir)
    train, valid = data.split(dataset, 0.5, seed=0)
    cursor = data.start(data_key, len(train))
    indices, cursor = data.next_indices(data_key, cursor, batch_size)              # from here on inside jit
    batch = data.normalize(images[indices], dataset.mean, dataset.std)
    batch = data.augment(augment_key, batch, crop_padding=4, flip=dataset.flip, cutout=0)
"""

from jaxnas.data.augment import augment, normalize
from jaxnas.data.batches import Cursor, next_indices, start
from jaxnas.data.datasets import DATASETS, DatasetNotFoundError, ImageDataset, load
from jaxnas.data.decoding import BadImageError, decode, decode_file
from jaxnas.data.examples import Examples
from jaxnas.data.folder_report import FolderReport
from jaxnas.data.folders import FolderSource, FolderSplits, open_folder
from jaxnas.data.preprocessing import Normalization, mirrored
from jaxnas.data.split import resize, resize_dataset, split
from jaxnas.data.statistics import channel_statistics

__all__ = [
    "DATASETS",
    "BadImageError",
    "Cursor",
    "DatasetNotFoundError",
    "Examples",
    "FolderReport",
    "FolderSource",
    "FolderSplits",
    "ImageDataset",
    "Normalization",
    "augment",
    "channel_statistics",
    "decode",
    "decode_file",
    "load",
    "mirrored",
    "next_indices",
    "normalize",
    "open_folder",
    "resize",
    "resize_dataset",
    "split",
    "start",
]
