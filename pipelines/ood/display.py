"""What ``featurebank ood`` found: one table, best score first, and the same for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.ood.task import GROUPS
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.results import Row
from featurebank.pipelines.tables import titled_table

__all__ = ["Standing", "is_random", "ood_table", "render_ood", "report_json", "standings"]

UNBOUNDED = 10_000
RANDOM = "@random"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One score of one backbone.

    Attributes:
        backbone: its name.
        score: its name.
        head: ``own``, ``probe``, or empty.
        accuracy: of the head on the in-distribution test rows.
        rows: by set or group, then by metric.
        mean: AUROC, over the sets.
    """

    backbone: str
    score: str
    head: str
    accuracy: Row | None
    rows: Mapping[str, Mapping[str, Row]]
    mean: float


def standings(probed: Iterable[Probed]) -> list[Standing]:
    """Every score of every backbone, greatest mean AUROC first."""
    found = []
    for one in probed:
        scores: dict[str, dict[str, dict[str, Row]]] = {}
        for row in one.result.rows if one.result else ():
            if name := _settings(row).get("score"):
                scores.setdefault(name, {}).setdefault(row.dataset, {})[row.metric.partition(" ")[0]] = row
        found += [
            Standing(
                backbone=one.backbone,
                score=name,
                head=_head_of(one),
                accuracy=_accuracy_of(one),
                rows=rows,
                mean=float(np.mean([of["auroc"].value for place, of in rows.items() if place not in GROUPS])),
            )
            for name, rows in scores.items()
        ]
    return sorted(found, key=lambda one: -one.mean)


def _accuracy_of(one: Probed) -> Row | None:
    """The row of the head's accuracy, where there is one."""
    rows = one.result.rows if one.result else ()
    return next((row for row in rows if row.metric == "accuracy"), None)


def _head_of(one: Probed) -> str:
    """``own``, ``probe``, or empty where there was none."""
    rows = one.result.rows if one.result else ()
    return next((_settings(row)["chosen"].get("head", "") for row in rows), "")


def is_random(backbone: str) -> bool:
    """Whether the weights of a backbone are random, by its name.

    >>> is_random("timm:resnet18@random:0")
    True
    """
    return RANDOM in backbone


def render_ood(report: ProbeReport, console: Console, *, seconds: float) -> None:
    """The table of ``featurebank ood``, and below it what to know about the numbers and what failed."""
    ranked = standings(report.probed)
    if ranked:
        console.print(ood_table(ranked, console, title=f"out of distribution: {_title(report.probed)}"))
    for note, backbones in _notes(report.probed).items():
        every = len(backbones) == sum(one.result is not None for one in report.probed)
        _line(console, "" if every else ", ".join(backbones), "yellow", note)
    for one in report.probed:
        if one.error:
            _line(console, one.backbone, "red", one.error)
    for (backbone, test), reason in report.failed.items():
        _line(console, f"{backbone} on {test}", "red", reason)
    for reason in report.passed_over:
        _line(console, "passed over", "yellow", reason)
    known = sum(one.result.known for one in report.probed if one.result)
    failed = sum(bool(one.error) for one in report.probed) + len(report.failed)
    made = sum(one.result is not None for one in report.probed) - known
    text = f"Backbones: {made} computed, {known} known already" + (f", {failed} failed" if failed else "")
    console.print(f"\n{text} ({seconds:.1f} s).", highlight=False)


def ood_table(ranked: Sequence[Standing], console: Console, *, title: str) -> Table:
    """AUROC and FPR@95 on every set with intervals; without them on a narrow console, or the AUROC alone."""
    unbounded = console.options.update(width=UNBOUNDED)
    for shown, intervals in ((("auroc", "fpr_at_95"), True), (("auroc", "fpr_at_95"), False)):
        table = _table(ranked, title, shown, intervals=intervals)
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            return table
    return _table(ranked, title, ("auroc",), intervals=False)


def report_json(report: ProbeReport) -> dict[str, Any]:
    """Everything for programs."""
    return {
        "ok": report.ok,
        "backbones": [
            {
                "backbone": one.backbone,
                "random_weights": is_random(one.backbone),
                "train": one.train,
                "test": one.test,
                "head": _head_of(one),
                "accuracy": _row_json(_accuracy_of(one)),
                "error": one.error,
                "seconds": one.seconds,
                "result": one.result.name if one.result else None,
                "known": bool(one.result and one.result.known),
                "notes": list(one.result.notes) if one.result else [],
                "scores": [
                    {
                        "score": standing.score,
                        "parameters": _parameters(standing),
                        "mean_auroc": standing.mean,
                        "sets": {
                            place: {metric: _row_json(row) for metric, row in rows.items()}
                            for place, rows in standing.rows.items()
                        },
                    }
                    for standing in standings([one])
                ],
            }
            for one in report.probed
        ],
        "failed": [
            {"backbone": backbone, "test": test, "error": error} for (backbone, test), error in report.failed.items()
        ],
        "passed_over": report.passed_over,
    }


def _table(ranked: Sequence[Standing], title: str, shown: Sequence[str], *, intervals: bool) -> Table:
    table = titled_table(title, "backbone", "score")
    table.add_column("head", no_wrap=True)
    table.add_column("ID\naccuracy", justify="right", no_wrap=True)
    places = list(dict.fromkeys(place for one in ranked for place in one.rows))
    headings = {"auroc": "AUROC", "fpr_at_95": "FPR@95"}
    columns = [(place, metric) for place in places for metric in (shown if place not in GROUPS else shown[:1])]
    for place, metric in columns:
        table.add_column(f"{escape(place)}\n{headings[metric]}", justify="right", overflow="fold")
    several = len([place for place in places if place not in GROUPS]) > 1
    if several:
        table.add_column("mean\nAUROC", justify="right", no_wrap=True)
    for one in ranked:
        random = is_random(one.backbone)
        cells = [_cell(one.rows[place][metric], intervals=intervals) for place, metric in columns]
        table.add_row(
            escape(one.backbone) + (" (random weights)" if random else ""),
            escape(one.score),
            one.head,
            "" if one.accuracy is None else f"{one.accuracy.value:.3f}",
            *cells,
            *([f"{one.mean:.3f}"] if several else []),
            style="dim" if random else None,
        )
    return table


def _cell(row: Row, *, intervals: bool) -> str:
    if not intervals or row.low is None or row.high is None:
        return f"{row.value:.3f}"
    low, high = (f"{end:.3f}".removeprefix("0") for end in (row.low, row.high))
    return f"{row.value:.3f} [dim]{low}-{high}[/]"


def _title(probed: Sequence[Probed]) -> str:
    return ", ".join(dict.fromkeys(f"{one.train} -> {one.test}" for one in probed))


def _notes(probed: Sequence[Probed]) -> dict[str, list[str]]:
    about: dict[str, list[str]] = {}
    for one in probed:
        for note in one.result.notes if one.result else ():
            about.setdefault(note, []).append(one.backbone)
    return about


def _line(console: Console, what: str, style: str, text: str) -> None:
    console.print(Text.assemble("  ", *([(f"{what}: ", style)] if what else []), text), soft_wrap=True)


def _parameters(standing: Standing) -> dict[str, Any]:
    row = next(iter(next(iter(standing.rows.values())).values()))
    return dict(_settings(row)["scores"][standing.score])


def _row_json(row: Row | None) -> dict[str, Any] | None:
    return None if row is None else {"value": row.value, "interval": None if row.low is None else [row.low, row.high]}


def _settings(row: Row) -> Mapping[str, Any]:
    return row.settings or {}
