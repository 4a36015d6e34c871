"""Methods that follow gradients through a relaxed choice, one file each. `RELAXATIONS` names them all."""

from collections.abc import Callable

from jaxnas.relaxation.base import Loss, Losses, Relaxation, Settings, State, expected_costs, probabilities
from jaxnas.relaxation.darts import Darts
from jaxnas.relaxation.eg_das import EGDAS, Assembly
from jaxnas.relaxation.library import Library, of_networks
from jaxnas.relaxation.projection import project
from jaxnas.relaxation.rc_darts import Bounds, RCDarts
from jaxnas.relaxation.search import Found, search, supernet_loss

# Called with (space, settings) and the settings of each; TARGET says what each looks for one network by.
RELAXATIONS: dict[str, Callable[..., Relaxation]] = {
    "darts": Darts,
    "rc_darts": RCDarts,
    "eg_das": EGDAS,
}

__all__ = [
    "EGDAS",
    "RELAXATIONS",
    "Assembly",
    "Bounds",
    "Darts",
    "Found",
    "Library",
    "Loss",
    "Losses",
    "RCDarts",
    "Relaxation",
    "Settings",
    "State",
    "expected_costs",
    "of_networks",
    "probabilities",
    "project",
    "search",
    "supernet_loss",
]
