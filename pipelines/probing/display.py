"""Tables of probes: one row a backbone, one column a number, its interval beside it or, where it is narrow, below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.probing.analysis import CompareTable, GroupTable
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.probing.transfer import robustness
from featurebank.pipelines.results import Result, Row
from featurebank.pipelines.tables import titled_table

__all__ = ["ProbeGrid", "compare_table", "group_table", "render_probes", "report_json", "shift_table"]

SIGNIFICANT = 0.05
LEAST_NAME = 18  # columns that a name gets at least before it folds
STACKED_WIDTH = 13
UNBOUNDED = 10_000
FAILED = "[red]failed[/]"


def render_probes(
    report: ProbeReport,
    console: Console,
    *,
    seconds: float,
    comparisons: Sequence[CompareTable] = (),
    groups: Sequence[GroupTable] = (),
) -> None:
    """The tables of ``featurebank probe``, and below them what to know about the numbers and what failed."""
    for pair in dict.fromkeys((one.train, one.test) for one in report.probed):
        some = [one for one in report.probed if (one.train, one.test) == pair]
        shift, others = ([one for one in some if (one.task == "shift") is wanted] for wanted in (True, False))
        tables = (ProbeGrid.of(others).tables(console) if others else []) + ([shift_table(shift)] if shift else [])
        for table in tables:
            console.print(table)
        _notes(some, console)
        console.print()
    for comparison in comparisons:
        console.print(compare_table(comparison))
        _lines(console, "", "yellow", comparison.result.notes)
        console.print()
    for grouped in groups:
        console.print(group_table(grouped))
        _lines(console, "", "yellow", grouped.result.notes)
        console.print()
    for (backbone, test), reason in report.failed.items():
        _lines(console, f"{backbone} on {test}", "red", [reason])
    _lines(console, "passed over", "yellow", report.passed_over)
    known = sum(one.result.known for one in report.probed if one.result)
    failed = sum(bool(one.error) for one in report.probed) + len(report.failed)
    made = sum(one.result is not None for one in report.probed) - known
    text = f"Probes: {made} computed, {known} known already" + (f", {failed} failed" if failed else "")
    console.print(f"{text} ({seconds:.1f} s).", highlight=False)


@dataclass(frozen=True, kw_only=True)
class ProbeGrid:
    """Numbers of some probes on one pair of sets: backbones by columns, (task, metric).

    Attributes:
        title: of its table.
        columns: in order, with their headings.
        cells: per backbone, best first by the first column; ``None`` where the task failed.
    """

    title: str
    columns: Mapping[tuple[str, str], str]
    cells: Mapping[str, Mapping[tuple[str, str], Row | None]]

    @classmethod
    def of(cls, probed: Sequence[Probed]) -> Self:
        """All numbers of one task, or the main ones of each of several."""
        alone = len({one.task for one in probed}) == 1
        columns: dict[tuple[str, str], str] = {}
        for one in probed:
            rows = one.result.rows if one.result else ()
            shown = list(rows) if alone else [row for row in rows if row.metric.startswith("accuracy ")] or rows[:1]
            columns |= {(one.task, row.metric): _heading(row, alone=alone) for row in shown}
        for one in probed:
            if not any(task == one.task for task, _ in columns):
                columns[one.task, ""] = one.task
        cells: dict[str, dict[tuple[str, str], Row | None]] = {one.backbone: {} for one in probed}
        for one in probed:
            own = {row.metric: row for row in one.result.rows} if one.result else {}
            cells[one.backbone] |= {column: own.get(column[1]) for column in columns if column[0] == one.task}
        first = next(iter(columns))
        what = (
            probed[0].task if alone else "accuracy" if all(m.startswith("accuracy") for _, m in columns) else "scores"
        )
        return cls(
            title=f"{what}: {probed[0].train} -> {probed[0].test}",
            columns=columns,
            cells=dict(sorted(cells.items(), key=lambda item: _rank(item[1].get(first)))),
        )

    def table(self, columns: Sequence[tuple[str, str]], *, stacked: bool) -> Table:
        """Some of the columns; intervals on a line of their own if stacked."""
        table = titled_table(self.title, "backbone")
        table.columns[0].min_width = min(LEAST_NAME, max(map(len, self.cells)))
        for column in columns:
            table.add_column(escape(self.columns[column]), justify="right", no_wrap=True)
        for backbone, own in self.cells.items():
            table.add_row(escape(backbone), *(_cell(own.get(column), stacked=stacked) for column in columns))
        return table

    def tables(self, console: Console) -> list[Table]:
        """One table if it fits, with the intervals below the numbers if need be, else several."""
        columns = list(self.columns)
        folded = max(max(map(len, self.cells)) - LEAST_NAME, 0)
        unbounded = console.options.update(width=UNBOUNDED)
        for stacked in (False, True):
            table = self.table(columns, stacked=stacked)
            if Measurement.get(console, unbounded, table).maximum - (folded if stacked else 0) <= console.width:
                return [table]
        most = max(1, (console.width - LEAST_NAME - 1) // STACKED_WIDTH)
        parts = np.array_split(np.arange(len(columns)), -(-len(columns) // most))
        return [self.table([columns[at] for at in part], stacked=True) for part in parts]


def shift_table(probed: Sequence[Probed]) -> Table:
    """Every backbone on every set: accuracy, what is lost, and how far above the line through all backbones that is."""
    table = titled_table(f"shift: {probed[0].train} -> {probed[0].test} and others", "backbone", "scored on")
    for name in ("accuracy", "95 % interval", "lost", "robustness"):
        table.add_column(name, justify="right", no_wrap=True)
    above = {(entry["backbone"], entry["dataset"]): entry["value"] for entry in effective_robustness(probed)}
    for one in probed:
        if one.result is None:
            table.add_row(escape(one.backbone), "", FAILED, "", "", "")
            continue
        lost = {row.dataset: row.value for row in one.result.rows if row.metric == "accuracy_lost"}
        for row in one.result.rows:
            if row.metric == "accuracy_lost":
                continue
            name = row.dataset if row.metric == "accuracy" else row.metric.replace("_", " ")
            extra = above.get((one.backbone, row.dataset))
            table.add_row(
                escape(one.backbone),
                escape(name),
                f"{row.value:.3f}" if row.metric != "mce" else f"{row.value:.1f} %",
                _interval(row),
                f"{lost[row.dataset]:.3f}" if row.metric == "accuracy" and row.dataset in lost else "",
                f"{extra:+.3f}" if extra is not None and row.metric == "accuracy" else "",
            )
    return table


def effective_robustness(probed: Sequence[Probed]) -> list[dict[str, Any]]:
    """Per backbone and shifted set, how far its accuracy lies above the line through all backbones."""
    own: dict[tuple[str, str, str], dict[str, float]] = {}
    shifted: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in probed:
        if one.task != "shift" or one.result is None:
            continue
        base, *others = (row for row in one.result.rows if row.metric == "accuracy")
        for row in others:
            place = (one.train, one.test, row.dataset)
            own.setdefault(place, {})[one.backbone] = base.value
            shifted.setdefault(place, {})[one.backbone] = row.value
    return [
        {"backbone": backbone, "train": place[0], "test": place[1], "dataset": place[2], "value": value}
        for place in own
        for backbone, value in robustness(own[place], shifted[place]).items()
    ]


def compare_table(comparison: CompareTable) -> Table:
    """Every pair of backbones; differences that Holm's correction leaves below 0.05 are marked."""
    table = titled_table(f"{comparison.test}, {comparison.task}: differences on the same rows", "first", "second")
    for name in ("difference, 95 %", "p", "p Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.result.rows:
        settings = row.settings or {}
        marked = settings["p_holm"] < SIGNIFICANT
        p_holm = f"{settings['p_holm']:.2g}"
        table.add_row(
            escape(settings["first"]),
            escape(settings["second"]),
            f"{_signed(row.value)}  [dim]{_signed(row.low or 0.0)} {_signed(row.high or 0.0)}[/]",
            f"{settings['p']:.2g}",
            f"[bold]{p_holm} *[/]" if marked else f"{p_holm}  ",
        )
    return table


def group_table(table: GroupTable) -> Table:
    """Every group, worst first, then the gaps."""
    shown = titled_table(f"{table.backbone}, {table.task} on {table.test}: by {table.column}", "group")
    for name in ("rows", "value", "95 % interval"):
        shown.add_column(name, justify="right", no_wrap=True)
    rows = [row for row in table.result.rows if row.metric == "accuracy"]
    for row in sorted(rows, key=lambda row: row.value):
        settings = row.settings or {}
        shown.add_row(escape(settings["group"]), f"{settings['rows']:,}", f"{row.value:.3f}", _interval(row))
    shown.add_section()
    for row in table.result.rows:
        if row.metric not in ("accuracy", "worst_group_accuracy"):
            shown.add_row(row.metric.replace("_", " "), "", f"{row.value:.3f}", _interval(row))
    return shown


def report_json(
    report: ProbeReport, *, comparisons: Sequence[CompareTable] = (), groups: Sequence[GroupTable] = ()
) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "ok": report.ok,
        "probes": [
            {
                "task": one.task,
                "backbone": one.backbone,
                "train": one.train,
                "test": one.test,
                "error": one.error,
                "seconds": one.seconds,
                **_result_json(one.result),
            }
            for one in report.probed
        ],
        "failed": [
            {"backbone": backbone, "test": test, "error": error} for (backbone, test), error in report.failed.items()
        ],
        "passed_over": report.passed_over,
        "effective_robustness": effective_robustness(report.probed),
        "comparisons": [{"task": c.task, "test": c.test, **_result_json(c.result)} for c in comparisons],
        "groups": [
            {"task": g.task, "test": g.test, "backbone": g.backbone, "column": g.column, **_result_json(g.result)}
            for g in groups
        ],
    }


