"""k-reciprocal re-ranking (Zhong et al. 2017, arXiv:1701.08398), on sparse neighbourhoods.

Shapes: M queries, N gallery rows, T = M + N rows altogether (queries first), D features, k listed for each query.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse  # type: ignore[import-untyped]

from featurebank.retrieval._features import as_pairing, check_k
from featurebank.retrieval._tiles import pair_scores
from featurebank.retrieval.search import nearest

__all__ = ["rerank_k_reciprocal"]

QUERY_ROWS = 512  # whose candidates are held together


def rerank_k_reciprocal(
    queries: ArrayLike,
    gallery: ArrayLike | None,
    k: int,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    normalise: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k gallery rows of least final distance for each query.

    With d = 1 - cosine, and N(p, k) the k nearest of all other rows, queries included, and p itself:
    R(p, k) = rows of N(p, k) that have p in theirs; R*(p) adds to R(p, k1) each R(q, k1 / 2), q in R(p, k1), of which
    at least two thirds lie in R(p, k1); V_p = exp(-d) there and 0 elsewhere, averaged over the k2 nearest rows of p,
    itself included; the Jaccard distance is 1 - sum min(V_p, V_g) / sum max(V_p, V_g), and the final one
    (1 - weight) Jaccard + weight d.

    That is the printed formula. The authors' code also scales the rows of V to sum 1: ``normalise``; and it divides
    squared distances by their largest for each query, which here they are not.

    The distances of all pairs are never held: a row that shares no neighbour with the query has Jaccard distance 1, so
    only the others and the k nearest rows can be among the best.

    Args:
        queries: (M, D) float16, float32 or float64.
        gallery: (N, D), a read-only memory map if need be; None: the queries are the gallery, and none finds itself.
        k: rows listed for each query, at most N, or N - 1 without a gallery.
        k1: size of the neighbourhoods.
        k2: rows whose V are averaged; 1 averages nothing.
        weight: of the original distance, from 0 to 1.
        normalise: as the authors' code.

    Returns:
        Final distances (M, k) ascending, equal ones by row, and gallery rows (M, k).

    Raises:
        ValueError: different widths, NaN or infinity, or a parameter out of range.
    """
    itself = gallery is None
    pairing = as_pairing(queries, queries if gallery is None else gallery, "cosine")
    n_queries, n_gallery = len(pairing.queries), len(pairing.gallery)
    parts = [pairing.gallery] if itself else [pairing.queries, pairing.gallery]
    first = 0 if itself else n_queries  # of the gallery among all rows
    total = first + n_gallery
    check_k(k, n_gallery - itself)
    check_k(k1, total - 1, "k1")
    check_k(k2, k1 + 1, "k2")
    if not 0 <= weight <= 1:
        raise ValueError(f"weight must be between 0 and 1; found {weight}")
    scores, ranked = _all_nearest(parts, k1 + 1)
    expanded = _expanded(ranked, k1)
    values = _encoded(parts, scores, ranked, expanded, k2, normalise=normalise)
    own = np.arange(n_queries) if itself else None
    near_scores, near = nearest(pairing.queries, pairing.gallery, k, own=own)
    distances, rows = np.empty((n_queries, k), np.float32), np.empty((n_queries, k), np.int64)
    for start in range(0, n_queries, QUERY_ROWS):
        among = slice(start, min(start + QUERY_ROWS, n_queries))
        shared = list(_jaccard(values[among], values[first:]))
        known = np.concatenate([near[among], np.arange(n_queries)[among, None]], 1) if itself else near[among]
        extra = [np.setdiff1d(sharing, listed) for (sharing, _), listed in zip(shared, known, strict=True)]
        counts = [len(some) for some in extra]
        asked = np.repeat(np.arange(among.start, among.stop), counts)
        cosines = np.split(pair_scores(pairing, asked, np.concatenate(extra), among), np.cumsum(counts)[:-1])
        for i, query in enumerate(range(among.start, among.stop)):
            sharing, distance = shared[i]
            jaccard = np.ones(n_gallery)
            jaccard[sharing] = distance
            candidates = np.concatenate([near[query], extra[i]])
            original = 1 - np.concatenate([near_scores[query], cosines[i]])
            final = (1 - weight) * jaccard[candidates] + weight * original
            order = np.lexsort((candidates, final))[:k]
            distances[query], rows[query] = final[order], candidates[order]
    return distances, rows


