"""The look that all tables share: no vertical lines, so that they fit into 80 columns, and names folded, never cut.

A plain string in a table is somebody's name: it stays on its line and is never markup. A `rich.text.Text` is ours.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from featurebank.store.text import shown

__all__ = ["NameTable", "line", "titled_table"]


class NameTable(Table):
    """A table in whose headings and cells plain strings are names."""

    def add_column(self, header: RenderableType = "", *arguments: Any, **options: Any) -> None:
        """As rich's, the heading on one line unless it is a text."""
        super().add_column(line(header), *arguments, **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """As rich's, each cell on one line unless it is a text."""
        super().add_row(*(cell if cell is None else line(cell) for cell in cells), **options)


def line(name: RenderableType, style: str = "") -> RenderableType:
    r"""A name as text of one line; what is no plain string stays.

    >>> line("[red]\n")
    <text '[red]\\n' [] ''>
    """
    return Text(shown(name), style) if isinstance(name, str) else name


def titled_table(title: str, *names: str) -> NameTable:
    """A table with the columns that are named; more may be added."""
    table = NameTable(
        title=Text(shown(title), "bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in names:
        table.add_column(name, min_width=8, overflow="fold")
    return table
