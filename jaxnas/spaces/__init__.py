"""Search spaces as data. `SPACES` names them all; each entry builds one."""

from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.spaces.mbconv import (
    SPACES,
    MBConvSpace,
    mbconv_cifar10,
    mbconv_digits,
    mbconv_imagenet,
    mbconv_space,
    nasbench_macro,
)

__all__ = [
    "SPACES",
    "Decision",
    "MBConvSpace",
    "SearchSpace",
    "mbconv_cifar10",
    "mbconv_digits",
    "mbconv_imagenet",
    "mbconv_space",
    "nasbench_macro",
]
