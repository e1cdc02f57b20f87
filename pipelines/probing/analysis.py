"""What kept predictions still answer: is one backbone better than another, and as good for every group of rows?

Shapes: M test rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.errors import nearest
from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.run import TASKS, Probed
from featurebank.pipelines.probing.selection import Pair
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.results import Computed, Result, Results, Row
from featurebank.store import FeatureSet, FeatureStore

__all__ = ["CompareTable", "GroupTable", "check_analysis", "compare", "group"]

DRAWS = 10_000
COMPARE_VERSION, GROUPS_VERSION = 1, 1  # see `featurebank.pipelines.probing.task.Task.version`


@dataclass(frozen=True, kw_only=True)
class CompareTable:
    """Backbones against each other on one task and test set; rows of ``difference``, one for each pair."""

    task: str
    test: str
    result: Result


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """One probe's accuracy in each group of a column, the worst group and the gaps."""

    task: str
    test: str
    backbone: str
    column: str
    result: Result


def compare(store: FeatureStore, probed: Sequence[Probed], *, seed: int = 0, force: bool = False) -> list[CompareTable]:
    """Paired tests between the backbones of each task, train and test set, on the rows that all of them scored.

    Right or wrong answers are tested with McNemar's test, other scores with the paired bootstrap; the p-values of one
    table are corrected together (Holm). Where fewer than two backbones have a result there is no table.

    Raises:
        ValueError: kept predictions are gone, or the backbones share no row.
    """
    results, tables = Results(store.root, force=force), []
    together: dict[tuple[str, str, str], dict[str, Result]] = {}
    for one in probed:
        if one.result is not None:
            together.setdefault((one.task, one.train, one.test), {})[one.backbone] = one.result
    for (task, _, test), first in together.items():
        if len(first) < 2:
            continue
        settings = {"of": task, "results": [one.name for one in first.values()], "draws": DRAWS, "seed": seed}
        fingerprints = [fingerprint for one in first.values() for fingerprint in one.rows[0].fingerprints]
        compute = partial(_compared, results, first, settings)
        result = results.once("compare", settings, fingerprints, compute, version=COMPARE_VERSION, fits=_compare_fits)
        tables.append(CompareTable(task=task, test=test, result=result))
    if any(table.result.kept and not table.result.known for table in tables):
        results.write_table()
    return tables


def group(
    store: FeatureStore, probed: Sequence[Probed], column: str, *, seed: int = 0, force: bool = False
) -> list[GroupTable]:
    """Accuracy in each group of an extra record column, for every result with one predicted class a row.

    Raises:
        UnknownNameError: a test set has no such column.
        ValueError: fewer than two groups, or numbers that are no groups.
    """
    results, tables = Results(store.root, force=force), []
    for one in probed:
        if one.result is None or not TASKS[one.task].predicts_classes:
            continue
        row = one.result.rows[0]
        kept = results.arrays(one.result)
        groups = _column(store, row, one, column, kept["rows"])
        settings = {"of": one.task, "result": row.result, "column": column, "seed": seed}
        compute = partial(_grouped, row, kept, groups, settings)
        result = results.once("groups", settings, row.fingerprints, compute, version=GROUPS_VERSION, fits=_groups_fit)
        tables.append(GroupTable(task=one.task, test=one.test, backbone=one.backbone, column=column, result=result))
    if any(table.result.kept and not table.result.known for table in tables):
        results.write_table()
    return tables


def check_analysis(pairs: Sequence[Pair], tasks: Sequence[Task], *, comparison: bool, column: str | None) -> None:
    """Refuses what cannot be answered before anything is computed.

    Raises:
        UnknownNameError: no test set has the column.
        ConfigError: fewer than two backbones to compare, or no task that predicts classes.
    """
    backbones = {pair.backbone for pair in pairs}
    if comparison and len(backbones) < 2:
        raise ConfigError(f"--compare needs at least two backbones; found {', '.join(sorted(backbones)) or 'none'}")
    if column is None:
        return
    if not any(task.predicts_classes for task in tasks):
        able = ", ".join(name for name, task in TASKS.items() if task.predicts_classes)
        raise ConfigError(f"--group needs a task with one predicted class a row, {able}")
    columns: set[str] = set()
    for pair in pairs:
        with FeatureSet(pair.test.path) as scored:
            columns |= scored.columns.keys()
    if pairs and column not in columns:
        raise nearest("column", column, columns)


def _column(store: FeatureStore, row: Row, one: Probed, column: str, rows: NDArray[np.intp]) -> NDArray[Any]:
    """The column's values of the rows that were scored."""
    dataset, split = one.test.rsplit("/", 1)
    for entry in store.ls(dataset=one.test, backbone=one.backbone):
        if entry.split == split and entry.dataset == dataset and entry.fingerprint in row.fingerprints:
            with FeatureSet(entry.path) as scored:
                if column not in scored.columns:
                    raise nearest(f"column of {one.test}", column, scored.columns)
                return np.asarray(scored.columns[column][rows])
    raise ValueError(f"{one.test}: expected the set of {one.backbone} that was scored, found it gone; probe again")


