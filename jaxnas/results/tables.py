"""Tables of text: one set of rows, printed on a terminal by rich or written as Markdown; everything is escaped."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import rich.box
import rich.table
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its heading.
      kind: "number" (to the right), "name" (never broken, in code type in Markdown), "text", or "markdown" (text that
        is Markdown already).
    """

    name: str
    kind: Literal["number", "name", "text", "markdown"] = "number"


@dataclass(frozen=True)
class Table:
    """A table of plain text; cells may hold anything, it is escaped where it is written.

    Attributes:
      title: above it on a terminal.
      columns: the columns; a name alone is a column of numbers.
      rows: a cell for each column.
    """

    title: str
    columns: Sequence[Column | str]
    rows: Sequence[Sequence[str]]

    def _columns(self) -> list[Column]:
        return [Column(column) if isinstance(column, str) else column for column in self.columns]

    def rich(self, compact: bool = False) -> rich.table.Table:
        """For `rich.console.Console.print`; a compact one has no lines between its columns."""
        table = rich.table.Table(title=Text(self.title, style="table.title"))
        if compact:
            table.box, table.title_justify = rich.box.SIMPLE_HEAD, "left"
            table.pad_edge, table.collapse_padding = False, True
        for column in self._columns():
            justify = "right" if column.kind == "number" else "left"
            table.add_column(Text(column.name), justify=justify, no_wrap=column.kind == "name")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def markdown(self) -> str:
        """As a table of GitHub's Markdown, without the title."""
        columns = self._columns()
        lines = [[escape(column.name) for column in columns], ["---"] * len(columns)]
        lines += [[_cell(cell, column.kind) for cell, column in zip(row, columns, strict=True)] for row in self.rows]
        head, rule, *body = (" | ".join(line) for line in lines)
        return "\n".join([f"| {head} |", f"|{rule.replace(' ', '')}|", *(f"| {line} |" for line in body)])


def escape(text: str) -> str:
    r"""Text as Markdown that shows it as it is, on one line.

    >>> print(escape("a*b [c] | d"))
    a\*b \[c\] \| d
    """
    return re.sub(r"([\\`*\[\]<>|]|\b_|_\b)", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Text as Markdown in code type.

    >>> print(code("a*b"), code("a`b"))
    `a*b` `` a`b ``
    """
    text = text.replace("\n", " ")
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _cell(text: str, kind: str) -> str:
    if kind in ("name", "markdown"):
        return (code(text) if kind == "name" else text).replace("|", r"\|")  # even in code a bar ends a cell
    return escape(text)
