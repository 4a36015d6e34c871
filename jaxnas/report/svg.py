"""SVG inside a page: a small builder for drawings, and figures of matplotlib with the page's colours.

Colours are CSS expressions over the variables of templates/style.css, so that one drawing serves light and dark mode.
Whatever text goes in is escaped.
"""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Node = ElementTree.Element
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_KEPT = ("fill", "stroke", "opacity", "text-anchor")  # of styles; what text looks like is the page's affair


def element(tag: str, *children: Node | str | int | None, **attributes: Any) -> Node:
    """An element.

    Args:
      tag: its name.
      children: elements and texts; None is left out.
      attributes: a trailing underscore is dropped and others become hyphens (`class_`, `stroke_width`); None is left
        out, floats are written with two decimals.

    >>> to_html(element("text", "a < b", element("title", "!"), class_="note", x=1.0))
    Markup('<text class="note" x="1">a &lt; b<title>!</title></text>')
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    return add(Node(tag, {name: number(value) for name, value in names.items()}), *children)


def add(node: Node, *children: Node | str | int | None) -> Node:
    """Appends children to an element and returns it."""
    for child in children:
        if isinstance(child, Node):
            node.append(child)
        elif child is not None and len(node):
            node[-1].tail = (node[-1].tail or "") + str(child)
        elif child is not None:
            node.text = (node.text or "") + str(child)
    return node


def svg(width: float, height: float, label: str, *children: Node | None, class_: str = "chart") -> Node:
    """A drawing that keeps its proportions; `label` is what screen readers say."""
    size = {"viewBox": f"0 0 {number(width)} {number(height)}", "width": width, "height": height}
    return element("svg", *children, **size, role="img", aria_label=label, class_=class_)


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


def to_html(node: Node) -> Markup:
    """The element as HTML."""
    return Markup(ElementTree.tostring(node, encoding="unicode", method="html"))


class Canvas:
    """A figure of matplotlib that becomes SVG with texts, hints, and colours of the page.

    Args:
      width: in units of the drawing, which are pixels where the page shows it at its own size.
      height: likewise.
    """

    def __init__(self, width: float, height: float):
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        self.figure.patch.set_visible(False)
        self._colors: dict[str, str] = {}
        self._hints: dict[str, str] = {}

    def color(self, css: str) -> str:
        """A colour for matplotlib that stands for a CSS expression, such as "var(--ink)"."""
        return self._colors.setdefault(css, f"#{0x100 + len(self._colors):06x}")

    def hint(self, artists: Artist | Sequence[Artist], content: str) -> None:
        """What a browser shows when the pointer rests on these."""
        name = f"hint {len(self._hints)}"
        self._hints[name] = content
        for artist in [artists] if isinstance(artists, Artist) else artists:
            artist.set_gid(name)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes in a box of the drawing, without a frame and ticks."""
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box)
        axes.patch.set_visible(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelsize=11, labelcolor=self.color("var(--soft)"))
        return axes

    def to_html(self, label: str, class_: str = "chart") -> Markup:
        """The drawing for a page; `label` is what screen readers say."""
        written = io.StringIO()
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxnas", "path.simplify": False}):
            self.figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        root = ElementTree.fromstring(written.getvalue())
        self._css = {color: css for css, color in self._colors.items()}
        self._shapes = {node.get("id"): node for node in root.iter(f"{_SVG}path") if node.get("id")}
        return to_html(svg(self.width, self.height, label, *self._plain(root), class_=class_))

    def _plain(self, parent: Node) -> list[Node]:
        """What an element of matplotlib's holds, without names, clipping and groups that mean nothing here."""
        nodes = []
        for node in parent:
            tag, style = node.tag.removeprefix(_SVG), node.get("style", "")
            if tag == "g":
                inside = self._plain(node)
                hint = self._hints.get(node.get("id", ""))
                nodes += inside if hint is None else [element("g", title(hint), *inside)]
            elif tag == "path":
                nodes.append(element("path", d=_rounded(node.get("d", "")), style=self._style(style)))
            elif tag == "use":  # a mark: its shape is not shared, since all names of a page would have to differ
                shape = self._shapes[node.get(_LINK, "")[1:]]
                place = f"translate({_rounded(node.get('x', '0'))} {_rounded(node.get('y', '0'))})"
                style = f"{shape.get('style', '')};{style}"
                nodes.append(element("path", d=_rounded(shape.get("d", "")), transform=place, style=self._style(style)))
            elif tag == "text":
                place = {axis: _rounded(node.get(axis, "0")) for axis in ("x", "y")}
                strong = "name" if re.search(r"font-weight|bold", style) else None
                nodes.append(element("text", node.text, **place, style=self._style(style), class_=strong))
        return nodes

    def _style(self, style: str) -> str | None:
        items = dict(item.strip().split(": ", 1) for item in style.split(";") if ": " in item)
        kept = {name: value for name, value in items.items() if name.startswith(_KEPT)}
        return ";".join(f"{name}:{self._css.get(value, value)}" for name, value in kept.items()) or None


def _rounded(numbers: str) -> str:
    """A path or a number with one decimal, on one line."""
    return re.sub(r"-?\d+\.\d+", lambda found: number(round(float(found[0]), 1)), " ".join(numbers.split()))
