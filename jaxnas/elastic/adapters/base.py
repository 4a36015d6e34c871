"""One interface to models of any framework.

A model is built again wherever it is needed: Linen modules and pairs are cheap to make, and an NNX module that is made
inside a traced function leaves its initial values to dead code elimination. Variables are one tree,
{"params": what is trained, "state": the rest (batch statistics, counters of random streams, constants)}.

Two modes. In training, with a random key, dropout is on. In evaluation dropout is off; batch norm takes the statistics
of the minibatch in both, since running averages of many architectures mean nothing (METHOD, traps).
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax

Values = Mapping[str, Any]  # hyperparameters: the keywords of `make`
Variables = dict[str, Any]  # {"params": ..., "state": ...}

# Keywords of a call that tell training from evaluation, and their value in training.
MODE_KEYWORDS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "eval": False,
    "evaluate": False,
}
KEY_KEYWORDS = ("key", "rng", "rngs")  # of a pair's functions


class Adapter(Protocol):
    """What a framework's models look like to the rest of the package; every method may be traced."""

    def init(self, values: Values, key: jax.Array, inputs: Any) -> Variables:
        """Fresh variables of the model with these hyperparameters."""

    def shapes(self, values: Values, inputs: Any) -> tuple[Variables, list[tuple[Any, ...]]]:
        """What `init` returns, by shapes alone, and the paths of parameters in the order in which they are made.

        The order may be empty where layers have names of their own.
        """

    def apply(
        self, values: Values, variables: Variables, inputs: Any, key: jax.Array | None = None, running: bool = False
    ) -> tuple[Any, Any]:
        """Outputs, and the state as the call left it.

        Args:
          values: hyperparameters.
          variables: as `init` returns them.
          inputs: one argument of the call, or a tuple of all of them.
          key: random key of a call in training; None for evaluation.
          running: whether batch norm takes its running averages, as in a deployed network; in evaluation only.
        """

    def model(self, values: Values, variables: Variables | None = None) -> Any:
        """The user's own object with these hyperparameters; NNX modules are given the variables, if there are any."""

    def statistics(self, values: Values, state: Any) -> Any:
        """The state with True for each running average of batch norm, and False for all else."""

    def state_of_model(self, state: Any) -> Any:
        """The state as the user's model takes it."""

    def state_from_model(self, state: Any) -> Any:
        """The inverse of `state_of_model`."""


def arguments(inputs: Any) -> tuple[Any, ...]:
    """The positional arguments that `inputs` stands for: those of a tuple, or itself."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def mode_keywords(function: Callable[..., Any], training: bool) -> dict[str, bool]:
    """Those of `MODE_KEYWORDS` that a function takes.

    >>> mode_keywords(lambda x, train: x, training=True), mode_keywords(lambda x, deterministic: x, training=True)
    ({'train': True}, {'deterministic': False})
    """
    return {name: value == training for name, value in MODE_KEYWORDS.items() if name in parameters_of(function)}


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function, or of a class's constructor; empty where they cannot be known.

    >>> list(parameters_of(functools.partial(lambda width, depth, rngs: None, depth=2)))
    ['width', 'rngs']
    """
    if isinstance(function, functools.partial):  # its own signature would be that of the metaclass, for a class
        left = list(parameters_of(function.func).items())[len(function.args) :]
        return {name: parameter for name, parameter in left if name not in function.keywords}
    try:
        if inspect.isclass(function):  # its metaclass may take anything, as that of NNX modules does
            parameters = dict(inspect.signature(function.__init__).parameters)
            del parameters[next(iter(parameters))]
            return parameters
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # written in C
        return {}


def takes_rngs(make: Callable[..., Any]) -> bool:
    """Whether `make` has an argument named rngs."""
    return "rngs" in parameters_of(make)
