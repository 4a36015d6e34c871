"""Search spaces as data. `SPACES` names them all; each entry builds one."""

from collections.abc import Callable

from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.spaces.mbconv import (
    MBConvSpace,
    mbconv_cifar10,
    mbconv_digits,
    mbconv_imagenet,
    mbconv_space,
    nasbench_macro,
)
from jaxnas.spaces.nasbench201 import CellSpace, nasbench201
from jaxnas.spaces.stages import searched_stages, stage_ends, stages

# Every entry takes `width`, `image_size` and `num_classes`, all with defaults.
SPACES: dict[str, Callable[..., SearchSpace]] = {
    "mbconv_cifar10": mbconv_cifar10,
    "mbconv_imagenet": mbconv_imagenet,
    "nasbench_macro": nasbench_macro,
    "mbconv_digits": mbconv_digits,
    "nasbench201": nasbench201,
}

__all__ = [
    "SPACES",
    "CellSpace",
    "Decision",
    "MBConvSpace",
    "SearchSpace",
    "mbconv_cifar10",
    "mbconv_digits",
    "mbconv_imagenet",
    "mbconv_space",
    "nasbench201",
    "nasbench_macro",
    "searched_stages",
    "stage_ends",
    "stages",
]
