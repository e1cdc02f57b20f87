"""Rankings as HTML, read back with a parser: order, frames, names, images, and nothing from outside."""

from __future__ import annotations

import base64
import shutil
import subprocess
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from featurebank.pipelines.asking.page import document
from featurebank.pipelines.questions.retrieve.section import ranking_html
from featurebank.retrieval.evaluation import evaluate_lists
from featurebank.retrieval.relevance import LabelRelevance, ListRelevance

COLOURS = {"right": (27, 122, 69), "wrong": (179, 52, 28), "image": (120, 120, 120)}
NAMES = {"query_names": [*"0123"], "gallery_names": [*"012345"]}
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """What stands in a page: the class and image of each figure, query by query, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: list[list[tuple[str, bytes, str]]] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self._kind = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "h3":
            self.sections.append([])
        if tag == "figure":
            self._kind = found.get("class", "")
        if tag == "img":
            header, _, data = found["src"].partition(",")
            assert header == "data:image/png;base64"
            self.sections[-1].append((self._kind, base64.b64decode(data), found["alt"]))
        self.links += [
            value for name, value in found.items() if name in ("href", "src") and not value.startswith("data:")
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def image(prefix: str) -> Any:
    return lambda row: PNG + f"{prefix}{row}".encode()


def page(**options: Any) -> Page:
    relevance = ListRelevance([[0], [1, 2], [], [3]], 6, junk=[[5], [], [], []], own=[-1, -1, -1, 4])
    lists = [[1, 5, 0], [1, 2, 3], [0, 1, 2], [4, 3, -1]]
    ap = [0.5, 1.0, np.nan, 0.25]
    chosen = {"query_image": image("q"), "gallery_image": image("g"), **NAMES} | options
    return Page(ranking_html(lists, relevance, ap, **chosen))


def test_the_worst_come_first_and_right_and_wrong_are_framed() -> None:
    sections = page().sections
    assert [[(kind, data.removeprefix(PNG)) for kind, data, _ in section] for section in sections] == [
        [("", b"q3"), ("right", b"g3")],
        [("", b"q0"), ("wrong", b"g1"), ("junk", b"g5"), ("right", b"g0")],
        [("", b"q1"), ("right", b"g1"), ("right", b"g2"), ("wrong", b"g3")],
    ]


def test_it_tells_ap_counts_and_what_was_left_out() -> None:
    text = " ".join(" ".join(page().text).split())
    assert "AP 0.250 1 of the first 1 right, 1 in the gallery" in text
    assert "3 of 4 queries, lowest average precision first. 1 without anything relevant." in text
    assert len(page(limit=1).sections) == 1


def test_names_and_titles_are_escaped_and_nothing_is_loaded_from_outside() -> None:
    names = [f'<script>"{row}"' for row in range(6)]
    found = page(gallery_names=names, query_names=names[:4], metric="a<b>", similarity=np.full((4, 3), 0.1234))
    assert found.sections[1][1][2] == names[1]
    assert found.links == []
    assert any(text.startswith("a<b> 0.250") for text in found.text)
    assert any("0.123" in text for text in found.text)


def test_it_takes_what_an_evaluation_gives() -> None:
    labels = np.array([0, 0, 1, 1])
    relevance = LabelRelevance(labels)
    lists = np.array([[1, 2, 3], [2, 0, 3], [0, 1, 3], [2, 1, 0]])
    found = evaluate_lists(lists, relevance)
    html = ranking_html(
        lists,
        relevance,
        found.per_query["map"],
        query_image=image("q"),
        gallery_image=image("g"),
        query_names=[*"0123"],
        gallery_names=[*"0123"],
    )
    assert [section[0][1].removeprefix(PNG) for section in Page(html).sections] == [b"q2", b"q1", b"q0", b"q3"]


def test_a_browser_shows_the_frames(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no Chromium")
    grey = BytesIO()
    Image.new("RGB", (8, 8), (120, 120, 120)).save(grey, "PNG")
    text = ranking_html(
        [[0, 1]],
        ListRelevance([[0]], 2),
        [1.0],
        query_image=lambda _: grey.getvalue(),
        gallery_image=lambda _: grey.getvalue(),
        query_names=["q"],
        gallery_names=["a", "b"],
    )
    html = document("page", "", [f"<section>{text}</section>"])
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--blink-settings=preferredColorScheme=1"]
    places = [
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={tmp_path / 'page.png'}",
        "--window-size=700,500",
    ]
    command = [browser, *options, *places, (tmp_path / "page.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3)
    counts = {name: int((pixels == colour).all(1).sum()) for name, colour in COLOURS.items()}
    assert counts["image"] > 3 * 90**2
    assert counts["right"] > 4 * 2 * 90
    assert counts["wrong"] > 2 * 2 * 90  # dashed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query_image": lambda _: b"<svg>"}, "JPEG, PNG, GIF or WebP"),
        ({"query_names": ["a"]}, "query_names must be 4; found 1"),
        ({"similarity": np.ones((4, 2))}, "shape of the lists"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_bad_input_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page(**options)


def test_scores_of_other_queries_are_refused() -> None:
    relevance = ListRelevance([[0]], 6)
    given: dict[str, Any] = {"query_image": image("q"), "gallery_image": image("g"), "query_names": ["0"]}
    given["gallery_names"] = NAMES["gallery_names"]
    with pytest.raises(ValueError, match="one for each of 1 queries"):
        ranking_html([[0]], relevance, [1.0, 0.5], **given)
    with pytest.raises(ValueError, match="0 to 5"):
        ranking_html([[6]], relevance, [1.0], **given)
