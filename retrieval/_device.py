"""The exact search on an accelerator, in blocks of queries and of gallery rows; on the CPU see `search`.

Rows are sent as they come, the gallery's once, the queries' once where a GPU has room for them. They are cast and
scaled there, block by block, and the best of all blocks are merged there.

Shapes: N gallery rows, M query rows, D features, k neighbours; q and g rows of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featurebank.retrieval._features import Metric, Pairing, rows_of
from featurebank.retrieval._room import as_they_come, held_on

if TYPE_CHECKING:
    from torch import Tensor

GALLERY_ROWS, QUERY_ROWS = 32768, 512  # topk is twice as fast on rows longer than 64 k


def nearest_on(
    device: str, pairing: Pairing, k: int, own: NDArray[np.integer]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Similarities (M, k) and gallery rows (M, k) as `nearest` gives them; the gallery is passed over once.

    Args:
        device: of torch.
        pairing: queries (M, D) and gallery (N, D).
        k: rows to find.
        own: (M,) a gallery row that each query must not find, -1 for none.
    """
    import torch

    queries, gallery, metric = pairing
    dtype = np.float64 if metric == "euclidean" else np.float32
    best = torch.from_numpy(np.full((len(queries), k), -np.inf, dtype)).to(device)
    index = torch.zeros(best.shape, dtype=torch.int64, device=device)
    held = held_on(torch.device(device), queries)
    for start in range(0, len(gallery), GALLERY_ROWS):
        columns = slice(start, min(start + GALLERY_ROWS, len(gallery)))
        sent = as_they_come(gallery, columns).to(device)
        some_gallery = _prepared(sent, Block(gallery, columns, metric, "gallery"))
        buffer = some_gallery.new_empty(QUERY_ROWS, len(some_gallery))  # used again: fresh memory costs page faults
        for first in range(0, len(queries), QUERY_ROWS):
            rows = slice(first, min(first + QUERY_ROWS, len(queries)))
            sent = as_they_come(queries, rows).to(device) if held is None else held[rows]
            some_queries = _prepared(sent, Block(queries, rows, metric, "queries"))
            scores = torch.mm(some_queries, some_gallery.T, out=buffer[: len(some_queries)])
            if metric == "euclidean":
                scores.mul_(2).sub_(some_gallery.square().sum(1)).sub_(some_queries.square().sum(1)[:, None])
            mine = torch.from_numpy(np.asarray(own[rows], np.int64) - start)
            inside = ((own[rows] >= 0) & (mine.numpy() >= 0) & (mine.numpy() < len(some_gallery))).nonzero()[0]
            scores[inside, mine[inside].to(device)] = -torch.inf
            _merge(best[rows], index[rows], scores, start)
    similarity: NDArray[Any] = best.cpu().numpy()
    if metric == "euclidean":
        similarity = -np.sqrt(np.maximum(-similarity, 0))
    return similarity, index.cpu().numpy()


class Block(NamedTuple):
    """Rows, as `rows_of` takes them."""

    features: NDArray[Any]
    rows: slice
    metric: Metric
    name: str


def _prepared(sent: Tensor, block: Block) -> Tensor:
    """What `rows_of` makes of a block, where it was sent to.

    Raises:
        ValueError: a value that is not finite.
    """
    import torch

    made = sent.to(torch.float64 if block.metric == "euclidean" else torch.float32)
    largest = made.abs().amax(1, keepdim=True)
    if not largest.isfinite().all():
        rows_of(*block)
    if block.metric != "cosine":
        return made
    made = made / torch.where(largest > 0, largest, 1)
    norms = made.square().sum(1, keepdim=True).sqrt()
    return made / torch.where(norms > 0, norms, 1)


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
