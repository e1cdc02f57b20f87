"""The look that all tables share: no vertical lines, so that they fit into 80 columns, and names folded, never cut."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

__all__ = ["titled_table"]


def titled_table(title: str, *names: str) -> Table:
    """A table with the columns that are named; more may be added."""
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in names:
        table.add_column(name, min_width=8, overflow="fold")
    return table
