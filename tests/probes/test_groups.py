"""Group reports against loops over the groups, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from featurebank.probes.groups import GroupReport, RateGaps, group_report

M, K = 800, 4


def unequal() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.str_]]:
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, K, M), generator.choice(["ward", "clinic", "home"], M, p=[0.6, 0.35, 0.05])
    wrong = generator.random(M) < np.where(groups == "clinic", 0.4, 0.1)
    return labels, np.where(wrong, generator.integers(0, K, M), labels), groups


def all_gaps(report: GroupReport) -> list[RateGaps]:
    return [report.demographic_parity, report.true_positive, report.false_positive, report.equalised_odds]


def wilson(values: NDArray[np.bool_]) -> tuple[float, float]:
    ends = stats.binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
    return ends.low, ends.high


def newcombe(parts: list[NDArray[np.bool_]]) -> tuple[float, float]:
    """The lower end of the extreme groups, the greatest upper end of any two."""
    shares, ends = [part.mean() for part in parts], [wilson(part) for part in parts]
    i, j = int(np.argmax(shares)), int(np.argmin(shares))
    low = shares[i] - shares[j] - np.hypot(shares[i] - ends[i][0], ends[j][1] - shares[j])
    highs = [
        shares[a] - shares[b] + np.hypot(ends[a][1] - shares[a], shares[b] - ends[b][0])
        for a in range(len(parts))
        for b in range(len(parts))
        if a != b
    ]
    return max(low, 0.0), min(max(highs), 1.0)


def gaps_by_loop(is_k: NDArray[np.bool_], says_k: NDArray[np.bool_], groups: NDArray[Any]) -> list[float]:
    """Demographic parity, true-positive, false-positive and equalised-odds gap of one class."""
    gaps = []
    for among in (np.ones(len(groups), bool), is_k, ~is_k):
        subsets = [says_k[among & (groups == name)] for name in np.unique(groups)]
        rates = [subset.mean() for subset in subsets if len(subset)]
        gaps.append(max(rates) - min(rates) if len(rates) > 1 else float("nan"))
    return [*gaps, float(np.max(gaps[1:]))]


@pytest.mark.parametrize("absent", [False, True], ids=["all classes", "a class in one group only"])
def test_every_number_is_the_one_of_a_loop(absent: bool) -> None:
    labels, predictions, groups = unequal()
    if absent:
        labels[(labels == 2) & (groups != "ward")] = 1
    report = group_report(labels, predictions, groups)
    assert report.groups.tolist() == ["clinic", "home", "ward"]
    correct = labels == predictions
    for g, name in enumerate(report.groups):
        rows = groups == name
        assert report.sizes[g] == rows.sum()
        assert report.accuracy[g] == pytest.approx(correct[rows].mean(), rel=1e-15)
        assert (report.low[g], report.high[g]) == pytest.approx(wilson(correct[rows]), rel=1e-12)
    assert report.worst == "clinic"
    assert report.gap == report.accuracy.max() - report.accuracy.min()
    for k in range(K):
        expected = gaps_by_loop(labels == k, predictions == k, groups)
        np.testing.assert_allclose([gaps.values[k] for gaps in all_gaps(report)], expected, rtol=1e-13)
    for gaps in all_gaps(report):
        assert np.isnan(gaps.low).tolist() == np.isnan(gaps.high).tolist() == np.isnan(gaps.values).tolist()
    assert np.isnan(report.true_positive.values).tolist() == [False, False, absent, False]
    assert np.isnan(report.equalised_odds.values).tolist() == [False, False, absent, False]


@pytest.mark.parametrize("k", [0, 3])
def test_the_intervals_of_gaps_are_newcombes_of_any_two_groups(k: int) -> None:
    labels, predictions, groups = unequal()
    report = group_report(labels, predictions, groups)
    is_k, says_k = labels == k, predictions == k
    for gaps, among in zip(all_gaps(report), (np.ones(M, bool), is_k, ~is_k), strict=False):
        low, high = newcombe([says_k[among & (groups == name)] for name in report.groups])
        assert (gaps.low[k], gaps.high[k]) == pytest.approx((low, high), rel=1e-9)
        assert gaps.low[k] <= gaps.values[k] <= gaps.high[k]
    parts = [(labels == predictions)[groups == name] for name in report.groups]
    assert (report.gap_low, report.gap_high) == pytest.approx(newcombe(parts), rel=1e-9)


def test_a8_groups_that_are_all_right_are_not_certain() -> None:
    labels = np.zeros(13, np.int64)
    report = group_report(labels, labels, np.repeat(["a", "b"], [10, 3]))
    assert report.low.round(3).tolist() == [0.722, 0.439]
    assert report.high.tolist() == [1.0, 1.0]
    assert (report.gap, report.gap_low) == (0.0, 0.0)
    assert report.gap_high == pytest.approx(1 - 0.438494, abs=1e-5)
    assert report.demographic_parity.high[0] > 0.5


def test_columns_of_any_kind_give_the_same_report() -> None:
    labels, predictions, groups = unequal()
    numbers = np.unique(groups, return_inverse=True)[1]
    reports = [
        group_report(labels, predictions, column)
        for column in (groups, groups.astype(object), numbers, numbers.astype(np.uint8), np.char.encode(groups))
    ]
    for report in reports:
        assert report.accuracy.tolist() == reports[0].accuracy.tolist()
        assert report.gap_high == reports[0].gap_high
    assert [report.worst for report in reports] == ["clinic", "clinic", 0, 0, b"clinic"]


def test_scores_stand_for_their_greatest_class() -> None:
    labels, predictions, groups = unequal()
    scores = np.eye(K, dtype=np.float16)[predictions]
    found, expected = (group_report(labels, given, groups) for given in (scores, predictions))
    assert found.demographic_parity.values.tolist() == expected.demographic_parity.values.tolist()


def test_small_groups_and_missing_classes_are_warned_about_in_the_result() -> None:
    labels, predictions, groups = unequal()
    labels[(labels == 2) & (groups == "ward")] = 1
    size = (groups == "home").sum()
    assert group_report(labels, predictions, groups, small=size + 1).warnings == (
        f"group 'home' has {size} rows, fewer than {size + 1}: its accuracy is uncertain",
        "group 'ward' has no rows of 1 of 4 classes: their true-positive rates leave it out",
    )
    assert group_report(*unequal(), small=size).warnings == ()


def test_equal_groups_have_no_gaps() -> None:
    labels, predictions = np.tile([0, 1, 2], 20), np.tile([0, 1, 1], 20)
    report = group_report(labels, predictions, np.repeat([0, 1], 30))
    assert report.gap == 0
    assert report.demographic_parity.values.tolist() == report.equalised_odds.values.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y, p, g: (y, p, g[:-1]), r"one per row, \(800,\)"),
        (lambda y, p, _: (y, p, np.full(M, "x")), "at least two groups, got only 'x'"),
        (lambda y, p, _: (y, p, np.full(M, 0.5)), "strings or integers.*cut a continuous column into bins"),
        (lambda y, p, g: (y, p, np.array([None, *g[1:]], object)), "must all be strings"),
        (lambda y, p, g: (y, p[:-1], g), "predictions must have one value per row, 800, got 799"),
        (lambda y, p, g: (y - 1, p, g), "labels must be 0 or above"),
        (lambda y, _, g: (y, np.zeros((M, 3)), g), r"labels must be in 0\.\.2"),
        (lambda y, p, g: (y[:0], p[:0], g[:0]), "at least one row"),
    ],
)
def test_bad_input_is_one_clear_error(change: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_report(*change(*unequal()))
