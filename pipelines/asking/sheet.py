"""Rows of results laid out as a table, for the console, a page and JSON alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from featurebank.pipelines.asking.layout import Layout
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Row

__all__ = ["FAILED", "Cell", "Sheet", "interval_line", "interval_of", "pivot", "selection_note"]

FAILED = "failed"
HEADING = ("question", "set", "score", "shots", "group", "metric")
Cell = Row | str | None


@dataclass(kw_only=True)
class Sheet:
    """A table.

    Attributes:
        title: what stands above it.
        names: headings of the columns that say what a line is about.
        columns: headings of the others; a line break is where they may break.
        lines: the names of each line, and its cells: a row of results, a text, `FAILED`, or nothing.
        notes: what stands below it.
        signed: whether numbers are differences.
        rivals: whether the best of a column is sought among all scores; see `Layout`.
        faint: the lines that are less than the others, by place.
        marked: the cells that stand out, by line and column.
    """

    title: str
    names: Sequence[str]
    columns: Sequence[str]
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]]
    notes: list[str] = field(default_factory=list)
    signed: bool = False
    rivals: bool = True
    faint: frozenset[int] = frozenset()
    marked: frozenset[tuple[int, int]] = frozenset()

    @property
    def rows(self) -> list[Row]:
        """All of its numbers."""
        return [cell for _, cells in self.lines for cell in cells if isinstance(cell, Row)]

    def only(self, columns: Sequence[int]) -> Sheet:
        """Some of the columns."""
        lines = [(names, tuple(cells[at] for at in columns)) for names, cells in self.lines]
        marked = frozenset((line, columns.index(at)) for line, at in self.marked if at in columns)
        return replace(self, columns=[self.columns[at] for at in columns], lines=lines, notes=[], marked=marked)


def pivot(
    rows: Iterable[Row],
    layout: Layout,
    *,
    title: str,
    failed: Mapping[tuple[str, ...], Iterable[str]] | None = None,
    faint: Callable[[Row], bool] = lambda _: False,
) -> Sheet:
    """A line for each value of the layout's index, best first by its first column, a column for whatever else differs.

    Args:
        rows: numbers, each place of the table once.
        layout: what tells lines apart, and which metrics are shown.
        title: of the sheet.
        failed: the questions without an answer of a line, by the values of its index.
        faint: of which lines.
    """
    rows = [row for row in rows if not layout.shown or row.metric in layout.shown]
    several = [name for name in HEADING if name not in layout.index and len({getattr(row, name) for row in rows}) > 1]
    several = several or ["metric"]
    lines: dict[tuple[str, ...], dict[tuple[str, ...], Row]] = {}
    columns: dict[tuple[str, ...], str] = {}
    for row in rows:
        place, column = (tuple(getattr(row, name) for name in names) for names in (layout.index, several))
        lines.setdefault(place, {})[column] = row
        columns.setdefault(column, _heading(row, several))
    for place, questions in (failed or {}).items():
        lines.setdefault(place, {})
        for question in questions:
            if not any(row.question == question for row in rows):
                column = tuple(question if name == "question" else "" for name in several)
                columns.setdefault(column, question)
    order = sorted(lines, key=lambda place: _rank(lines[place].get(next(iter(columns), ()))))
    if layout.index[0] != "backbone" or layout.grouped:
        order = list(lines)
    cells = [
        tuple(_cell(lines[at].get(column), at, column, several, failed or {}) for column in columns) for at in order
    ]
    dim = frozenset(n for n, at in enumerate(order) if any(map(faint, lines[at].values())))
    return Sheet(
        title=title,
        names=[name if name != "set" else "scored on" for name in layout.index],
        columns=list(columns.values()),
        lines=list(zip(order, cells, strict=True)),
        faint=dim,
        rivals=layout.rivals,
    )


def interval_line(sheet: Sheet) -> str:
    """What the 95 % intervals of a table are over and how they were made, each kind with the columns that have it."""
    kinds: dict[str, dict[str, None]] = {}
    for _, cells in sheet.lines:
        for heading, cell in zip(sheet.columns, cells, strict=True):
            if isinstance(cell, Row) and cell.low is not None and cell.interval:
                kinds.setdefault(cell.interval, {})[heading.replace("\n", " ")] = None
    if len(kinds) < 2:
        return f"95 % intervals: {next(iter(kinds))}" if kinds else ""
    every = {heading.replace("\n", " ") for heading in sheet.columns}
    named = {kind: "" if of.keys() == every else f" ({', '.join(of)})" for kind, of in kinds.items()}
    return "95 % intervals: " + "; ".join(kind + of for kind, of in named.items())


def interval_of(row: Row, *, signed: bool = False) -> str:
    """The ends, without the zero before the point; empty where there are none.

    >>> interval_of(Row(question="", backbone="", metric="", value=0.5, low=0.46, high=1.0))
    '.460-1.000'
    """
    if row.low is None or row.high is None:
        return ""
    low, high = (metric(row.metric).shown(end, signed=signed) for end in (row.low, row.high))
    return f"{low} {high}" if signed else f"{low}-{high}" if row.low >= 0 else f"{low} to {high}"


def selection_note(what: str, among: int, *, rows: str = "test rows") -> str:
    """What to say of a best that was chosen by the very numbers that are shown of it.

    >>> selection_note("the first score", 12)
    'the first score is chosen among 12 on these test rows: it looks better than it is'
    """
    return f"{what} is chosen among {among:,} on these {rows}: it looks better than it is"


def _heading(row: Row, several: Sequence[str]) -> str:
    words = [getattr(row, name) for name in several if name not in ("metric", "shots") and getattr(row, name)]
    if row.shots:
        words.append(f"{row.shots}-shot" if row.shots.isdigit() else row.shots)
    plain = row.primary and row.metric == "accuracy" and ("question" in several or bool(row.shots))
    if ("metric" in several and not plain) or not words:
        words.append(metric(row.metric).title)
    return "\n".join(words).replace(" ", "\n")


def _rank(row: Row | None) -> float:
    return float("inf") if row is None else -metric(row.metric).gain(row.value)


def _cell(
    row: Row | None,
    place: tuple[str, ...],
    column: tuple[str, ...],
    several: Sequence[str],
    failed: Mapping[tuple[str, ...], Iterable[str]],
) -> Cell:
    if row is not None or place not in failed:
        return row
    asked = column[several.index("question")] if "question" in several else None
    return FAILED if asked is None or asked in failed[place] else None