def _compare_fits(rows: Sequence[Row]) -> bool:
    return all(
        isinstance(of["first"], str) and isinstance(of["second"], str) and of["p"] >= 0 and of["p_holm"] >= 0
        for of in (row.settings or {} for row in rows)
    )


def _groups_fit(rows: Sequence[Row]) -> bool:
    settings = [row.settings or {} for row in rows if row.metric == "accuracy"]
    return all(isinstance(of["group"], str) and isinstance(of["rows"], int) for of in settings)


def _compared(results: Results, compared: Mapping[str, Result], settings: Mapping[str, Any]) -> Computed:
    from featurebank.probes.comparison import holm, mcnemar, paired_bootstrap

    first = {backbone: one.rows[0] for backbone, one in compared.items()}
    kept = {backbone: results.arrays(one) for backbone, one in compared.items()}
    shared = sorted(set.intersection(*(set(arrays["ids"].tolist()) for arrays in kept.values())))
    if not shared:
        raise ValueError(f"a comparison needs rows that all backbones scored; found none of {', '.join(kept)}")
    scores = {}
    for backbone, arrays in kept.items():
        order = np.argsort(arrays["ids"])
        at = order[np.searchsorted(arrays["ids"], np.array(shared), sorter=order)]
        scores[backbone] = arrays["score"][at]
    pairs = list(itertools.combinations(first, 2))
    tests, found = [], []
    for a, b in pairs:
        paired = paired_bootstrap(scores[a], scores[b], draws=DRAWS, seed=int(settings["seed"]))
        binary = scores[a].dtype == np.bool_ and scores[b].dtype == np.bool_
        exact = mcnemar(scores[a], scores[b]) if binary else None
        tests.append(exact.p_value if exact else paired.p_value)
        counts = {"only_first": exact.only_first, "only_second": exact.only_second} if exact else {}
        found.append((a, b, paired, {"test": "mcnemar" if exact else "paired bootstrap", **counts}))
    corrected = holm(tests)
    rows = [
        Row(
            backbone=f"{a} - {b}",
            dataset=first[a].dataset,
            task="compare",
            metric="difference",
            value=paired.difference,
            low=paired.low,
            high=paired.high,
            fingerprints=(*first[a].fingerprints, *first[b].fingerprints),
            settings={**settings, "first": a, "second": b, **more, "p": p, "p_holm": float(p_holm)},
        )
        for (a, b, paired, more), p, p_holm in zip(found, tests, corrected, strict=True)
    ]
    most = max(len(arrays["ids"]) for arrays in kept.values())
    notes = []
    if settings["of"] == "fewshot":
        notes.append("intervals and tests are over test rows; the draws of labels are taken as they are")
    if len(shared) < most:
        notes.append(f"compared on the {len(shared):,} rows that all backbones scored, of {most:,}")
    return Computed(rows=rows, notes=notes)


def _grouped(row: Row, kept: Mapping[str, NDArray[Any]], groups: NDArray[Any], settings: Mapping[str, Any]) -> Computed:
    from featurebank.probes.groups import group_report

    report = group_report(kept["labels"], kept["predictions"], groups, seed=int(settings["seed"]))

    def of(metric: str, value: float, low: float | None, high: float | None, **more: Any) -> Row:
        return Row(
            backbone=row.backbone,
            dataset=row.dataset,
            task="groups",
            metric=metric,
            value=float(value),
            low=None if low is None else float(low),
            high=None if high is None else float(high),
            fingerprints=row.fingerprints,
            settings={**settings, **more},
        )

    names = [str(name) for name in report.groups.tolist()]
    rows = [
        of("accuracy", value, low, high, group=name, rows=int(size))
        for name, value, low, high, size in zip(
            names, report.accuracy, report.low, report.high, report.sizes, strict=True
        )
    ]
    worst = names.index(str(report.worst))
    rows.append(of("worst_group_accuracy", rows[worst].value, rows[worst].low, rows[worst].high, group=names[worst]))
    rows.append(of("accuracy_gap", report.gap, report.gap_low, report.gap_high))
    for metric, gaps in (
        ("demographic_parity_gap", report.demographic_parity),
        ("equalised_odds_gap", report.equalised_odds),
    ):
        if not np.isnan(gaps.values).all():
            k = int(np.nanargmax(gaps.values))
            rows.append(of(metric, gaps.values[k], gaps.low[k], gaps.high[k], of_class=k))
    return Computed(rows=rows, notes=report.warnings)
