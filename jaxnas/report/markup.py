"""HTML and SVG as a tree: whatever text goes in is escaped, and every element is closed.

SVG elements refer to colours by CSS variables of the page (`style.py`), so that one drawing serves light and dark mode.
"""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

Node = ElementTree.Element
_NOT_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # HTML can hold none of these, escaped or not


def element(tag: str, *children: Node | str | int | None, **attributes: Any) -> Node:
    """An element.

    Args:
      tag: its name.
      children: elements and texts; None is left out.
      attributes: a trailing underscore is dropped and others become hyphens (`class_`, `stroke_width`); None is left
        out, floats are written with two decimals.

    >>> to_html(element("p", "a < b", element("b", "!"), class_="note"))
    '<p class="note">a &lt; b<b>!</b></p>'
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    node = Node(tag, {name: _clean(number(value)) for name, value in names.items()})
    add(node, *children)
    return node


def add(node: Node, *children: Node | str | int | None) -> Node:
    """Appends children to an element and returns it."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, Node):
            node.append(child)
        elif len(node):
            node[-1].tail = (node[-1].tail or "") + _clean(str(child))
        else:
            node.text = (node.text or "") + _clean(str(child))
    return node


def svg(width: float, height: float, label: str, *children: Node | None, class_: str = "chart") -> Node:
    """A drawing that keeps its proportions; `label` is what screen readers say."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        class_=class_,
    )


def text(x: float, y: float, content: str, anchor: str = "start", **attributes: Any) -> Node:
    """A line of text in a drawing."""
    return element("text", content, x=x, y=y, text_anchor=None if anchor == "start" else anchor, **attributes)


def title(content: str) -> Node:
    """What a browser shows when the pointer rests on the parent."""
    return element("title", content)


def number(value: Any) -> str:
    """A value of an attribute: floats with at most two decimals, everything else as it is.

    >>> number(3.14159), number(2.0), number("a")
    ('3.14', '2', 'a')
    """
    if isinstance(value, float):
        short = f"{value:.2f}".rstrip("0").rstrip(".")
        return "0" if short == "-0" else short
    return str(value)


def to_html(node: Node) -> str:
    """The element as HTML."""
    return ElementTree.tostring(node, encoding="unicode", method="html")


def _clean(content: str) -> str:
    return _NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", content)
