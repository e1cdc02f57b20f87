"""Sheets and the lines around them on a console: no vertical lines, names folded, numbers with their intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.asking.compare import Analysis
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.option import options_of
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.results import Row, plain_row
from featurebank.pipelines.asking.run import Asked, Report
from featurebank.pipelines.asking.sheet import FAILED, Cell, Sheet, interval_line, interval_of
from featurebank.pipelines.tables import titled_table
from featurebank.store.text import shown

__all__ = ["apart", "render", "render_sheet", "report_json", "sheets_of"]

UNBOUNDED = 10_000
LEAST_NAME = 18  # columns that a name gets at least before it folds
STACKED_WIDTH = 13


def sheets_of(report: Report) -> list[Sheet]:
    """The main tables of a report, one for each pair of sets and layout, and the further ones of each question.

    A backbone that was asked the same with several options has a table for each.
    """
    groups: dict[tuple[str, ...], list[Asked]] = {}
    for one in report.asked:
        layout = one.question.layout
        alone = one.question.name if layout.index != ("backbone",) or layout.shown or not one.question.has_table else ""
        groups.setdefault((one.fitted, one.scored, alone), []).append(one)
    sheets: list[Sheet] = []
    for about, asked in (part for group in groups.values() for part in apart(group)):
        names = dict.fromkeys(one.question.name for one in asked)
        question = asked[0].question
        several = len(names) > 1
        rows = [row for one in asked for row in one.rows if row.primary or not several]
        failed: dict[tuple[str, ...], list[str]] = {}
        for one in asked:
            if one.error:
                place = (one.case.backbone, *[""] * (len(question.layout.index) - 1))
                failed.setdefault(place, []).append(one.question.name)
        same = all(row.metric == "accuracy" for row in rows)
        what = question.title if not several else "accuracy" if same else "scores"
        way = dict.fromkeys((asked[0].fitted, asked[0].scored))
        arrow = " in " if question.layout.alone else " -> "
        if not question.has_table:
            sheets += question.sheets(rows)
            continue
        sheet = question.sheet(rows, ", ".join([f"{what}: {arrow.join(way)}", *about]), failed)
        if said := interval_line(sheet):
            sheet.notes.append(said)
        sheet.notes += question.remarks(rows)
        sheets += [sheet, *(further for name in names for further in _further(asked, name))]
    return sheets


def apart(asked: Sequence[Asked]) -> Iterator[tuple[tuple[str, ...], list[Asked]]]:
    """What stands in one table, with the options that tell it from others; all of it where no line is there twice."""
    places = [(one.question.called, one.case.backbone) for one in asked]
    if len(set(places)) == len(places):
        yield (), list(asked)
        return
    parts: dict[tuple[str, ...], list[Asked]] = {}
    for one in asked:
        alike = [other.question for other in asked if other.question.called == one.question.called]
        differing = [
            name for name in options_of(one.question) if len({_words(question, name) for question in alike}) > 1
        ]
        parts.setdefault(tuple(_words(one.question, name) for name in differing), []).append(one)
    yield from parts.items()


def _words(question: Question, name: str) -> str:
    """An option and its value."""
    value = getattr(question, name)
    if isinstance(value, bool):
        return name if value else f"not {name}"
    return " ".join(map(str, [name, *value] if isinstance(value, tuple) else [name, value]))


def _further(asked: Sequence[Asked], name: str) -> Sequence[Sheet]:
    own = [one for one in asked if one.question.name == name]
    return own[0].question.sheets([row for one in own for row in one.rows])


def render(
    report: Report,
    console: Console,
    *,
    seconds: float | None = None,
    analyses: Sequence[Analysis] = (),
    page: str | None = None,
) -> None:
    """All tables, below them what to know about the numbers and what failed, the page, and how long it took."""
    for sheet in [*sheets_of(report), *(analysis.sheet for analysis in analyses)]:
        for table in render_sheet(sheet, console):
            console.print(table)
        for note in sheet.notes:
            print_line(console, shown(note))
        console.print()
    for one in report.asked:
        if one.error:
            print_line(console, one.error, about=f"{one.question.called} of {one.case.backbone}", style="red")
    _print_notes(console, report.asked)
    for (backbone, place), reason in report.failed.items():
        print_line(console, reason, about=f"{backbone} on {place}", style="red")
    for reason in report.passed_over:
        print_line(console, reason, about="passed over")
    if page is not None:
        print_line(console, shown(page), about="page", style="green")
    if seconds is None:
        return
    made = sum(bool(one.results) and not one.known for one in report.asked)
    known = sum(one.known for one in report.asked)
    wrong = sum(bool(one.error) for one in report.asked) + len(report.failed)
    text = f"Answers: {made} computed, {known} known already" + (f", {wrong} failed" if wrong else "")
    console.print(f"{text} ({seconds:.1f} s).", highlight=False)


def render_sheet(sheet: Sheet, console: Console) -> list[Table]:
    """One table if it fits, if need be with intervals below the numbers or none, and folded headings; else several."""
    widest = [max((len(names[at]) for names, _ in sheet.lines), default=0) for at in range(len(sheet.names))]
    folded = sum(max(width - LEAST_NAME, 0) for width in widest)
    long = len(sheet.names) > 1
    ways = (("  ", 0), ("  " if long else "\n", folded), *([(None, 0), (None, folded)] if long else []))
    for heading, (between, spare) in itertools.product((UNBOUNDED, STACKED_WIDTH - 2), ways):
        table = _table(sheet, between, heading)
        width = Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum
        if width - spare <= console.width:
            return [table]
    most = max(1, (console.width - LEAST_NAME * len(sheet.names) - 1) // STACKED_WIDTH)
    parts = np.array_split(np.arange(len(sheet.columns)), max(1, -(-len(sheet.columns) // most)))
    return [_table(sheet.only(part.tolist()), None if long else "\n", STACKED_WIDTH - 2) for part in parts]


def report_json(report: Report, *, analyses: Sequence[Analysis] = (), page: str | None = None) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "ok": report.ok,
        "answers": [
            {
                "question": one.question.name,
                "variant": one.question.variant,
                "backbone": one.case.backbone,
                one.question.layout.fitted: one.fitted,
                one.question.layout.scored: one.scored,
                "error": one.error,
                "seconds": one.seconds,
                "known": one.known,
                "sets": {role: [entry.place for entry in of] for role, of in one.case.sets.items()},
                "options": one.question.settings(),
                "chosen": {result.part: result.chosen for result in one.results},
                "results": [result.name for result in one.results],
                "notes": one.notes,
                "rows": [plain_row(row) for row in one.rows],
            }
            for one in report.asked
        ],
        "analyses": [
            {
                "title": one.sheet.title,
                "known": one.result.known,
                "notes": one.sheet.notes,
                "rows": [plain_row(row) for row in one.result.rows],
            }
            for one in analyses
        ],
        "tables": [_sheet_json(sheet) for sheet in sheets_of(report)],
        "failed": [{"backbone": name, "set": place, "error": why} for (name, place), why in report.failed.items()],
        "passed_over": report.passed_over,
        "page": page,
    }


def _sheet_json(sheet: Sheet) -> dict[str, Any]:
    def plain(cell: Cell) -> Any:
        return cell.value if isinstance(cell, Row) else cell

    columns = [*sheet.names, *(heading.replace("\n", " ") for heading in sheet.columns)]
    lines = [[*names, *map(plain, cells)] for names, cells in sheet.lines]
    marked = [list(cell) for cell in sorted(sheet.marked)]
    return {"title": sheet.title, "columns": columns, "lines": lines, "marked": marked, "notes": sheet.notes}


def print_line(console: Console, text: str, *, about: str = "", style: str = "yellow") -> None:
    """An indented line, never broken: what it is about, in a colour, and the text."""
    parts = [(f"{shown(about)}: ", style)] if about else []
    console.print(Text.assemble("  ", *parts, text), soft_wrap=True)


def _table(sheet: Sheet, between: str | None, heading_width: int) -> Table:
    """A sheet; what stands between number and interval, if that is shown, and where headings are folded."""
    table = titled_table(sheet.title, *sheet.names)
    if sheet.lines:
        table.columns[0].min_width = min(LEAST_NAME, max(len(names[0]) for names, _ in sheet.lines))
    for heading in sheet.columns:
        folded = [part for line in shown(heading, keep="\n").split("\n") for part in wrap(line, heading_width)]
        table.add_column(Text("\n".join(folded)), justify="right", no_wrap=True)
    for at, (names, cells) in enumerate(sheet.lines):
        line = [_text(cell, between, signed=sheet.signed) for cell in cells]
        line = [
            Text.assemble(text, "*", style="bold") if (at, n) in sheet.marked else text for n, text in enumerate(line)
        ]
        table.add_row(*names, *line, style="dim" if at in sheet.faint else None)
    return table


def _text(cell: Cell, between: str | None, *, signed: bool) -> Text:
    if not isinstance(cell, Row):
        return Text(FAILED, "red") if cell == FAILED else Text(shown(cell or ""))
    value = metric(cell.metric).shown(cell.value, signed=signed)
    ends = "" if between is None else interval_of(cell, signed=signed)
    return Text.assemble(value, (between or "") if ends else "", (ends, "dim"))


def _print_notes(console: Console, asked: Sequence[Asked]) -> None:
    """Each note once, with the backbones it is about unless these are all."""
    about: dict[str, dict[tuple[str, str, str], str]] = {}
    every = {(one.case.backbone, one.fitted, one.scored) for one in asked}
    for one in asked:
        for note in one.notes:
            about.setdefault(note, {})[one.case.backbone, one.fitted, one.scored] = one.case.backbone
    for note, backbones in about.items():
        names = dict.fromkeys(backbones.values())
        print_line(console, shown(note), about="" if backbones.keys() == every else ", ".join(names))
