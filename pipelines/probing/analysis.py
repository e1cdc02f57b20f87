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

from featurebank.pipelines.config import ConfigError
from featurebank.pipelines.probing.measures import Measure, main_rows, measure_of
from featurebank.pipelines.probing.run import TASKS, Probed
from featurebank.pipelines.probing.scores import ROWS
from featurebank.pipelines.probing.selection import Pair
from featurebank.pipelines.probing.task import Task
from featurebank.pipelines.results import Computed, Result, Results, Row
from featurebank.store import FeatureStore
from featurebank.store.errors import unknown_name

__all__ = ["CompareTable", "GroupTable", "check_analysis", "compare", "group"]

DRAWS = 2_000
COMPARE_VERSION, GROUPS_VERSION = 2, 2  # see `featurebank.pipelines.probing.task.Task.version`
WORST = "the worst group and the gaps are chosen on these rows: of groups that are alike, some look worse by luck"


@dataclass(frozen=True, kw_only=True)
class CompareTable:
    """Backbones against each other by one metric of one task on one test set; a row for each pair."""

    task: str
    test: str
    metric: str
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
    """Paired tests between the backbones for each number of `main_rows`: the difference of two cells, pair by pair.

    Right or wrong answers are tested with McNemar's test, other metrics with the paired bootstrap of the metric itself;
    the p-values of one table, one metric in one setting, are corrected together (Holm). Where fewer than two backbones
    have a result there is no table.

    Raises:
        ValueError: kept predictions are gone, or two backbones share no row.
    """
    results, tables = Results(store.root, force=force), []
    together: dict[tuple[str, str, str, str], dict[str, _Cell]] = {}
    for one in probed:
        if one.result is None:
            continue
        for row in main_rows(one.result.rows):
            place = (one.task, one.train, row.dataset, row.metric)
            together.setdefault(place, {})[one.backbone] = _Cell(row=row, result=one.result)
    for (task, _, test, metric), cells in together.items():
        if len(cells) < 2:
            continue
        names = [cell.result.name for cell in cells.values()]
        settings = {"of": task, "metric": metric, "on": test, "results": names, "draws": DRAWS, "seed": seed}
        settings["backbones"] = [*cells]
        fingerprints = [fingerprint for cell in cells.values() for fingerprint in cell.row.fingerprints]
        compute = partial(_compared, results, cells, settings)
        result = results.once("compare", settings, fingerprints, compute, version=COMPARE_VERSION, fits=_compare_fits)
        tables.append(CompareTable(task=task, test=test, metric=metric, result=result))
    if any(table.result.kept and not table.result.known for table in tables):
        results.write_table()
    return tables


def group(store: FeatureStore, probed: Sequence[Probed], column: str, *, force: bool = False) -> list[GroupTable]:
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
        settings = {"of": one.task, "result": row.result, "column": column}
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
        with pair.test.open() as scored:
            columns |= scored.columns.keys()
    if pairs and column not in columns:
        raise unknown_name("column", column, columns)


def _column(store: FeatureStore, row: Row, one: Probed, column: str, rows: NDArray[np.intp]) -> NDArray[Any]:
    """The column's values of the rows that were scored."""
    dataset, split = one.test.rsplit("/", 1)
    for entry in store.ls(dataset=one.test, backbone=one.backbone):
        if entry.split == split and entry.dataset == dataset and entry.fingerprint in row.fingerprints:
            with entry.open() as scored:
                if column not in scored.columns:
                    raise unknown_name(f"column of {one.test}", column, scored.columns)
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


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A number and the computation that it is from."""

    row: Row
    result: Result


def _compared(results: Results, cells: Mapping[str, _Cell], settings: Mapping[str, Any]) -> Computed:
    from featurebank.probes.comparison import holm

    measures = {backbone: measure_of(cell.row, results.arrays(cell.result)) for backbone, cell in cells.items()}
    pairs = list(itertools.combinations(cells, 2))
    tests = [_test(measures[a], measures[b], f"{a} and {b}", seed=int(settings["seed"])) for a, b in pairs]
    corrected = holm([test.p_value for test in tests])
    rows, notes = [], []
    for (a, b), test, p_holm in zip(pairs, tests, corrected.tolist(), strict=True):
        row = Row(
            backbone=f"{a} - {b}",
            dataset=cells[a].row.dataset,
            task="compare",
            metric=f"difference in {cells[a].row.metric}",
            value=test.difference,
            low=test.low,
            high=test.high,
            interval=f"{ROWS}, {test.interval}",
            fingerprints=(*cells[a].row.fingerprints, *cells[b].row.fingerprints),
            settings={**settings, "first": a, "second": b, **test.details, "p": test.p_value, "p_holm": p_holm},
        )
        rows.append(row)
        counts = [len(measures[name].ids) for name in (a, b)]
        if test.rows < max(counts):
            told = f"{counts[0]:,}" if counts[0] == counts[1] else f"{counts[0]:,} and {counts[1]:,}"
            notes.append(f"{a} - {b}: of the {test.rows:,} rows that both scored; the cells are of {told}")
    if settings["of"] == "fewshot":
        notes.append("intervals and tests are over test rows; the draws of labels are taken as they are")
    return Computed(rows=rows, notes=notes)


@dataclass(frozen=True, kw_only=True)
class _Test:
    """A difference, its interval and how it was made, and what a test says of it."""

    difference: float
    low: float
    high: float
    interval: str
    p_value: float
    rows: int
    details: Mapping[str, Any]


def _test(first: Measure, second: Measure, names: str, *, seed: int) -> _Test:
    from featurebank.probes.comparison import mcnemar, paired_statistics
    from featurebank.probes.proportions import paired_interval

    _, left, right = np.intersect1d(first.ids, second.ids, return_indices=True)
    n = len(left)
    if n == 0:
        raise ValueError(f"a comparison needs rows that both backbones scored; found none of {names}")
    if first.exact:
        found = mcnemar(first.parts[0][left], second.parts[0][right])
        b, c = found.only_first, found.only_second
        low, high = paired_interval(b, c, n)
        details = {"test": "mcnemar", "only_first": b, "only_second": c}
        return _Test(
            difference=(b - c) / n, low=low, high=high, interval="Bonett-Price", p_value=found.p_value, rows=n,
            details=details,
        )  # fmt: skip
    paired = paired_statistics(first.at(left), second.at(right), n, draws=DRAWS, seed=seed)
    return _Test(
        difference=paired.difference, low=paired.low, high=paired.high, interval="paired bootstrap",
        p_value=paired.p_value, rows=n, details={"test": "paired bootstrap"},
    )  # fmt: skip


def _grouped(row: Row, kept: Mapping[str, NDArray[Any]], groups: NDArray[Any], settings: Mapping[str, Any]) -> Computed:
    from featurebank.probes.groups import group_report

    report = group_report(kept["labels"], kept["predictions"], groups)

    def of(metric: str, value: float, low: float | None, high: float | None, **more: Any) -> Row:
        return Row(
            backbone=row.backbone,
            dataset=row.dataset,
            task="groups",
            metric=metric,
            value=float(value),
            low=None if low is None else float(low),
            high=None if high is None else float(high),
            interval="rows of each group, Wilson",
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
    return Computed(rows=rows, notes=[*report.warnings, WORST])
