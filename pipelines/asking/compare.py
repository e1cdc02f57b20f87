"""What kept predictions still answer: is one backbone better than another, and as good for every group of rows?

A comparison tests the very number that two cells show, its metric, setting and rows, and nothing else.

Shapes: M test rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.cases import Selection
from featurebank.pipelines.asking.intervals import ROWS
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.question import Question
from featurebank.pipelines.asking.results import Computed, Result, Results, Row
from featurebank.pipelines.asking.run import Asked
from featurebank.pipelines.asking.sheet import Sheet, interval_line
from featurebank.pipelines.errors import ConfigError
from featurebank.probes.weighted import Statistic, label_auroc, masks, mean, regression
from featurebank.store import FeatureStore
from featurebank.store.errors import unknown_name

__all__ = ["Analysis", "check_analysis", "compare", "group"]

DRAWS = 2_000
SIGNIFICANT = 0.05
COMPARE_VERSION, GROUPS_VERSION = 3, 3  # see `Question.version`
WORST = "the worst group and the gaps are chosen on these rows: of groups that are alike, some look worse by luck"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A result about results, and its table."""

    result: Result
    sheet: Sheet


def compare(store: FeatureStore, asked: Sequence[Asked], *, seed: int = 0, force: bool = False) -> list[Analysis]:
    """Paired tests between the backbones for each primary number: the difference of two cells, pair by pair.

    Right or wrong answers are tested with McNemar's test, other metrics with the paired bootstrap of the metric itself;
    the p-values of one table, one metric in one setting, are corrected together (Holm). Where fewer than two backbones
    have a result there is no table.

    Raises:
        ValueError: kept predictions are gone, or two backbones share no row.
    """
    results, analyses = Results(store.root, force=force), []
    together: dict[tuple[str, ...], dict[str, _Cell]] = {}
    for one in asked:
        for result in one.results:
            for row in result.rows:
                if row.primary and row.low is not None:
                    about = (row.question, row.train, row.set, row.score, row.shots, row.metric)
                    together.setdefault(about, {})[one.case.backbone] = _Cell(row=row, result=result)
    for (question, _, place, score, shots, name), cells in together.items():
        if len(cells) < 2:
            continue
        of = {"question": question, "set": place, "score": score, "shots": shots, "metric": name, "draws": DRAWS}
        names = [cell.result.name for cell in cells.values()]
        settings = {**of, "seed": seed, "results": names, "backbones": [*cells]}
        fingerprints = [fingerprint for cell in cells.values() for fingerprint in cell.row.fingerprints]
        compute = partial(_compared, results, cells, settings)
        result = results.once("compare", settings, fingerprints, compute, version=COMPARE_VERSION)
        analyses.append(Analysis(result=result, sheet=_compare_sheet(result, question, name)))
    if results.changed:
        results.write_table()
    return analyses


def group(store: FeatureStore, asked: Sequence[Asked], column: str, *, force: bool = False) -> list[Analysis]:
    """Accuracy in each group of an extra record column, for every result with one predicted class a row.

    Raises:
        UnknownNameError: a test set has no such column.
        ValueError: fewer than two groups, or numbers that are no groups.
    """
    results, analyses = Results(store.root, force=force), []
    for one in asked:
        if not one.results or not one.question.predicts_classes:
            continue
        row, kept = one.results[0].rows[0], results.arrays(one.results[0])
        with one.case.one(one.question.layout.scored).open() as scored:
            if column not in scored.columns:
                raise unknown_name(f"column of {one.scored}", column, scored.columns)
            groups = np.asarray(scored.columns[column][kept["rows"]])
        settings = {"question": row.question, "result": row.result, "column": column}
        compute = partial(_grouped, row, kept, groups, settings)
        result = results.once("groups", settings, row.fingerprints, compute, version=GROUPS_VERSION)
        analyses.append(Analysis(result=result, sheet=_group_sheet(result, row, column)))
    if results.changed:
        results.write_table()
    return analyses


