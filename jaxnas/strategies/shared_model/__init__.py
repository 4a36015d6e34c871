"""One Bayesian model of the loss that all distributions share."""

from jaxnas.strategies.shared_model.strategy import SharedModel

__all__ = ["SharedModel"]
