"""Text from files: what it may do to a terminal, a page, a spreadsheet, a program."""

from __future__ import annotations

import json
import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurebank.store.text import csv_text, html_text, json_text, shown

HOSTILE = {
    "colour": "\x1b[31m",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "C1": "\x9b31m",
    "bell": "\a\b\r",
    "bidi": "\u202e\u2066\u200f",
    "zero width": "\u200b\u200d\ufeff\u2060",
    "lines": "\n\v\f\x85\u2028\u2029",
    "surrogate": "\udc80",
    "tag": "\U000e0041",
    "private": "\ue000",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_c12_nothing_that_orders_or_hides_is_shown(text: str) -> None:
    assert shown(f"a{text}b").isprintable()
    assert shown(f"a{text}b").startswith("a\\")
    assert html_text(text).isprintable()


@given(st.text())
def test_c12_what_is_shown_is_visible_and_plain_text_stays(text: str) -> None:
    found = shown(text)
    assert all(c.isprintable() or unicodedata.category(c) == "Zs" for c in found)
    assert shown(found) == found
    if text.isprintable():
        assert found == text


@given(st.text())
def test_c12_a_page_shows_the_text_and_no_tag(text: str) -> None:
    class Page(HTMLParser):
        tags: tuple[str, ...] = ()
        said = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags += (tag,)
            assert attrs == [("title", shown(text))]

        def handle_data(self, data: str) -> None:
            self.said += data

    page = Page()
    page.feed(f'<b title="{html_text(text)}">{html_text(text)}</b>')
    page.close()
    assert (page.tags, page.said) == (("b",), shown(text))


@given(
    st.recursive(
        st.text() | st.floats(allow_nan=False) | st.none(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_c12_json_is_visible_and_says_the_same(value: object) -> None:
    text = json_text(value, indent=2)
    assert all(c.isprintable() or c == "\n" or unicodedata.category(c) == "Zs" for c in text)
    assert json.loads(text) == value


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1", "\x00=1"])
def test_c14_a_formula_is_text(text: str) -> None:
    assert csv_text(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "pets/test", "a=b", "timm:vit@random:0", "'quoted", "1.5", "{}"])
def test_c14_other_text_stays(text: str) -> None:
    assert csv_text(text) == text
