"""Where the relevant rows of each query stand: exactly, over the whole gallery, or in lists that a search gave.

Every metric of a ranking of queries is a function of these ranks, so no metric needs the ranking itself. The exact rank
of a relevant row is the number of other rows that come before it, counted tile by tile: nothing is sorted, and the
memory does not grow with M x N.

Shapes: M queries, N gallery rows, C relevant rows that were found, over all queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval._features import Metric, Pairing, as_pairing, check_choice
from featurebank.retrieval._tiles import is_one_tile, pair_scores, score_dtype, score_tiles
from featurebank.retrieval.relevance import Judged, Ragged, Relevance

__all__ = ["PositiveRanks", "Ties", "exact_ranks", "ranks_in_lists"]

Ties = Literal["row", "last"]

QUERY_ROWS = 4096  # the gallery is passed over once for so many queries
POSITIVES = 2**23  # fewer queries at a time where they have more relevant rows than this
FEW = 64  # relevant rows of a query up to which counting beats sorting the tile's row


@dataclass(frozen=True, kw_only=True)
class PositiveRanks:
    """The ranks of the relevant rows of M queries, without junk and without the query itself.

    Attributes:
        ranks: (C,) int64, from 0, ascending within a query.
        ranks_with_junk: (C,) the same, junk not removed.
        offsets: (M + 1,) the ranks of query i are ``ranks[offsets[i]:offsets[i + 1]]``.
        n_positives: (M,) relevant rows there are.
        n_candidates: (M,) rows that can be ranked: the gallery without junk and the query itself.
        depth: (M,) ranks that were looked at; what is deeper is unknown.
    """

    ranks: NDArray[np.int64]
    ranks_with_junk: NDArray[np.int64]
    offsets: NDArray[np.int64]
    n_positives: NDArray[np.int64]
    n_candidates: NDArray[np.int64]
    depth: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.n_positives)

    @property
    def owners(self) -> NDArray[np.int64]:
        """(C,) the query of each rank."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def places(self) -> NDArray[np.int64]:
        """(C,) how many relevant rows of the same query come before."""
        return np.arange(len(self.ranks)) - self.offsets[self.owners]


def exact_ranks(
    queries: ArrayLike, gallery: ArrayLike, relevance: Relevance, *, metric: Metric = "cosine", ties: Ties = "row"
) -> Iterator[tuple[slice, PositiveRanks]]:
    """Yields blocks of queries and the ranks of all their relevant rows among all gallery rows.

    Args:
        queries: (M, D) float16, float32 or float64.
        gallery: (N, D), a read-only memory map if need be.
        relevance: what is relevant among the N rows.
        metric: ``cosine`` (0 for a zero vector), ``inner_product``, or ``euclidean``, where the nearest come first.
        ties: of equal similarities the lower ``row`` comes first, as in a stable sort; or the relevant ones ``last``.

    Raises:
        ValueError: different widths, NaN or infinity, relevance of other numbers of rows, or an unknown choice.
    """
    pairing = as_pairing(queries, gallery, metric)
    check_choice("ties", ties, ("row", "last"))
    if (relevance.n_queries, relevance.n_gallery) != (len(pairing.queries), len(pairing.gallery)):
        raise ValueError(
            f"relevance must be of {len(pairing.queries)} queries and {len(pairing.gallery)} gallery rows; "
            f"found {relevance.n_queries} and {relevance.n_gallery}"
        )
    start = 0
    while start < len(pairing.queries):
        counts = relevance.positive_counts(slice(start, start + QUERY_ROWS)).cumsum()
        among = slice(start, start + max(1, int(np.searchsorted(counts, POSITIVES, side="right"))))
        yield among, _ranks(pairing, relevance.block(among), ties, among)
        start = among.stop


def ranks_in_lists(lists: ArrayLike, judged: Judged, n_gallery: int) -> PositiveRanks:
    """The ranks of those relevant rows that stand in ranked lists.

    Args:
        lists: (M, k) gallery rows, best first; -1 where the search found nothing.
        judged: what the M queries have.
        n_gallery: N.

    Raises:
        ValueError: another number of lists, a row outside the gallery, or a row twice in a list.
    """
    rows = np.asarray(lists)
    n_queries = len(judged.own)
    if rows.ndim != 2 or len(rows) != n_queries or rows.dtype.kind not in "iu":
        raise ValueError(f"lists must be ({n_queries}, k) row numbers; found shape {rows.shape}, dtype {rows.dtype}")
    if rows.size and not -1 <= rows.min() <= rows.max() < n_gallery:
        raise ValueError(
            f"lists must hold rows of the gallery, 0 to {n_gallery - 1}, or -1; found {rows.min()} to {rows.max()}"
        )
    rows = rows.astype(np.int64, copy=False)
    ranked = np.sort(rows, axis=1)
    if (twice := ((ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] >= 0)).any(1)).any():
        raise ValueError(f"a list must hold a row once; found one twice in list {np.flatnonzero(twice)[0]}")
    shown = (rows >= 0) & (rows != judged.own[:, None])
    keys = np.arange(n_queries)[:, None] * n_gallery + rows
    kept = shown & ~_listed(keys, judged.junk, n_gallery)
    hits = kept & _listed(keys, judged.positives, n_gallery)
    return PositiveRanks(
        ranks=(kept.cumsum(1) - 1)[hits],
        ranks_with_junk=(shown.cumsum(1) - 1)[hits],
        offsets=np.concatenate([[0], hits.sum(1).cumsum()]),
        n_positives=judged.positives.counts,
        n_candidates=_candidates(judged, n_gallery),
        depth=kept.sum(1),
    )


