"""What the tables of probes, of retrieval and of out-of-distribution scores share: cells, lines below, JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.results import Result, Row
from featurebank.store.text import shown

__all__ = [
    "failures_json",
    "interval",
    "interval_line",
    "natural_width",
    "print_count",
    "print_errors",
    "print_failures",
    "print_line",
    "print_notes",
    "result_json",
    "row_json",
    "selection_note",
    "short",
    "value_cell",
    "value_json",
]

UNBOUNDED = 10_000
SHORT = re.compile(r"^([+-]?)0\.")


def natural_width(table: Table, console: Console) -> int:
    """How many columns of the console a table takes where nothing folds."""
    return Measurement.get(console, console.options.update(width=UNBOUNDED), table).maximum


def interval(row: Row) -> str:
    """The ends, without the zero before the point; empty where there are none.

    >>> interval(Row(backbone="", dataset="", task="", metric="", value=0.5, low=0.46, high=1.0))
    '.460-1.000'
    """
    if row.low is None or row.high is None:
        return ""
    low, high = (short(f"{end:.3f}") for end in (row.low, row.high))
    return f"{low}-{high}" if row.low >= 0 else f"{low} to {high}"


def short(text: str) -> str:
    """A number without the zero before the point, where there is nothing else before it.

    >>> short("0.512"), short("+0.031"), short("-0.031"), short("10.512")
    ('.512', '+.031', '-.031', '10.512')
    """
    return SHORT.sub(r"\1.", text)


def interval_line(columns: Mapping[str, Sequence[Row]]) -> str:
    """What the 95 % intervals of a table are over and how they were made, each kind with the columns that have it.

    >>> some = {"backbone": "", "dataset": "", "task": "", "metric": "", "value": 0.5, "low": 0.4, "high": 0.6}
    >>> rows = [Row(**some, interval="test rows, Wilson"), Row(**some, interval="draws, Student")]
    >>> interval_line({"knn": rows[:1]}), interval_line({"": rows})
    ('95 % intervals: test rows, Wilson', '95 % intervals: test rows, Wilson; draws, Student')

    Args:
        columns: the rows of each column, by its heading; empty where no row has an interval.
    """
    kinds: dict[str, list[str]] = {}
    for heading, rows in columns.items():
        for kind in dict.fromkeys(row.interval for row in rows if row.low is not None and row.interval):
            kinds.setdefault(kind, []).append(heading)
    if len(kinds) < 2:
        return f"95 % intervals: {next(iter(kinds))}" if kinds else ""
    named = {kind: ", ".join(heading for heading in of if heading) for kind, of in kinds.items()}
    return "95 % intervals: " + "; ".join(f"{kind} ({of})" if of else kind for kind, of in named.items())


def selection_note(what: str, among: int, *, rows: str = "test rows") -> str:
    """What to say of a best that was chosen by the very numbers that are shown of it.

    >>> selection_note("the first score", 12)
    'the first score is chosen among 12 on these test rows: it looks better than it is'
    """
    return f"{what} is chosen among {among:,} on these {rows}: it looks better than it is"


def value_cell(row: Row, between: str) -> Text:
    """The number, what stands between, and its interval; the number alone where it has none."""
    ends = interval(row)
    return Text.assemble(f"{row.value:.3f}", between if ends else "", (ends, "dim"))


def print_line(console: Console, text: str, *, about: str = "", style: str = "yellow") -> None:
    """An indented line, never broken: what it is about, in a colour, and the text."""
    parts = [(f"{shown(about)}: ", style)] if about else []
    console.print(Text.assemble("  ", *parts, text), soft_wrap=True)


def print_errors(console: Console, probed: Sequence[Probed], *, task: bool = False) -> None:
    """Why there is no result: a line for each backbone, or for each task of a backbone."""
    for one in probed:
        if one.error:
            about = f"{one.task} of {one.backbone}" if task else one.backbone
            print_line(console, one.error, about=about, style="red")


def print_notes(console: Console, probed: Sequence[Probed]) -> None:
    """Each note once, with the backbones it is about unless these are all."""
    about: dict[str, dict[tuple[str, str, str], str]] = {}
    for one in probed:
        for note in one.result.notes if one.result else ():
            about.setdefault(note, {})[_place(one)] = one.backbone
    every = {_place(one) for one in probed}
    for note, backbones in about.items():
        print_line(console, shown(note), about="" if backbones.keys() == every else ", ".join(backbones.values()))


def print_failures(console: Console, report: ProbeReport) -> None:
    """What could not be computed at all, and what was passed over."""
    for (backbone, test), reason in report.failed.items():
        print_line(console, reason, about=f"{backbone} on {test}", style="red")
    for reason in report.passed_over:
        print_line(console, reason, about="passed over")


def print_count(console: Console, what: str, report: ProbeReport, *, seconds: float) -> None:
    """The closing line: how many were computed, known already and failed, and the time."""
    known = sum(one.result.known for one in report.probed if one.result)
    made = sum(one.result is not None for one in report.probed) - known
    failed = sum(bool(one.error) for one in report.probed) + len(report.failed)
    text = f"{what}: {made} computed, {known} known already" + (f", {failed} failed" if failed else "")
    console.print(f"{text} ({seconds:.1f} s).", highlight=False)


def value_json(row: Row) -> dict[str, Any]:
    """The number, its interval, and what that is over."""
    known = row.low is not None
    return {
        "value": row.value,
        "interval": [row.low, row.high] if known else None,
        "interval_kind": row.interval if known else None,
    }


def row_json(row: Row) -> dict[str, Any]:
    """The number and what it is about, besides the backbone."""
    return {
        "dataset": row.dataset,
        "metric": row.metric,
        **value_json(row),
        "fingerprints": list(row.fingerprints),
        "settings": row.settings,
    }


def result_json(result: Result | None, row: Callable[[Row], dict[str, Any]] | None = None) -> dict[str, Any]:
    """Name and notes of a result, and its rows by the function given; no rows without one."""
    rows = {} if row is None else {"rows": [row(each) for each in result.rows] if result else []}
    return {
        "result": result.name if result else None,
        "known": bool(result and result.known),
        **rows,
        "notes": list(result.notes) if result else [],
    }


def failures_json(report: ProbeReport, *, test: str = "test") -> dict[str, Any]:
    """What could not be computed at all, the set under the name ``test``, and what was passed over."""
    failed = [{"backbone": backbone, test: name, "error": error} for (backbone, name), error in report.failed.items()]
    return {"failed": failed, "passed_over": report.passed_over}


def _place(one: Probed) -> tuple[str, str, str]:
    return one.backbone, one.train, one.test
