"""How networks are trained from scratch: the settings, and a recipe for each data set."""

import dataclasses
from dataclasses import dataclass

AUGMENTATIONS = ("standard", "cutout", "randaugment")


@dataclass(frozen=True)
class RetrainSettings:
    """How a network is trained.

    Attributes:
      epochs: passes over the training images.
      batch_size: images in a minibatch.
      learning_rate: peak of the cosine schedule.
      warmup: share of the steps in which the learning rate rises from 0.
      momentum: momentum of SGD.
      weight_decay: added to the gradient of convolution and classifier kernels.
      clip_norm: largest global norm of the gradient.
      label_smoothing: label smoothing in the training loss.
      augmentation: "standard" (random crop, and flip where the data set allows it), "cutout" or "randaugment" on top.
      crop_padding: zero padding before a random crop, pixels.
      cutout: side of the square that cutout masks, pixels.
      drop_path: rate of drop path in the last layer.
      average: decay of the moving average of the weights; smaller in the first steps.
      steps_per_dispatch: steps in one program on the device.
    """

    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    label_smoothing: float = 0.1
    augmentation: str = "standard"
    crop_padding: int = 4
    cutout: int = 16
    drop_path: float = 0.0
    average: float = 0.999
    steps_per_dispatch: int = 50

    def __post_init__(self):
        for name in ("epochs", "batch_size", "steps_per_dispatch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup", "label_smoothing", "drop_path", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and less than 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"augmentation must be one of {', '.join(AUGMENTATIONS)}, got {self.augmentation!r}")


RECIPES = {
    "digits": RetrainSettings(
        epochs=60,
        batch_size=64,
        average=0.99,
        steps_per_dispatch=44,
        crop_padding=1,
        cutout=4,  # of 8 pixels
    ),
    "cifar10": RetrainSettings(augmentation="cutout", crop_padding=4, cutout=16),  # of 32 pixels
}
# For images of one's own that are streamed, by how many the search knew: of ImageNet's kind, or some thousand.
STREAMED = RetrainSettings(
    epochs=120, batch_size=256, learning_rate=0.1, weight_decay=4e-5, augmentation="standard", crop_padding=0
)
FEW, SMALLEST_BATCH = 20_000, 8


def choose_streamed(images: int | None, image_size: int) -> RetrainSettings:
    """The recipe for streamed images.

    Args:
      images: how many the search learnt on; None if unknown, as for large data sets.
      image_size: height and width of images.
    """
    recipe = dataclasses.replace(STREAMED, cutout=image_size // 2)
    if images is None or images >= FEW:
        return recipe
    # Minibatches of which an epoch has ten or more, and weights that follow in the fewer steps.
    size = SMALLEST_BATCH
    while 2 * size <= min(images // 10, 128):
        size *= 2
    return dataclasses.replace(recipe, epochs=60, batch_size=size, learning_rate=0.05, weight_decay=5e-4, average=0.99)


def choose(dataset: str, image_size: int | None) -> RetrainSettings:
    """The recipe of a data set, for images of some height and width; None for the data set's own.

    Raises:
      ValueError: if the data set has no recipe.
    """
    if dataset not in RECIPES:
        raise ValueError(f"dataset {dataset!r} has no recipe here; networks for {', '.join(RECIPES)} can be retrained")
    if image_size is None:
        return RECIPES[dataset]
    # As large a part of the image as 4 and 16 are of CIFAR-10's 32 pixels.
    return dataclasses.replace(RECIPES[dataset], crop_padding=image_size // 8, cutout=image_size // 2)
