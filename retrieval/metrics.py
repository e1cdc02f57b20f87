"""Metrics of rankings, from the ranks of what is relevant; and of scored pairs, ranked over all queries.

Each metric of rankings gives one float64 per query, NaN for a query without relevant rows, which `mean_over_queries`
leaves out. Relevance is binary. A metric that needs ranks deeper than were looked at raises instead of guessing.

Shapes: M queries, P scored pairs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval.ranks import PositiveRanks

__all__ = [
    "average_precision",
    "average_precision_at_k",
    "hit_rate_at_k",
    "map_at_r",
    "mean_over_queries",
    "micro_average_precision",
    "ndcg_at_k",
    "precision_at_k",
    "r_precision",
    "recall_at_k",
    "recall_at_precision",
    "reciprocal_rank",
    "trapezoidal_average_precision",
]


def hit_rate_at_k(positives: PositiveRanks, k: int) -> NDArray[np.float64]:
    """1 where any of the first k is relevant, else 0: the Recall@k of metric learning (CUB, Cars, SOP, In-shop)."""
    return _defined(positives, np.minimum(_hits(positives, k), 1.0))


def recall_at_k(positives: PositiveRanks, k: int) -> NDArray[np.float64]:
    """The share of the relevant rows that stand among the first k: the recall of information retrieval, and of BoB."""
    return _mean(positives, positives.ranks < _within(positives, k))


def precision_at_k(
    positives: PositiveRanks, k: int, *, divisor: Literal["k", "last_positive"] = "k"
) -> NDArray[np.float64]:
    """The share of the first k that are relevant.

    With ``last_positive`` the first min(k, rank of the last relevant row, from 1) are taken, as revisited Oxford and
    Paris do (Radenović et al. 2018, arXiv:1803.11285); this needs the whole ranking.
    """
    if divisor == "k":
        return _defined(positives, _hits(positives, k) / k)
    _check_complete(positives)
    last = np.zeros(len(positives))
    np.maximum.at(last, positives.owners, positives.ranks + 1)
    return _defined(positives, _hits(positives, k) / np.maximum(np.minimum(last, k), 1))


def r_precision(positives: PositiveRanks) -> NDArray[np.float64]:
    """The share of the first R that are relevant, where the query has R relevant rows."""
    _check_depth(positives, positives.n_positives)
    inside = positives.ranks < positives.n_positives[positives.owners]
    return _mean(positives, inside)


def map_at_r(positives: PositiveRanks) -> NDArray[np.float64]:
    """MAP@R (Musgrave et al. 2020, arXiv:2003.08505): 1/R times the precisions at the relevant ones of the first R."""
    _check_depth(positives, positives.n_positives)
    inside = positives.ranks < positives.n_positives[positives.owners]
    return _mean(positives, _precisions(positives) * inside)


def average_precision(positives: PositiveRanks) -> NDArray[np.float64]:
    """The mean of the precisions at all R relevant rows: the step rule, as TREC and scikit-learn (without ties)."""
    _check_complete(positives)
    return _mean(positives, _precisions(positives))


def trapezoidal_average_precision(positives: PositiveRanks) -> NDArray[np.float64]:
    """The area under precision and recall by the trapezoidal rule, as revisited Oxford and Paris, Copydays and BoB.

    The j-th relevant row, from 0, at rank r adds (j / r + (j + 1) / (r + 1)) / 2R, where 0 / 0 counts as 1.
    """
    _check_complete(positives)
    left = np.where(positives.ranks == 0, 1.0, positives.places / np.maximum(positives.ranks, 1))
    return _mean(positives, (left + _precisions(positives)) / 2)


def average_precision_at_k(positives: PositiveRanks, k: int) -> NDArray[np.float64]:
    """AP@k of Google Landmarks v2 (Weyand et al. 2020, arXiv:2004.01804): the precisions at hits, over min(R, k)."""
    inside = positives.ranks < _within(positives, k)
    return _mean(positives, _precisions(positives) * inside, np.minimum(positives.n_positives, k))


def reciprocal_rank(positives: PositiveRanks, k: int | None = None) -> NDArray[np.float64]:
    """1 / rank, from 1, of the first relevant row; 0 where none is among the first k. Without k the whole ranking."""
    inside = (positives.places == 0) & (positives.ranks < _within(positives, k))
    return _defined(positives, _sums(positives, inside / (positives.ranks + 1)))


def ndcg_at_k(positives: PositiveRanks, k: int | None = None) -> NDArray[np.float64]:
    """Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002) of gains 0 and 1, discount log2(rank + 1)."""
    inside = positives.ranks < _within(positives, k)
    ideal = positives.n_positives if k is None else np.minimum(positives.n_positives, k)
    best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(int(ideal.max(initial=0))) + 2))])
    gains = _sums(positives, inside / np.log2(positives.ranks + 2))
    return _defined(positives, gains / np.maximum(best[ideal], 1))


def mean_over_queries(values: NDArray[np.float64]) -> float:
    """The mean of (M,) values without the NaN of queries that have nothing relevant; NaN if there is none.

    >>> mean_over_queries(np.array([1.0, np.nan, 0.5]))
    0.75
    """
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def micro_average_precision(scores: ArrayLike, correct: ArrayLike, n_positives: int | None = None) -> float:
    """Average precision over the pairs of all queries in one ranking, DISC21's micro-AP (arXiv:2106.09672).

    Of equal scores the wrong pairs come first. Step rule.

    >>> micro_average_precision([0.9, 0.9, 0.5], [True, False, True])
    0.5833333333333333

    Args:
        scores: (P,) finite, the higher the more alike.
        correct: (P,) whether the pair is a match.
        n_positives: matches there are, those that are in no pair included; without it, those among the pairs.

    Raises:
        ValueError: arrays of other shapes, NaN, no pairs, or no or fewer positives than the pairs hold.
    """
    precisions, _, total = _pair_curve(scores, correct, n_positives)
    return float(precisions.sum() / total)


def recall_at_precision(
    scores: ArrayLike, correct: ArrayLike, n_positives: int | None = None, *, precision: float = 0.9
) -> float:
    """The highest recall at a precision of at least 0.9 over the pairs of all queries; 0 where it is never reached.

    >>> recall_at_precision([0.9, 0.8, 0.7, 0.6], [True, True, False, True], n_positives=4)
    0.5

    Args:
        scores: as in `micro_average_precision`.
        correct: likewise.
        n_positives: likewise.
        precision: the least precision.

    Raises:
        ValueError: likewise.
    """
    precisions, recalls, _ = _pair_curve(scores, correct, n_positives)
    return float(recalls[precisions >= precision].max(initial=0.0))


def _pair_curve(
    scores: ArrayLike, correct: ArrayLike, n_positives: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Precision and recall at each match, best first, and the number of matches there are."""
    values, right = np.asarray(scores), np.asarray(correct)
    if values.ndim != 1 or values.shape != right.shape or len(values) == 0 or right.dtype != np.bool_:
        raise ValueError(
            f"scores and correct must be (P,) numbers and booleans; found shapes {values.shape} and {right.shape}, "
            f"dtypes {values.dtype} and {right.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite; found {values[~np.isfinite(values)][0]}; leave such pairs out")
    hits = int(right.sum())
    total = hits if n_positives is None else n_positives
    if total < max(hits, 1):
        raise ValueError(f"n_positives must be at least 1 and the {hits} matches among the pairs; found {total}")
    ranks = np.flatnonzero(right[np.lexsort((right, -values))])
    counts = np.arange(1, hits + 1)
    return counts / (ranks + 1), counts / total, total


