"""Tables of retrieval: one row a backbone, one column a metric of the protocol, its interval beside it or below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from featurebank.pipelines.probing.display import ProbeGrid
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.reporting import (
    failures_json,
    interval_line,
    print_count,
    print_errors,
    print_failures,
    print_line,
    print_notes,
    result_json,
    row_json,
)
from featurebank.pipelines.retrieving.task import RetrieveTask
from featurebank.store.text import shown

__all__ = ["grid", "render_retrievals", "report_json"]


def grid(retrieved: Sequence[Probed], task: RetrieveTask) -> ProbeGrid:
    """Every backbone on one pair of sets, the best by the first metric first, those that failed last."""
    rows = {one.backbone: {row.metric: row for row in one.result.rows} if one.result else {} for one in retrieved}
    metrics = list(dict.fromkeys(metric for own in rows.values() for metric in own)) or [task.name]
    ordered = sorted(rows, key=lambda name: -rows[name][metrics[0]].value if rows[name] else float("inf"))
    sets = dict.fromkeys((retrieved[0].train, retrieved[0].test))
    about = f"{task.protocol}, {task.recipe}" if task.recipe else task.protocol
    return ProbeGrid(
        title=f"retrieve: {' in '.join(sets)} ({about})",
        columns={(task.name, metric): shown(metric).replace("_", "\n") for metric in metrics},
        cells={name: {(task.name, metric): rows[name].get(metric) for metric in metrics} for name in ordered},
    )


def render_retrievals(
    report: ProbeReport, task: RetrieveTask, console: Console, *, seconds: float, page: Path | None = None
) -> None:
    """The tables of ``featurebank retrieve``, and below them what to know about the numbers and what failed."""
    for sets in dict.fromkeys((one.train, one.test) for one in report.probed):
        some = [one for one in report.probed if (one.train, one.test) == sets]
        shown = grid(some, task)
        for table in shown.tables(console):
            console.print(table)
        if said := interval_line(shown.shown):
            print_line(console, said)
        print_errors(console, some)
        print_notes(console, some)
        console.print()
    print_failures(console, report)
    if page is not None:
        print_line(console, str(page), about="page", style="green")
    print_count(console, "Retrieval", report, seconds=seconds)


def report_json(report: ProbeReport, task: RetrieveTask, *, page: Path | None = None) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "ok": report.ok,
        "protocol": task.protocol,
        "recipe": task.recipe,
        "page": None if page is None else str(page),
        "retrievals": [_json(one) for one in report.probed],
        **failures_json(report, test="gallery"),
    }


def _json(one: Probed) -> dict[str, Any]:
    return {
        "backbone": one.backbone,
        "queries": one.train,
        "gallery": one.test,
        "error": one.error,
        "seconds": one.seconds,
        **result_json(one.result, row_json),
    }
