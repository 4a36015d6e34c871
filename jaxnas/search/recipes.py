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
