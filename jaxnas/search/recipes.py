"""Recipes: how networks for a data set are trained from scratch."""

import dataclasses

from jaxnas.search.retraining import RetrainSettings

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
