"""From distributions and a supernet to one architecture for each penalty or budget."""

from collections.abc import Callable
from typing import Any

from jaxnas.cost import least_objective
from jaxnas.selection import dc_nas, perturbation, stage_wise
from jaxnas.selection.reevaluation import candidates

# Related methods that select an architecture; their files say what each is called with.
SELECTIONS: dict[str, Callable[..., Any]] = {
    "darts_pt": perturbation.select,
    "dc_nas": dc_nas.select,
    "stage_wise": stage_wise.search,
}

__all__ = [
    "SELECTIONS",
    "candidates",
    "least_objective",
]
