"""A protocol's metrics of one set of features, or of ranked lists that came from elsewhere.

Shapes: M queries, N gallery rows, D features, k listed for each query.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import Metric, as_pairing
from featurebank.retrieval.metrics import mean_over_queries, micro_average_precision, recall_at_precision
from featurebank.retrieval.protocols import Protocol, find_protocol
from featurebank.retrieval.ranks import PositiveRanks, exact_ranks, ranks_in_lists
from featurebank.retrieval.relevance import LabelRelevance, ListRelevance, Relevance
from featurebank.retrieval.search import nearest_blocks

__all__ = ["Evaluation", "evaluate", "evaluate_lists"]

LIST_ROWS = 2048  # lists looked at together


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a protocol says of a ranking.

    Attributes:
        protocol: Its name.
        values: Each metric's mean over the queries, or its value over all pairs.
        per_query: Each metric of rankings for each query, (M,), NaN for a query without relevant rows.
        n_queries: M.
        n_without: Queries that have nothing relevant in the gallery.
        n_gallery: N.
    """

    protocol: str
    values: Mapping[str, float]
    per_query: Mapping[str, NDArray[np.float64]] = field(repr=False)
    n_queries: int
    n_without: int
    n_gallery: int


def evaluate(
    query: ArrayLike, gallery: ArrayLike | None, relevance: Any, *, protocol: str = "labels", metric: Metric = "cosine"
) -> Evaluation:
    """Ranks the whole gallery for each query, exactly, and scores the ranking.

    Nothing of the size M x N is held: see `exact_ranks`.

    >>> features = [[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]
    >>> evaluate(features, None, [0, 0, 1, 1], protocol="cub").values["map@r"]
    1.0

    Args:
        query: (M, D) float16, float32 or float64.
        gallery: (N, D); None: the queries are the gallery, and none finds itself.
        relevance: a `Relevance`; or labels, (M,) without a gallery and a pair of (M,) and (N,) with one; or, for a
            revisited protocol, M mappings of ``easy``, ``hard`` and ``junk`` to gallery rows. Texts that look for
            images have the pair (image of each text, ``np.arange(N)``).
        protocol: a name of `PROTOCOLS`.
        metric: ``cosine``, ``inner_product`` or ``euclidean``.

    Raises:
        ValueError: features of different widths or not finite, relevance that does not fit them, an unknown protocol,
            or no query with anything relevant.
    """
    rules = find_protocol(protocol)
    pairing = as_pairing(query, query if gallery is None else gallery, metric)
    n_gallery = len(pairing.gallery)
    judged = _relevance(relevance, rules, len(pairing.queries), n_gallery, itself=gallery is None)
    if rules.pairs is None:
        ranked = exact_ranks(pairing.queries, pairing.gallery, judged, metric=metric)
        return _of_ranks((ranks for _, ranks in ranked), rules, n_gallery)
    k = min(rules.pairs, n_gallery - bool((judged.own >= 0).any()))
    blocks = list(nearest_blocks(pairing.queries, pairing.gallery, k, metric=metric, own=judged.own))
    return _of_pairs(np.concatenate([b[2] for b in blocks]), np.concatenate([b[1] for b in blocks]), judged, rules)


def evaluate_lists(
    lists: ArrayLike | Iterator[ArrayLike],
    relevance: Relevance,
    *,
    protocol: str = "labels",
    scores: ArrayLike | None = None,
) -> Evaluation:
    """Scores ranked lists: of an approximate index, of re-ranking, of another program.

    >>> evaluate_lists([[1, 0], [1, 0]], LabelRelevance([0, 1], [0, 1])).values["mrr"]
    0.75

    Args:
        lists: (M, k) gallery rows, best first, -1 where nothing was found; or an iterator over blocks of them in the
            order of the queries, such as ``(rows for _, _, rows in nearest_blocks(...))``, so that M x k is not held.
        relevance: what is relevant among the N rows.
        protocol: a name of `PROTOCOLS`. Metrics of whole rankings need lists that hold every relevant row.
        scores: (M, k) similarities, for a protocol that ranks pairs.

    Raises:
        ValueError: lists that are too short for a metric or do not fit the relevance, missing scores, an unknown
            protocol, or no query with anything relevant.
    """
    rules = find_protocol(protocol)
    if rules.pairs is None:
        ranks = _ranks_of_blocks(lists if isinstance(lists, Iterator) else _blocks(np.asarray(lists)), relevance)
        return _of_ranks(ranks, rules, relevance.n_gallery)
    rows, values = np.asarray(lists), np.asarray(scores)
    _check_number(len(rows) if rows.ndim else 0, relevance)
    if values.shape != rows.shape:
        raise ValueError(f"protocol {rules.name} needs a score for each of {rows.shape}; found {values.shape}")
    return _of_pairs(rows[:, : rules.pairs], values[:, : rules.pairs], relevance, rules)


