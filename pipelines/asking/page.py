"""One offline HTML page of answers: every table of the console, and below it what a question has to show.

No request; everything that comes from a file passes `html_text`. Light and dark, phone to wide screen. All there is
can be read without script; ``page.js``, which sorts, filters and copies, is the only one that may run, by its digest.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from featurebank.pipelines.asking.cases import Selection
from featurebank.pipelines.asking.images import Album
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.results import Results, Row
from featurebank.pipelines.asking.run import Report
from featurebank.pipelines.asking.sheet import FAILED, Cell, Sheet, interval_of
from featurebank.pipelines.asking.table import apart, sheets_of
from featurebank.pipelines.errors import ConfigError
from featurebank.store import FeatureStore
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.extract.datasets.contract import Split
    from featurebank.pipelines.asking.compare import Analysis

__all__ = [
    "Frame",
    "Page",
    "data_uri",
    "document",
    "figure",
    "filter_form",
    "name_html",
    "sheet_html",
    "shortened",
    "table_html",
]

KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))
MARKS = {"right": "✓", "wrong": "✗", "junk": "·"}
WIDTH = 64  # of an interval's picture, in pixels
BREAKS = ("/", ":", "_")
FILTERS = {"class": "Class", "family": "Family", "style": "Training", "licence": "Licence"}
"""What items may say of themselves, ``data-class`` and so on, and how a page calls it."""
FEW = 100  # lines of a long table that are laid out before it is scrolled, as page.js has it
WORDS = 240  # characters of a text
LONGEST = 22  # characters of a caption's line; the whole stands in its title


class Page:
    """The page that a command writes.

    Args:
        store: the store.
        path: of the page.
        images: where images are, ``PLACE`` or ``DATASET=PLACE`` each; see `Album`.
        opened: datasets that are open already, by DATASET/SPLIT.
        images_of: see `Album`.
        asked: what will be asked; a question may refuse here what it cannot show.

    Raises:
        ConfigError: no folder for the page, or something that cannot be shown.
    """

    def __init__(
        self,
        store: FeatureStore,
        path: Path,
        *,
        images: Sequence[str] = (),
        opened: Mapping[str, Split] | None = None,
        images_of: Callable[[str], Split] | None = None,
        asked: Sequence[tuple[Question, Selection]] = (),
    ) -> None:
        if not path.parent.is_dir():
            raise ConfigError(f"--html: expected a folder at {path.parent}, found none; make it first")
        self.path, self.store, self.album = path, store, Album(images, opened, images_of)
        for question, selection in asked:
            question.check_page(selection, self.album)

    def write(self, report: Report, analyses: Sequence[Analysis] = ()) -> bool:
        """Writes the page of a report, unless it has no answer; where that fails the report says why.

        Raises:
            ConfigError: images that were named cannot be opened.
            ValueError: an image is not the one that the features were made from, or kept arrays are gone.
        """
        if not any(one.results for one in report.asked):
            return False
        try:
            self.path.write_text(self.html(report, analyses), encoding="utf-8")
        except OSError as error:
            report.failed["page", str(self.path)] = f"not written: {error.strerror or error}"
            return False
        return True

    def html(self, report: Report, analyses: Sequence[Analysis] = ()) -> str:
        """The whole page: tables first, then a section for each question that has more to show."""
        results = Results(self.store.root)
        names = dict.fromkeys(one.question.name for one in report.asked)
        places = dict.fromkeys(one.scored for one in report.asked)
        title = f"{', '.join(names)}: {', '.join(places)}"
        sheets = [*sheets_of(report), *(one.sheet for one in analyses)]
        sections = [f"<section>{''.join(map(_items, sheets))}{_notes(report)}</section>"]
        for _, group in groupby(report.asked, key=lambda one: (one.question.name, one.fitted, one.scored)):
            for about, asked in apart([one for one in group if one.results]):
                if asked and (more := asked[0].question.section(asked, results, self.album)):
                    options = html_text(", ".join(about))
                    sections.append((f"<section><h2>{options}</h2></section>" if about else "") + more)
        return document(title, _lead(report), sections, frame=Frame(top=filter_form(sections)), live=True)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a page has around its sections, all of it HTML.

    Attributes:
        parts: anchors of sections, each with its name, as a list beside them.
        top: below the lead.
        footer: below everything.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    top: str = ""
    footer: str = ""


def document(title: str, lead: str, sections: Iterable[str], *, frame: Frame | None = None, live: bool = False) -> str:
    """A page that asks for nothing, and where it is live runs our script alone.

    Args:
        title: a text.
        lead: a text.
        sections: HTML.
        frame: what is around them.
        live: whether tables can be sorted and whatever is an item can be filtered.
    """
    around = frame or Frame()
    style, script = _own("page.css"), _own("page.js") if live else ""
    run = f"script-src 'sha256-{_digest(script)}'; " if live else ""
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{_digest(style)}'; {run}"
    policy += "form-action 'none'; base-uri 'none'"
    links = "".join(f'<li><a href="#{anchor}">{html_text(name)}</a></li>' for anchor, name in around.parts.items())
    nav = f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n' if links else ""
    kind = ' class="parts"' if nav else ""
    foot = f"<footer>{around.footer}</footer>" if around.footer else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html_text(title)}</title><style>{style}</style></head>\n"
        f"<body{kind}><header><h1>{name_html(title)}</h1><p>{html_text(lead)}</p>"
        f"{around.top}</header>\n{nav}<main>"
        + "\n".join(sections)
        + f"</main>\n{foot}"
        + (f"<script>{script}</script>" if live else "")
        + "</body></html>\n"
    )


def sheet_html(sheet: Sheet, *, lines: Sequence[str] = (), kind: str = "", csv: str = "", mark: str = "*") -> str:
    """A table with its notes; the best of each column is bold, intervals of a column are drawn on one scale.

    Args:
        sheet: the table.
        lines: attributes of each line, as HTML.
        kind: classes of what it scrolls in.
        csv: the name of the file that the table can be saved as, where it can.
        mark: behind the cells that stand out.
    """
    scales = [_scale([cells[at] for _, cells in sheet.lines], sheet.rivals) for at in range(len(sheet.columns))]
    heads = "".join(f'<th class="name" scope="col">{html_text(name)}</th>' for name in sheet.names)
    headings = ("<br>".join(map(html_text, name.splitlines())) for name in sheet.columns)
    heads += "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    drawn = []
    for at, (names, cells) in enumerate(sheet.lines):
        line = "".join(f'<th scope="row">{name_html(name)}</th>' for name in names)
        for column, (cell, scale) in enumerate(zip(cells, scales, strict=True)):
            line += _cell(cell, scale, signed=sheet.signed, mark=mark if (at, column) in sheet.marked else "")
        faint = ' class="faint"' if at in sheet.faint else ""
        about = f" {lines[at]}" if lines else ""
        drawn.append(f"<tr{faint}{about}>{line}</tr>")
    notes = "".join(f"<p>{html_text(note)}</p>" for note in sheet.notes)
    title = sheet.title.replace(" -> ", " → ")
    return table_html(name_html(title), heads, drawn, called=title, kind=kind, csv=csv) + notes


def table_html(
    caption: str, heads: str, lines: Iterable[str], *, called: str, kind: str = "", csv: str = "", sort: bool = True
) -> str:
    """A table that scrolls in itself where it is too wide, by keyboard too.

    Args:
        caption: HTML.
        heads: HTML of the headings.
        lines: HTML of each line.
        called: the caption as text.
        kind: classes of what it scrolls in.
        csv: the name of the file that the table can be saved as, where it can.
        sort: whether its lines may stand in any order.
    """
    lines = [*lines]
    if "tall" in kind.split():
        lines[FEW:] = [line.replace("<tr ", '<tr class="later" ', 1) for line in lines[FEW:]]
    about = (" data-sort" if sort else "") + (f' data-csv="{html_text(csv)}"' if csv else "")
    scroll = f"scroll {kind}".rstrip()
    return (
        f'<div class="{scroll}" tabindex="0" role="region" aria-label="{html_text(called)}">'
        f"<table{about}><caption>{caption}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def figure(
    picture: bytes | str, lines: Sequence[str], *, kind: str = "", mark: str = "", name: str = "", about: str = ""
) -> str:
    """A thumbnail, or a text, with a caption of a few lines; framed and marked by its kind.

    Args:
        picture: bytes of a small JPEG, PNG, GIF or WebP file, or a text, whose beginning is shown.
        lines: of the caption.
        kind: ``right``, ``wrong``, ``junk`` or nothing.
        mark: before the first line, instead of the kind's own.
        name: of the image; the last line, where it is not given.
        about: attributes, as HTML.

    Raises:
        ValueError: bytes of another format.
    """
    sign = mark or MARKS.get(kind, "")
    head = f'<b title="{kind}">{sign}</b> ' if sign else ""
    name, more = html_text(name or lines[-1]), f" {about}" if about else ""
    text = "<br>".join(html_text(shortened(line)) for line in lines)
    if isinstance(picture, str):
        words = picture if len(picture) <= WORDS else f"{picture[: WORDS - 1]}…"
        seen = f"<blockquote>{html_text(words)}</blockquote>"
    else:
        seen = f'<img src="{data_uri(picture)}" alt="{name}" loading="lazy">'
    return f'<figure class="{kind}"{more}>{seen}<figcaption title="{name}">{head}{text}</figcaption></figure>'


def data_uri(image: bytes) -> str:
    """An image as an address that holds it.

    Raises:
        ValueError: bytes of another format than JPEG, PNG, GIF or WebP.
    """
    form = next((form for start, form in KINDS if image.startswith(start)), None)
    if form is None:
        raise ValueError(f"a thumbnail must be the bytes of a JPEG, PNG, GIF or WebP file; found {image[:8]!r}")
    return f"data:image/{form};base64,{base64.b64encode(image).decode('ascii')}"


def shortened(text: str) -> str:
    """A caption's line, without its middle where it is long.

    >>> shortened("a_very_long_name_of_a_file_00027.jpg")
    'a_very_lon…e_00027.jpg'
    """
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"


def filter_form(sections: Iterable[str]) -> str:
    """What the items of sections can be filtered by, as they say themselves; hidden until a script can.

    An item is an element with ``data-item``: a line, a figure, whatever has a name. Without any there is nothing.
    """
    text = "".join(sections)
    if "data-item" not in text:
        return ""
    labels = '<label>Name or text<input type="search" name="q"></label>'
    for name, title in FILTERS.items():
        known = sorted({*re.findall(f' data-{name}="([^"]+)"', text)})
        if len(known) > 1:
            options = "".join(f'<option value="{one}">{one}</option>' for one in known)
            labels += f'<label>{title}<select name="{name}"><option value="">all</option>{options}</select></label>'
    if ' data-parameters="' in text:
        labels += '<label>Parameters, M, at most<input type="number" name="max-parameters" min="0" step="any"></label>'
    return (
        f'<form class="filter" role="search" aria-label="Filter" hidden>{labels}<button type="reset">Clear</button>'
        '<output aria-live="polite"></output></form>'
    )


@functools.cache
def _own(name: str) -> str:
    """A file beside this one."""
    return (importlib.resources.files("featurebank.pipelines.asking") / name).read_text("utf-8").strip()


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def name_html(text: str) -> str:
    """A name that may break behind a slash, a colon or an underscore, and never inside a word."""
    safe = html_text(text)
    for sign in BREAKS:
        safe = safe.replace(sign, f"{sign}<wbr>")
    return safe


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    best: Collection[Row]

    def at(self, value: float) -> float:
        return round(4 + (WIDTH - 8) * (value - self.low) / (self.high - self.low), 1)


def _scale(cells: Sequence[Cell], rivals: bool) -> _Scale | None:
    """What the intervals of a column have in common, and its best ones; nothing where it has no numbers."""
    rows = [cell for cell in cells if isinstance(cell, Row)]
    ends = [end for row in rows if row.low is not None and row.high is not None for end in (row.low, row.high)]
    if not rows:
        return None
    scores = {row.score for row in rows}
    compared = [rows] if rivals else [[row for row in rows if row.score == score] for score in sorted(scores)]
    most = [max(metric(row.metric).gain(row.value) for row in some) for some in compared]
    best = [
        row
        for some, gain in zip(compared, most, strict=True)
        for row in some
        if len(some) > 1 and metric(row.metric).gain(row.value) == gain
    ]
    return _Scale(min(ends), max(ends), best) if ends and max(ends) > min(ends) else _Scale(0.0, 1.0, best)


def _cell(cell: Cell, scale: _Scale | None, *, signed: bool, mark: str) -> str:
    if not isinstance(cell, Row):
        return '<td class="failed">failed</td>' if cell == FAILED else f"<td>{html_text(cell or '')}</td>"
    value = metric(cell.metric).shown(cell.value, signed=signed)
    best = scale is not None and not signed and any(cell is row for row in scale.best)
    text = (f'<span class="best">{value}</span>' if best else value) + (f" {html_text(mark)}" if mark else "")
    if scale is None or cell.low is None or cell.high is None:
        return f'<td data-v="{cell.value!r}">{text}</td>'
    low, high, at = (scale.at(end) for end in (cell.low, cell.high, min(max(cell.value, scale.low), scale.high)))
    drawn = (
        f'<svg width="{WIDTH}" height="14" aria-hidden="true"><path class="axis" d="M4 7H{WIDTH - 4}"/>'
        f'<path class="whisker" d="M{low} 7H{high}M{low} 4V10M{high} 4V10"/>'
        f'<circle class="dot" cx="{at}" cy="7" r="3"/></svg>'
    )
    ends = f'data-v="{cell.value!r}" data-low="{cell.low!r}" data-high="{cell.high!r}"'
    return f"<td {ends}>{text}<small>{interval_of(cell, signed=signed)}</small>{drawn}</td>"


def _items(sheet: Sheet) -> str:
    """A table whose lines can be filtered."""
    return sheet_html(sheet, lines=["data-item"] * len(sheet.lines))


def _lead(report: Report) -> str:
    """The answer in one sentence: the best of each question's main number."""
    best: dict[str, Row] = {}
    for one in report.asked:
        for row in one.rows:
            gain, leader = metric(row.metric).gain, best.get(one.question.name)
            rival = leader is None or one.question.layout.rivals or row.score == leader.score
            if row.primary and rival and (leader is None or gain(row.value) > gain(leader.value)):
                best[one.question.name] = row
    parts = []
    for name, row in best.items():
        way = f" by {row.score}" if row.score else ""
        ends = f" ({interval_of(row)})" if row.low is not None else ""
        known = metric(row.metric)
        value = f"{known.title} {known.shown(row.value)}{ends}"
        parts.append(f"{name}: {row.backbone}{way} is best on {row.set}, {value}")
    return "; ".join(parts) + ("." if parts else "")


def _notes(report: Report) -> str:
    about: dict[str, dict[str, None]] = {}
    for one in report.asked:
        for note in one.notes:
            about.setdefault(note, {})[one.case.backbone] = None
    every: Mapping[str, None] = dict.fromkeys(one.case.backbone for one in report.asked)
    lines = [note if of.keys() == every.keys() else f"{', '.join(of)}: {note}" for note, of in about.items()]
    items = "".join(f"<li>{html_text(line)}</li>" for line in lines)
    wrong = [f"{one.question.name} of {one.case.backbone}: {one.error}" for one in report.asked if one.error]
    wrong += [f"{name} on {place}: {why}" for (name, place), why in report.failed.items()]
    items += "".join(f'<li class="failed">{html_text(line)}</li>' for line in wrong)
    return f'<ul class="notes">{items}</ul>' if items else ""
