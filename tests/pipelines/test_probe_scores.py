"""Numbers of probes against independent references."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax  # type: ignore[import-untyped]
from sklearn.metrics import balanced_accuracy_score, log_loss  # type: ignore[import-untyped]

from featurebank.pipelines.asking.inputs import SplitRows, class_notes, labelled, left_out
from featurebank.pipelines.asking.intervals import class_scores, likelihoods, probability_scores, row_probabilities
from featurebank.probes.metrics import brier, ece

K = 4


def drawn(rows: int = 300, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = 2 * generator.standard_normal((rows, K))
    labels = (logits + generator.gumbel(size=(rows, K))).argmax(1)
    return labels, log_softmax(logits, axis=1)


def test_probabilities_are_scored_as_the_library_does() -> None:
    labels, log_probabilities = drawn()
    probabilities = np.exp(log_probabilities)
    found = {
        s.metric: s
        for s in probability_scores(
            row_probabilities(labels, np.arange(K), 3 * log_probabilities, temperature=3.0), seed=0
        )
    }
    assert found["nll"].value == pytest.approx(log_loss(labels, probabilities, labels=range(K)), rel=1e-12)
    assert found["brier"].value == pytest.approx(brier(labels, probabilities), rel=1e-12)
    assert found["ece"].value == pytest.approx(ece(labels, probabilities), rel=1e-12)
    for score in found.values():
        assert score.low is not None
        assert score.high is not None
        assert score.low <= score.value <= score.high


def test_classes_are_scored_as_scikit_learn_does() -> None:
    labels, log_probabilities = drawn()
    labels[labels == 2] = 0
    predictions = log_probabilities.argmax(1)
    accuracy, balanced = class_scores(labels, predictions, seed=0)
    assert accuracy.value == (labels == predictions).mean()
    recalls = [(predictions[labels == k] == k).mean() for k in np.unique(labels)]
    assert balanced.value == pytest.approx(np.mean(recalls), rel=1e-12)
    seen = np.isin(predictions, labels)
    kept = class_scores(labels[seen], predictions[seen], seed=0)[1]
    assert kept.value == pytest.approx(balanced_accuracy_score(labels[seen], predictions[seen]), rel=1e-12)


def test_the_interval_of_balanced_accuracy_is_that_of_resampled_rows() -> None:
    labels, log_probabilities = drawn()
    predictions = log_probabilities.argmax(1)
    score = class_scores(labels, predictions, seed=0)[1]
    generator = np.random.default_rng(5)
    values = []
    for _ in range(1500):
        rows = generator.integers(0, len(labels), len(labels))
        values.append(balanced_accuracy_score(labels[rows], predictions[rows]))
    np.testing.assert_allclose(np.array([score.low, score.high], float), np.quantile(values, (0.025, 0.975)), atol=0.01)


def test_the_interval_of_the_ece_of_a_calibrated_classifier_holds_its_value() -> None:
    for seed in range(5):
        labels, log_probabilities = drawn(1000, seed=seed)
        score = probability_scores(
            row_probabilities(labels, np.arange(K), 3 * log_probabilities, temperature=3.0), seed=0
        )[-1]
        assert score.low is not None
        assert score.high is not None
        assert 0 <= score.low <= score.value <= score.high


def test_a_class_that_was_not_fitted_has_probability_0() -> None:
    labels, log_probabilities = drawn()
    without = log_softmax(log_probabilities[:, :3], axis=1)
    rows = row_probabilities(labels, np.arange(3), without)
    found = {s.metric: s.value for s in probability_scores(rows, seed=0)}
    padded = np.exp(np.concatenate([without, np.full((len(labels), 1), -np.inf)], 1))
    assert found["brier"] == pytest.approx(brier(labels, padded), rel=1e-12)
    assert found["ece"] == pytest.approx(ece(labels, padded), rel=1e-12)
    known = labels < 3
    assert found["nll"] == pytest.approx(-without[known, labels[known]].mean(), rel=1e-12)
    kept = likelihoods(rows)
    assert np.isneginf(kept["log_likelihood"][~known]).all()
    np.testing.assert_allclose(kept["log_likelihood"][known], without[known, labels[known]], rtol=1e-6)
    unknown = probability_scores(row_probabilities(np.full(len(labels), 3), np.arange(3), without), seed=0)
    assert [score.metric for score in unknown] == ["brier", "ece"]


def split(labels: list[int], *, name: str = "pets/test", failed: int = 0) -> SplitRows:
    return SplitRows(
        name=name,
        path=Path(),
        features=np.ones((len(labels), 2)),
        labels=np.array(labels),
        class_names=("cat", "dog"),
        rows=np.arange(len(labels)),
        failed=failed,
        total=len(labels) + failed,
    )


def test_rows_left_out_are_counted_with_their_reasons() -> None:
    kept = labelled(split([0, -1, 1, -1], failed=3))
    assert kept.labels.tolist() == [0, 1]
    assert left_out(kept, None) == ["pets/test: 5 of 7 rows left out: 3 failed, 2 unlabelled"]
    assert left_out(labelled(split([0, 1]))) == []


def test_classes_of_one_split_only_are_named() -> None:
    train, test = split([0, 0, 5], name="pets/train"), split([0, 1, 1])
    assert class_notes(train, test) == [
        "classes of pets/test without rows in pets/train: 'dog'; 1 in all, rows counted as wrong: 2",
        "classes of pets/train without rows in pets/test: 5; 1 in all",
    ]


def test_rows_that_no_classifier_can_use_are_one_clear_error() -> None:
    with pytest.raises(ValueError, match="pets/test: expected labelled rows, found none among 2"):
        labelled(split([-1, -1]))
    with pytest.raises(ValueError, match="expected rows with features, found none: 3 of 3 failed"):
        labelled(split([], failed=3))
