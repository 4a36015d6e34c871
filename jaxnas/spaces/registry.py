"""The spaces by name, and from their descriptions."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jaxnas.spaces.base import SearchSpace
from jaxnas.spaces.mbconv import mbconv_cifar10, mbconv_digits, mbconv_imagenet, nasbench_macro
from jaxnas.spaces.nasbench201 import nasbench201

# Every entry takes `width`, `image_size` and `num_classes`, all with defaults, and is `described`.
SPACES: dict[str, Callable[..., SearchSpace]] = {
    "mbconv_cifar10": mbconv_cifar10,
    "mbconv_imagenet": mbconv_imagenet,
    "nasbench_macro": nasbench_macro,
    "mbconv_digits": mbconv_digits,
    "nasbench201": nasbench201,
}


def from_description(description: Mapping[str, Any]) -> SearchSpace:
    """Builds the space that `SearchSpace.description` describes.

    Args:
      description: {"name": key of `SPACES`, and every argument of that entry by name}.

    Raises:
      ValueError: if the name is not known, an argument is missing, unknown, or not a number that makes a space.

    >>> space = from_description({"name": "nasbench_macro", "width": 0.5, "image_size": 16, "num_classes": 3})
    >>> space.description
    {'name': 'nasbench_macro', 'width': 0.5, 'image_size': 16, 'num_classes': 3}
    """
    if not isinstance(description, Mapping) or not isinstance(description.get("name"), str):
        raise ValueError(f'description of a space must be an object with "name", got {description!r:.60}')
    arguments = dict(description)
    name = arguments.pop("name")
    if name not in SPACES:
        raise ValueError(f"space {name!r:.60} is not known; choose from {', '.join(SPACES)}")
    wanted = inspect.signature(SPACES[name]).parameters
    for argument in wanted:
        if argument not in arguments:
            raise ValueError(f"description of space {name!r} is not complete: it has no {argument!r}")
    for argument in arguments:
        if argument not in wanted:
            raise ValueError(f"description of space {name!r} has {argument!r:.60}; known are {', '.join(wanted)}")
    return SPACES[name](**arguments)