def _all_nearest(parts: list[NDArray[Any]], k: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The k nearest of all T rows for each of them, itself first: cosines and rows (T, k)."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    scores, rows = [], []
    for i, part in enumerate(parts):
        lists = []
        for j, other in enumerate(parts):
            own = np.arange(len(part)) if i == j else None
            wanted = min(k - 1, len(other) - (i == j))
            if wanted:
                lists.append((*nearest(part, other, wanted, own=own), starts[j]))
        near = np.concatenate([score for score, _, _ in lists], 1)
        which = np.concatenate([row + start for _, row, start in lists], 1)
        order = np.argsort(-near, axis=1, kind="stable")[:, : k - 1]
        mine = np.arange(starts[i], starts[i + 1])[:, None]
        scores.append(np.concatenate([np.ones((len(part), 1), near.dtype), np.take_along_axis(near, order, 1)], 1))
        rows.append(np.concatenate([mine, np.take_along_axis(which, order, 1)], 1))
    return np.concatenate(scores), np.concatenate(rows)


def _reciprocal(ranked: NDArray[np.int64], k: int) -> Any:
    """R(p, k) of every row as a boolean (T, T) sparse matrix; p itself is in it."""
    total = len(ranked)
    lists = ranked[:, : k + 1]
    owners = np.repeat(np.arange(total), lists.shape[1])
    near = sparse.csr_array((np.ones(lists.size, np.int32), (owners, lists.reshape(-1))), shape=(total, total))
    return near.multiply(near.T).tocsr()


def _expanded(ranked: NDArray[np.int64], k1: int) -> Any:
    """R* of every row, as `_reciprocal`."""
    whole, half = _reciprocal(ranked, k1), _reciprocal(ranked, max(1, round(k1 / 2)))
    shared = (whole @ half.T).multiply(whole).tocoo()  # |R(p, k1) and R(q, k1 / 2)| for q in R(p, k1)
    sizes = np.diff(half.indptr)
    enough = 3 * shared.data >= 2 * sizes[shared.col]
    chosen = sparse.csr_array((np.ones(enough.sum(), np.int32), (shared.row[enough], shared.col[enough])), whole.shape)
    return (whole + chosen @ half).tocsr()


def _encoded(
    parts: list[NDArray[Any]],
    scores: NDArray[Any],
    ranked: NDArray[np.int64],
    expanded: Any,
    k2: int,
    *,
    normalise: bool,
) -> Any:
    """V, (T, T) sparse."""
    total = len(ranked)
    entries = expanded.tocoo()
    values = np.exp(_cosines(parts, entries.row, entries.col, scores.dtype) - 1)
    encoded = sparse.csr_array((values, (entries.row, entries.col)), shape=(total, total))
    if normalise:
        encoded = sparse.diags_array(1 / encoded.sum(1)) @ encoded
    if k2 > 1:
        owners = np.repeat(np.arange(total), k2)
        mean = sparse.csr_array((np.full(total * k2, 1 / k2), (owners, ranked[:, :k2].reshape(-1))), (total, total))
        encoded = mean @ encoded
    return encoded.tocsr()


def _cosines(
    parts: list[NDArray[Any]], rows: NDArray[Any], columns: NDArray[Any], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The cosine of each pair of the T rows; a row with itself has 1."""
    starts = np.cumsum([0, *(len(part) for part in parts)])
    cosines = np.empty(len(rows), dtype)
    for i, part in enumerate(parts):
        for j, other in enumerate(parts):
            here = (rows >= starts[i]) & (rows < starts[i + 1]) & (columns >= starts[j]) & (columns < starts[j + 1])
            chosen = np.flatnonzero(here)
            chosen = chosen[np.argsort(rows[chosen], kind="stable")]
            pairing = as_pairing(part, other, "cosine")
            left, right = (x[chosen].astype(np.int64) for x in (rows, columns))
            cosines[chosen] = pair_scores(pairing, left - starts[i], right - starts[j], slice(0, len(part)))
    cosines[rows == columns] = 1
    return cosines


def _jaccard(queries: Any, gallery: Any) -> Any:
    """Yields for each query the gallery rows that share a neighbour with it, and their Jaccard distances."""
    by_column = gallery.tocsc()
    query_sums, gallery_sums = queries.sum(1), gallery.sum(1)
    for query in range(queries.shape[0]):
        mine = slice(queries.indptr[query], queries.indptr[query + 1])
        spans = [slice(by_column.indptr[c], by_column.indptr[c + 1]) for c in queries.indices[mine]]
        rows = np.concatenate([by_column.indices[span] for span in spans])
        smaller = np.concatenate(
            [np.minimum(value, by_column.data[span]) for value, span in zip(queries.data[mine], spans, strict=True)]
        )
        least = np.bincount(rows, weights=smaller, minlength=gallery.shape[0])
        touched = np.flatnonzero(least)
        yield touched, 1 - least[touched] / (query_sums[query] + gallery_sums[touched] - least[touched])
