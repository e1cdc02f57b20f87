"""Ranks of relevant rows against a stable argsort of the whole matrix, and ranks in given lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurebank.retrieval import _tiles, ranks
from featurebank.retrieval._features import as_pairing
from featurebank.retrieval.ranks import PositiveRanks, exact_ranks, ranks_in_lists
from featurebank.retrieval.relevance import LabelRelevance, ListRelevance, rows_of_ids, two_level_split


def similarities(queries: Any, gallery: Any, metric: str) -> Any:
    q, g = queries.astype(np.float64), gallery.astype(np.float64)
    if metric == "euclidean":
        return -np.square(q[:, None] - g).sum(2)
    if metric == "cosine":
        q, g = (x / np.maximum(np.linalg.norm(x, axis=1), 1e-300)[:, None] for x in (q, g))
    return q @ g.T


def argsorted(scores: Any, positives: Any, junk: Any, own: Any, ties: str) -> tuple[Any, Any]:
    """Ranks without and with junk, from the sorted list of each query."""
    without, with_junk = [], []
    for query, row in enumerate(scores):
        relevant = np.isin(np.arange(len(row)), positives[query])
        order = np.lexsort((np.arange(len(row)), relevant & (ties == "last"), -row))
        order = order[order != own[query]]
        with_junk += np.flatnonzero(relevant[order]).tolist()
        without += np.flatnonzero(relevant[order[~np.isin(order, junk[query])]]).tolist()
    return without, with_junk


def together(blocks: list[PositiveRanks]) -> tuple[Any, Any]:
    return [r for b in blocks for r in b.ranks.tolist()], [r for b in blocks for r in b.ranks_with_junk.tolist()]


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(_tiles, "TILE_GALLERY", 128)
        monkeypatch.setattr(_tiles, "TILE_QUERIES", 64)
        monkeypatch.setattr(ranks, "QUERY_ROWS", 100)
        monkeypatch.setattr(ranks, "POSITIVES", 300)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("ties", ["row", "last"])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_it_is_the_sorted_matrix_with_ties_and_junk(
    metric: Any, ties: Any, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "FEW", few)
    generator = np.random.default_rng(0)
    queries = generator.integers(-1, 2, (150, 4)).astype(np.float32)  # few distinct rows: many exact ties
    gallery = generator.integers(-1, 2, (300, 4)).astype(np.float16)
    if metric == "cosine":  # one non-zero component a row: unit length is exact
        queries, gallery = (x * (np.arange(4) == generator.integers(0, 4, len(x))[:, None]) for x in (queries, gallery))
    own = generator.integers(-1, 300, 150)
    shuffled = [generator.permutation(300) for _ in range(150)]
    positives = [rows[: generator.integers(0, 40)] for rows in shuffled]
    junk = [rows[40 : 40 + generator.integers(0, 30)] for rows in shuffled]
    relevance = ListRelevance(positives, 300, junk=junk, own=own)
    blocks = [found for _, found in exact_ranks(queries, gallery, relevance, metric=metric, ties=ties)]
    kept = [np.setdiff1d(rows, [row]) for rows, row in zip(positives, own, strict=True)]
    expected = argsorted(similarities(queries, gallery, metric), kept, junk, own, ties)
    assert together(blocks) == expected
    counted = np.concatenate([block.n_positives for block in blocks])
    assert counted.tolist() == [len(rows) for rows in kept]
    left = np.concatenate([block.n_candidates for block in blocks])
    out = [len({*j.tolist(), *([row] if row >= 0 else [])}) for j, row in zip(junk, own, strict=True)]
    assert left.tolist() == [300 - n for n in out]


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_self_retrieval_by_labels(dtype: Any) -> None:
    generator = np.random.default_rng(1)
    features = generator.standard_normal((260, 24)).astype(dtype)
    labels = generator.integers(0, 40, 260)
    found = together([found for _, found in exact_ranks(features, features, LabelRelevance(labels))])
    positives = [np.setdiff1d(np.flatnonzero(labels == label), [row]) for row, label in enumerate(labels)]
    expected = argsorted(similarities(features, features, "cosine"), positives, [[]] * 260, np.arange(260), "row")
    assert np.mean(np.array(found[0]) == np.array(expected[0])) > 0.999  # float32 may swap two that are equal in it
    assert found[0] == found[1]


@pytest.mark.usefixtures("tiles")
def test_equal_vectors_have_equal_scores_wherever_they_stand() -> None:
    vector = np.random.default_rng(2).standard_normal((1, 37)).astype(np.float32)
    relevance = ListRelevance([[0], [150], [299]], 300)
    for ties, expected in (("row", [0, 150, 299]), ("last", [299, 299, 299])):
        queries, gallery = np.repeat(vector, 3, 0), np.repeat(vector, 300, 0)
        found = [r for _, r in exact_ranks(queries, gallery, relevance, ties=ties)]  # type: ignore[arg-type]
        assert together(found)[0] == expected


@pytest.mark.parametrize("width", [3, 37, 512])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_scores_of_chosen_pairs_are_those_of_the_tiles(
    metric: Any, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tiles, "TILE_GALLERY", 2048)
    generator = np.random.default_rng(6)
    queries, gallery = (generator.standard_normal((n, width)).astype(np.float32) for n in (130, 5000))
    pairing = as_pairing(queries, gallery, metric)
    whole = np.empty((130, 5000), _tiles.score_dtype(metric))
    for rows, columns, tile in _tiles.score_tiles(pairing, slice(0, 130)):
        whole[rows, columns] = tile
    left, right = np.sort(generator.integers(0, 130, 300)), generator.integers(0, 5000, 300)
    np.testing.assert_array_equal(_tiles.pair_scores(pairing, left, right, slice(0, 130)), whole[left, right])


def test_a_query_has_the_same_ranks_whatever_else_is_asked() -> None:
    generator = np.random.default_rng(3)
    gallery = generator.standard_normal((700, 129)).astype(np.float16)
    labels = np.arange(700) % 7
    ((_, every),) = exact_ranks(gallery[:60], gallery, LabelRelevance(labels[:60], labels))
    ((_, one),) = exact_ranks(gallery[5:6], gallery, LabelRelevance(labels[5:6], labels))
    assert one.ranks.tolist() == every.ranks[every.offsets[5] : every.offsets[6]].tolist()


def test_the_gallery_may_be_a_read_only_map(tmp_path: Path) -> None:
    values = np.random.default_rng(4).standard_normal((90, 8)).astype(np.float16)
    values.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.float16, "r", shape=values.shape)
    labels = np.arange(90) % 9
    ((_, here),) = exact_ranks(values, values, LabelRelevance(labels))
    ((_, there),) = exact_ranks(mapped, mapped, LabelRelevance(labels))
    assert here.ranks.tolist() == there.ranks.tolist()


def test_small_distances_between_long_vectors_are_kept() -> None:
    base = np.full((1, 64), 100.0, np.float32)
    gallery = base + np.arange(6, dtype=np.float32)[::-1, None] / 1024
    ((_, found),) = exact_ranks(base, gallery, ListRelevance([[0, 5]], 6), metric="euclidean")
    assert found.ranks.tolist() == [0, 5]


# Lists.


def test_ranks_in_lists_leave_out_junk_and_the_query_itself() -> None:
    relevance = ListRelevance([[1, 4, 5], []], 8, junk=[[0, 7], [2]], own=[3, -1])
    found = ranks_in_lists([[7, 4, 3, 2, 1, -1], [2, 0, 1, 3, 4, 5]], relevance.block(slice(0, 2)), 8)
    assert found.ranks.tolist() == [0, 2]
    assert found.ranks_with_junk.tolist() == [1, 3]
    assert found.offsets.tolist() == [0, 2, 2]
    assert (found.n_positives.tolist(), found.n_candidates.tolist(), found.depth.tolist()) == ([3, 0], [5, 7], [3, 5])


@pytest.mark.parametrize("dtype", [np.uint64, np.int32])
def test_lists_of_any_integers_are_taken(dtype: Any) -> None:
    found = ranks_in_lists(np.array([[2, 1]], dtype), ListRelevance([[1]], 3).block(slice(0, 1)), 3)
    assert found.ranks.tolist() == [1]


def test_complete_lists_give_the_exact_ranks() -> None:
    generator = np.random.default_rng(5)
    features = generator.standard_normal((80, 6))
    relevance = LabelRelevance(generator.integers(0, 9, 80))
    ((_, exact),) = exact_ranks(features, features, relevance, metric="euclidean")
    order = np.argsort(-similarities(features, features, "euclidean"), axis=1, kind="stable")
    listed = ranks_in_lists(order, relevance.block(slice(0, 80)), 80)
    for name in ("ranks", "ranks_with_junk", "offsets", "n_positives", "n_candidates", "depth"):
        assert getattr(listed, name).tolist() == getattr(exact, name).tolist(), name


@pytest.mark.parametrize(
    ("lists", "message"),
    [([[0, 1, 0]], "once"), ([[0, 9]], "0 to 7"), ([[0], [1]], r"\(1, k\)"), ([[0.5]], "float64")],
)
def test_bad_lists_are_refused(lists: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks_in_lists(lists, ListRelevance([[1]], 8).block(slice(0, 1)), 8)


# Relevance.


def test_labels_may_be_strings_and_queries_other_than_the_gallery() -> None:
    judged = LabelRelevance(["b", "x", "a"], ["a", "b", "a"], own=[1, -1, -1]).block(slice(0, 3))
    assert judged.positives.rows.tolist() == [0, 2]
    assert judged.positives.offsets.tolist() == [0, 0, 0, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelRelevance([]), "one integer or string"),
        (lambda: LabelRelevance([0.0, np.nan]), "NaN"),
        (lambda: LabelRelevance([1], ["a"]), "alike"),
        (lambda: LabelRelevance([1], own=[0]), "left out"),
        (lambda: LabelRelevance([1], [1], own=[1]), "0 to 0"),
        (lambda: LabelRelevance([1], [1], own=[0, 0]), "each of the 1 queries"),
        (lambda: ListRelevance([], 3), "at least one query"),
        (lambda: ListRelevance([[3]], 3), "0 to 2"),
        (lambda: ListRelevance([[1, 1]], 3), "twice"),
        (lambda: ListRelevance([[1]], 3, junk=[[0, 1]]), "both relevant and junk; found row 1"),
        (lambda: ListRelevance([[1]], 3, junk=[]), "one list for each query"),
        (lambda: ListRelevance([[0.5]], 3), "row numbers"),
        (lambda: rows_of_ids(["a"], ["b", "a", "b"]), "distinct; found .*b.* in rows 0 and 2"),
        (lambda: two_level_split([0, 1], ["a", "b"]), "at least 5 images"),
        (lambda: two_level_split([0, 1], ["a"]), "one for each"),
        (lambda: two_level_split([0], ["a"], share=1.0), "between 0 and 1"),
    ],
)
def test_bad_relevance_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_two_level_split_takes_the_first_fifth_of_each_class_and_keeps_so_many() -> None:
    labels, names = np.repeat([3, 1], [12, 7]), [f"{i:02d}" for i in range(19)][::-1]
    queries, gallery = two_level_split(labels, names)
    assert queries.tolist() == [10, 11, 18]
    assert sorted([*queries, *gallery]) == list(range(19))
    queries, gallery = two_level_split(labels, names, per_class=5)
    assert queries.tolist() == [11, 18]
    assert gallery.tolist() == [7, 8, 9, 10, 14, 15, 16, 17]


# Bad input.


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_a_value_that_is_not_finite_is_named_by_its_row(bad: float) -> None:
    features = np.ones((6, 3))
    features[4, 1] = bad
    with pytest.raises(ValueError, match="gallery must be finite in float32; found NaN or infinity in row 4"):
        next(exact_ranks(np.ones((1, 3)), features, ListRelevance([[0]], 6)))
    with pytest.raises(ValueError, match="queries must be finite in float32; found NaN or infinity in row 4"):
        next(exact_ranks(features, np.ones((1, 3)), ListRelevance([[0]] * 6, 1)))


def test_values_whose_products_overflow_are_refused_but_have_cosines() -> None:
    features, relevance = np.array([[1e25, 0.0], [1e25, 1e25], [0.0, 1e25]]), ListRelevance([[1], [0], [1]], 3)
    ((_, found),) = exact_ranks(features, features, relevance)
    assert found.ranks.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"gallery must be within 6\.5e\+18 for inner_product; found 1e\+25"):
        next(exact_ranks(features, features, relevance, metric="inner_product"))


@pytest.mark.parametrize(
    ("queries", "gallery", "options", "message"),
    [
        (np.ones((1, 3)), np.ones((2, 4)), {}, "same D"),
        (np.ones((1, 3)), np.ones((0, 3)), {}, "at least one row"),
        (np.ones((1, 3)), np.ones((3, 3)), {}, "found 1 and 2"),
        (np.ones((1, 3)), np.ones((2, 3)), {"metric": "dot"}, "cosine, inner_product, euclidean; found 'dot'"),
        (np.ones((1, 3)), np.ones((2, 3)), {"ties": "best"}, "row, last"),
        (np.ones((1, 3)), np.array([["a"] * 3] * 2), {}, "real numbers"),
    ],
)
def test_bad_features_are_refused(queries: Any, gallery: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(exact_ranks(queries, gallery, ListRelevance([[1]], 2), **options))


def test_a_zero_vector_has_similarity_zero() -> None:
    gallery = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    ((_, found),) = exact_ranks([[2.0, 0.0], [0.0, 0.0]], gallery, ListRelevance([[1], [1]], 3))
    assert found.ranks.tolist() == [1, 1]  # all tie for the zero query
