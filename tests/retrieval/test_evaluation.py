"""Protocols and `evaluate` against metrics worked out from sorted lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import FAILED_ROW, N_ROWS, make_sealed
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from featurebank.retrieval import evaluation
from featurebank.retrieval.evaluation import evaluate, evaluate_lists
from featurebank.retrieval.protocols import PROTOCOLS, find_protocol
from featurebank.retrieval.relevance import LabelRelevance, ListRelevance
from featurebank.retrieval.search import nearest


def photographs(seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 25, 300)
    return generator.standard_normal((25, 8))[labels] + generator.standard_normal((300, 8)), labels


def levels(seed: int = 0) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Queries, gallery and a revisited ground truth; the last query has nothing easy."""
    generator = np.random.default_rng(seed)
    truth = []
    for query in range(12):
        rows = generator.permutation(90)
        easy, hard, junk = np.split(rows[:30], [0 if query == 11 else 8, 20])
        truth.append({"easy": easy, "hard": hard, "junk": junk})
    return generator.standard_normal((12, 6)), generator.standard_normal((90, 6)), truth


# Revisited, against the published definition in its order of steps: ranks of the positives, shifted by the junk before.


def published(ranked: Any, ok: Any, junk: Any) -> tuple[float, float, list[float]]:
    pos = np.flatnonzero(np.isin(ranked, ok))
    shifted = pos - np.array([np.isin(ranked[:at], junk).sum() for at in pos])
    j = np.arange(len(shifted))
    left = np.where(shifted == 0, 1.0, j / np.maximum(shifted, 1))
    ap = float(((left + (j + 1) / (shifted + 1)) / 2).sum() / len(ok))
    limit = [min(shifted.max() + 1, k) for k in (1, 5, 10)]
    return ap, 1 / (pos[0] + 1), [float((shifted + 1 <= k).sum() / k) for k in limit]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("level", "ok", "junk"),
    [
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ],
)
def test_revisited_levels(level: str, ok: list[str], junk: list[str], seed: int) -> None:
    queries, gallery, truth = levels(seed)
    found = evaluate(queries, gallery, truth, protocol=f"roxford-{level}")
    _, ranked = nearest(queries, gallery, 90)
    asked = [
        published(ranked[q], *(np.concatenate([entry[name] for name in names]) for names in (ok, junk)))
        for q, entry in enumerate(truth)
        if sum(len(entry[name]) for name in ok)
    ]
    assert found.n_without == 12 - len(asked) == int(level == "easy")
    assert found.values["map_trapezoidal"] == pytest.approx(np.mean([ap for ap, _, _ in asked]), rel=1e-12)
    precisions = np.mean([at for _, _, at in asked], axis=0)
    assert [found.values[f"precision@{k}"] for k in (1, 5, 10)] == pytest.approx(precisions.tolist(), rel=1e-12)


def test_bob_and_its_quirks() -> None:
    queries, gallery, truth = levels(1)
    truth[3] = {"easy": [], "hard": [], "junk": [5]}
    ours, theirs = (evaluate(queries, gallery, truth, protocol=name) for name in ("bob", "bob-compat"))
    _, ranked = nearest(queries, gallery, 90)
    ok = [np.concatenate([entry["easy"], entry["hard"]]) for entry in truth]
    asked = {q: published(ranked[q], ok[q], truth[q]["junk"]) for q in range(12) if q != 3}
    assert theirs.values["mrr"] == pytest.approx(sum(first for _, first, _ in asked.values()) / 12, rel=1e-12)
    without_junk = [ranked[q][~np.isin(ranked[q], truth[q]["junk"])] for q in asked]
    firsts = [1 / (np.flatnonzero(np.isin(r, ok[q]))[0] + 1) for r, q in zip(without_junk, asked, strict=True)]
    assert ours.values["mrr"] == pytest.approx(np.mean(firsts), rel=1e-12)
    for found in (ours, theirs):
        assert found.values["map_trapezoidal"] == pytest.approx(np.mean([a[0] for a in asked.values()]), rel=1e-12)
        inside = [np.isin(r[:5], ok[q]).sum() / len(ok[q]) for r, q in zip(without_junk, asked, strict=True)]
        assert found.values["recall@5"] == pytest.approx(np.mean(inside), rel=1e-12)


# Labels.


def test_recall_at_k_of_self_retrieval_leaves_the_query_out() -> None:
    features, labels = photographs()
    found = evaluate(features, None, labels, protocol="cub")
    _, rows = nearest(features, features, 8, own=np.arange(300))
    for k in (1, 2, 4, 8):
        hits = (labels[rows[:, :k]] == labels[:, None]).any(1)
        assert found.values[f"hit_rate@{k}"] == pytest.approx(hits.mean(), rel=1e-12)
    assert found.per_query["map@r"].shape == (300,)
    assert (found.n_queries, found.n_gallery, found.n_without) == (300, 300, 0)


def test_query_and_gallery_of_their_own() -> None:
    features, labels = photographs()
    found = evaluate(features[:90], features[90:], (labels[:90], labels[90:]), protocol="labels", metric="euclidean")
    _, rows = nearest(features[:90], features[90:], 210, metric="euclidean")
    relevant = labels[90:][rows] == labels[:90, None]
    expected = [average_precision_score(r, -np.arange(210)) for r in relevant]
    assert found.values["map"] == pytest.approx(np.mean(expected), rel=1e-12)
    assert found.values["recall@5"] == pytest.approx((relevant[:, :5].sum(1) / relevant.sum(1)).mean(), rel=1e-12)
    assert found.values["hit_rate@5"] == pytest.approx(relevant[:, :5].any(1).mean(), rel=1e-12)