def _result_json(result: Result | None) -> dict[str, Any]:
    if result is None:
        return {"result": None, "known": False, "rows": [], "notes": []}
    rows = [
        {
            "backbone": row.backbone,
            "dataset": row.dataset,
            "metric": row.metric,
            "value": row.value,
            "interval": None if row.low is None else [row.low, row.high],
            "fingerprints": list(row.fingerprints),
            "settings": row.settings,
        }
        for row in result.rows
    ]
    return {"result": result.name, "known": result.known, "rows": rows, "notes": list(result.notes)}


def _heading(row: Row, *, alone: bool) -> str:
    words = row.metric.removeprefix("accuracy ")
    if not alone and words == row.metric:
        return row.task
    return words.replace("_", "\n")


def _rank(row: Row | None) -> float:
    return float("inf") if row is None else -row.value


def _cell(row: Row | None, *, stacked: bool) -> str:
    if row is None:
        return FAILED
    if row.low is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f}" + ("\n" if stacked else "  ") + f"[dim]{_interval(row)}[/]"


def _interval(row: Row) -> str:
    """The ends, without the zero before the point.

    >>> _interval(Row(backbone="", dataset="", task="", metric="", value=0.5, low=0.46, high=1.0))
    '.460-1.000'
    """
    if row.low is None or row.high is None:
        return ""
    low, high = (f"{end:.3f}".replace("0.", ".", 1) if abs(end) < 1 else f"{end:.3f}" for end in (row.low, row.high))
    return f"{low}-{high}" if row.low >= 0 else f"{low} to {high}"


def _signed(value: float) -> str:
    """A difference without the zero before the point.

    >>> _signed(0.0123), _signed(-1.5)
    ('+.012', '-1.500')
    """
    return f"{value:+.3f}".replace("+0.", "+.").replace("-0.", "-.")


def _notes(probed: Sequence[Probed], console: Console) -> None:
    """What failed and why, then each note once with the backbones it is about."""
    about: dict[str, list[str]] = {}
    for one in probed:
        if one.error:
            _lines(console, f"{one.task} of {one.backbone}", "red", [one.error])
        for note in one.result.notes if one.result else ():
            about.setdefault(note, []).append(one.backbone)
    every = {one.backbone for one in probed}
    for note, backbones in about.items():
        who = "" if set(backbones) == every else ", ".join(dict.fromkeys(backbones))
        _lines(console, who, "yellow", [note])


def _lines(console: Console, what: str, style: str, texts: Sequence[str]) -> None:
    for text in texts:
        parts = [(f"{what}: ", style)] if what else []
        console.print(Text.assemble("  ", *parts, text), soft_wrap=True)
