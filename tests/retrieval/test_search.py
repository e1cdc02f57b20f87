"""The exact search against the sorted matrix of similarities, and against FAISS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurebank.retrieval import _tiles, search
from featurebank.retrieval.search import nearest, nearest_blocks


def sorted_matrix(queries: Any, gallery: Any, metric: str, own: Any = None) -> tuple[Any, Any]:
    """All similarities in float64, sorted, ties to the lower row."""
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "cosine":
        q, g = (x / np.linalg.norm(x, axis=1)[:, None] for x in (q, g))
    scores = -np.sqrt(np.square(q[:, None] - g).sum(2)) if metric == "euclidean" else q @ g.T
    if own is not None:
        scores[np.arange(len(q)), own] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), order


@pytest.fixture(params=["as it is", "small tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small tiles":
        monkeypatch.setattr(_tiles, "TILE_GALLERY", 64)
        monkeypatch.setattr(_tiles, "TILE_QUERIES", 64)
        monkeypatch.setattr(search, "QUERY_ROWS", 70)
        monkeypatch.setattr(search, "FIRST_COLUMNS", 5)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("k", [1, 20, 63, 64, 150, 299])
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_it_is_the_sorted_matrix(metric: Any, k: int, dtype: Any) -> None:
    generator = np.random.default_rng(0)
    features = generator.standard_normal((300, 24)).astype(dtype)
    for queries, own in ((features[:150], None), (features, np.arange(300))):
        scores, rows = nearest(queries, features, k, metric=metric, own=own)
        expected, order = sorted_matrix(queries, features, metric, own)
        np.testing.assert_allclose(scores, expected[:, :k], rtol=1e-5, atol=1e-5)
        assert (rows == order[:, :k]).mean() > 0.999  # float32 may swap two that are equal in it


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("k", [1, 3, 63, 64, 65, 150, 400])
def test_ties_go_to_the_lower_row_across_tiles(k: int) -> None:
    generator = np.random.default_rng(1)
    queries, gallery = (generator.integers(0, 2, (n, 5)).astype(np.float16) for n in (80, 400))
    for metric in ("euclidean", "inner_product"):
        scores, rows = nearest(queries, gallery, k, metric=metric)
        expected, order = sorted_matrix(queries, gallery, metric)
        np.testing.assert_array_equal(rows, order[:, :k])
        np.testing.assert_array_equal(scores, expected[:, :k])


def test_blocks_are_the_whole_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(2).standard_normal((150, 9)).astype(np.float32)
    monkeypatch.setattr(search, "QUERY_ROWS", 64)
    blocks = list(nearest_blocks(features, features, 4))
    assert [(at.start, at.stop) for at, _, _ in blocks] == [(0, 64), (64, 128), (128, 150)]
    np.testing.assert_array_equal(np.concatenate([rows for _, _, rows in blocks]), nearest(features, features, 4)[1])


def test_a_query_finds_the_same_whatever_else_is_asked() -> None:
    features = np.random.default_rng(3).standard_normal((900, 131)).astype(np.float32)
    scores, rows = nearest(features, features, 30)
    one_score, one_row = nearest(features[77:78], features, 30)
    np.testing.assert_array_equal(one_row[0], rows[77])
    np.testing.assert_allclose(one_score[0], scores[77], rtol=0, atol=1e-6)


def test_it_finds_what_faiss_finds() -> None:
    faiss = pytest.importorskip("faiss")
    generator = np.random.default_rng(4)
    queries, gallery = (generator.standard_normal((n, 32)).astype(np.float32) for n in (60, 2000))
    index = faiss.IndexFlatIP(32)
    index.add(gallery)
    expected, order = index.search(queries, 50)
    scores, rows = nearest(queries, gallery, 50, metric="inner_product")
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert (rows == order).mean() > 0.999


@pytest.mark.parametrize(
    ("k", "own", "message"),
    [
        (0, None, "between 1 and the 3 gallery rows"),
        (4, None, "between 1 and the 3 gallery rows"),
        (3, [0, -1], "between 1 and the 2 gallery rows"),
        (1.5, None, "whole number"),
        (1, [0], "one row for each of 2 queries"),
    ],
)
def test_bad_input_is_refused(k: Any, own: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(np.ones((2, 3)), np.ones((3, 3)), k, own=own)
