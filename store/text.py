"""Text that came out of a file, made fit for where it goes: a terminal, a page, a spreadsheet, a path.

Names, ids, reasons, columns and class names of a store or a dataset are whatever their author wrote, and error messages
repeat them. Each place has one function here, and `JSON` for programs has a fifth.
"""

from __future__ import annotations

import json
import re
import unicodedata
from html import escape

from featurebank.store._names import encode_component

__all__ = ["csv_text", "encode_component", "html_text", "json_text", "shown"]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FORMULA = re.compile(r"[\s\x00]*[=+\-@\t\r]")


def shown(text: str, *, keep: str = "") -> str:
    r"""Text for a terminal: what moves the cursor, orders, hides, breaks lines or is nothing at all, as an escape.

    Args:
        text: any.
        keep: characters that stay.

    >>> shown("a\x1b[31mb\u202ec\n")
    'a\\x1b[31mb\\u202ec\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep or unicodedata.category(c) not in _HIDDEN else _escaped(c) for c in text
    )


def html_text(text: str) -> str:
    """Text for HTML, between tags or in a quoted attribute.

    >>> html_text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return escape(shown(text), quote=True)


def csv_text(text: str) -> str:
    """Text for a cell of a spreadsheet, which shall not compute it. Numbers are written as numbers, not through this.

    >>> csv_text("=HYPERLINK(A1)"), csv_text("plain")
    ("'=HYPERLINK(A1)", 'plain')
    """
    return f"'{text}" if _FORMULA.match(text) else text


def json_text(value: object, *, indent: int | None = None) -> str:
    r"""JSON in which every character is visible; a program reads the same strings. What JSON does not know, as text.

    >>> json_text({"é": "\x9b"})
    '{"é": "\\u009b"}'
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or unicodedata.category(c) not in _HIDDEN else json.dumps(c)[1:-1] for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
