"""What the images of a data set need before a network sees them: normalisation, and whether they may be mirrored."""

import concurrent.futures
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxnas.data.crops import decode_crop
from jaxnas.data.decoding import WHITE, BadImageError
from jaxnas.data.parts import Subset
from jaxnas.data.sources import ImageSource
from jaxnas.data.statistics import SMALLEST_STD, statistics_of_blocks

# Of ImageNet's training images, the constants that networks for ImageNet are usually trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Images measured: the standard error of a mean is then a hundredth of the range at most.
SAMPLE = 512

# Words in the names of data sets of digits, letters and other signs, of which a mirror image is another sign or none:
# of TFDS mnist, emnist, kmnist, mnist_corrupted, binarized_mnist, svhn_cropped, omniglot, cmaterdb; scikit-learn's
# digits; and what people call folders of them. fashion_mnist is left out: a mirrored shoe is a shoe.
_SIGNS = frozenset(
    ("mnist", "emnist", "kmnist", "kkanji", "qmnist", "svhn", "usps", "omniglot", "cmaterdb", "chars74k", "iiit5k")
    + ("digit", "digits", "number", "numbers", "numeral", "numerals", "letter", "letters", "char", "chars", "character")
    + ("characters", "alphabet", "glyph", "glyphs", "font", "fonts", "text", "texts", "word", "words", "ocr", "captcha")
    + ("handwriting", "handwritten", "kana", "hiragana", "katakana", "kanji", "kuzushiji", "hanzi", "hangul")
    + ("gtsrb", "signs", "trafficsigns", "plates")
)


@dataclass(frozen=True)
class Normalization:
    """What `normalize` takes.

    Attributes:
      mean: of each channel, of values scaled to [0, 1].
      std: standard deviations, likewise.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self):
        for name, least in (("mean", 0), ("std", SMALLEST_STD)):
            values = getattr(self, name)
            if len(values) != 3 or not all(least <= value <= 1 for value in values):
                raise ValueError(
                    f"{name} must be three values from {least:.3g} to 1, red, green and blue, got {tuple(values)}"
                )


def mirrored(name: str, class_names: Sequence[str] = ()) -> bool:
    """Whether training may mirror the images of a data set: a mirrored image must keep its class.

    False for digits, letters, text and traffic signs, which the name of the data set or folder shows (`mnist`,
    `svhn_cropped`, `my-letters`), or class names that are single letters or digits. Every other data set is mirrored:
    set it yourself where classes differ in left and right.

    Args:
      name: of the data set or folder.
      class_names: of its classes.
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    if "fashion" not in words and not _SIGNS.isdisjoint(words):
        return False
    return not (class_names and all(len(label) == 1 and label.isalnum() for label in class_names))


def normalization(
    source: ImageSource,
    subset: Subset,
    size: int,
    seed: int,
    sample: int = SAMPLE,
    background: tuple[int, int, int] = WHITE,
) -> Normalization:
    """The normalisation of images: the constants of ImageNet for data sets of that name, else measured.

    Measured are the central crops of `sample` images drawn at random, or all if there are fewer; images that cannot be
    read are passed over.

    Args:
      source: where the images are.
      subset: those that the weights learn on.
      size: height and width of the crops.
      seed: of the draw.
      sample: images measured.
      background: on which transparent images are put.

    Raises:
      ValueError: if none of the drawn images can be read.
    """
    if source.name.lower().startswith("imagenet"):
        return Normalization(IMAGENET_MEAN, IMAGENET_STD)
    problems: list[str] = []

    def crop(number: int) -> np.ndarray | None:
        try:
            encoded, _ = source.read(number)
            return decode_crop(encoded, size, None, background, source.describe(number))
        except BadImageError as error:
            problems.append(str(error))
            return None

    drawn = np.random.default_rng(seed).permutation(subset.indices)[:sample].tolist()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        # So many at a time that the decoded images in memory are bounded.
        crops = (image for part in _batched(drawn, 64) for image in threads.map(crop, part))
        blocks = (image[None] for image in crops if image is not None)
        first = next(blocks, None)
        if first is None:
            raise ValueError(f"none of {len(drawn)} images of {source.name} can be read: {min(problems)}")
        return Normalization(*statistics_of_blocks(itertools.chain((first,), blocks)))


def _batched(items: list[int], count: int) -> Iterable[list[int]]:
    return (items[begin : begin + count] for begin in range(0, len(items), count))
