"""Metrics of rankings against their definitions, pytorch-metric-learning, scikit-learn and ranx."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score  # type: ignore[import-untyped]

from featurebank.retrieval import metrics
from featurebank.retrieval.metrics import mean_over_queries
from featurebank.retrieval.ranks import PositiveRanks, exact_ranks, ranks_in_lists
from featurebank.retrieval.relevance import LabelRelevance, ListRelevance

RANX = {  # ranx 0.3.21
    "ndcg": 0.4441964582289203,
    "ndcg@10": 0.13263183655579777,
    "mrr": 0.27268493075536365,
    "mrr@5": 0.21216216216216216,
    "map": 0.16437755665071857,
    "r-precision": 0.10159315159315159,
    "recall@10": 0.15362017862017863,
    "hit_rate@5": 0.3783783783783784,
    "precision@10": 0.0918918918918919,
}


def ranks_of(relevant: list[int], n_positives: int | None = None, n_gallery: int = 100) -> PositiveRanks:
    """One query with relevant rows at the given ranks of its complete list."""
    extra = (n_positives or len(relevant)) - len(relevant)
    positives = [*relevant, *range(n_gallery - extra, n_gallery)]
    return ranks_in_lists([range(n_gallery)], ListRelevance([positives], n_gallery).block(slice(0, 1)), n_gallery)


def random_run(seed: int, junk: bool = False) -> tuple[Any, ListRelevance, PositiveRanks]:
    """Lists (40, 60) that rank a whole gallery, what is relevant, and the ranks; some queries have nothing."""
    generator = np.random.default_rng(seed)
    lists = np.array([generator.permutation(60) for _ in range(40)])
    shuffled = [generator.permutation(60) for _ in range(40)]
    positives = [rows[: generator.integers(0, 12)] for rows in shuffled]
    ignored = [rows[12 : 12 + generator.integers(0, 9)] for rows in shuffled] if junk else None
    relevance = ListRelevance(positives, 60, junk=ignored)
    return lists, relevance, ranks_in_lists(lists, relevance.block(slice(0, 40)), 60)


# The definitions, on numbers worked out by hand.


def test_positives_at_ranks_0_and_3() -> None:
    found = ranks_of([0, 3])
    assert metrics.trapezoidal_average_precision(found)[0] == pytest.approx(0.7083333333)
    assert metrics.average_precision(found)[0] == pytest.approx((1 + 2 / 4) / 2)
    assert metrics.recall_at_k(found, 1)[0] == 0.5
    assert metrics.recall_at_k(found, 5)[0] == 1
    assert metrics.hit_rate_at_k(found, 1)[0] == 1
    assert metrics.precision_at_k(found, 5)[0] == 2 / 5
    assert metrics.precision_at_k(found, 5, divisor="last_positive")[0] == 2 / 4
    assert metrics.r_precision(found)[0] == 0.5
    assert metrics.map_at_r(found)[0] == 0.5
    assert metrics.reciprocal_rank(ranks_of([3, 7]))[0] == 1 / 4
    assert metrics.reciprocal_rank(ranks_of([3, 7]), 3)[0] == 0
    gain = (1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3))
    assert metrics.ndcg_at_k(found)[0] == pytest.approx(gain)
    assert metrics.ndcg_at_k(found, 2)[0] == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_gldv2_divides_by_the_positives_that_fit_in_k_not_by_the_hits() -> None:
    found = ranks_of([0, 4], n_positives=7)
    assert metrics.average_precision_at_k(found, 5)[0] == pytest.approx((1 + 2 / 5) / 5)
    assert metrics.average_precision_at_k(found, 60)[0] == pytest.approx((1 + 2 / 5) / 7)


# Revisited Oxford and Paris: the definition, derived again, on random ground truths with junk.


def revisited(order: Any, positives: Any, junk: Any) -> tuple[float, list[float]]:
    """AP and P@1, 5, 10 of one query from its ranked list, rank by rank."""
    kept = [row for row in order.tolist() if row not in set(junk.tolist())]
    hits, area, last = 0, 0.0, 0
    for rank, row in enumerate(kept):
        if row in set(positives.tolist()):
            before = hits / rank if rank else 1.0
            hits, last = hits + 1, rank + 1
            area += (before + hits / (rank + 1)) / 2 / len(positives)
    at = [min(last, k) for k in (1, 5, 10)]
    return area, [sum(row in set(positives.tolist()) for row in kept[:k]) / k for k in at]


@pytest.mark.parametrize("seed", range(5))
def test_revisited_average_precision_and_precision(seed: int) -> None:
    lists, relevance, found = random_run(seed, junk=True)
    judged = relevance.block(slice(0, 40))
    areas = metrics.trapezoidal_average_precision(found)
    precisions = [metrics.precision_at_k(found, k, divisor="last_positive") for k in (1, 5, 10)]
    for query, order in enumerate(lists):
        positives, junk = (
            group.rows[group.offsets[query] : group.offsets[query + 1]] for group in (judged.positives, judged.junk)
        )
        if len(positives) == 0:
            assert np.isnan([areas[query], *(values[query] for values in precisions)]).all()
            continue
        area, at = revisited(order, positives, junk)
        assert areas[query] == pytest.approx(area, rel=1e-12)
        assert [values[query] for values in precisions] == pytest.approx(at, rel=1e-12)


# Other libraries.


@pytest.mark.parametrize("seed", range(3))
def test_the_step_rule_is_scikit_learns(seed: int) -> None:
    lists, relevance, found = random_run(seed)
    judged = relevance.block(slice(0, 40))
    for query, value in enumerate(metrics.average_precision(found)):
        rows = judged.positives.rows[judged.positives.offsets[query] : judged.positives.offsets[query + 1]]
        if len(rows):
            truth = np.isin(lists[query], rows)
            assert value == pytest.approx(average_precision_score(truth, -np.arange(60)), rel=1e-12)


@pytest.mark.parametrize("separate", [False, True])
def test_label_metrics_are_those_of_pytorch_metric_learning(separate: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_metric_learning.distances import CosineSimilarity  # type: ignore[import-untyped]
        from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator  # type: ignore[import-untyped]
        from pytorch_metric_learning.utils.inference import CustomKNN  # type: ignore[import-untyped]
    import torch

    generator = np.random.default_rng(0)
    labels = generator.integers(0, 30, 400)
    features = (generator.standard_normal((30, 16))[labels] + 2 * generator.standard_normal((400, 16))).astype(
        np.float32
    )
    queries, gallery = (slice(100), slice(100, None)) if separate else (slice(None), slice(None))
    names = {
        "precision_at_1": lambda found: metrics.hit_rate_at_k(found, 1),
        "r_precision": metrics.r_precision,
        "mean_average_precision_at_r": metrics.map_at_r,
        "mean_average_precision": metrics.average_precision,
        "mean_reciprocal_rank": metrics.reciprocal_rank,
    }
    k = len(features[gallery]) - (not separate)
    calculator = AccuracyCalculator(include=tuple(names), k=k, knn_func=CustomKNN(CosineSimilarity(), batch_size=64))
    given = torch.from_numpy(features), torch.from_numpy(labels)
    reference = (
        calculator.get_accuracy(*(x[queries] for x in given), *(x[gallery] for x in given), not separate)
        if separate
        else calculator.get_accuracy(*given)
    )
    relevance = LabelRelevance(labels[queries], labels[gallery]) if separate else LabelRelevance(labels)
    ((_, found),) = exact_ranks(features[queries], features[gallery], relevance)
    for name, metric in names.items():
        assert mean_over_queries(metric(found)) == pytest.approx(reference[name], abs=2e-6), name


def ranx_metrics(found: PositiveRanks) -> dict[str, float]:
    values = {
        "ndcg": metrics.ndcg_at_k(found),
        "ndcg@10": metrics.ndcg_at_k(found, 10),
        "mrr": metrics.reciprocal_rank(found),
        "mrr@5": metrics.reciprocal_rank(found, 5),
        "map": metrics.average_precision(found),
        "r-precision": metrics.r_precision(found),
        "recall@10": metrics.recall_at_k(found, 10),
        "hit_rate@5": metrics.hit_rate_at_k(found, 5),
        "precision@10": metrics.precision_at_k(found, 10),
    }
    return {name: mean_over_queries(value) for name, value in values.items()}


def test_metrics_are_what_ranx_gave_for_the_first_run() -> None:
    _, _, found = random_run(0)
    assert ranx_metrics(found) == pytest.approx(RANX, rel=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:unsafe cast from uint64")  # numba's, where it compiles ranx
@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_ranx(seed: int) -> None:
    ranx = pytest.importorskip("ranx")  # needs numba and twenty more packages, so it is in no extra
    lists, relevance, found = random_run(seed)
    judged = relevance.block(slice(0, 40))
    groups = np.split(judged.positives.rows, judged.positives.offsets[1:-1])
    asked = [query for query, rows in enumerate(groups) if len(rows)]
    truth = ranx.Qrels({str(q): {str(row): 1 for row in groups[q]} for q in asked})
    run = ranx.Run({str(q): {str(row): 100.0 - rank for rank, row in enumerate(lists[q])} for q in asked})
    assert ranx_metrics(found) == pytest.approx(ranx.evaluate(truth, run, list(RANX)), rel=1e-9)


# Pairs of all queries.


def test_micro_average_precision_is_scikit_learns_without_ties() -> None:
    generator = np.random.default_rng(0)
    scores, correct = generator.permutation(500) / 500, generator.random(500) < 0.2
    expected = average_precision_score(correct, scores)
    assert metrics.micro_average_precision(scores, correct) == pytest.approx(expected, rel=1e-12)
    total = int(correct.sum())
    missed = metrics.micro_average_precision(scores, correct, n_positives=2 * total)
    assert missed == pytest.approx(expected / 2, rel=1e-12)


def test_of_equal_scores_the_wrong_pairs_come_first() -> None:
    assert metrics.micro_average_precision([0.5] * 4, np.array([True, True, False, False])) == (1 / 3 + 2 / 4) / 2
    assert metrics.recall_at_precision([0.5] * 4, np.array([True, True, True, False]), precision=0.75) == 1
    assert metrics.recall_at_precision([0.5] * 4, np.array([True, True, True, False]), precision=0.76) == 0


# Bad input.


def test_a_query_without_positives_is_left_out_of_means() -> None:
    found = ranks_in_lists([[0, 1], [1, 0]], ListRelevance([[], [0]], 2).block(slice(0, 2)), 2)
    values = metrics.average_precision(found)
    assert np.isnan(values[0])
    assert mean_over_queries(values) == 0.5
    assert np.isnan(mean_over_queries(values[:1]))


def test_k_beyond_the_gallery_takes_it_whole() -> None:
    found = ranks_of([0, 3], n_gallery=5)
    assert metrics.recall_at_k(found, 1000)[0] == 1
    assert metrics.precision_at_k(found, 10)[0] == 0.2


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_k_must_be_a_positive_whole_number(k: Any) -> None:
    for metric in (metrics.hit_rate_at_k, metrics.average_precision_at_k, metrics.ndcg_at_k, metrics.reciprocal_rank):
        with pytest.raises(ValueError, match="whole number"):
            metric(ranks_of([0]), k)


def test_lists_that_end_too_early_are_refused_not_guessed_at() -> None:
    found = ranks_in_lists([[0, 3, 1]], ListRelevance([[0, 4]], 5, junk=[[3]]).block(slice(0, 1)), 5)
    assert metrics.recall_at_k(found, 2)[0] == 0.5
    with pytest.raises(ValueError, match="rank 3 of query 0 once junk has left; found 2; search deeper"):
        metrics.recall_at_k(found, 3)
    with pytest.raises(ValueError, match="needs the rank of every relevant row; query 0 has 2, found 1"):
        metrics.average_precision(found)


@pytest.mark.parametrize(
    ("scores", "correct", "total", "message"),
    [
        ([], np.zeros(0, bool), None, "found shapes"),
        ([0.5], [1], None, "booleans"),
        ([np.nan], [True], None, "finite"),
        ([0.5], [False], None, "at least 1"),
        ([0.5, 0.4], [True, True], 1, "the 2 matches"),
    ],
)
def test_bad_pairs_are_refused(scores: Any, correct: Any, total: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.micro_average_precision(np.asarray(scores, np.float64), correct, total)
