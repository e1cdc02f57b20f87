"""What ``featurebank ood`` found: one table, best score first, and the same for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from featurebank.pipelines.ood.families import FamilySummary, family_summaries
from featurebank.pipelines.ood.summaries import comparison_table, comparisons, families_table
from featurebank.pipelines.ood.task import FULL, GROUPS, HEADS
from featurebank.pipelines.probing.run import Probed, ProbeReport
from featurebank.pipelines.reporting import (
    failures_json,
    interval_line,
    natural_width,
    print_count,
    print_errors,
    print_failures,
    print_line,
    print_notes,
    result_json,
    selection_note,
    value_cell,
    value_json,
)
from featurebank.pipelines.results import Row
from featurebank.pipelines.tables import titled_table
from featurebank.store.text import shown as visible

__all__ = ["Standing", "is_random", "ood_table", "render_ood", "report_json", "selection", "standings"]

RANDOM = "@random"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One score of one backbone.

    Attributes:
        backbone: its name.
        test: the in-distribution test set, DATASET/SPLIT.
        score: its name.
        head: ``own``, ``probe``, or empty.
        accuracy: of the head on the in-distribution test rows.
        rows: by set or group, then by metric.
        mean: AUROC, over the sets.
    """

    backbone: str
    test: str
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
            name = _settings(row).get("score")
            if isinstance(name, str) and name:
                scores.setdefault(name, {}).setdefault(row.dataset, {})[row.metric.partition(" ")[0]] = row
        found += [
            Standing(
                backbone=one.backbone,
                test=one.test,
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
    chosen = next((_settings(row).get("chosen") for row in rows), None)
    head = chosen.get("head") if isinstance(chosen, Mapping) else None
    return head if head in HEADS else ""


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
        rows = [row for one in ranked for of in one.rows.values() for row in of.values()]
        if said := interval_line({"": rows}):
            print_line(console, said)
        if len(ranked) > 1:
            print_line(console, selection(ranked))
    if beside := comparisons(ranked):
        console.print()
        console.print(comparison_table(beside))
    if families := _families(ranked):
        console.print()
        console.print(families_table(families))
        print_line(console, "the best of a family is chosen on the test rows too: the more scores, the better it looks")
    print_notes(console, [one for one in report.probed if one.result])
    print_errors(console, report.probed)
    print_failures(console, report)
    console.print()
    print_count(console, "Backbones", report, seconds=seconds)


def selection(ranked: Sequence[Standing]) -> str:
    """That the order of the table is a choice on the test rows."""
    return selection_note("the order is by the AUROC shown; what comes first", len(ranked))


def ood_table(ranked: Sequence[Standing], console: Console, *, title: str) -> Table:
    """AUROC and FPR@95 on every set with intervals; without them on a narrow console, or the AUROC alone."""
    for shown, intervals in ((("auroc", "fpr_at_95"), True), (("auroc", "fpr_at_95"), False)):
        table = _table(ranked, title, shown, intervals=intervals)
        if natural_width(table, console) <= console.width:
            return table
    return _table(ranked, title, ("auroc",), intervals=False)


def report_json(report: ProbeReport) -> dict[str, Any]:
    """Everything for programs."""
    ranked = standings(report.probed)
    return {
        "ok": report.ok,
        "backbones": [
            {
                "backbone": one.backbone,
                "random_weights": is_random(one.backbone),
                "train": one.train,
                "test": one.test,
                "head": _head_of(one),
                "accuracy": value_json(accuracy) if (accuracy := _accuracy_of(one)) else None,
                "error": one.error,
                "seconds": one.seconds,
                **result_json(one.result),
                "scores": [
                    {
                        "score": standing.score,
                        "parameters": _parameters(standing),
                        "selected": _settings(_any_row(standing)).get("selected"),
                        "mean_auroc": standing.mean,
                        "sets": {
                            place: {metric: value_json(row) for metric, row in rows.items()}
                            for place, rows in standing.rows.items()
                        },
                    }
                    for standing in standings([one])
                ],
            }
            for one in report.probed
        ],
        "selection": selection(ranked) if len(ranked) > 1 else None,
        "families": [asdict(one) for one in _families(ranked)],
        "published": [asdict(one) for one in comparisons(ranked)],
        **failures_json(report),
    }


def _table(ranked: Sequence[Standing], title: str, shown: Sequence[str], *, intervals: bool) -> Table:
    table = titled_table(title, "backbone", "score")
    table.add_column("head", no_wrap=True)
    table.add_column(Text("ID\naccuracy"), justify="right", no_wrap=True)
    places = list(dict.fromkeys(place for one in ranked for place in one.rows))
    headings = {"auroc": "AUROC", "fpr_at_95": "FPR@95"}
    columns = [(place, metric) for place in places for metric in (shown if place not in GROUPS else shown[:1])]
    if any(FULL + "auroc" in of for of in ranked[0].rows.values()):
        headings[FULL + "auroc"] = "full spectrum\nAUROC"
        columns += [(place, FULL + "auroc") for place in ([p for p in places if p in GROUPS] or places)]
    for place, metric in columns:
        table.add_column(Text(f"{visible(place)}\n{headings[metric]}"), justify="right", overflow="fold")
    several = len([place for place in places if place not in GROUPS]) > 1
    if several:
        table.add_column(Text("mean\nAUROC"), justify="right", no_wrap=True)
    for one in ranked:
        random = is_random(one.backbone)
        cells = [_cell(one.rows[place][metric], intervals=intervals) for place, metric in columns]
        table.add_row(
            one.backbone + (" (random weights)" if random else ""),
            one.score,
            one.head,
            "" if one.accuracy is None else f"{one.accuracy.value:.3f}",
            *cells,
            *([f"{one.mean:.3f}"] if several else []),
            style="dim" if random else None,
        )
    return table


def _cell(row: Row, *, intervals: bool) -> Text:
    return value_cell(row, " ") if intervals else Text(f"{row.value:.3f}")


def _title(probed: Sequence[Probed]) -> str:
    return ", ".join(dict.fromkeys(f"{one.train} -> {one.test}" for one in probed))


def _families(ranked: Sequence[Standing]) -> list[FamilySummary]:
    """Of the backbones with trained weights, where there are several."""
    trained = [one for one in ranked if not is_random(one.backbone)]
    return family_summaries(trained) if len({one.backbone for one in trained}) > 1 else []


def _any_row(standing: Standing) -> Row:
    return next(iter(next(iter(standing.rows.values())).values()))


def _parameters(standing: Standing) -> dict[str, Any]:
    return dict(_settings(_any_row(standing))["scores"][standing.score])


def _settings(row: Row) -> Mapping[str, Any]:
    return row.settings or {}