def _blocks(lists: NDArray[Any]) -> Iterator[NDArray[Any]]:
    for start in range(0, len(lists), LIST_ROWS):
        yield lists[start : start + LIST_ROWS]


def _ranks_of_blocks(blocks: Iterator[ArrayLike], relevance: Relevance) -> Iterator[PositiveRanks]:
    start = 0
    for block in blocks:
        rows = np.asarray(block)
        at = slice(start, start + len(rows))
        start = at.stop
        if start > relevance.n_queries:
            break
        yield ranks_in_lists(rows, relevance.block(at), relevance.n_gallery)
    _check_number(start, relevance)


def _check_number(lists: int, relevance: Relevance) -> None:
    if lists != relevance.n_queries:
        raise ValueError(f"lists must be one for each of {relevance.n_queries} queries; found {lists}")


def _relevance(given: Any, rules: Protocol, n_queries: int, n_gallery: int, *, itself: bool) -> Relevance:
    if isinstance(given, Relevance):
        if itself and not np.array_equal(given.own, np.arange(n_queries)):
            raise ValueError("own must be np.arange(N) where the queries are the gallery, so that none finds itself")
        return given
    if isinstance(given, Sequence) and len(given) and all(isinstance(entry, Mapping) for entry in given):
        if not rules.positives:
            raise ValueError(f"protocol {rules.name} has no levels; give labels or a ListRelevance")
        return ListRelevance.revisited(given, n_gallery, positives=rules.positives, junk=rules.junk)
    if itself:
        return LabelRelevance(given)
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(
            "relevance must be a Relevance, a pair (query labels, gallery labels), or a revisited ground truth; "
            f"found {type(given).__name__}"
        )
    return LabelRelevance(*given)


def _of_ranks(blocks: Iterable[PositiveRanks], rules: Protocol, n_gallery: int) -> Evaluation:
    values: dict[str, list[NDArray[np.float64]]] = {name: [] for name in rules.metrics}
    n_positives = []
    for ranks in blocks:
        n_positives.append(ranks.n_positives)
        for name, metric in rules.metrics.items():
            values[name].append(metric(ranks))
    per_query = {name: np.concatenate(blocks) for name, blocks in values.items()}
    means = {name: mean_over_queries(every) for name, every in per_query.items()}
    return _evaluation(means, per_query, np.concatenate(n_positives), rules, n_gallery)


def _of_pairs(rows: NDArray[Any], scores: NDArray[Any], relevance: Relevance, rules: Protocol) -> Evaluation:
    judged = relevance.block(slice(0, len(rows)))
    ranks = ranks_in_lists(rows, judged, relevance.n_gallery)
    keys = np.arange(len(rows))[:, None] * relevance.n_gallery + rows
    positives, junk = (lists.owners * relevance.n_gallery + lists.rows for lists in (judged.positives, judged.junk))
    counted = (rows >= 0) & (rows != judged.own[:, None]) & ~np.isin(keys, junk)
    correct, total = np.isin(keys, positives)[counted], int(ranks.n_positives.sum())
    if total == 0:
        raise _nothing_relevant(len(rows))
    means = {
        "micro_ap": micro_average_precision(scores[counted], correct, total),
        "recall@p90": recall_at_precision(scores[counted], correct, total),
    }
    return _evaluation(means, {}, ranks.n_positives, rules, relevance.n_gallery)


def _evaluation(
    means: Mapping[str, float],
    per_query: Mapping[str, NDArray[np.float64]],
    n_positives: NDArray[np.int64],
    rules: Protocol,
    n_gallery: int,
) -> Evaluation:
    n_without = int((n_positives == 0).sum())
    if n_without == len(n_positives):
        raise _nothing_relevant(n_without)
    return Evaluation(
        protocol=rules.name,
        values=means,
        per_query=per_query,
        n_queries=len(n_positives),
        n_without=n_without,
        n_gallery=n_gallery,
    )


def _nothing_relevant(n_queries: int) -> ValueError:
    return ValueError(
        f"at least one query must have something relevant in the gallery; found none among {n_queries}; "
        "check that query and gallery labels are of the same set"
    )
