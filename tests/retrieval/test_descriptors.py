"""Normalisation, whitening, concatenation and expansion against their formulas in float64, FAISS and scikit-learn."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from sklearn.decomposition import PCA  # type: ignore[import-untyped]
from sklearn.utils.estimator_checks import estimator_checks_generator  # type: ignore[import-untyped]

from featurebank.retrieval import _features, descriptors, expansion
from featurebank.retrieval.descriptors import (
    PCAWhitening,
    average_scales,
    concatenate,
    l2_normalise,
    power_normalise,
)
from featurebank.retrieval.expansion import augment_database, expand_queries

UNKNOWN: Any = "unknown"


def features(seed: int, rows: int = 120, width: int = 12) -> Any:
    generator = np.random.default_rng(seed)
    return (generator.standard_normal((rows, width)) @ generator.standard_normal((width, width)) + 0.5).astype(
        np.float16
    )


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1)[:, None]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_features, "BLOCK_VALUES", 12 * 50)
    monkeypatch.setattr(expansion, "GATHERED_VALUES", 12 * 50)


# Normalisation, concatenation.


def test_normalisation() -> None:
    x = features(0).astype(np.float64)
    np.testing.assert_allclose(l2_normalise(x), unit(x), atol=1e-6)
    np.testing.assert_allclose(power_normalise(x), unit(np.sign(x) * np.sqrt(np.abs(x))), atol=1e-6)
    np.testing.assert_allclose(power_normalise(x, 0.3), unit(np.sign(x) * np.abs(x) ** 0.3), atol=1e-6)
    assert l2_normalise(np.zeros((2, 3))).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    np.testing.assert_allclose(l2_normalise(np.array([[3.0, -4.0]]) * scale), [[0.6, -0.8]], rtol=1e-6)


def test_the_cosine_of_a_concatenation_is_the_weighted_mean_of_cosines() -> None:
    one, two = features(0), features(1, width=7)
    joined = concatenate(one, two, weights=(1, 3)).astype(np.float64)
    cosines = [unit(x.astype(np.float64)) @ unit(x.astype(np.float64)).T for x in (one, two)]
    np.testing.assert_allclose(joined @ joined.T, (cosines[0] + 3 * cosines[1]) / 4, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(joined, axis=1), 1, atol=1e-6)


def test_scales_are_averaged_as_unit_rows() -> None:
    one, two = features(0), features(1)
    expected = unit(unit(one.astype(np.float64)) + unit(two.astype(np.float64)))
    np.testing.assert_allclose(average_scales(one, two), expected, atol=1e-6)


# Whitening.


@pytest.mark.parametrize("count", [None, 5])
def test_whitening_is_scikit_learns_and_faiss(count: int | None) -> None:
    train, other = features(0), features(1)
    ours = PCAWhitening(count).fit(train)
    reference = PCA(count, whiten=True, svd_solver="full").fit(train.astype(np.float64))
    expected = unit(reference.transform(other.astype(np.float64)))
    signs = np.sign((ours.components_ * reference.components_).sum(1))
    np.testing.assert_allclose(ours.transform(other) * signs, expected, atol=1e-5)
    np.testing.assert_allclose(ours.variances_, reference.explained_variance_, rtol=1e-9)

    faiss = pytest.importorskip("faiss")
    matrix = faiss.PCAMatrix(12, count or 12, -0.5)
    matrix.train(train.astype(np.float32))
    theirs = unit(matrix.apply(other.astype(np.float32)))
    signs = np.sign((theirs * ours.transform(other)).sum(0))
    np.testing.assert_allclose(ours.transform(other) * signs, theirs, atol=2e-3)  # FAISS works in float32


def test_whitened_training_rows_have_unit_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    train = features(0).astype(np.float64)
    monkeypatch.setattr(descriptors, "unit", lambda block: block)
    whitened = PCAWhitening().fit(train).transform(train).astype(np.float64)
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(12), atol=1e-4)
    rotated = PCAWhitening(power=0).fit(train).transform(train).astype(np.float64)
    np.testing.assert_allclose(
        rotated @ rotated.T, (train - train.mean(0)) @ (train - train.mean(0)).T, rtol=1e-3, atol=1e-3
    )


def test_directions_without_variance_are_left_out_and_cannot_be_asked_for() -> None:
    flat = np.concatenate([features(0), np.ones((120, 3))], 1)
    assert PCAWhitening().fit(flat).transform(flat).shape == (120, 12)
    with pytest.raises(ValueError, match="between 1 and the rank of the 120 rows, 12; found 13"):
        PCAWhitening(13).fit(flat)
    with pytest.raises(ValueError, match="rank of the 4 rows, 0"):
        PCAWhitening().fit(np.ones((4, 3)))


def test_whitening_follows_scikit_learns_conventions() -> None:
    for estimator, check in estimator_checks_generator(PCAWhitening()):
        with warnings.catch_warnings(), suppress(SkipTest):
            warnings.simplefilter("ignore")
            check(estimator)


# Expansion.


def weights_of(kind: str, scores: Any, n: int) -> Any:
    if kind == "uniform":
        return np.ones(scores.shape)
    if kind == "rank":
        return np.broadcast_to((n - np.arange(n)) / (n + 1), scores.shape)
    return np.maximum(scores, 0) ** 3.0


def expanded(queries: Any, gallery: Any, n: int, kind: str, own: Any) -> Any:
    q, g = unit(queries.astype(np.float64)), unit(gallery.astype(np.float64))
    scores = q @ g.T
    if own is not None:
        scores[np.arange(len(q)), own] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :n]
    weights = weights_of(kind, np.take_along_axis(scores, order, 1), n)
    return unit(q + (weights[:, :, None] * g[order]).sum(1))


@pytest.mark.parametrize("kind", ["uniform", "rank", "similarity"])
def test_query_expansion_is_its_formula(kind: Any) -> None:
    queries, gallery = features(0, 70), features(1, 200)
    found = expand_queries(queries, gallery, 7, weights=kind)
    np.testing.assert_allclose(found, expanded(queries, gallery, 7, kind, None), atol=1e-5)
    found = expand_queries(gallery, gallery, 7, weights=kind, own=np.arange(200))
    np.testing.assert_allclose(found, expanded(gallery, gallery, 7, kind, np.arange(200)), atol=1e-5)


@pytest.mark.parametrize("kind", ["uniform", "rank", "similarity"])
def test_database_augmentation_is_its_formula(kind: Any) -> None:
    gallery = features(1, 200)
    found = augment_database(gallery, 9, weights=kind)
    np.testing.assert_allclose(found, expanded(gallery, gallery, 9, kind, np.arange(200)), atol=1e-5)


def test_alpha_is_the_exponent_of_the_similarity() -> None:
    queries, gallery = features(0, 20), features(1, 50)
    average = expand_queries(queries, gallery, 4, weights="uniform")
    np.testing.assert_allclose(expand_queries(queries, gallery, 4, alpha=0.0), average, atol=1e-6)
    np.testing.assert_allclose(expand_queries(queries, gallery, 4, alpha=500.0), l2_normalise(queries), atol=1e-3)


# Bad input.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: l2_normalise(x[0]), r"\(N, D\)"),
        (lambda x: l2_normalise(x * np.nan), "NaN"),
        (lambda x: power_normalise(x, 0), "above 0"),
        (lambda _: concatenate(), "at least one"),
        (lambda x: concatenate(x, x[:5]), "same number of rows"),
        (lambda x: concatenate(x, x, weights=(1, 0)), "positive, one for each of 2"),
        (lambda x: average_scales(x, x[:, :5]), "same shape"),
        (lambda x: PCAWhitening(power=2).fit(x), "between 0 and 1"),
        (lambda x: PCAWhitening().fit(x[:1]), "minimum of 2"),
        (lambda x: expand_queries(x, x[:, :5]), "same D"),
        (lambda x: expand_queries(x, x, 121), "between 1 and the 120"),
        (lambda x: expand_queries(x, x, 0), "between 1 and the 120"),
        (lambda x: augment_database(x, 120), "between 1 and the 119"),
        (lambda x: expand_queries(x, x, 3, weights=UNKNOWN), "uniform, rank, similarity"),
        (lambda x: expand_queries(x, x, 3, alpha=-1), "alpha"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(features(0))
