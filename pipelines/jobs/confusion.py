"""Which class is taken for which, as a table of a page.

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.page import name_html, table_html
from featurebank.store.text import html_text

__all__ = ["confusion_html"]

CLASSES: Final = 12
"""Lines of a table."""
CELL, ROW = 64, 26


def confusion_html(
    counts: NDArray[np.int64], names: Sequence[str], caption: str, *, beyond: tuple[str, str] | None = None
) -> str:
    """A table of counts, or of shares of each line; of many classes, of those with the most mistakes.

    Args:
        counts: (K, K) of each class how many are taken for which.
        names: K.
        caption: a text.
        beyond: what a last line and a last column are, (K + 1, K + 1); then counts are shown, else per cents.
    """
    n = len(names)
    wrong = counts.sum(0)[:n] + counts.sum(1)[:n] - 2 * np.diag(counts)[:n]
    kept = np.sort(np.argsort(-wrong, kind="stable")[:CLASSES])
    others = np.setdiff1d(np.arange(n), kept)
    groups, titles = [[int(k)] for k in kept], [names[k] for k in kept]
    if len(others):
        groups, titles = [*groups, others.tolist()], [*titles, "other classes"]
        caption += f", the {len(kept)} of {n} classes with the most mistakes"
    line, column = beyond or ("", "")
    groups += [[n]] if beyond else []
    table = np.array([[counts[np.ix_(row, taken)].sum() for taken in groups] for row in groups])
    if len(others):
        table[len(kept), len(kept)] = np.diag(counts)[others].sum()
    heads = '<th class="name" scope="col">is</th>'
    heads += "".join(f'<th scope="col">{name_html(name)}</th>' for name in [*titles, column] if name)
    lines = []
    for row, name in enumerate(name for name in [*titles, line] if name):
        shares = table[row] / max(1, int(table[row].sum()))
        cells = "".join(
            _cell(f"{count:,}" if beyond else f"{100 * share:.0f} %", share, right=row == taken)
            if count
            else "<td></td>"
            for taken, (count, share) in enumerate(zip(table[row].tolist(), shares.tolist(), strict=True))
        )
        lines.append(f'<tr><th scope="row">{name_html(name)}</th>{cells}</tr>')
    return table_html(html_text(caption), heads, lines, called=caption, kind="heat", sort=False)


def _cell(text: str, share: float, *, right: bool) -> str:
    """A number on a ground that is the stronger the more of its line it is."""
    return (
        f'<td class="{"right" if right else "wrong"}"><svg width="{CELL}" height="{ROW}">'
        f'<rect width="{CELL}" height="{ROW}" fill-opacity="{0.5 * share:.2f}"/>'
        f'<text x="{CELL - 8}" y="17" text-anchor="end">{text}</text></svg></td>'
    )