def check_analysis(asked: Iterable[tuple[Question, Selection]], *, comparison: bool, column: str | None) -> None:
    """Refuses what cannot be answered before anything is computed.

    Raises:
        UnknownNameError: no test set has the column.
        ConfigError: fewer than two backbones to compare, or no question that predicts classes.
    """
    asked = list(asked)
    backbones = {case.backbone for _, selection in asked for case in selection.cases}
    if comparison and len(backbones) < 2:
        raise ConfigError(f"--compare needs at least two backbones; found {', '.join(sorted(backbones)) or 'none'}")
    if column is None:
        return
    able = [(question, selection) for question, selection in asked if question.predicts_classes]
    if not able:
        raise ConfigError("--group needs a question with one predicted class a row, such as linear")
    columns: set[str] = set()
    cases = [case.one(question.layout.scored) for question, selection in able for case in selection.cases]
    for entry in cases:
        with entry.open() as scored:
            columns |= scored.columns.keys()
    if cases and column not in columns:
        raise unknown_name("column", column, columns)


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """A number and the computation that it is from."""

    row: Row
    result: Result


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """One number as a function of its rows: ids (M,), what is known of each, and what makes a statistic of that."""

    ids: NDArray[np.str_]
    parts: tuple[NDArray[Any], ...]
    of: Callable[..., Statistic]
    exact: bool = False

    def at(self, rows: NDArray[np.intp]) -> Statistic:
        """The statistic of some of the rows."""
        return self.of(*(part[rows] for part in self.parts))


def _measure(row: Row, kept: Mapping[str, NDArray[Any]]) -> _Measure:
    """How a primary number comes from the arrays that its computation kept."""
    own = f"{row.set} " if f"{row.set} ids" in kept else ""
    measure = partial(_Measure, ids=kept[f"{own}ids"])
    if row.metric == "accuracy" and row.shots:
        draws = kept[f"predictions {row.shots}"] == kept["labels"]
        return measure(parts=(draws.mean(0),), of=mean)
    if row.metric == "accuracy":
        return measure(parts=(kept[f"{own}predictions"] == kept[f"{own}labels"],), of=mean, exact=True)
    if row.metric == "auroc" and "probabilities" in kept:
        return measure(parts=(kept["labels"], kept["probabilities"]), of=label_auroc)
    if row.metric == "r2":
        return measure(parts=(kept["targets"], kept["predictions"]), of=partial(regression, metric="r2"))
    if row.metric == "miou":
        return measure(parts=(kept["confusion"],), of=partial(masks, metric="miou"))
    if row.metric in kept:
        return measure(parts=(kept[row.metric],), of=mean)
    raise ValueError(f"{row.question}: expected a number that can be compared row by row, found {row.metric}")


def _compared(results: Results, cells: Mapping[str, _Cell], settings: Mapping[str, Any]) -> Computed:
    from featurebank.probes.comparison import holm

    measures = {backbone: _measure(cell.row, results.arrays(cell.result)) for backbone, cell in cells.items()}
    pairs = list(itertools.combinations(cells, 2))
    tests = [_test(measures[a], measures[b], f"{a} and {b}", seed=int(settings["seed"])) for a, b in pairs]
    corrected = holm([float(details["p"]) for _, details in tests])
    rows, notes = [], []
    for (a, b), (numbers, details), p_holm in zip(pairs, tests, corrected.tolist(), strict=True):
        like = cells[a].row
        row = replace(
            like,
            question="compare",
            backbone=f"{a} - {b}",
            label="",
            fingerprints=(*like.fingerprints, *cells[b].row.fingerprints),
            details={**details, "of": like.question, "first": a, "second": b, "p_holm": p_holm},
            **numbers,
        )
        rows.append(row)
        counts = [len(measures[name].ids) for name in (a, b)]
        if numbers["n"] < max(counts):
            told = f"{counts[0]:,}" if counts[0] == counts[1] else f"{counts[0]:,} and {counts[1]:,}"
            notes.append(f"{a} - {b}: of the {numbers['n']:,} rows that both scored; the cells are of {told}")
    if settings["shots"]:
        notes.append("intervals and tests are over test rows; the draws of labels are taken as they are")
    return Computed(rows=rows, notes=notes, settings=settings)


