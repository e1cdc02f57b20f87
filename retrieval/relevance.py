"""What is relevant to each query: from labels, from lists of rows, or from the levels of a revisited ground truth.

Shapes: M queries, N gallery rows, C entries over the queries of a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Judged", "LabelRelevance", "ListRelevance", "Ragged", "Relevance", "rows_of_ids", "two_level_split"]


class Ragged(NamedTuple):
    """Lists of rows, one per query: those of query i are ``rows[offsets[i]:offsets[i + 1]]``, ascending.

    Attributes:
        rows: (C,) int64.
        offsets: (M + 1,) int64.
    """

    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(M,) the length of each list."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """(C,) the query of each entry."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.counts)


class Judged(NamedTuple):
    """What a block of queries has.

    Attributes:
        positives: Relevant rows.
        junk: Rows that count neither as right nor as wrong: they leave the ranking, and ranks close up.
        own: (M,) each query's own row in the gallery, which leaves the ranking too; -1 where it is not there.
    """

    positives: Ragged
    junk: Ragged
    own: NDArray[np.int64]


class Relevance(ABC):
    """The relevant rows of M queries in a gallery of N rows.

    Attributes:
        n_queries: M.
        n_gallery: N.
        own: (M,) each query's own row in the gallery, or -1.
        most_junk: rows of the longest list of junk.
    """

    n_queries: int
    n_gallery: int
    own: NDArray[np.int64]
    most_junk: int = 0

    @abstractmethod
    def block(self, queries: slice) -> Judged:
        """What the queries of a slice have."""

    @abstractmethod
    def positive_counts(self, queries: slice) -> NDArray[np.int64]:
        """How many relevant rows each of them has, without listing them; its own row may be among them."""


class LabelRelevance(Relevance):
    """A gallery row is relevant to a query when both have the same label. Nothing is junk.

    Without gallery labels the queries are the gallery, and no query finds itself.

    >>> LabelRelevance(["cat", "dog", "cat"]).block(slice(0, 3)).positives
    Ragged(rows=array([2, 0]), offsets=array([0, 1, 1, 2]))

    Args:
        queries: (M,) labels, integers or strings.
        gallery: (N,) labels.
        own: (M,) each query's own row in the gallery, -1 where it is not there; only with gallery labels.

    Raises:
        ValueError: not one axis, empty, missing (NaN) labels, or a row outside the gallery.
    """

    def __init__(self, queries: ArrayLike, gallery: ArrayLike | None = None, *, own: ArrayLike | None = None) -> None:
        labels = _labels(queries, "query labels")
        among = labels if gallery is None else _labels(gallery, "gallery labels")
        if (labels.dtype.kind in "US") != (among.dtype.kind in "US"):
            raise ValueError(f"query and gallery labels must be alike; found {labels.dtype} and {among.dtype}")
        self.n_queries, self.n_gallery = len(labels), len(among)
        if gallery is None and own is not None:
            raise ValueError("own must be left out where the queries are the gallery: each is its own row")
        self.own = np.arange(len(labels)) if gallery is None else _own(own, len(labels), len(among))
        self._order = np.argsort(among, kind="stable")
        ranked = among[self._order]
        self._first, self._last = (np.searchsorted(ranked, labels, side=side) for side in ("left", "right"))

    def block(self, queries: slice) -> Judged:
        """What the queries of a slice have."""
        first, counts, own = self._first[queries], self.positive_counts(queries), self.own[queries]
        offsets = _offsets(counts)
        owners = np.repeat(np.arange(len(counts)), counts)
        rows = self._order[np.arange(offsets[-1]) - offsets[owners] + first[owners]]
        others = rows != own[owners]
        rows, owners = rows[others], owners[others]
        positives = Ragged(rows, _offsets(np.bincount(owners, minlength=len(counts))))
        return Judged(positives, _none(len(counts)), own)

    def positive_counts(self, queries: slice) -> NDArray[np.int64]:
        """How many gallery rows have the label of each query of a slice."""
        return self._last[queries] - self._first[queries]


