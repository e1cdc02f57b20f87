"""One offline HTML page of answers: every table of the console, and below it what a question has to show.

No request, no script; everything that comes from a file passes `html_text`. Light and dark, phone to wide screen.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from featurebank.pipelines.asking.table import sheets_of
from featurebank.pipelines.errors import ConfigError
from featurebank.store import FeatureStore
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.extract.datasets.contract import Split
    from featurebank.pipelines.asking.compare import Analysis

__all__ = ["Page", "document", "figure", "name_html", "sheet_html"]

KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))
MARKS = {"right": "✓", "wrong": "✗", "junk": "·"}
WIDTH = 64  # of an interval's picture, in pixels
BREAKS = ("/", ":", "_")
LONGEST = 22  # characters of a caption's line; the whole stands in its title

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --raised: #f6f6f8; --ink: #1b1b1f; --faint: #63636b; --line: #d9d9de;
  --accent: #0b62a8; --right: #1b7a45; --wrong: #b3341c; --s0: #0072b2; --s1: #d55e00; --s2: #00795a; --s3: #a8467f;
  --s4: #8a6d00; --s5: #3f7fb0; --in: #8b93a3; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17181b; --raised: #1f2024; --ink: #e9e9ec; --faint: #a3a4ad; --line: #3a3b42; --accent: #7fc0f5;
    --right: #63cf94; --wrong: #ff8f75; --s0: #56b4e9; --s1: #ff9a4d; --s2: #4fd1a8; --s3: #e58fc2; --s4: #e8c34d;
    --s5: #9cc9ea; --in: #70798a; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 24px 16px 64px; max-width: 1320px;
  background: var(--ground); color: var(--ink); }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 8px; overflow-wrap: break-word; }
h2 { font-size: 19px; line-height: 1.3; margin: 0 0 8px; overflow-wrap: break-word; }
h3 { font-size: 16px; margin: 16px 0 8px; overflow-wrap: break-word; } h4 { font-size: 15px; margin: 16px 0 4px; }
p, .notes { color: var(--faint); margin: 4px 0; max-width: 75ch; } .notes { padding-left: 16px; }
.notes li { overflow-wrap: anywhere; } .failed { color: var(--wrong); }
section { border-top: 2px solid var(--line); margin-top: 32px; padding-top: 16px; }
.scroll { overflow-x: auto; margin: 8px 0 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0 0 8px; }
th, td { padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
thead th { text-align: right; font-weight: 600; color: var(--faint); vertical-align: bottom; white-space: nowrap; }
thead th.name, tbody th { text-align: left; } tbody th { font-weight: 500; min-width: 9em; max-width: 26em; }
tbody th:first-child, thead th:first-child { position: sticky; left: 0; background: var(--ground); z-index: 1; }
td { text-align: right; white-space: nowrap; } td small { color: var(--faint); margin-left: 6px; }
.faint td, .faint th { opacity: .7; } .best { font-weight: 700; }
td svg { vertical-align: middle; margin-left: 8px; } svg .axis { stroke: var(--line); fill: none; }
svg .whisker { stroke: var(--accent); stroke-width: 1.5; } svg .dot { fill: var(--accent); }
svg { overflow: visible; } svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
.lanes { position: relative; padding: 0; } .lanes svg { position: absolute; left: 0; top: 0; margin: 0; }
.heat td { padding: 0; } .heat rect { fill: var(--accent); } .heat text { fill: var(--ink); }
.row { display: flex; flex-wrap: wrap; gap: 12px; } figure { margin: 0; width: 96px; font-size: 12px; }
figure img { width: 96px; height: 96px; object-fit: contain; background: var(--raised); border: 2px solid transparent; }
figcaption { color: var(--faint); line-height: 1.35; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.right img { border-color: var(--right); } .wrong img { border-color: var(--wrong); border-style: dashed; }
.junk img { border-color: var(--line); border-style: dotted; } .right b { color: var(--right); }
.wrong b { color: var(--wrong); } a { color: var(--accent); }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; list-style: none; padding: 0; margin: 8px 0 16px; }
.key i { display: inline-block; width: 12px; height: 12px; border-radius: 2px; margin-right: 6px;
  background: var(--c); } article i { color: var(--c); font-style: normal; } .in { --c: var(--in); }
.s0 { --c: var(--s0); } .s1 { --c: var(--s1); } .s2 { --c: var(--s2); } .s3 { --c: var(--s3); }
.s4 { --c: var(--s4); } .s5 { --c: var(--s5); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(540px, 100%), 1fr)); gap: 16px; }
article { border: 1px solid var(--line); border-radius: 6px; padding: 12px; min-width: 0; }
article h3 { margin-top: 0; } article small { color: var(--faint); overflow-wrap: anywhere; }
.plots { display: flex; gap: 12px; margin-top: 8px; } .plots svg { flex: 1 1 0; min-width: 0; height: auto; }
.plots svg:first-child { flex: 2 1 0; } .inside { fill: var(--in); fill-opacity: .55; }
.curve { fill: none; stroke: var(--c); stroke-width: 1.8; stroke-linejoin: round; }
@media print { body { max-width: none; } section { break-inside: avoid; } }
""".strip()