def _test(first: _Measure, second: _Measure, names: str, *, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A difference with its interval, and what a test says of it."""
    from featurebank.probes.comparison import mcnemar, paired_statistics
    from featurebank.probes.intervals import paired_interval

    _, left, right = np.intersect1d(first.ids, second.ids, return_indices=True)
    n = len(left)
    if n == 0:
        raise ValueError(f"a comparison needs rows that both backbones scored; found none of {names}")
    if first.exact:
        test = mcnemar(first.parts[0][left], second.parts[0][right])
        b, c = test.only_first, test.only_second
        low, high = paired_interval(b, c, n)
        numbers = {"value": (b - c) / n, "low": low, "high": high, "interval": f"{ROWS}, Bonett-Price", "n": n}
        return numbers, {"test": "mcnemar", "only_first": b, "only_second": c, "p": test.p_value}
    paired = paired_statistics(first.at(left), second.at(right), n, draws=DRAWS, random_state=seed)
    numbers = {"value": paired.difference, "low": paired.low, "high": paired.high, "n": n}
    return numbers | {"interval": f"{ROWS}, paired bootstrap"}, {"test": "paired bootstrap", "p": paired.p_value}


def _compare_sheet(result: Result, question: str, name: str) -> Sheet:
    """Every pair of backbones; differences that Holm's correction leaves below 0.05 are marked."""
    first = result.rows[0]
    lines: list[tuple[tuple[str, ...], tuple[Row | str | None, ...]]] = []
    for row in result.rows:
        p_holm = float(row.details["p_holm"])
        marked = f"{p_holm:.2g}{' *' if p_holm < SIGNIFICANT else '  '}"
        lines.append(
            ((str(row.details["first"]), str(row.details["second"])), (row, f"{float(row.details['p']):.2g}", marked))
        )
    shots = f" {first.shots}-shot" if first.shots.isdigit() else f" {first.shots}" if first.shots else ""
    of = f"{question}{f' {first.score}' if first.score else ''}"
    sheet = Sheet(
        title=f"{first.set}, {of}: differences in {metric(name).title}{shots}",
        names=("first", "second"),
        columns=("difference, 95 %", "p", "p Holm"),
        lines=lines,
        signed=True,
    )
    better = "above" if metric(name).direction == "higher" else "below"
    test = "McNemar's test" if first.details.get("test") == "mcnemar" else "the paired bootstrap"
    about = f"first minus second on the same rows: {better} 0 the first is better; p of {test}"
    sheet.notes += [about, interval_line(sheet), *result.notes]
    return sheet


def _grouped(row: Row, kept: Mapping[str, NDArray[Any]], groups: NDArray[Any], settings: Mapping[str, Any]) -> Computed:
    from featurebank.probes.groups import group_report

    report = group_report(kept["labels"], kept["predictions"], groups)

    def of(name: str, value: float, low: float, high: float, **more: Any) -> Row:
        ends = {"value": float(value), "low": float(low), "high": float(high), "n": None}
        about = {"question": "groups", "metric": name, "direction": metric(name).direction, "primary": False}
        interval = "rows of each group, Wilson"
        return replace(row, **{**about, **ends, "interval": interval, "details": {"of": row.question}, **more})

    names = [str(name) for name in report.groups.tolist()]
    sides = zip(names, report.accuracy, report.low, report.high, report.sizes, strict=True)
    rows = [of("accuracy", *numbers, group=name, n=int(size)) for name, *numbers, size in sides]
    worst = rows[names.index(str(report.worst))]
    rows.append(replace(worst, metric="worst_group_accuracy"))
    rows.append(of("accuracy_gap", report.gap, report.gap_low, report.gap_high))
    for name, gaps in (
        ("demographic_parity_gap", report.demographic_parity),
        ("equalised_odds_gap", report.equalised_odds),
    ):
        if not np.isnan(gaps.values).all():
            k = int(np.nanargmax(gaps.values))
            details = {"of": row.question, "class": k}
            rows.append(of(name, gaps.values[k], gaps.low[k], gaps.high[k], details=details))
    return Computed(rows=rows, notes=[*report.warnings, WORST], settings=settings)


def _group_sheet(result: Result, row: Row, column: str) -> Sheet:
    """Every group, worst first, then the gaps."""
    groups = sorted((one for one in result.rows if one.metric == "accuracy"), key=lambda one: one.value)
    gaps = [one for one in result.rows if one.metric not in ("accuracy", "worst_group_accuracy")]
    lines: list[tuple[tuple[str, ...], tuple[Row | str | None, ...]]] = [
        *(((one.group,), (f"{one.n or 0:,}", one)) for one in groups),
        *(((metric(one.metric).title,), ("", one)) for one in gaps),
    ]
    title = f"{row.backbone}, {row.question} on {row.test}: by {column}"
    sheet = Sheet(title=title, names=("group",), columns=("rows", "value"), lines=lines)
    sheet.notes += [interval_line(sheet), *result.notes]
    return sheet
