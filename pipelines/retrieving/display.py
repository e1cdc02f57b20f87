"""Tables of retrieval: one row a backbone, one column a metric of the protocol, its interval beside it or below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from featurebank.pipelines.probing.display import ProbeGrid
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.results import Row
from featurebank.pipelines.retrieving.task import RetrieveTask

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
        columns={(task.name, metric): metric.replace("_", "\n") for metric in metrics},
        cells={name: {(task.name, metric): rows[name].get(metric) for metric in metrics} for name in ordered},
    )


def render_retrievals(
    report: ProbeReport, task: RetrieveTask, console: Console, *, seconds: float, page: Path | None = None
) -> None:
    """The tables of ``featurebank retrieve``, and below them what to know about the numbers and what failed."""
    for sets in dict.fromkeys((one.train, one.test) for one in report.probed):
        some = [one for one in report.probed if (one.train, one.test) == sets]
        for table in grid(some, task).tables(console):
            console.print(table)
        _notes(some, console)
        console.print()
    for (backbone, test), reason in report.failed.items():
        _line(console, f"{backbone} on {test}", "red", reason)
    for reason in report.passed_over:
        _line(console, "passed over", "yellow", reason)
    if page is not None:
        _line(console, "page", "green", str(page))
    known = sum(one.result.known for one in report.probed if one.result)
    made = sum(one.result is not None for one in report.probed) - known
    failed = sum(bool(one.error) for one in report.probed) + len(report.failed)
    text = f"Retrieval: {made} computed, {known} known already" + (f", {failed} failed" if failed else "")
    console.print(f"{text} ({seconds:.1f} s).", highlight=False)


def report_json(report: ProbeReport, task: RetrieveTask, *, page: Path | None = None) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "ok": report.ok,
        "protocol": task.protocol,
        "recipe": task.recipe,
        "page": None if page is None else str(page),
        "retrievals": [_json(one) for one in report.probed],
        "failed": [
            {"backbone": backbone, "gallery": test, "error": error} for (backbone, test), error in report.failed.items()
        ],
        "passed_over": report.passed_over,
    }


def _json(one: Probed) -> dict[str, Any]:
    result = one.result
    return {
        "backbone": one.backbone,
        "queries": one.train,
        "gallery": one.test,
        "error": one.error,
        "seconds": one.seconds,
        "result": result.name if result else None,
        "known": bool(result and result.known),
        "rows": [_row_json(row) for row in result.rows] if result else [],
        "notes": list(result.notes) if result else [],
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "dataset": row.dataset,
        "metric": row.metric,
        "value": row.value,
        "interval": None if row.low is None else [row.low, row.high],
        "fingerprints": list(row.fingerprints),
        "settings": row.settings,
    }


def _notes(retrieved: Sequence[Probed], console: Console) -> None:
    """What failed and why, then each note once with the backbones it is about."""
    about: dict[str, list[str]] = {}
    for one in retrieved:
        if one.error:
            _line(console, one.backbone, "red", one.error)
        for note in one.result.notes if one.result else ():
            about.setdefault(note, []).append(one.backbone)
    for note, backbones in about.items():
        every = len(backbones) == len(retrieved)
        _line(console, "" if every else ", ".join(backbones), "yellow", note)


def _line(console: Console, what: str, style: str, text: str) -> None:
    parts = [(f"{what}: ", style)] if what else []
    console.print(Text.assemble("  ", *parts, text), soft_wrap=True)