def test_a_feature_set_of_a_store_is_evaluated_as_it_is_mapped(tmp_path: Path) -> None:
    feature_set = make_sealed(tmp_path / "set.h5")
    features, labels = feature_set["pooled"], feature_set.labels
    assert not features.flags.writeable
    found = evaluate(features, None, labels)
    copied = evaluate(np.array(features, np.float64), None, labels.copy())
    assert found.values == copied.values
    assert evaluate(features[feature_set.ok], None, labels[feature_set.ok]).n_queries == N_ROWS - 1
    assert not feature_set.ok[FAILED_ROW]


def test_disc21_over_all_pairs_is_one_average_precision() -> None:
    generator = np.random.default_rng(0)
    queries, gallery = generator.standard_normal((20, 6)), generator.standard_normal((8, 6))
    positives = [[q] if q < 8 else [] for q in range(20)]  # the others are distractors
    queries[:8] = gallery + 1.5 * generator.standard_normal((8, 6))
    found = evaluate(queries, gallery, ListRelevance(positives, 8), protocol="disc21")
    scores, rows = nearest(queries, gallery, 8)
    correct = rows == np.arange(20)[:, None]
    assert found.values["micro_ap"] == pytest.approx(average_precision_score(correct.ravel(), scores.ravel()), rel=1e-6)
    assert found.n_without == 12
    listed = evaluate_lists(rows[:, :1], ListRelevance(positives, 8), protocol="disc21", scores=scores[:, :1])
    assert listed.values["micro_ap"] < found.values["micro_ap"]
    with pytest.raises(ValueError, match="needs a score"):
        evaluate_lists(rows, ListRelevance(positives, 8), protocol="disc21")


def test_lists_of_a_search_give_what_the_exact_ranks_give(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = photographs()
    relevance = LabelRelevance(labels)
    monkeypatch.setattr(evaluation, "LIST_ROWS", 64)
    _, rows = nearest(features, features, 299, own=np.arange(300))
    exact, listed = evaluate(features, None, relevance), evaluate_lists(rows, relevance)
    assert listed.values == pytest.approx(exact.values, rel=1e-12)
    streamed = evaluate_lists(iter(np.array_split(rows, 7)), relevance)
    assert streamed.values == listed.values
    with pytest.raises(ValueError, match="search deeper"):
        evaluate_lists(rows[:, :5], relevance, protocol="cub")
    for lists in (rows[:299], iter([rows, rows[:1]]), iter([rows[:10]])):
        with pytest.raises(ValueError, match="one for each of 300 queries"):
            evaluate_lists(lists, relevance)


def test_texts_find_their_images() -> None:
    generator = np.random.default_rng(0)
    images, image_of = generator.standard_normal((40, 16)), np.repeat(np.arange(40), 5)
    texts = images[image_of] + 1.5 * generator.standard_normal((200, 16))
    found = evaluate(texts, images, (image_of, np.arange(40)), protocol="cross-modal")
    _, rows = nearest(texts, images, 10)
    for k in (1, 5, 10):
        assert found.values[f"hit_rate@{k}"] == (rows[:, :k] == image_of[:, None]).any(1).mean()
    back = evaluate(images, texts, (np.arange(40), image_of), protocol="cross-modal")
    assert back.values["hit_rate@1"] == (image_of[nearest(images, texts, 1)[1][:, 0]] == np.arange(40)).mean()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_gives_one_to_a_perfect_ranking(name: str) -> None:
    labels = np.repeat(np.arange(6), 4)
    features = np.eye(6)[labels] + 0.01 * np.random.default_rng(0).standard_normal((24, 6))
    found = evaluate(features, None, labels, protocol=name)
    perfect = {metric: value for metric, value in found.values.items() if not metric.startswith("recall@")}
    expected = {"precision@5": 1.0, "precision@10": 1.0}
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0) | {k: v for k, v in expected.items() if k in perfect})


# Bad input.


def test_an_unknown_protocol_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"one of labels, roxford-easy.*did you mean roxford-hard\?"):
        find_protocol("roxford-hrad")


@pytest.mark.parametrize(
    ("gallery", "relevance", "protocol", "message"),
    [
        (None, ListRelevance([[1], [0]], 2), "labels", "own must be"),
        (None, [0, 1], "labels", "found none among 2"),
        (np.ones((3, 2)), [0, 1], "labels", "pair"),
        (np.ones((3, 2)), [{"easy": [0], "hard": [], "junk": []}] * 2, "cub", "no levels"),
        (np.ones((3, 2)), [{"easy": [0], "hard": []}] * 2, "roxford-medium", "query 0 lacks junk"),
        (np.ones((3, 2)), [{"easy": [0], "hard": [0], "junk": []}] * 2, "roxford-medium", "twice"),
        (np.ones((3, 2)), ([0, 1], [0, 1]), "labels", "found 2 and 2"),
        (np.ones((3, 2)), ([7, 8], [0, 1, 2]), "disc21", "found none among 2"),
        (np.ones((3, 5)), ([0, 1], [0, 1, 2]), "labels", "same D"),
    ],
)
def test_bad_input_is_refused(gallery: Any, relevance: Any, protocol: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(np.eye(2), gallery, relevance, protocol=protocol)
