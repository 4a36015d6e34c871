"""Weight-sharing supernets: `apply(params, images, arch) -> logits`, written for one architecture."""

from jaxnas.supernet.batching import BATCHINGS, evaluate, gradient, resolve_batching
from jaxnas.supernet.mbconv import MBConvSupernet

__all__ = ["BATCHINGS", "MBConvSupernet", "evaluate", "gradient", "resolve_batching"]
