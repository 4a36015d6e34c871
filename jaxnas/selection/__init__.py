"""From distributions and a supernet to one architecture for each penalty or budget."""

from jaxnas.selection.reevaluation import candidates, least_objective
from jaxnas.selection.within_budget import check_reachable, likely_within, most_probable, within

__all__ = ["candidates", "check_reachable", "least_objective", "likely_within", "most_probable", "within"]
