"""From distributions and a supernet to one architecture for each penalty."""

from jaxnas.selection.reevaluation import candidates, least_objective

__all__ = ["candidates", "least_objective"]
