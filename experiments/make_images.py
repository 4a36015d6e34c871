"""A small synthetic data set in the format of TFDS's `imagenet2012`, to try a search without ImageNet.

    python -m experiments.make_images --out data --classes 20 --images 2000

JPEGs of varying size in array_record files. Every class has a colour and the direction and width of stripes of its own,
under noise and varying light, so that a network can learn it.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from experiments import cli
from jaxnas.results.files import naming

VERSION = "5.1.0"  # of TFDS's imagenet2012


@dataclass(frozen=True)
class Config:
    """Write a small data set in the ImageNet format.

    Attributes:
      out: folder for the data set, to be given to a search as --data-dir.
      classes: number of classes.
      images: number of images, spread evenly over the classes.
      smallest: shortest side, pixels.
      largest: longest side, pixels.
      name: name of the data set.
      seed: random seed.
    """

    out: Path
    classes: int = 20
    images: int = 2000
    smallest: int = 80
    largest: int = 400
    name: str = "imagenet2012"
    seed: int = 0


def draw(generator: np.random.Generator, label: int, classes: int, height: int, width: int) -> np.ndarray:
    """One image of a class, uint8 [height, width, 3]."""
    angle = np.pi * label / classes + generator.normal(0, 0.05)
    stripes = 3 + 2 * (label % 4)  # over the longer side
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    wave = np.sin(2 * np.pi * (stripes * (np.cos(angle) * columns + np.sin(angle) * rows) + generator.random()))
    turn = 2 * np.pi * (label * 0.618 + np.arange(3) / 3)
    colour = 0.5 + 0.35 * np.cos(turn)
    coarse = generator.normal(0, 0.15, (-(-height // 8), -(-width // 8), 3))
    noise = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    pixels = (colour + 0.3 * wave[..., None] + noise) * generator.uniform(0.7, 1.2)
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    """A JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def record(image: bytes, label: int, file_name: str) -> bytes:
    """One record as TFDS stores it, a serialised tf.train.Example."""
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto  # slow to import

    example = proto.Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(image)
    features["label"].int64_list.value.append(label)
    features["file_name"].bytes_list.value.append(file_name.encode())
    return example.SerializeToString()


def write(folder: Path, name: str, classes: int, records: list[bytes]) -> None:
    """Writes a prepared TFDS data set with a single split, train."""
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    writer = ArrayRecordWriter(str(folder / f"{name}-train.array_record-00000-of-00001"), "group_size:1")
    for one in records:
        writer.write(one)
    writer.close()
    prefix = "tensorflow_datasets.core.features"
    features = {
        "file_name": {"pythonClassName": f"{prefix}.text_feature.Text", "text": {}},
        "image": {
            "pythonClassName": f"{prefix}.image_feature.Image",
            "image": {"shape": {"dimensions": ["-1", "-1", "3"]}, "dtype": "uint8", "encodingFormat": "jpeg"},
        },
        "label": {
            "pythonClassName": f"{prefix}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(classes)},
        },
    }
    described = {
        "pythonClassName": f"{prefix}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    split = {
        "name": "train",
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(len(records))],
        "numBytes": str(sum(map(len, records))),
    }
    info = {"name": name, "version": VERSION, "fileFormat": "array_record", "splits": [split], "moduleName": "__main__"}
    (folder / "features.json").write_text(json.dumps(described, indent=1))
    (folder / "label.labels.txt").write_text("".join(f"class_{label:03d}\n" for label in range(classes)))
    # Last: a folder without it is no data set.
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=1))


def main(config: Config) -> None:
    """Draws the images and writes the data set."""
    if config.classes < 2 or config.images < 2 * config.classes:
        raise ValueError(f"images must be at least 2 for each of at least 2 classes, got {config.images} for them")
    if not 8 <= config.smallest <= config.largest:
        raise ValueError(f"smallest must be from 8 to largest ({config.largest}), got {config.smallest}")
    folder = config.out / config.name / VERSION
    if folder.exists():
        raise ValueError(f"out has {folder} already; choose another folder or remove it")
    records = []
    for index in range(config.images):
        generator = np.random.default_rng((config.seed, index))
        label = index % config.classes
        height, width = generator.integers(config.smallest, config.largest, 2, endpoint=True)
        image = encode(draw(generator, label, config.classes, height, width))
        records.append(record(image, label, f"class_{label:03d}_{index}.JPEG"))
    with naming(folder):
        write(folder, config.name, config.classes, records)
    print(f"{len(records)} images of {config.classes} classes in {folder}")


if __name__ == "__main__":
    cli.run(main, Config)
