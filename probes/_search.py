"""The exact search for nearest neighbours, in blocks of queries and blocks of gallery rows.

Shapes: N gallery rows, M query rows, D features, k neighbours; q and g rows of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import as_features, row_blocks

if TYPE_CHECKING:
    from torch import Tensor

Metric = Literal["cosine", "euclidean"]

GALLERY_ROWS, QUERY_ROWS = 32768, 512  # topk is twice as fast on rows longer than 64 k


def nearest(
    queries: ArrayLike, gallery: ArrayLike, k: int, *, metric: Metric = "cosine", device: str = "cpu"
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The k most similar gallery rows of each query, best first; of equal similarities the lower row comes first.

    Exact: every similarity is computed, in blocks, and the memory beside the result does not grow with N or M. The
    gallery is passed over once. Cosine similarities are float32, and 0 for a zero vector; the Euclidean similarity is
    minus the distance, float64, because float32 loses small distances between long vectors. Two gallery rows are equal
    when the computed numbers are.

    >>> similarity, index = nearest([[1.0, 0.0]], [[0.0, 2.0], [3.0, 0.0], [5.0, 0.0]], 2)
    >>> similarity.tolist(), index.tolist()
    ([[1.0, 1.0]], [[1, 2]])

    Args:
        queries: (M, D) float16, float32 or float64.
        gallery: (N, D), a read-only memory map if need be.
        k: neighbours of each query, at most N.
        metric: ``cosine`` or ``euclidean``.
        device: of torch, for the matrix products.

    Returns:
        Similarity (M, k) and row in the gallery (M, k).

    Raises:
        ValueError: features of different widths, NaN or infinity, k below 1 or above N, or another metric.
    """
    import torch

    query_rows, gallery_rows = as_features(queries, "queries"), as_features(gallery, "gallery")
    if query_rows.shape[1] != gallery_rows.shape[1]:
        raise ValueError(
            f"queries and gallery must have the same D; found {query_rows.shape} and {gallery_rows.shape}; "
            "use the same output of the same backbone"
        )
    check_choice("metric", metric, ("cosine", "euclidean"))
    check_k(k, len(gallery_rows))
    dtype = np.float32 if metric == "cosine" else np.float64
    prepare = _unit if metric == "cosine" else _unchanged
    scores = _dot if metric == "cosine" else _minus_squared_distance
    best = torch.from_numpy(np.full((len(query_rows), k), -np.inf, dtype)).to(device)
    index = torch.zeros(best.shape, dtype=torch.int64, device=device)
    for at, block in row_blocks(gallery_rows, dtype, rows=GALLERY_ROWS, name="gallery"):
        some_gallery = prepare(torch.from_numpy(block).to(device))
        buffer = some_gallery.new_empty(QUERY_ROWS, len(block))  # used again, because fresh memory costs page faults
        for to, some in row_blocks(query_rows, dtype, rows=QUERY_ROWS, name="queries"):
            some_queries = prepare(torch.from_numpy(some).to(device))
            _merge(best[to], index[to], scores(some_queries, some_gallery, buffer[: len(some)]), at.start)
    similarity = best.cpu().numpy()
    if metric == "euclidean":
        # Not torch's: its root is now and then one ulp off, which depends on the number of threads.
        similarity = -np.sqrt(np.maximum(-similarity, 0))
    return similarity, index.cpu().numpy()


def check_k(k: int, rows: int) -> None:
    """Raises ValueError where there are no k gallery rows."""
    if not isinstance(k, int | np.integer) or not 1 <= k <= rows:
        raise ValueError(
            f"k must be a whole number between 1 and the number of gallery rows, n_samples = {rows}; found {k}"
        )


def check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises ValueError where a parameter is none of the allowed values."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; found {value!r}")


def _unit(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=1, keepdim=True)
    return rows.div_(norms.masked_fill_(norms == 0, 1.0))


def _unchanged(rows: Tensor) -> Tensor:
    return rows


def _dot(queries: Tensor, gallery: Tensor, out: Tensor) -> Tensor:
    import torch

    return torch.mm(queries, gallery.T, out=out)


def _minus_squared_distance(queries: Tensor, gallery: Tensor, out: Tensor) -> Tensor:
    scores = _dot(queries, gallery, out).mul_(2)
    return scores.sub_(gallery.square().sum(1)).sub_(queries.square().sum(1)[:, None])


def _merge(best: Tensor, index: Tensor, scores: Tensor, first: int) -> None:
    """Takes scores (q, g) into the running best (q, k); their columns are the gallery rows from ``first`` on.

    Earlier blocks hold lower rows, so a stable sort keeps ties in order.
    """
    import torch

    k = best.shape[1]
    columns = _top_columns(scores, min(k, scores.shape[1]))
    merged = torch.cat([best, scores.gather(1, columns)], 1)
    order = merged.sort(dim=1, descending=True, stable=True).indices[:, :k]
    index.copy_(torch.cat([index, columns + first], 1).gather(1, order))
    best.copy_(merged.gather(1, order))


def _top_columns(scores: Tensor, k: int) -> Tensor:
    """The columns of the k highest scores of each row, ascending; of equal scores the lower columns."""
    import torch

    if k == scores.shape[1]:
        return torch.arange(k, device=scores.device).expand(scores.shape)
    values, columns = scores.topk(k + 1, dim=1)
    columns = columns[:, :k]
    tied = (values[:, k] == values[:, k - 1]).nonzero()[:, 0]
    if len(tied):  # topk takes any of equal scores
        edge = values[tied, k - 1, None]
        above, level = scores[tied] > edge, scores[tied] == edge
        room = k - above.sum(1, keepdim=True)
        columns[tied] = (above | level & (level.cumsum(1) <= room)).nonzero()[:, 1].view(-1, k)
    return columns.sort(dim=1).values