def _listed(keys: NDArray[np.int64], lists: Ragged, n_gallery: int) -> NDArray[np.bool_]:
    wanted = lists.owners * n_gallery + lists.rows
    if len(wanted) == 0:
        return np.zeros(keys.shape, bool)
    at = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return np.asarray(wanted[at] == keys)


def _candidates(judged: Judged, n_gallery: int) -> NDArray[np.int64]:
    return n_gallery - judged.junk.counts - (judged.own >= 0)


def _ranks(pairing: Pairing, judged: Judged, ties: Ties, among: slice) -> PositiveRanks:
    n_gallery, one_tile = len(pairing.gallery), is_one_tile(pairing)
    offsets, junk = judged.positives.offsets, judged.junk
    positives = Ragged(judged.positives.rows.copy(), offsets)  # to be brought in the order of their scores
    groups = (positives, junk)
    owners = [group.owners for group in groups]
    scores = [np.empty(len(group.rows), score_dtype(pairing.metric)) for group in groups]
    if not one_tile:
        for group, owner, of_group in zip(groups, owners, scores, strict=True):
            of_group[:] = pair_scores(pairing, owner + among.start, group.rows, among)
        _sort_by_score(positives, scores[0], 0, len(judged.own))
    before = np.zeros(len(positives.rows), np.int64)
    for rows, columns, tile in score_tiles(pairing, among):
        first, last = rows.start - among.start, rows.stop - among.start
        for group, owner, of_group in zip(groups, owners, scores, strict=True):
            entries = slice(group.offsets[first], group.offsets[last])
            query, column = owner[entries] - first, group.rows[entries] - columns.start
            if one_tile:
                of_group[entries] = tile[query, column]
            _leave_out(tile, query, column)
        if one_tile:
            _sort_by_score(positives, scores[0], first, last)
        own = judged.own[first:last]
        _leave_out(tile, np.arange(len(own)), np.where(own < 0, -1, own - columns.start))
        for query in range(first, last):
            entries = slice(offsets[query], offsets[query + 1])
            at = positives.rows[entries] - columns.start
            before[entries] += _before(tile[query - first], scores[0][entries], at, ties)
    ranks = before + np.arange(len(before)) - offsets[owners[0]]
    return PositiveRanks(
        ranks=ranks,
        ranks_with_junk=ranks + _junk_before(positives, junk, scores[0], scores[1], ties),
        offsets=offsets,
        n_positives=positives.counts,
        n_candidates=_candidates(judged, n_gallery),
        depth=_candidates(judged, n_gallery),
    )


def _sort_by_score(lists: Ragged, scores: NDArray[Any], first: int, last: int) -> None:
    """Brings the entries of some queries in the order of their scores, best first; equal ones stay by row."""
    for query in range(first, last):
        entries = slice(lists.offsets[query], lists.offsets[query + 1])
        order = np.argsort(-scores[entries], kind="stable")
        scores[entries], lists.rows[entries] = scores[entries][order], lists.rows[entries][order]


def _leave_out(tile: NDArray[Any], query: NDArray[np.int64], column: NDArray[np.int64]) -> None:
    inside = (column >= 0) & (column < tile.shape[1])
    tile[query[inside], column[inside]] = -np.inf


def _before(row: NDArray[Any], scores: NDArray[Any], columns: NDArray[np.int64], ties: Ties) -> NDArray[np.int64]:
    """How many of a row's similarities come before each of some scores, whose columns may lie outside it."""
    width = len(row)
    if len(scores) <= FEW:
        counts = np.empty(len(scores), np.int64)
        for i, (score, column) in enumerate(zip(scores, columns, strict=True)):
            split = width if ties == "last" else min(max(column, 0), width)
            counts[i] = np.count_nonzero(row[:split] >= score) + np.count_nonzero(row[split:] > score)
        return counts
    ranked = np.sort(row)
    below = np.searchsorted(ranked, scores, side="left")
    level = width - below
    if ties == "last":
        return level
    above, tied = level.copy(), np.flatnonzero(ranked[np.minimum(below, width - 1)] == scores)
    above[tied] = width - np.searchsorted(ranked, scores[tied], side="right")
    counts = np.where(columns >= width, level, above)
    for inside in tied[(columns[tied] > 0) & (columns[tied] < width)]:
        counts[inside] += np.count_nonzero(row[: columns[inside]] == scores[inside])
    return counts


def _junk_before(
    positives: Ragged, junk: Ragged, scores: NDArray[Any], junk_scores: NDArray[Any], ties: Ties
) -> NDArray[np.int64]:
    counts = np.zeros(len(positives.rows), np.int64)
    for query in np.flatnonzero(junk.counts):
        mine = slice(positives.offsets[query], positives.offsets[query + 1])
        theirs = slice(junk.offsets[query], junk.offsets[query + 1])
        level = junk_scores[theirs] == scores[mine, None]
        if ties == "row":
            level &= junk.rows[theirs] < positives.rows[mine, None]
        counts[mine] = (level | (junk_scores[theirs] > scores[mine, None])).sum(1)
    return counts