def _within(positives: PositiveRanks, k: int | None) -> float:
    """The rank that is looked up to, infinity without k, once it is clear that the ranks are known so far."""
    if k is None:
        _check_complete(positives)
        return np.inf
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1; found {k}")
    _check_depth(positives, int(k))
    return k


def _check_depth(positives: PositiveRanks, k: int | NDArray[np.int64]) -> None:
    needed = np.minimum(k, positives.n_candidates)
    if (short := np.flatnonzero(positives.depth < needed)).size:
        query = short[0]
        raise ValueError(
            f"the lists must reach rank {needed[query]} of query {query} once junk has left; "
            f"found {positives.depth[query]}; search deeper"
        )


def _check_complete(positives: PositiveRanks) -> None:
    unseen = (np.diff(positives.offsets) < positives.n_positives) & (positives.depth < positives.n_candidates)
    if unseen.any():
        query = np.flatnonzero(unseen)[0]
        raise ValueError(
            f"this metric needs the rank of every relevant row; query {query} has {positives.n_positives[query]}, "
            f"found {np.diff(positives.offsets)[query]} in a list of {positives.depth[query]}; "
            "rank the whole gallery or take a metric at k"
        )


def _hits(positives: PositiveRanks, k: int) -> NDArray[np.float64]:
    return _sums(positives, positives.ranks < _within(positives, k))


def _sums(positives: PositiveRanks, values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.bincount(positives.owners, weights=values, minlength=len(positives)).astype(np.float64)


def _precisions(positives: PositiveRanks) -> NDArray[np.float64]:
    """The precision at each relevant row."""
    return np.asarray((positives.places + 1) / (positives.ranks + 1))


def _mean(
    positives: PositiveRanks,
    values: NDArray[np.float64] | NDArray[np.bool_],
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """The sum of each query's values over its number of relevant rows, or over other counts."""
    return _defined(
        positives, _sums(positives, values) / np.maximum(positives.n_positives if counts is None else counts, 1)
    )


def _defined(positives: PositiveRanks, values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(positives.n_positives > 0, values, np.nan)
