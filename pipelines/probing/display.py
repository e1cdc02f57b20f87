"""Tables of probes: one row a backbone, one column a number, its interval beside it or, where it is narrow, below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.probing.analysis import CompareTable, GroupTable
from featurebank.pipelines.probing.measures import main_rows
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.probing.transfer import robustness
from featurebank.pipelines.reporting import (
    failures_json,
    interval,
    interval_line,
    natural_width,
    print_count,
    print_errors,
    print_failures,
    print_line,
    print_notes,
    result_json,
    row_json,
    short,
    value_cell,
)
from featurebank.pipelines.results import Row
from featurebank.pipelines.tables import titled_table
from featurebank.store.text import shown

__all__ = ["ProbeGrid", "compare_table", "group_table", "render_probes", "report_json", "shift_table"]

SIGNIFICANT = 0.05
LEAST_NAME = 18  # columns that a name gets at least before it folds
STACKED_WIDTH = 13
FAILED = Text("failed", "red")


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
        grid = ProbeGrid.of(others) if others else None
        for table in (grid.tables(console) if grid else []) + ([shift_table(shift)] if shift else []):
            console.print(table)
        columns = grid.shown if grid else {}
        of_shift = [row for one in shift if one.result for row in one.result.rows]
        if said := interval_line({**columns, "shift": of_shift}):
            print_line(console, said)
        print_errors(console, some, task=True)
        print_notes(console, some)
        console.print()
    for comparison in comparisons:
        console.print(compare_table(comparison))
        about = "first minus second on the same rows: above 0 the first is better"
        print_line(console, f"{about}; p of {_test_of(comparison)}")
        print_line(console, interval_line({"": comparison.result.rows}))
        for note in comparison.result.notes:
            print_line(console, note)
        console.print()
    for grouped in groups:
        console.print(group_table(grouped))
        print_line(console, interval_line({"": grouped.result.rows}))
        for note in grouped.result.notes:
            print_line(console, note)
        console.print()
    print_failures(console, report)
    print_count(console, "Probes", report, seconds=seconds)


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
            shown = list(rows) if alone else main_rows(rows)
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

    @property
    def shown(self) -> dict[str, list[Row]]:
        """The rows of each column, by its heading on one line."""
        return {
            heading.replace("\n", " "): [row for own in self.cells.values() if (row := own.get(column)) is not None]
            for column, heading in self.columns.items()
        }

    def table(self, columns: Sequence[tuple[str, str]], *, stacked: bool) -> Table:
        """Some of the columns; intervals on a line of their own if stacked."""
        table = titled_table(self.title, "backbone")
        table.columns[0].min_width = min(LEAST_NAME, max(map(len, self.cells)))
        for column in columns:
            table.add_column(Text(self.columns[column]), justify="right", no_wrap=True)
        for backbone, own in self.cells.items():
            table.add_row(backbone, *(_cell(own.get(column), stacked=stacked) for column in columns))
        return table

    def tables(self, console: Console) -> list[Table]:
        """One table if it fits, with the intervals below the numbers if need be, else several."""
        columns = list(self.columns)
        folded = max(max(map(len, self.cells)) - LEAST_NAME, 0)
        for stacked in (False, True):
            table = self.table(columns, stacked=stacked)
            if natural_width(table, console) - (folded if stacked else 0) <= console.width:
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
            table.add_row(one.backbone, "", FAILED, "", "", "")
            continue
        lost = {row.dataset: row.value for row in one.result.rows if row.metric == "accuracy_lost"}
        for row in one.result.rows:
            if row.metric == "accuracy_lost":
                continue
            name = row.dataset if row.metric == "accuracy" else row.metric.replace("_", " ")
            extra = above.get((one.backbone, row.dataset))
            table.add_row(
                one.backbone,
                name,
                f"{row.value:.3f}" if row.metric != "mce" else f"{row.value:.1f} %",
                interval(row),
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
    about = f"{comparison.test}, {comparison.task}: differences in {comparison.metric}"
    table = titled_table(about, "first", "second")
    for name in ("difference, 95 %", "p", "p Holm"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in comparison.result.rows:
        settings = row.settings or {}
        marked = settings["p_holm"] < SIGNIFICANT
        p_holm = f"{settings['p_holm']:.2g}"
        table.add_row(
            settings["first"],
            settings["second"],
            Text.assemble(f"{_signed(row.value)}  ", (f"{_signed(row.low or 0.0)} {_signed(row.high or 0.0)}", "dim")),
            f"{settings['p']:.2g}",
            Text(f"{p_holm} *", "bold") if marked else Text(f"{p_holm}  "),
        )
    return table


def group_table(table: GroupTable) -> Table:
    """Every group, worst first, then the gaps."""
    grouped = titled_table(f"{table.backbone}, {table.task} on {table.test}: by {table.column}", "group")
    for name in ("rows", "value", "95 % interval"):
        grouped.add_column(name, justify="right", no_wrap=True)
    rows = [row for row in table.result.rows if row.metric == "accuracy"]
    for row in sorted(rows, key=lambda row: row.value):
        settings = row.settings or {}
        grouped.add_row(settings["group"], f"{settings['rows']:,}", f"{row.value:.3f}", interval(row))
    grouped.add_section()
    for row in table.result.rows:
        if row.metric not in ("accuracy", "worst_group_accuracy"):
            grouped.add_row(row.metric.replace("_", " "), "", f"{row.value:.3f}", interval(row))
    return grouped


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
                **result_json(one.result, _row_json),
            }
            for one in report.probed
        ],
        **failures_json(report),
        "effective_robustness": effective_robustness(report.probed),
        "comparisons": [
            {"task": c.task, "test": c.test, "metric": c.metric, **result_json(c.result, _row_json)}
            for c in comparisons
        ],
        "groups": [
            {
                "task": g.task,
                "test": g.test,
                "backbone": g.backbone,
                "column": g.column,
                **result_json(g.result, _row_json),
            }
            for g in groups
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {"backbone": row.backbone, **row_json(row)}


def _test_of(comparison: CompareTable) -> str:
    test = (comparison.result.rows[0].settings or {}).get("test")
    return "McNemar's test" if test == "mcnemar" else "the paired bootstrap"


def _heading(row: Row, *, alone: bool) -> str:
    words = shown(row.metric.removeprefix("accuracy "))
    if not alone and words == row.metric:
        return row.task
    return words.replace("_", "\n")


def _rank(row: Row | None) -> float:
    return float("inf") if row is None else -row.value


def _cell(row: Row | None, *, stacked: bool) -> Text:
    return FAILED if row is None else value_cell(row, "\n" if stacked else "  ")


def _signed(value: float) -> str:
    """A difference without the zero before the point.

    >>> _signed(0.0123), _signed(-1.5)
    ('+.012', '-1.500')
    """
    return short(f"{value:+.3f}")
