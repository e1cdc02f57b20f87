"""LogME against the authors' algorithm and its golden values; neighbours and class means against loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

from featurebank.probes.transferability import class_mean_predictions, log_me, neighbour_predictions

Floats = NDArray[np.float64]
DIGITS, LABELS = load_digits(return_X_y=True)


def icml(F: Floats, y: NDArray[np.int64], *, epsilon: float, steps: int, close: float) -> float:
    """The algorithm of the paper's first code, D x D, with a factor for each of the D columns."""
    (n, d), evidences = F.shape, []
    values, vectors = np.linalg.eigh(F.T @ F)
    values = np.maximum(values, 0)
    for label in np.unique(y):
        target = (y == label).astype(float)
        inner = vectors.T @ (F.T @ target)
        alpha = beta = 1.0
        for _ in range(steps):
            before = alpha / beta
            gamma = (values / (values + before)).sum()
            m = vectors @ (inner * beta / (alpha + beta * values))
            weights, missed = m @ m, np.square(target - F @ m).sum()
            alpha, beta = gamma / (weights + epsilon), (n - gamma) / (missed + epsilon)
            if abs(alpha / beta - before) / before < close:
                break
        evidences.append(
            d / 2 * float(np.log(alpha)) + n / 2 * np.log(beta) - np.log(alpha + beta * values).sum() / 2
            - beta / 2 * (missed + epsilon) - alpha / 2 * (weights + epsilon) - n / 2 * np.log(2 * np.pi)
        )  # fmt: skip
    return sum(map(float, evidences)) / len(evidences) / len(F)


@pytest.mark.parametrize(("rows", "golden"), [(1797, 0.270216), (50, 0.080337)])
def test_log_me_is_the_authors_without_their_constants(rows: int, golden: float) -> None:
    X, y = DIGITS[:rows], LABELS[:rows]
    assert icml(X, y, epsilon=1e-5, steps=11, close=0.01) == pytest.approx(golden, abs=1e-6)
    assert log_me(X, y) == pytest.approx(icml(X, y, epsilon=0, steps=500, close=1e-10), abs=1e-6)


def test_the_digits_have_the_evidence_that_is_known_of_them() -> None:
    assert log_me(DIGITS, LABELS) == pytest.approx(0.270278, abs=1e-6)


def test_columns_of_zeros_and_the_scale_change_nothing() -> None:
    X, y = DIGITS[:50], LABELS[:50]
    plain = log_me(X, y)
    assert log_me(np.hstack([X, np.zeros((50, 1216))]), y) == pytest.approx(plain, rel=1e-9)
    assert log_me(X * 1000, y) == pytest.approx(plain, rel=1e-6)


def test_noise_of_many_columns_is_worse_than_digits() -> None:
    noise = np.random.default_rng(0).normal(size=(50, 1280))
    assert log_me(noise, LABELS[:50]) < 0 < log_me(DIGITS[:50], LABELS[:50])


@pytest.mark.parametrize("seed", range(4))
def test_few_rows_of_many_columns_and_classes_of_one_row_have_an_evidence(seed: int) -> None:
    generator = np.random.default_rng(seed)
    X = np.maximum(generator.normal(size=(20, 300)), 0) * generator.random(300) ** 8
    y = np.array([0] * 12 + [1] * 7 + [2])
    X[-1] = 0.0 if seed % 2 else X[-1] * 1000
    assert np.isfinite(log_me(X, y))
    assert np.isfinite(log_me(np.zeros((20, 3)), y))


def test_neighbours_vote_without_the_row_itself() -> None:
    X, y = DIGITS[:80] - DIGITS[:80].mean(0), LABELS[:80] + 3
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = []
    for row in range(80):
        cosines = unit @ unit[row]
        cosines[row] = -2
        nearest = np.argsort(-cosines)[:5]
        votes = Counter(y[nearest].tolist())
        most = [label for label, count in votes.items() if count == max(votes.values())]
        sums = {label: cosines[nearest][y[nearest] == label].sum() for label in most}
        expected.append(max(most, key=lambda label: sums[label]))
    np.testing.assert_array_equal(neighbour_predictions(X, y), expected)


def test_class_means_are_without_the_row_itself() -> None:
    X, y = DIGITS[:60], np.where(np.arange(60) == 7, 99, LABELS[:60])
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    expected = []
    for row in range(60):
        others = np.arange(60) != row
        means = {label: unit[others & (y == label)].mean(0) for label in np.unique(y[others])}
        cosines = {label: unit[row] @ mean / np.linalg.norm(mean) for label, mean in means.items()}
        expected.append(max(cosines, key=lambda label: cosines[label]))
    np.testing.assert_array_equal(class_mean_predictions(X, y), expected)
    assert expected[7] != 99


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="two classes or more"):
        log_me(np.eye(3), [0, 0, 0])
    with pytest.raises(ValueError, match="3 whole numbers"):
        class_mean_predictions(np.eye(3), [0, 1])
    with pytest.raises(ValueError, match="finite"):
        log_me([[0.0], [np.inf]], [0, 1])
    with pytest.raises(ValueError, match="k must be 1 to 2"):
        neighbour_predictions(np.eye(3), [0, 1, 0], k=3)