class Page:
    """The page that a command writes.

    Args:
        store: the store.
        path: of the page.
        images: where images are, ``PLACE`` or ``DATASET=PLACE`` each; see `Album`.
        opened: datasets that are open already, by DATASET/SPLIT.
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
        asked: Sequence[tuple[Question, Selection]] = (),
    ) -> None:
        if not path.parent.is_dir():
            raise ConfigError(f"--html: expected a folder at {path.parent}, found none; make it first")
        self.path, self.store, self.album = path, store, Album(images, opened)
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
        sections = [f"<section>{''.join(map(sheet_html, sheets))}{_notes(report)}</section>"]
        for _, group in groupby(report.asked, key=lambda one: (one.question.name, one.fitted, one.scored)):
            asked = [one for one in group if one.results]
            if asked and (more := asked[0].question.section(asked, results, self.album)):
                sections.append(more)
        return document(title, _lead(report), sections)


def document(title: str, lead: str, sections: Iterable[str]) -> str:
    """A page that asks for nothing and runs nothing; the lead is text, the sections are HTML."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; form-action 'none'; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html_text(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>{name_html(title)}</h1><p>{html_text(lead)}</p></header>\n<main>"
        + "\n".join(sections)
        + "</main>\n</body></html>\n"
    )


def sheet_html(sheet: Sheet) -> str:
    """A table with its notes; the best of each column is bold, intervals of a column are drawn on one scale."""
    scales = [_scale([cells[at] for _, cells in sheet.lines]) for at in range(len(sheet.columns))]
    heads = "".join(f'<th class="name" scope="col">{html_text(name)}</th>' for name in sheet.names)
    headings = ("<br>".join(map(html_text, name.splitlines())) for name in sheet.columns)
    heads += "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    lines = []
    for at, (names, cells) in enumerate(sheet.lines):
        line = "".join(f'<th scope="row">{name_html(name)}</th>' for name in names)
        line += "".join(_cell(cell, scale, signed=sheet.signed) for cell, scale in zip(cells, scales, strict=True))
        lines.append(f'<tr class="faint">{line}</tr>' if at in sheet.faint else f"<tr>{line}</tr>")
    notes = "".join(f"<p>{html_text(note)}</p>" for note in sheet.notes)
    title = name_html(sheet.title.replace(" -> ", " → "))
    return (
        f'<div class="scroll"><table><caption>{title}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{notes}"
    )


def figure(image: bytes, lines: Sequence[str], *, kind: str = "", mark: str = "") -> str:
    """A thumbnail with a caption of a few lines, of which the last is a name; framed and marked by its kind.

    Args:
        image: of a small JPEG, PNG, GIF or WebP file.
        lines: of the caption.
        kind: ``right``, ``wrong``, ``junk`` or nothing.
        mark: before the first line, instead of the kind's own.

    Raises:
        ValueError: bytes of another format.
    """
    form = next((form for start, form in KINDS if image.startswith(start)), None)
    if form is None:
        raise ValueError(f"a thumbnail must be the bytes of a JPEG, PNG, GIF or WebP file; found {image[:8]!r}")
    data = base64.b64encode(image).decode("ascii")
    sign = mark or MARKS.get(kind, "")
    head = f'<b title="{kind}">{sign}</b> ' if sign else ""
    name = html_text(lines[-1])
    text = "<br>".join(html_text(shortened(line)) for line in lines)
    return (
        f'<figure class="{kind}"><img src="data:image/{form};base64,{data}" alt="{name}" loading="lazy">'
        f'<figcaption title="{name}">{head}{text}</figcaption></figure>'
    )


def shortened(text: str) -> str:
    """A caption's line, without its middle where it is long.

    >>> shortened("a_very_long_name_of_a_file_00027.jpg")
    'a_very_lon…e_00027.jpg'
    """
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[: half - 1]}…{text[-half:]}"


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
    best: float | None

    def at(self, value: float) -> float:
        return round(4 + (WIDTH - 8) * (value - self.low) / (self.high - self.low), 1)


def _scale(cells: Sequence[Cell]) -> _Scale | None:
    """What the intervals of a column have in common; nothing where it has none."""
    rows = [cell for cell in cells if isinstance(cell, Row)]
    ends = [end for row in rows if row.low is not None and row.high is not None for end in (row.low, row.high)]
    if not rows:
        return None
    gains = [metric(row.metric).gain(row.value) for row in rows]
    best = rows[gains.index(max(gains))].value if len(rows) > 1 else None
    return _Scale(min(ends), max(ends), best) if ends and max(ends) > min(ends) else _Scale(0.0, 1.0, best)


def _cell(cell: Cell, scale: _Scale | None, *, signed: bool) -> str:
    if not isinstance(cell, Row):
        return '<td class="failed">failed</td>' if cell == FAILED else f"<td>{html_text(cell or '')}</td>"
    value = metric(cell.metric).shown(cell.value, signed=signed)
    best = scale is not None and not signed and cell.value == scale.best
    text = f'<span class="best">{value}</span>' if best else value
    if scale is None or cell.low is None or cell.high is None:
        return f"<td>{text}</td>"
    low, high, at = (scale.at(end) for end in (cell.low, cell.high, min(max(cell.value, scale.low), scale.high)))
    drawn = (
        f'<svg width="{WIDTH}" height="14" aria-hidden="true"><path class="axis" d="M4 7H{WIDTH - 4}"/>'
        f'<path class="whisker" d="M{low} 7H{high}M{low} 4V10M{high} 4V10"/>'
        f'<circle class="dot" cx="{at}" cy="7" r="3"/></svg>'
    )
    return f"<td>{text}<small>{interval_of(cell, signed=signed)}</small>{drawn}</td>"


def _lead(report: Report) -> str:
    """The answer in one sentence: the best of each question's main number."""
    best: dict[str, Row] = {}
    for one in report.asked:
        for row in one.rows:
            gain = metric(row.metric).gain
            if row.primary and (one.question.name not in best or gain(row.value) > gain(best[one.question.name].value)):
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
