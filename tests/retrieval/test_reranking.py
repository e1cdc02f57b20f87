"""k-reciprocal re-ranking and diffusion against their papers' formulas, written out with sets and whole matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featurebank.retrieval import diffusion, reranking
from featurebank.retrieval.diffusion import diffuse
from featurebank.retrieval.evaluation import evaluate, evaluate_lists
from featurebank.retrieval.relevance import LabelRelevance
from featurebank.retrieval.reranking import rerank_k_reciprocal


def photographs(rows: int, seed: int = 0, noise: float = 1.0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 8, rows)
    centres = np.random.default_rng(7).standard_normal((8, 16))
    return centres[labels] + noise * generator.standard_normal((rows, 16)), labels


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=1)[:, None]


# Zhong et al. 2017.


def final_distances(every: Any, k1: int, k2: int, weight: float, normalise: bool) -> Any:
    """The paper's final distance of all pairs of rows, set by set."""
    d = 1 - unit(every) @ unit(every).T
    np.fill_diagonal(d, -1)  # each is its own nearest
    order = np.argsort(d, axis=1, kind="stable")
    np.fill_diagonal(d, 0)
    total = len(every)

    def near(p: int, k: int) -> set[int]:
        return set(order[p, : k + 1].tolist())

    def reciprocal(p: int, k: int) -> set[int]:
        return {g for g in near(p, k) if p in near(g, k)}

    values = np.zeros((total, total))
    for p in range(total):
        base = reciprocal(p, k1)
        star = set(base)
        for q in base:
            half = reciprocal(q, k1 // 2)
            if len(base & half) >= 2 / 3 * len(half):
                star |= half
        values[p, list(star)] = np.exp(-d[p, list(star)])
    if normalise:
        values /= values.sum(1)[:, None]
    values = np.stack([values[order[p, :k2]].mean(0) for p in range(total)])
    smaller = np.minimum(values[:, None], values).sum(2)
    larger = np.maximum(values[:, None], values).sum(2)
    return (1 - weight) * (1 - smaller / larger) + weight * d


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (6, 1, 0.0), (10, 3, 0.8)])
def test_k_reciprocal_is_the_papers_formula(
    k1: int, k2: int, weight: float, normalise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking, "QUERY_ROWS", 16)
    queries, gallery = photographs(40, 1)[0], photographs(90, 2)[0]
    distances, rows = rerank_k_reciprocal(queries, gallery, 90, k1=k1, k2=k2, weight=weight, normalise=normalise)
    expected = final_distances(np.concatenate([queries, gallery]), k1, k2, weight, normalise)[:40, 40:]
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), np.sort(expected, 1), atol=1e-5)
    np.testing.assert_allclose(distances, np.sort(expected, 1), atol=1e-5)
    assert [sorted(row) for row in rows.tolist()] == [list(range(90))] * 40


@pytest.mark.parametrize("k", [1, 10, 89])
def test_self_retrieval_lists_the_best_of_all_but_itself(k: int) -> None:
    features, _ = photographs(90)
    distances, rows = rerank_k_reciprocal(features, None, k)
    expected = final_distances(features, 20, 6, 0.3, False)
    np.fill_diagonal(expected, np.inf)
    np.testing.assert_allclose(distances, np.sort(expected, 1)[:, :k], atol=1e-5)
    assert not (rows == np.arange(90)[:, None]).any()


# Iscen et al. 2017.


def diffused(queries: Any, gallery: Any, neighbours: int, seeds: int, own: Any = None) -> Any:
    g = unit(gallery)
    cosine = g @ g.T
    np.fill_diagonal(cosine, -np.inf)
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :neighbours]
    listed = np.zeros(cosine.shape, bool)
    np.put_along_axis(listed, near, True, 1)
    affinity = np.where(listed & listed.T, np.maximum(cosine, 0) ** 3, 0)
    sums = affinity.sum(1)
    scale = np.where(sums > 0, sums, 1) ** -0.5
    transition = scale[:, None] * affinity * scale
    cosine = unit(queries) @ g.T
    if own is not None:
        cosine[np.arange(len(queries)), own] = -np.inf
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :seeds]
    y = np.zeros(cosine.shape)
    np.put_along_axis(y, order, np.maximum(np.take_along_axis(cosine, order, 1), 0) ** 3, 1)
    return np.linalg.solve(np.eye(len(g)) - 0.99 * transition, y.T).T