class ListRelevance(Relevance):
    """The relevant rows, and those that are junk, are listed for each query.

    >>> ListRelevance([[4, 1], []], n_gallery=5, junk=[[0], []]).block(slice(0, 1)).positives.rows
    array([1, 4])

    Args:
        positives: M lists of gallery rows.
        n_gallery: N.
        junk: M lists of gallery rows.
        own: (M,) each query's own row in the gallery, -1 where it is not there. It is no positive of its own.

    Raises:
        ValueError: a row outside the gallery, listed twice, or both relevant and junk; or lists of another number.
    """

    def __init__(
        self,
        positives: Sequence[ArrayLike],
        n_gallery: int,
        *,
        junk: Sequence[ArrayLike] | None = None,
        own: ArrayLike | None = None,
    ) -> None:
        if len(positives) == 0:
            raise ValueError("positives must list the relevant rows of at least one query; found none")
        if junk is not None and len(junk) != len(positives):
            raise ValueError(f"junk must have one list for each query; found {len(junk)} for {len(positives)}")
        self.n_queries, self.n_gallery = len(positives), n_gallery
        self.own = _own(own, len(positives), n_gallery)
        relevant = _ragged(positives, n_gallery, "positives")
        ignored = _none(len(positives)) if junk is None else _ragged(junk, n_gallery, "junk")
        keys = (relevant.owners * n_gallery + relevant.rows, ignored.owners * n_gallery + ignored.rows)
        if len(both := np.intersect1d(*keys)):
            query, row = divmod(int(both[0]), n_gallery)
            raise ValueError(f"no row may be both relevant and junk; found row {row} in both lists of query {query}")
        self._positives, self._junk = _without(relevant, self.own), _without(ignored, self.own)
        self.most_junk = int(self._junk.counts.max())

    @classmethod
    def revisited(
        cls,
        ground_truth: Sequence[Mapping[str, ArrayLike]],
        n_gallery: int,
        *,
        positives: Sequence[str],
        junk: Sequence[str],
    ) -> ListRelevance:
        """From the ground truth of revisited Oxford and Paris: per query the rows under ``easy``, ``hard``, ``junk``.

        Args:
            ground_truth: M mappings of those names to gallery rows.
            n_gallery: N.
            positives: the names whose rows are relevant.
            junk: the names whose rows are junk.

        Raises:
            ValueError: as the class, or a name is missing.
        """
        for query, entry in enumerate(ground_truth):
            if missing := {*positives, *junk} - set(entry):
                raise ValueError(
                    f"the ground truth must have {', '.join(sorted({*positives, *junk}))} for every query; "
                    f"query {query} lacks {', '.join(sorted(missing))}"
                )
        relevant, ignored = (
            [
                np.concatenate([np.asarray(entry[name], np.int64).reshape(-1) for name in names])
                for entry in ground_truth
            ]
            for names in (positives, junk)
        )
        return cls(relevant, n_gallery, junk=ignored)

    def block(self, queries: slice) -> Judged:
        """What the queries of a slice have."""
        return Judged(_part(self._positives, queries), _part(self._junk, queries), self.own[queries])

    def positive_counts(self, queries: slice) -> NDArray[np.int64]:
        """How many relevant rows each query of a slice has."""
        return self._positives.counts[queries]


def rows_of_ids(ids: ArrayLike, gallery_ids: ArrayLike) -> NDArray[np.int64]:
    """The gallery row of each id; -1 for one that the gallery lacks.

    >>> rows_of_ids(["b", "x"], ["a", "b"])
    array([ 1, -1])

    Raises:
        ValueError: an id stands twice in the gallery.
    """
    among, wanted = np.asarray(gallery_ids), np.asarray(ids)
    order = np.argsort(among, kind="stable")
    ranked = among[order]
    if (twice := ranked[1:] == ranked[:-1]).any():
        first = int(np.flatnonzero(twice)[0])
        raise ValueError(
            f"gallery ids must be distinct; found {ranked[first]!r} in rows {order[first]} and {order[first + 1]}"
        )
    at = np.minimum(np.searchsorted(ranked, wanted), len(ranked) - 1)
    return np.where(ranked[at] == wanted, order[at], -1).astype(np.int64)


