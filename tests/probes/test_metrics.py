"""The metrics against scikit-learn, torchmetrics and formulas in float64, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats  # type: ignore[import-untyped]
from sklearn import metrics as sk  # type: ignore[import-untyped]
from torchmetrics.functional import classification as tm

from featurebank.probes import _rows, intervals, metrics, segmentation
from featurebank.probes.intervals import bootstrap_interval, bootstrap_means
from featurebank.probes.metrics import (
    accuracy,
    auroc,
    average_precision,
    balanced_accuracy,
    brier,
    confidence_bins,
    ece,
    multilabel_auroc,
    multilabel_map,
    nll,
    per_class_accuracy,
    top_k_accuracy,
)
from featurebank.probes.segmentation import confusion_matrix, dice, mean_iou

M, K = 600, 7
DTYPES = ("float16", "float32", "float64")


def scored(dtype: str = "float64", seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, K, M)
    logits = generator.normal(size=(M, K)) * 2
    logits[np.arange(M), labels] += 1
    return labels, logits.astype(dtype)


def probable(dtype: str = "float64") -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    labels, logits = scored()
    return labels, special.softmax(logits, axis=1).astype(dtype)


@pytest.fixture(params=[1 << 20, 10], ids=["one block", "a block per row"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_rows, "SLICE_VALUES", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_accuracies_are_scikit_learns(dtype: str) -> None:
    labels, scores = scored(dtype)
    labels[labels == 3] = 2  # a class that is predicted but has no rows
    predicted = scores.argmax(1)
    assert accuracy(labels, scores) == accuracy(labels, predicted) == sk.accuracy_score(labels, predicted)
    present = np.delete(np.arange(K), 3)
    recalls = sk.recall_score(labels, predicted, labels=present, average=None)
    found = per_class_accuracy(labels, scores)
    np.testing.assert_allclose(found.values[present], recalls, rtol=1e-15)
    assert np.isnan(found.values[3])
    assert balanced_accuracy(labels, predicted) == found.mean == pytest.approx(recalls.mean(), rel=1e-15)
    assert len(per_class_accuracy(labels, predicted, classes=12).values) == 12


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_top_k_is_scikit_learns(dtype: str) -> None:
    labels, scores = scored()
    order = scores.argsort(1).argsort(1).astype(dtype)  # no ties in any precision
    for k in range(1, K):
        assert top_k_accuracy(labels, order, k=k) == sk.top_k_accuracy_score(labels, order, k=k)
    assert top_k_accuracy(labels, order, k=K) == 1


def test_top_k_ties_go_to_the_lower_class() -> None:
    tied = np.zeros((4, 4), np.float32)
    assert [top_k_accuracy([0, 0, 1, 3], tied, k=k) for k in range(1, 5)] == [0.5, 0.75, 0.75, 1]
    assert top_k_accuracy([0, 0, 1, 3], tied, k=1) == accuracy([0, 0, 1, 3], tied)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("float32", 1e-6), ("float64", 1e-14)])
def test_nll_and_brier_are_their_formulas(dtype: str, tolerance: float) -> None:
    labels, probabilities = probable()
    assert nll(labels, np.log(probabilities).astype(dtype)) == pytest.approx(
        sk.log_loss(labels, probabilities), rel=tolerance
    )
    squares = ((probabilities - np.eye(K)[labels]) ** 2).sum(1).mean()
    assert brier(labels, probabilities.astype(dtype)) == pytest.approx(squares, rel=tolerance)


def test_brier_of_two_classes_is_twice_scikit_learns() -> None:
    labels, positive = np.array([0, 1, 1]), np.array([0.2, 0.7, 0.4])
    both = np.stack([1 - positive, positive], 1)
    assert brier(labels, both) == pytest.approx(2 * sk.brier_score_loss(labels, positive), rel=1e-14)


def test_a_label_of_probability_zero_costs_infinitely_much() -> None:
    assert nll([0, 1], np.array([[0.0, -np.inf], [0.0, -np.inf]])) == np.inf


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_closed_on_the_left_is_torchmetrics(norm: Any, bins: int) -> None:
    labels, probabilities = probable("float32")
    probabilities[:5] = np.eye(K, dtype=np.float32)[0]  # exactly 1: a bin of its own
    expected = tm.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=K, n_bins=bins, norm=norm
    )
    assert ece(labels, probabilities, bins=bins, norm=norm, closed="left") == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_ece_closed_on_the_right_is_the_one_of_guo(dtype: str) -> None:
    labels, probabilities = probable(dtype)
    confidence, correct = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    expected = 0.0
    for low in range(15):
        rows = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if rows.any():
            expected += rows.mean() * abs(correct[rows].mean() - confidence[rows].mean())
    assert ece(labels, probabilities) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_confidence_on_an_edge_falls_where_the_convention_says(dtype: str) -> None:
    probabilities = np.array([[0.6, 0.4], [1.0, 0.0]], dtype)
    assert confidence_bins([0, 0], probabilities, bins=5)[0].tolist() == [0, 0, 1, 0, 1]
    assert confidence_bins([0, 0], probabilities, bins=5, closed="left")[0].tolist() == [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("levels", [3, 1000])
def test_auroc_and_average_precision_are_scikit_learns(dtype: str, levels: int) -> None:
    generator = np.random.default_rng(levels)
    labels = generator.integers(0, 2, M)
    scores = (generator.integers(0, levels, M) / levels + 0.2 * labels).astype(dtype)
    wide = scores.astype(np.float64)
    assert auroc(labels, scores) == pytest.approx(sk.roc_auc_score(labels, wide), rel=1e-14)
    assert average_precision(labels, scores) == pytest.approx(sk.average_precision_score(labels, wide), rel=1e-13)
    u = stats.mannwhitneyu(wide[labels == 1], wide[labels == 0]).statistic
    assert auroc(labels, scores) == u / ((labels == 1).sum() * (labels == 0).sum())


def test_ranking_of_constant_scores_is_chance() -> None:
    labels = np.array([0, 1, 1, 0, 1])
    assert auroc(labels, np.zeros(5)) == 0.5
    assert average_precision(labels, np.zeros(5)) == 0.6


@pytest.mark.parametrize("missing", ["mask", "minus one", "both"])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(multilabel_auroc, sk.roc_auc_score), (multilabel_map, sk.average_precision_score)],
    ids=["auroc", "map"],
)
def test_missing_labels_are_left_out_label_by_label(missing: str, ours: Any, theirs: Callable[..., float]) -> None:
    generator = np.random.default_rng(3)
    truth, scores = generator.integers(0, 2, (M, 5)), generator.normal(size=(M, 5)).astype(np.float16)
    masked, dropped = generator.random((M, 5)) < 0.3, generator.random((M, 5)) < 0.3
    absent = {"mask": masked, "minus one": dropped, "both": masked | dropped}[missing]
    truth[~absent[:, 4], 4] = 1  # known rows of one class only
    given = np.where(dropped, -1, truth) if missing != "mask" else truth
    found = ours(given, scores, known=None if missing == "minus one" else ~masked)
    expected = [theirs(truth[~absent[:, j], j], scores[~absent[:, j], j]) for j in range(4)]
    np.testing.assert_allclose(found.values[:4], expected, rtol=1e-13)
    assert np.isnan(found.values[4])
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-14)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("ignore_index", [None, 255, 0])
def test_segmentation_is_torchmetrics(ignore_index: int | None) -> None:
    generator = np.random.default_rng(0)
    masks = generator.integers(0, 4, (6, 8, 8)).astype(np.uint8)
    predictions = np.where(generator.random(masks.shape) < 0.5, masks, generator.integers(0, 4, masks.shape))
    if ignore_index == 255:
        masks[generator.random(masks.shape) < 0.2] = 255
    matrix = confusion_matrix(masks, predictions, classes=5, ignore_index=ignore_index)  # class 4 never occurs
    given: dict[str, Any] = {"num_classes": 5, "ignore_index": ignore_index}
    pair = torch.from_numpy(predictions), torch.from_numpy(masks.astype(np.int64))
    assert matrix.tolist() == tm.multiclass_confusion_matrix(*pair, **given).tolist()
    for ours, theirs in ((mean_iou, tm.multiclass_jaccard_index), (dice, tm.multiclass_f1_score)):
        found = ours(matrix, ignore_index=ignore_index)
        first = 1 if ignore_index == 0 else 0
        each = theirs(*pair, average=None, **given)
        np.testing.assert_allclose(found.values[first:4], each[first:4], rtol=1e-6)
        assert np.isnan(np.delete(found.values, np.arange(first, 4))).all()
        assert found.mean == pytest.approx(found.values[first:4].mean(), rel=1e-15)
    assert mean_iou(matrix, ignore_index=ignore_index).mean == pytest.approx(
        float(tm.multiclass_jaccard_index(*pair, average="macro", **given)), rel=1e-6
    )


def test_confusion_matrices_of_parts_add_up() -> None:
    labels, scores = scored()
    predicted = scores.argmax(1)
    total = np.zeros((K, K), np.int64)
    for part in np.array_split(np.arange(M), 7):
        total += confusion_matrix(labels[part], predicted[part], classes=K)
    assert total.tolist() == sk.confusion_matrix(labels, predicted).tolist()


def test_the_interval_of_right_and_wrong_is_the_binomials() -> None:
    correct = np.arange(500) % 5 != 0
    low, high = bootstrap_interval(correct, draws=200_000, random_state=4)
    assert (low * 500, high * 500) == (stats.binom.ppf(0.025, 500, 0.8), stats.binom.ppf(0.975, 500, 0.8))
    assert (low, high) == bootstrap_interval(correct, draws=200_000, random_state=4)


@pytest.mark.parametrize("kind", ["bool", "few values", "float16", "metric", "strata"])
def test_intervals_are_scipys(kind: str) -> None:
    generator = np.random.default_rng(0)
    values: NDArray[Any] = generator.gamma(2, size=400).astype(np.float16)
    if kind == "bool":
        values = generator.random(400) < 0.7
    elif kind == "few values":
        values = generator.integers(-1, 2, 400)
    given: dict[str, Any] = {}
    if kind == "metric":
        given["metric"] = lambda rows: float(rows.astype(np.float64).mean())
    elif kind == "strata":
        given["strata"] = np.zeros(400, np.int64)
    expected = stats.bootstrap(
        (values.astype(np.float64),), np.mean, n_resamples=20000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = bootstrap_interval(values, draws=20000, **given)
    np.testing.assert_allclose(found, expected, atol=0.05 * (expected.high - expected.low))
    assert found == bootstrap_interval(values, draws=20000, **given)


def test_wider_levels_give_wider_intervals() -> None:
    values = np.random.default_rng(0).normal(size=100)
    (low, high), (inner_low, inner_high) = (bootstrap_interval(values, level=level) for level in (0.99, 0.5))
    assert low < inner_low < inner_high < high


@pytest.mark.usefixtures("blocks")
def test_drawn_means_have_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=300)
    means = bootstrap_means(values, draws=4000)
    assert (means != bootstrap_means(values, draws=4000, random_state=1)).any()
    assert means.mean() == pytest.approx(values.mean(), abs=0.005)
    assert means.std() == pytest.approx(values.std() / np.sqrt(300), rel=0.05)


def test_strata_keep_a_rare_class_in_every_draw() -> None:
    labels, scores = np.arange(200) < 2, np.random.default_rng(0).normal(size=200)
    low, high = bootstrap_interval(labels, scores, metric=auroc, strata=labels, draws=200)
    assert low < auroc(labels, scores) < high
    with pytest.raises(ValueError, match="both classes"):
        bootstrap_interval(labels, scores, metric=auroc, draws=200)


def test_read_only_memory_maps_are_taken(tmp_path: Path) -> None:
    labels, probabilities = probable("float16")
    np.save(tmp_path / "scores.npy", probabilities)
    mapped = np.load(tmp_path / "scores.npy", mmap_mode="r")
    for metric in (accuracy, top_k_accuracy, brier, ece):
        assert metric(labels, mapped) == metric(labels, probabilities)


ROWS = np.full((4, 3), 1 / 3)
LABELS = [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([], []), "at least one row"),
        (lambda: accuracy(LABELS, [0, 1]), "predictions must have one value per row, 4, got 2"),
        (lambda: accuracy([0.5, 1], [0, 1]), "labels must be integers"),
        (lambda: accuracy([0, -1], [0, 1]), r"labels must be 0 or above, got -1\.\.0"),
        (lambda: accuracy([0, 1, 2, 3], ROWS), r"labels must be in 0\.\.2, got 0\.\.3"),
        (lambda: per_class_accuracy([0, 1], [0, 4], classes=3), r"predictions must lie in 0\.\.2, got up to 4"),
        (lambda: top_k_accuracy(LABELS, ROWS, k=4), r"k must be in 1\.\.3"),
        (lambda: top_k_accuracy(LABELS, ROWS, k=0), r"k must be in 1\.\.3"),
        (lambda: top_k_accuracy(LABELS, ROWS * np.nan, k=1), "finite, got nan in row 0, column 0"),
        (lambda: top_k_accuracy(LABELS, ROWS[:3], k=1), "one value per row, 3, got 4"),
        (lambda: accuracy(LABELS, ROWS + np.inf), "finite, got inf"),
        (lambda: accuracy(LABELS, ROWS[:3]), "one row per label, 4, got 3"),
        (lambda: top_k_accuracy(LABELS, ROWS > 0), r"floating-point of shape \(M, K\), not empty, got bool"),
        (lambda: nll(LABELS, ROWS), "exponentials of log_probabilities must sum to 1, got 4.18684 in row 0"),
        (lambda: brier(LABELS, ROWS * 2), "probabilities must sum to 1, got 2 in row 0; pass softmax"),
        (lambda: brier(LABELS, ROWS - [1, 0, -1]), "must not be below 0"),
        (lambda: ece(LABELS, ROWS, bins=0), "bins must be at least 1"),
        (lambda: ece(LABELS, ROWS, norm="l3"), "norm must be 'l1', 'l2' or 'max'"),  # type: ignore[arg-type]
        (lambda: ece(LABELS, ROWS, closed="both"), "closed 'right' or 'left'"),  # type: ignore[arg-type]
        (lambda: auroc([1, 1], [0.1, 0.2]), "rows of both classes, 0 and 1, got only 1"),
        (lambda: auroc([0, 2], [0.1, 0.2]), r"labels must be in 0\.\.1"),
        (lambda: auroc([0, 1], [0.1, np.nan]), "scores must be finite, got nan in row 1"),
        (lambda: average_precision([0, 1], [0.1]), "one value per label, 2, got 1"),
        (lambda: multilabel_map([[1, 1]], np.ones((1, 2))), "known rows of both classes, got none of 2"),
        (lambda: multilabel_map([[0, 2]], np.ones((1, 2))), r"labels must be 0, 1, or -1 where not known"),
        (lambda: multilabel_auroc([[0, 1]], np.ones((1, 3))), r"scores' shape \(1, 3\)"),
        (lambda: confusion_matrix([0, 3], [0, 1], classes=3), r"labels must lie in 0\.\.2, got 0\.\.3"),
        (lambda: confusion_matrix([0, 1], [0, 255], classes=3), r"predictions must lie in 0\.\.2"),
        (lambda: confusion_matrix([0], [0, 1], classes=3), "integers of the same shape"),
        (lambda: mean_iou(np.zeros((3, 3), np.int64)), "at least one of 3 classes must occur"),
        (lambda: dice(np.zeros((3, 2), np.int64)), r"\(K, K\) counts"),
        (lambda: bootstrap_interval([]), "at least one"),
        (lambda: bootstrap_interval([1.0, np.nan]), "finite, got nan in row 1"),
        (lambda: bootstrap_interval([1.0], level=1.0), "level must be between 0 and 1"),
        (lambda: bootstrap_interval([1], [1, 2], metric=accuracy), "same rows"),
        (lambda: bootstrap_interval([1], [1]), "2 arrays need a metric"),
    ],
)
def test_bad_input_is_one_clear_error(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("module", [intervals, metrics, segmentation])
def test_all_is_exactly_the_public_names(module: ModuleType) -> None:
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    assert sorted(name for name in own if not name.startswith("_")) == module.__all__