def test_diffusion_solves_the_papers_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion, "SOLVED_VALUES", 90 * 7)
    queries, gallery = photographs(40, 1)[0], photographs(90, 2)[0]
    f, rows = diffuse(queries, gallery, 90, neighbours=12, query_neighbours=5, tolerance=1e-10)
    expected = diffused(queries, gallery, 12, 5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), f, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(f, -np.sort(-expected, 1), rtol=1e-4, atol=1e-5)
    assert [sorted(row) for row in rows.tolist()] == [list(range(90))] * 40


def test_diffusion_of_a_set_in_itself_leaves_out_the_query() -> None:
    features, _ = photographs(90)
    f, rows = diffuse(features, None, 20, neighbours=12, query_neighbours=5, tolerance=1e-10)
    expected = diffused(features, features, 12, 5, np.arange(90))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(f, -np.sort(-expected, 1)[:, :20], rtol=1e-4, atol=1e-5)
    assert not (rows == np.arange(90)[:, None]).any()


def test_rows_out_of_reach_follow_in_the_order_of_their_cosines() -> None:
    angles = np.deg2rad([0, 5, 90, 95, 200])
    gallery = np.stack([np.cos(angles), np.sin(angles)], 1)
    f, rows = diffuse([[1.0, 0.01]], gallery, 5, neighbours=1, query_neighbours=1)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    assert f[0, 1] > 0
    assert f[0, 2:].tolist() == [0, 0, 0]


def test_a_gallery_of_one_row_is_found() -> None:
    assert diffuse([[1.0, 0.0]], [[1.0, 1.0]], 1)[1].tolist() == [[0]]
    distances, rows = rerank_k_reciprocal([[1.0, 0.0]], [[1.0, 1.0]], 1, k1=1, k2=1)
    assert rows.tolist() == [[0]]
    assert 0 <= distances[0, 0] <= 1


# Both make rankings of clustered features better, and are refused what they cannot do.


def test_both_improve_the_ranking_of_noisy_clusters() -> None:
    features, labels = photographs(400, noise=1.0)
    relevance = LabelRelevance(labels)
    before = evaluate(features, None, relevance).values["map"]
    for _, rows in (rerank_k_reciprocal(features, None, 399), diffuse(features, None, 399, neighbours=10, alpha=0.9)):
        assert evaluate_lists(rows, relevance).values["map"] > before + 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: rerank_k_reciprocal(x, x[:, :5], 3), "same D"),
        (lambda x: rerank_k_reciprocal(x, None, 30), "between 1 and the 29"),
        (lambda x: rerank_k_reciprocal(x, None, 3, k1=30), "k1 must be"),
        (lambda x: rerank_k_reciprocal(x, None, 3, k1=5, k2=7), "k2 must be"),
        (lambda x: rerank_k_reciprocal(x, None, 3, weight=1.1), "between 0 and 1"),
        (lambda x: rerank_k_reciprocal(np.full((2, 16), np.nan), x, 3), "finite"),
        (lambda x: diffuse(x, None, 30), "between 1 and the 29"),
        (lambda x: diffuse(x, x, 3, neighbours=0), "neighbours must be at least 1"),
        (lambda x: diffuse(x, x, 3, alpha=1.0), "alpha"),
        (lambda x: diffuse(x, x, 3, gamma=0.0), "gamma"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(photographs(30)[0])


def test_a_solver_that_does_not_converge_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"within 2 iterations; found .*; allow more"):
        diffuse(photographs(60)[0], None, 3, max_iterations=2)
