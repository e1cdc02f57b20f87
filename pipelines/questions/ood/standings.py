"""Scores in the order of their mean AUROC over the sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from featurebank.pipelines.asking.sheet import Cell, Sheet, selection_note

if TYPE_CHECKING:
    from featurebank.pipelines.asking.results import Row

__all__ = ["GROUPS", "Standing", "is_random", "main_sheet", "selection", "standings"]

GROUPS = ("near", "far")
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


def standings(rows: Iterable[Row]) -> list[Standing]:
    """Every score of every backbone, greatest mean AUROC first."""
    scores: dict[tuple[str, str, str], dict[str, dict[str, Row]]] = {}
    accuracies: dict[tuple[str, str], Row] = {}
    for row in rows:
        if row.score and row.metric != "accuracy":
            scores.setdefault((row.backbone, row.test, row.score), {}).setdefault(row.set, {})[row.metric] = row
        elif row.metric == "accuracy" and row.set == row.test:
            accuracies[row.backbone, row.test] = row
    ranked = []
    for (backbone, test, score), sets in scores.items():
        areas = [of["auroc"].value for place, of in sets.items() if place not in GROUPS and "auroc" in of]
        head = next(iter(next(iter(sets.values())).values())).details.get("head")
        accuracy = accuracies.get((backbone, test))
        ranked.append(
            Standing(
                backbone=backbone, test=test, score=score, head=head if head in ("own", "probe") else "",
                accuracy=accuracy, rows=sets, mean=float(np.mean(areas)) if areas else 0.0,
            )
        )  # fmt: skip
    return sorted(ranked, key=lambda one: -one.mean)


def is_random(backbone: str) -> bool:
    """Whether the weights of a backbone are random, by its name.

    >>> is_random("timm:resnet18@random:0")
    True
    """
    return RANDOM in backbone


def selection(ranked: Sequence[Standing]) -> str:
    """That the order of the table is a choice on the test rows."""
    return selection_note("the order is by the AUROC shown; what comes first", len(ranked))


def main_sheet(
    plain: Callable[..., Sheet], rows: Sequence[Row], title: str, failed: Mapping[tuple[str, ...], Sequence[str]]
) -> Sheet:
    """The table of scores in their order, with the head, its accuracy, and the mean over several sets."""
    ranked = standings(rows)
    ordered = [row for one in ranked for of in one.rows.values() for row in of.values() if _shown(row, ranked)]
    sheet = plain(ordered, title, failed)
    of = {(one.backbone, one.score): one for one in ranked}
    several = len({place for one in ranked for place in one.rows if place not in GROUPS}) > 1
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = []
    for names, cells in sheet.lines:
        one = of.get((names[0], names[1]))
        head = one.head if one else ""
        accuracy = f"{one.accuracy.value:.3f}" if one and one.accuracy else ""
        mean = (f"{one.mean:.3f}" if one else "",) if several else ()
        named = names[0] + (" (random weights)" if is_random(names[0]) else "")
        lines.append(((named, names[1], head), (accuracy, *cells, *mean)))
    columns = ["ID\naccuracy", *sheet.columns, *(["mean\nAUROC"] if several else [])]
    return replace(sheet, names=[*sheet.names, "head"], columns=columns, lines=lines)


def _shown(row: Row, ranked: Sequence[Standing]) -> bool:
    """Of groups the AUROC alone; of the full spectrum that of the groups, where there are some."""
    grouped = any(place in GROUPS for place in ranked[0].rows)
    if row.metric.startswith("full_spectrum"):
        return row.set in GROUPS or not grouped
    return row.metric == "auroc" or row.set not in GROUPS
