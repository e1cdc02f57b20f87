"""How rows are looked for: descriptors made of the features, then a ranking, then the protocol's metrics.

Shapes: M queries, N gallery rows, D features, C components of a descriptor, k listed for each query.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import SplitRows, vectors
from featurebank.pipelines.questions.retrieve.lookup import Lookup
from featurebank.retrieval.descriptors import PCAWhitening, l2_normalise, power_normalise
from featurebank.retrieval.diffusion import diffuse
from featurebank.retrieval.evaluation import Evaluation, evaluate, evaluate_lists
from featurebank.retrieval.expansion import augment_database, expand_queries
from featurebank.retrieval.index import FeatureIndex, IndexReport, content_fingerprint
from featurebank.retrieval.metrics import mean_over_queries
from featurebank.retrieval.protocols import BY_R, Protocol
from featurebank.retrieval.ranks import ranks_in_lists
from featurebank.retrieval.relevance import Relevance
from featurebank.retrieval.reranking import rerank_k_reciprocal
from featurebank.retrieval.search import nearest
from featurebank.store.fingerprint import fingerprint

__all__ = ["Descriptors", "Lists", "describe", "evaluate_index", "evaluate_ranking", "open_index", "ranked"]

log = logging.getLogger("featurebank")

DEPTH = 1000
K1, K2 = 20, 6  # of k-reciprocal re-ranking, as far as there are rows
RANKED_VALUES = 2**23  # of whole rankings that are held together: 64 MiB of rows
LIST_ROWS = 2048  # lists looked at together
MEASURED, FOUND = 1000, 10  # queries, and rows of each, on which an index is held against the exact search

Lists = tuple[NDArray[np.floating], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Descriptors:
    """Rows as they are compared, by cosine.

    Attributes:
        queries: (M, C).
        gallery: (N, C); the very object of the queries where these are not changed on their own.
        own: (M,) each query's own row in the gallery, -1 where it is not there.
    """

    queries: NDArray[Any]
    gallery: NDArray[Any]
    own: NDArray[np.int64]

    @property
    def findable(self) -> int:
        """Rows that each query can find."""
        return len(self.gallery) - bool((self.own >= 0).any())

    @property
    def depth(self) -> int:
        """Rows that are listed for each query where nothing else is asked for."""
        return min(DEPTH, self.findable)


def describe(
    lookup: Lookup,
    *,
    power: float | None = None,
    whitening: SplitRows | None = None,
    components: int | None = None,
    augment: int | None = None,
    expand: tuple[int, float] | None = None,
) -> Descriptors:
    """Power normalisation, whitening learned on other rows, the gallery augmented, the queries expanded, in this order.

    Args:
        lookup: the rows.
        power: of `power_normalise`.
        whitening: rows that `PCAWhitening` is learned on, normalised like all others.
        components: of it.
        augment: neighbours of `augment_database`.
        expand: neighbours and alpha of `expand_queries`.

    Raises:
        ValueError: a value out of range, or rows that span too little.
    """

    def normalised(rows: NDArray[Any]) -> NDArray[Any]:
        return l2_normalise(rows) if power is None else power_normalise(rows, power)

    learned = None
    if whitening is not None:
        learned = PCAWhitening(components).fit(normalised(vectors(whitening).features))

    def described(rows: NDArray[Any]) -> NDArray[Any]:
        if learned is not None:
            return learned.transform(normalised(rows))
        return rows if power is None else normalised(rows)

    queries = described(lookup.queries.features)
    gallery = queries if lookup.queries is lookup.gallery else described(lookup.gallery.features)
    own = lookup.relevance.own
    if augment is not None:
        gallery = augment_database(gallery, augment)
    if expand is not None:
        queries = expand_queries(queries, gallery, expand[0], alpha=expand[1], own=own)
    return Descriptors(queries=queries, gallery=gallery, own=own)


def ranked(descriptors: Descriptors, k: int, rerank: str | None = None) -> Lists:
    """The first k gallery rows of each query: what they were ranked by, descending, and the rows, (M, k) each.

    Args:
        descriptors: the rows; re-ranking takes queries as the gallery only where both are one object.
        k: rows to list.
        rerank: ``k-reciprocal``, ``diffusion`` or nothing.

    Raises:
        ValueError: k out of range, or a diffusion that does not converge.
    """
    queries, gallery = descriptors.queries, descriptors.gallery
    others = None if queries is gallery else gallery
    if rerank == "k-reciprocal":
        k1 = min(K1, len(gallery) - 1 + (0 if others is None else len(queries)))
        distances, rows = rerank_k_reciprocal(queries, others, k, k1=k1, k2=min(K2, k1 + 1))
        return -distances, rows
    if rerank == "diffusion":
        try:
            return diffuse(queries, others, k)
        except RuntimeError as error:
            raise ValueError(f"the diffusion did not converge: {error}") from error
    return nearest(queries, gallery, k, own=descriptors.own)


def evaluate_ranking(
    descriptors: Descriptors,
    relevance: Relevance,
    protocol: Protocol,
    *,
    rerank: str | None = None,
    depth: int | None = None,
) -> Evaluation:
    """A protocol's metrics of the exact ranking; re-ranked, the rows beyond ``depth`` follow by cosine.

    Raises:
        ValueError: as `ranked`, or nothing is relevant to any query.
    """
    queries, gallery = descriptors.queries, descriptors.gallery
    if rerank is None:
        others = None if queries is gallery else gallery
        return evaluate(queries, others, relevance, protocol=protocol.name)
    depth = depth or descriptors.depth
    _check_pairs(protocol, depth, descriptors.findable)
    scores, rows = ranked(descriptors, depth, rerank)
    if protocol.pairs is not None:
        return evaluate_lists(rows, relevance, protocol=protocol.name, scores=scores)
    return evaluate_lists(_completed(descriptors, rows), relevance, protocol=protocol.name)


def _completed(descriptors: Descriptors, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Blocks of lists with the rows that they lack, by cosine."""
    n_rows, findable = len(descriptors.gallery), descriptors.findable
    step = max(1, RANKED_VALUES // n_rows)
    for start in range(0, len(rows), step):
        at = slice(start, start + step)
        block = rows[at]
        if block.shape[1] == findable:
            yield block
            continue
        _, every = nearest(descriptors.queries[at], descriptors.gallery, findable, own=descriptors.own[at])
        listed = np.zeros((len(block), n_rows), bool)
        np.put_along_axis(listed, block, values=True, axis=1)
        others = every[~np.take_along_axis(listed, every, 1)]
        yield np.concatenate([block, others.reshape(len(block), -1)], 1)


def open_index(gallery: NDArray[Any], factory: str, folder: Path | None, *, seed: int = 0) -> FeatureIndex:
    """The index of these rows in a folder of one's own, built and saved where it is not there or damaged.

    One that cannot be saved serves all the same.

    Args:
        gallery: (N, C).
        factory: FAISS's name of its kind.
        folder: of the indexes; without one, the index is built and not saved.
        seed: of its training sample.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: an unknown factory, or too few rows to train on.
    """
    content = content_fingerprint(gallery)
    name = fingerprint({"features": content, "factory": factory, "seed": seed})[:16]
    path = None if folder is None else folder / f"{name}.faiss"
    if path is not None:
        try:
            return FeatureIndex.load(path, [content])
        except (OSError, ValueError, RuntimeError):
            pass  # built below
    index = FeatureIndex.build(gallery, factory, fingerprint=content, seed=seed)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            index.save(path)
        except (OSError, RuntimeError) as error:  # FAISS raises the latter
            log.warning("the index is not kept: %s", error)
    return index


def evaluate_index(
    index: FeatureIndex,
    descriptors: Descriptors,
    relevance: Relevance,
    protocol: Protocol,
    *,
    depth: int | None = None,
    **options: Any,
) -> tuple[Evaluation, IndexReport, list[str]]:
    """A protocol's metrics of what an index lists, how well it finds what the exact search does, and notes.

    Only lists of every row have the protocol's own metrics; of shorter ones see `Protocol.within`. A row that is asked
    for and that the index does not give counts as never found.

    Args:
        index: of the gallery.
        descriptors: the rows.
        relevance: what is relevant.
        protocol: the protocol.
        depth: rows that it lists for each query, besides junk.
        options: of `FeatureIndex.search`.

    Raises:
        ValueError: depth out of range or too low for every metric, an option that the index lacks, or nothing relevant
            to any query.
    """
    queries, own, findable = descriptors.queries, descriptors.own, descriptors.findable
    depth = depth or descriptors.depth
    scores, rows = index.search(queries, min(depth + relevance.most_junk, findable), own=own, **options)
    some = slice(0, MEASURED)
    report = index.measure(queries[some], descriptors.gallery, min(FOUND, findable), own=own[some], **options)
    if protocol.pairs is not None:
        _check_pairs(protocol, depth, findable)
        return evaluate_lists(rows, relevance, protocol=protocol.name, scores=scores), report, []
    if rows.shape[1] == findable and (rows >= 0).all():
        return evaluate_lists(rows, relevance, protocol=protocol.name), report, []
    evaluation, lost = _of_short_lists(rows, relevance, protocol, depth)
    note = f"lists of {depth:,} rows of {findable:,} do not show {', '.join(lost)}: raise --depth"
    return evaluation, report, [note] if lost else []


def _of_short_lists(
    rows: NDArray[np.int64], relevance: Relevance, protocol: Protocol, depth: int
) -> tuple[Evaluation, list[str]]:
    """The metrics of the first rows of each list, -1 where nothing was found, and the names of those there are none of.

    Args:
        rows: (M, k), so many that ``depth`` are left without junk.
        relevance: what is relevant.
        protocol: the protocol.
        depth: rows of a list that count.
    """
    measured, never = protocol.within(depth)
    per_query: dict[str, list[NDArray[np.float64]]] = {name: [] for name in measured}
    counts = []
    for start in range(0, len(rows), LIST_ROWS):
        at = slice(start, start + LIST_ROWS)
        ranks = ranks_in_lists(rows[at], relevance.block(at), relevance.n_gallery)
        counts.append(ranks.n_positives)
        # Below the end of a list that is shorter than what was asked for there is nothing to come.
        ended = replace(ranks, depth=np.where((rows[at] < 0).any(1), ranks.n_candidates, ranks.depth))
        if ranks.n_positives.max(initial=0) > depth:
            per_query = {name: of for name, of in per_query.items() if measured[name] not in BY_R}
        for name, blocks in per_query.items():
            blocks.append(measured[name](ended))
    lost = [name for name in protocol.metrics if name in never or (name in measured and name not in per_query)]
    if not per_query:
        raise ValueError(
            f"protocol {protocol.name} needs more than the first {depth:,} rows of each query for {', '.join(lost)}; "
            "raise --depth, or leave out --index"
        )
    n_without = int((np.concatenate(counts) == 0).sum())
    if n_without == len(rows):
        raise ValueError(
            f"at least one query must have something relevant in the gallery; found none among {n_without}"
        )
    values = {name: np.concatenate(blocks) for name, blocks in per_query.items()}
    evaluation = Evaluation(
        protocol=protocol.name,
        values={name: mean_over_queries(every) for name, every in values.items()},
        per_query=values,
        n_queries=len(rows),
        n_without=n_without,
        n_gallery=relevance.n_gallery,
    )
    return evaluation, lost


def _check_pairs(protocol: Protocol, depth: int, findable: int) -> None:
    if protocol.pairs is not None and depth < min(protocol.pairs, findable):
        raise ValueError(
            f"protocol {protocol.name} ranks {protocol.pairs} candidates of each query, found lists of {depth}; "
            "raise --depth"
        )
