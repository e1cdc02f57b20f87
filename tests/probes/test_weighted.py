"""Metrics of weighted rows against the metrics themselves, of repeated rows too."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from featurebank.probes.comparison import paired_bootstrap, paired_statistics
from featurebank.probes.intervals import bootstrap_interval, row_weights, weighted_interval
from featurebank.probes.metrics import multilabel_auroc, multilabel_map
from featurebank.probes.ridge import regression_scores
from featurebank.probes.segmentation import dice, mean_iou
from featurebank.probes.weighted import Statistic, label_auroc, label_precision, masks, mean, regression, value_of

M = 120
GENERATOR = np.random.default_rng(0)
LABELS = GENERATOR.integers(-1, 2, (M, 3))
SCORES = GENERATOR.integers(0, 30, (M, 3)) / 30 + 0.1 * LABELS
TRUTH = GENERATOR.normal(size=(M, 2))
FOUND = TRUTH + GENERATOR.normal(size=(M, 2))
PARTS = GENERATOR.integers(0, 9, (M, 4, 4))
PARTS[:, 3] = PARTS[:, :, 3] = 0  # a class that is nowhere


def metric_of(name: str, rows: NDArray[np.intp]) -> float:
    if name in ("r2", "mae", "rmse"):
        return float(getattr(regression_scores(TRUTH[rows], FOUND[rows]), name))
    if name in ("miou", "dice"):
        return {"miou": mean_iou, "dice": dice}[name](PARTS[rows].sum(0)).mean
    if name == "pixel_accuracy":
        return float(np.trace(PARTS[rows].sum(0)) / PARTS[rows].sum())
    return {"auroc": multilabel_auroc, "map": multilabel_map}[name](LABELS[rows], SCORES[rows]).mean


def statistic_of(name: str) -> Statistic:
    if name in ("r2", "mae", "rmse"):
        return regression(TRUTH, FOUND, name)
    if name in ("miou", "dice", "pixel_accuracy"):
        return masks(PARTS, name)
    return {"auroc": label_auroc, "map": label_precision}[name](LABELS, SCORES)


@pytest.mark.parametrize("name", ["r2", "mae", "rmse", "miou", "dice", "pixel_accuracy", "auroc", "map"])
def test_a_statistic_of_counts_is_the_metric_of_the_drawn_rows(name: str) -> None:
    statistic = statistic_of(name)
    assert value_of(statistic, M) == pytest.approx(metric_of(name, np.arange(M)), rel=1e-12)
    generator = np.random.default_rng(1)
    drawn = [generator.integers(0, M, M) for _ in range(5)]
    weights = np.array([np.bincount(rows, minlength=M) for rows in drawn], np.float64)
    np.testing.assert_allclose(statistic(weights), [metric_of(name, rows) for rows in drawn], rtol=1e-9)


def test_intervals_and_paired_tests_are_those_of_drawn_rows() -> None:
    expected = bootstrap_interval(TRUTH, FOUND, metric=lambda a, b: float(regression_scores(a, b).r2), draws=1500)
    np.testing.assert_allclose(weighted_interval(regression(TRUTH, FOUND, "r2"), M), expected, atol=0.05)
    first, second = FOUND[:, 0], 0.5 * FOUND[:, 1] + 0.1
    by_rows, found = paired_bootstrap(first, second), paired_statistics(mean(first), mean(second), M)
    assert found.difference == pytest.approx(by_rows.difference, rel=1e-12)
    np.testing.assert_allclose((found.low, found.high), (by_rows.low, by_rows.high), atol=0.03)
    assert found.p_value == pytest.approx(by_rows.p_value, abs=0.03)
    same = paired_statistics(masks(PARTS, "miou"), masks(PARTS, "miou"), M, draws=50)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_draws_that_define_nothing_are_passed_over() -> None:
    labels, scores = np.array([[1], [0], [0], [0], [0]]), np.array([[0.9], [0.1], [0.2], [0.95], [0.3]])
    low, high = weighted_interval(label_auroc(labels, scores), 5)
    assert 0 < low < high == 1
    with pytest.raises(ValueError, match="must be defined for some drawn rows"):
        weighted_interval(lambda weights: np.full(len(weights), np.nan), 5)


def test_weights_count_as_many_rows_as_there_are() -> None:
    weights = np.concatenate(list(row_weights(7, draws=300)))
    assert weights.shape == (300, 7)
    assert (weights.sum(1) == 7).all()
    assert weights.mean(0) == pytest.approx(np.ones(7), abs=0.2)


def test_f9_the_bootstrap_of_masks_holds_no_confusion_matrix_a_draw() -> None:
    parts = np.random.default_rng(0).integers(0, 9, (400, 100, 100), dtype=np.int32)
    tracemalloc.start()
    try:
        low, high = weighted_interval(masks(parts, "miou"), 400)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert low < value_of(masks(parts, "miou"), 400)
    assert value_of(masks(parts, "miou"), 400) < high
    assert peak < 2 * parts.nbytes
