"""Draws: stratified, nested, the same everywhere; accuracies over draws by hand and Student's interval by SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

from featurebank.probes.few_labels import FewLabelsProbe
from featurebank.probes.fewshot import few_shot, fraction_rows, k_shot_rows, label_efficiency_curve
from featurebank.probes.neighbours import NearestClassMean

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)
GOLDEN = [0, 2, 11, 17, 20, 21, 35, 38]


def digits() -> tuple[Any, Any, Any, Any]:
    x, y = load_digits(return_X_y=True)
    return x[:900].astype(np.float16), y[:900], x[900:].astype(np.float16), y[900:]


# Rows.


@given(LABELS, st.integers(0, 3), st.integers(0, 2**63))
def test_shots_are_k_of_each_class_and_nested(labels: list[int], draw: int, seed: int) -> None:
    least = np.unique_counts(labels).counts.min()
    before: set[int] = set()
    for k in range(1, least + 1):
        rows = k_shot_rows(labels, k, draw, seed)
        assert (np.diff(rows) > 0).all()
        assert set(np.unique_counts(np.array(labels)[rows]).counts) == {k}
        assert len(rows) == k * len(set(labels))
        assert before <= set(rows.tolist())
        before = set(rows.tolist())


@given(LABELS, st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=5), st.integers(0, 3))
def test_fractions_are_stratified_and_nested(labels: list[int], fractions: list[float], draw: int) -> None:
    before: set[int] = set()
    for fraction in sorted(fractions):
        rows = fraction_rows(labels, fraction, draw)
        drawn = np.array(labels)[rows]
        for label in set(labels):
            assert (drawn == label).sum() == max(1, int(fraction * labels.count(label) + 0.5))
        assert before <= set(rows.tolist())
        before = set(rows.tolist())
    assert fraction_rows(labels, 1.0, draw).tolist() == list(range(len(labels)))


def test_draws_are_the_same_on_every_machine() -> None:
    labels = np.arange(40) % 4
    assert k_shot_rows(labels, 2, draw=0, random_state=0).tolist() == GOLDEN
    assert k_shot_rows(labels.astype(np.int32), 2).tolist() == GOLDEN
    assert k_shot_rows(labels, 2, draw=1).tolist() != GOLDEN
    assert k_shot_rows(labels, 2, random_state=1).tolist() != GOLDEN


def test_every_row_is_as_likely() -> None:
    counts = np.zeros(10)
    for draw in range(4000):
        counts[k_shot_rows([0] * 10, 3, draw)] += 1
    assert stats.chisquare(counts).pvalue > 0.001


# Accuracy over draws.


def test_it_is_the_loop_over_draws() -> None:
    x, y, x_test, y_test = digits()
    found = few_shot(
        x, y, x_test, y_test, 5, draws=4, estimator_factory=lambda: KNeighborsClassifier(1), random_state=7
    )
    expected = []
    for draw in range(4):
        rows = k_shot_rows(y, 5, draw, 7)
        expected.append(KNeighborsClassifier(1).fit(x[rows], y[rows]).score(x_test, y_test))
    assert found.accuracies == tuple(expected)
    assert len(set(expected)) > 1
    assert (found.shots, found.fraction, found.rows) == (5, None, 50)
    interval = stats.t.interval(0.95, 3, np.mean(expected), stats.sem(expected))
    np.testing.assert_allclose((found.mean, found.low, found.high), (np.mean(expected), *interval), rtol=1e-12)


def test_the_curve_rises_and_ends_at_the_classifier_of_all_rows() -> None:
    x, y, x_test, y_test = digits()
    curve = label_efficiency_curve(x, y, x_test, y_test, shots=(1, 4, 16), fractions=(0.01, 0.1, 1.0), draws=3)
    assert [(p.shots, p.fraction, p.rows) for p in curve] == [
        (1, None, 10),
        (4, None, 40),
        (16, None, 160),
        (None, 0.01, 10),
        (None, 0.1, len(fraction_rows(y, 0.1))),
        (None, 1.0, 900),
    ]
    assert curve[0].mean < curve[1].mean < curve[2].mean
    assert curve[3].accuracies == curve[0].accuracies
    assert curve[5].accuracies == (NearestClassMean().fit(x, y).score(x_test, y_test),) * 3
    assert curve[5].low == curve[5].mean == curve[5].high
    assert curve[1] == few_shot(x, y, x_test, y_test, 4, draws=3)


def test_d3_a_class_of_fewer_rows_gives_all_of_them_and_is_named() -> None:
    assert k_shot_rows([0, 0, 1], 2).tolist() == [0, 1, 2]
    x, y, x_test, y_test = digits()
    kept = np.flatnonzero((y != 3) | (np.cumsum(y == 3) == 1))
    only = int(kept[y[kept] == 3][0])
    for factory in (None, FewLabelsProbe):
        found = few_shot(x[kept], y[kept], x_test, y_test, 5, draws=2, estimator_factory=factory)
        assert (found.rows, found.short) == (46, (3,))
        assert found.mean > 0.5
    for draw in range(2):
        assert only in kept[k_shot_rows(y[kept], 5, draw)]
    assert few_shot(x, y, x_test, y_test, 5, draws=2).short == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda _x, _y: k_shot_rows([0, 0, 1], 3),
            "some class must have at least k = 3 rows; found at most 2; lower k",
        ),
        (lambda _x, _y: k_shot_rows([0, 1], 0), "k must be at least 1; found 0"),
        (lambda _x, _y: k_shot_rows([0, -1], 1), "found -1; leave out unlabelled rows"),
        (lambda _x, _y: k_shot_rows([], 1), "integer classes"),
        (lambda _x, _y: k_shot_rows([[0, 1]], 1), "integer classes; found int64 of shape .1, 2."),
        (lambda _x, _y: k_shot_rows([0.0, 1.0], 1), "found float64"),
        (lambda _x, _y: k_shot_rows([0, 1], 1, draw=-1), "draw and random_state"),
        (lambda _x, _y: fraction_rows([0, 1], 0.0), "above 0 and at most 1; found 0.0"),
        (lambda _x, _y: fraction_rows([0, 1], 1.5), "found 1.5"),
        (lambda x, y: few_shot(x, y, x, y, 1, draws=1), "draws must be at least 2"),
        (lambda x, y: few_shot(x, y[:5], x, y, 1), "train labels"),
        (lambda x, y: few_shot(x, y, x, y[:5], 1), "test labels"),
        (lambda x, y: few_shot(x, y, x[:, :5], y, 1), "same D"),
        (lambda x, y: label_efficiency_curve(x, y, x, y), "found neither"),
    ],
)
def test_bad_input_is_one_clear_error(call: Any, message: str) -> None:
    x, y, _, _ = digits()
    with pytest.raises(ValueError, match=message):
        call(x, y)
