"""Spaces hold the arguments that they were built with: enough to build them again, with the same costs."""

import dataclasses
import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

from jaxnas.spaces.base import SearchSpace


def described(build: Callable[..., SearchSpace]) -> Callable[..., SearchSpace]:
    """Makes the spaces of a function hold its arguments, for `SearchSpace.description`; a decorator.

    Args:
      build: its arguments have default values, all numbers.

    Returns:
      The function, which raises ValueError where an integer argument is given another number, or a number is not
      finite or not positive.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def build_described(*args: Any, **kwargs: Any) -> SearchSpace:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            bound.arguments[name] = _number(name, value, type(signature.parameters[name].default))
        space = build(*bound.args, **bound.kwargs)
        return dataclasses.replace(space, arguments=tuple(bound.arguments.items()))

    return build_described


def _number(name: str, value: Any, kind: type) -> Any:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value) if kind is int else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        what = "an integer" if kind is int else "a number"
        raise ValueError(f"{name} must be {what}, got {value!r:.60}") from error
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {value!r:.60}")
    return number
