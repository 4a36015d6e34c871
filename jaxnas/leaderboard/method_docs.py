"""What is said of a method, read from the docstring of its own file, so that it is written once.

A method's module opens with a line that names it and holds the paragraphs `Paper:`, `Idea:`, `Faithful:` and
`Deviations:`, in any order, each ended by an empty line, and `Limits:` where something is known of where it is weak and
why. docs/reference/methods.md and the leaderboard are made of them.
"""

import inspect
import re
import sys
from dataclasses import dataclass

PARAGRAPHS = ("Paper", "Idea", "Faithful", "Deviations")
OPTIONAL = ("Limits",)


@dataclass(frozen=True)
class MethodDoc:
    """A method in words.

    Attributes:
      title: the first line of its docstring, without the full stop.
      paper: authors, title, venue and arXiv number.
      idea: the method in a sentence.
      faithful: what is done as its source does it.
      deviations: what is not; "None." if nothing.
      location: where it is imported from, such as "jaxnas.strategies.random.Random".
      limits: where it was seen to be weak, and the likely reason; empty if nothing is known.
    """

    title: str
    paper: str
    idea: str
    faithful: str
    deviations: str
    location: str
    limits: str = ""


def read(method: type | object) -> MethodDoc:
    """Reads the docstring of the module that defines a class or a function.

    Raises:
      ValueError: naming the module and the paragraph that is missing.

    >>> from jaxnas.strategies import Random
    >>> read(Random).idea
    'Draw architectures uniformly and keep the one that measures best for each penalty.'
    """
    module = sys.modules[method.__module__]
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(module.__doc__ or ""))
    found = {}
    for paragraph in paragraphs[1:]:
        name, colon, text = paragraph.partition(":")
        if colon and name in PARAGRAPHS + OPTIONAL:
            found[name.lower()] = " ".join(text.split())
    for name in PARAGRAPHS:
        if not found.get(name.lower()):
            raise ValueError(f"the docstring of {module.__name__} needs a paragraph that starts with {name + ':'!r}")
    title = " ".join(paragraphs[0].split()).removesuffix(".")
    return MethodDoc(title=title, location=f"{module.__name__}.{method.__name__}", **found)
