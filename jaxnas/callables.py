"""Packages that are functions too: `jaxnas.search(...)` beside `jaxnas.search.settings`.

`jaxnas.search` and `jaxnas.elastic` are packages, and the names of the two calls that most users need. A function of
the same name in `jaxnas/__init__.py` would hide the package from `import jaxnas.search.settings as settings`.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package whose `call`, "module:function", is called when the package is."""

    call: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function that `call` names, with its arguments."""
        module, _, function = self.call.partition(":")
        return getattr(importlib.import_module(module), function)(*args, **kwargs)


def make_callable(package: str, call: str) -> None:
    """Makes a package that is being imported callable.

    Args:
      package: its `__name__`.
      call: "module:function", imported at the first call.
    """
    module = sys.modules[package]
    module.__class__ = CallablePackage
    module.call = call
