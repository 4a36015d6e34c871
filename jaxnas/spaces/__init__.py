"""Search spaces as data. `SPACES` names them all; each entry builds one."""

from jaxnas.spaces import memory
from jaxnas.spaces.base import Decision, SearchSpace
from jaxnas.spaces.description import described
from jaxnas.spaces.mbconv import (
    MBConvSpace,
    mbconv_cifar10,
    mbconv_digits,
    mbconv_imagenet,
    mbconv_space,
    nasbench_macro,
)
from jaxnas.spaces.nasbench201 import CellSpace, nasbench201
from jaxnas.spaces.registry import SPACES, from_description
from jaxnas.spaces.stages import searched_stages, stage_ends, stages

__all__ = [
    "SPACES",
    "CellSpace",
    "Decision",
    "MBConvSpace",
    "SearchSpace",
    "described",
    "from_description",
    "memory",
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