def two_level_split(
    labels: ArrayLike, names: ArrayLike, *, share: float = 0.2, per_class: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """BoB's split: of each class the alphabetically first files are queries, the others the gallery.

    Battle of the Backbones (Goldblum et al. 2023, arXiv:2310.19909) takes floor(20 %) of each class; of iNaturalist it
    keeps the first 5 images of a class, of INSTRE and ObjectNet the first 50.

    >>> queries, gallery = two_level_split([0] * 5 + [1] * 4, list("edcba") + list("wxyz"))
    >>> queries.tolist(), gallery.tolist()
    ([4], [0, 1, 2, 3, 5, 6, 7, 8])

    Args:
        labels: (N,) classes.
        names: (N,) file names or ids, sorted by code point within a class.
        share: of each class that are queries, rounded down.
        per_class: images of each class that are kept, the first ones; None keeps all.

    Returns:
        The rows that are queries and those that are the gallery, each ascending.

    Raises:
        ValueError: labels and names of different numbers, or a share outside (0, 1), or no class gives a query.
    """
    classes, files = _labels(labels, "labels"), np.asarray(names)
    if files.shape != classes.shape:
        raise ValueError(f"names must be one for each label; found shapes {files.shape} and {classes.shape}")
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1; found {share}")
    codes = np.unique(classes, return_inverse=True)[1]
    order = np.lexsort((files, codes))
    counts = np.bincount(codes)
    place = np.arange(len(order)) - np.repeat(_offsets(counts)[:-1], counts)
    kept = counts if per_class is None else np.minimum(counts, per_class)
    n_queries = np.floor(share * kept + 1e-9).astype(np.int64)
    ranked = codes[order]
    is_query, is_kept = place < n_queries[ranked], place < kept[ranked]
    if not is_query.any():
        raise ValueError(
            f"some class must have at least {int(np.ceil(1 / share))} images to give a query; found {kept.max()}"
        )
    return np.sort(order[is_query]), np.sort(order[is_kept & ~is_query])


def _labels(labels: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iubUSf":
        raise ValueError(
            f"{name} must be one integer or string for each row; found shape {array.shape}, dtype {array.dtype}"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} must be known; found NaN or infinity at {np.flatnonzero(~np.isfinite(array))[0]}")
    return array


def _own(own: ArrayLike | None, n_queries: int, n_gallery: int) -> NDArray[np.int64]:
    rows = np.full(n_queries, -1, np.int64) if own is None else np.asarray(own)
    if rows.shape != (n_queries,) or rows.dtype.kind not in "iu":
        raise ValueError(f"own must be one row for each of the {n_queries} queries; found shape {rows.shape}")
    if len(bad := np.flatnonzero((rows < -1) | (rows >= n_gallery))):
        raise ValueError(
            f"own must hold rows of the gallery, 0 to {n_gallery - 1}, or -1; found {rows[bad[0]]} for query {bad[0]}"
        )
    return rows.astype(np.int64)


def _offsets(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _none(queries: int) -> Ragged:
    return Ragged(np.empty(0, np.int64), np.zeros(queries + 1, np.int64))


def _ragged(lists: Sequence[ArrayLike], n_gallery: int, name: str) -> Ragged:
    arrays = [np.asarray(rows).reshape(-1) for rows in lists]
    for query, rows in enumerate(arrays):
        if len(rows) and rows.dtype.kind not in "iu":
            raise ValueError(f"{name} must list row numbers; found dtype {rows.dtype} for query {query}")
        if len(rows) and (rows.min() < 0 or rows.max() >= n_gallery):
            raise ValueError(
                f"{name} must be rows of the gallery, 0 to {n_gallery - 1}; "
                f"found {rows.min()} to {rows.max()} for query {query}"
            )
        if len(np.unique(rows)) != len(rows):
            raise ValueError(f"{name} must list a row once; found one listed twice for query {query}")
    rows = np.concatenate([np.sort(rows).astype(np.int64) for rows in arrays])
    return Ragged(rows, _offsets(np.array([len(rows) for rows in arrays])))


def _without(lists: Ragged, own: NDArray[np.int64]) -> Ragged:
    owners = lists.owners
    others = lists.rows != own[owners]
    return Ragged(lists.rows[others], _offsets(np.bincount(owners[others], minlength=len(own))))


def _part(lists: Ragged, queries: slice) -> Ragged:
    start, stop, _ = queries.indices(len(lists.offsets) - 1)
    offsets = lists.offsets[start : stop + 1]
    return Ragged(lists.rows[offsets[0] : offsets[-1]], offsets - offsets[0])
