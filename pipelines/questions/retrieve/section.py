"""Rankings to look at, of images or texts: each query with the first rows of its list, the worst queries first.

Shapes: M queries, N gallery rows, k of them listed for each query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.pipelines.asking.images import Picture, class_names, placed, row_names
from featurebank.pipelines.asking.page import figure, name_html
from featurebank.pipelines.asking.run import read_case
from featurebank.pipelines.questions.retrieve.scores import main_metric
from featurebank.retrieval.ranks import ranks_in_lists
from featurebank.retrieval.relevance import Relevance
from featurebank.store.text import html_text

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.images import Album
    from featurebank.pipelines.asking.inputs import SplitRows
    from featurebank.pipelines.asking.results import Results
    from featurebank.pipelines.questions.retrieve.search import Search
    from featurebank.store import Entry

__all__ = ["ranking_html", "rankings_html"]

AP = "AP"
ROWS = 10  # of each query
QUERIES = 100  # of all backbones together


def rankings_html(question: Search, answered: Sequence[Answered], results: Results, album: Album) -> str:
    """The rankings of each backbone, whose first rows are found once more.

    Raises:
        ValueError: an image is not the one that the features were made from, or kept arrays are gone.
        OSError: an image cannot be read.
    """
    limit = max(1, QUERIES // len(answered))
    return "".join(_ranking(question, one, results, album, limit=limit) for one in answered)


def _ranking(question: Search, one: Answered, results: Results, album: Album, *, limit: int) -> str:
    case = one.case
    rows = read_case(question, case)
    lookup = question.lookup(rows)
    descriptors = question.descriptors(rows, lookup)
    scores, lists = question.first(descriptors, min(question.shown or ROWS, descriptors.findable))
    kept = results.arrays(one.results[0])
    queries, gallery = lookup.queries, lookup.gallery
    precision = np.full(len(queries.rows), np.nan)
    precision[np.isin(queries.rows, kept["rows"])] = kept["score"]

    def image(role: str, split: SplitRows) -> Picture:
        entry: Entry = case.one(role if role in case.sets else "gallery")
        return placed(album.pictures(entry.path, entry.place), split)

    text = ranking_html(
        lists,
        lookup.relevance,
        precision,
        query_image=image("queries", queries),
        gallery_image=image("gallery", gallery),
        query_names=row_names(queries),
        gallery_names=row_names(gallery),
        query_classes=class_names(queries),
        similarity=None if question.rerank else scores,
        metric=_called(main_metric([row.metric for row in one.rows if row.metric in kept])),
        limit=limit,
    )
    places = [case.place(role) for role in ("queries", "gallery") if role in case.sets]
    ways = (case.backbone, " in ".join(places), question.protocol, question.recipe)
    return f"<section><h2>{name_html(' · '.join(part for part in ways if part))}</h2>{text}</section>"


def ranking_html(
    lists: ArrayLike,
    relevance: Relevance,
    average_precision: ArrayLike,
    *,
    query_image: Picture,
    gallery_image: Picture,
    query_names: Sequence[str],
    gallery_names: Sequence[str],
    query_classes: Sequence[str] = (),
    similarity: ArrayLike | None = None,
    metric: str = AP,
    limit: int = QUERIES,
) -> str:
    """Each query with its AP and first thumbnails, right ones and wrong ones framed and marked, lowest AP first.

    Equal APs are ordered by row. A query without relevant rows has no AP and is only counted. The query's own row is
    left out of its list; junk is framed as such.

    Args:
        lists: (M, k) gallery rows, best first; -1 where nothing was found.
        relevance: what is relevant among the N rows.
        average_precision: (M,) as an evaluation's ``per_query`` has it, NaN without relevant rows.
        query_image: a query's thumbnail, by its row: bytes of a small JPEG, PNG, GIF or WebP file; or its text.
        gallery_image: a gallery row's, likewise.
        query_names: M names.
        gallery_names: N names.
        query_classes: M names, which queries can be filtered by; none where they have none.
        similarity: (M, k) shown under the thumbnails.
        metric: what the average precisions are called: those of cut lists are ``AP@100``.
        limit: queries shown, at most.

    Raises:
        ValueError: shapes or numbers of names that do not fit, rows outside the gallery or listed twice, a limit below
            1, or bytes that are no image of those formats.
    """
    n_queries = relevance.n_queries
    judged = relevance.block(slice(0, n_queries))
    ranks_in_lists(lists, judged, relevance.n_gallery)  # checks the lists
    rows, values = np.asarray(lists), np.asarray(average_precision, np.float64)
    near = None if similarity is None else np.asarray(similarity)
    if values.shape != (n_queries,):
        raise ValueError(f"average_precision must be one for each of {n_queries} queries; found shape {values.shape}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1; found {limit}")
    if near is not None and near.shape != rows.shape:
        raise ValueError(f"similarity must have the shape of the lists, {rows.shape}; found {near.shape}")
    for what, names, count in (
        ("query_names", query_names, n_queries),
        ("gallery_names", gallery_names, relevance.n_gallery),
        ("query_classes", query_classes, n_queries),
    ):
        if len(names) != count and (names or what != "query_classes"):
            raise ValueError(f"{what} must be {count}; found {len(names)}")
    ranked = [int(query) for query in np.argsort(values, kind="stable") if not np.isnan(values[query])]
    parts = []
    for query in ranked[:limit]:
        kinds = _kinds(rows[query], relevance, query)
        figures = [figure(query_image(query), ["query", query_names[query]])]
        for rank, (row, kind) in enumerate(zip(rows[query].tolist(), kinds, strict=True), 1):
            if kind:
                place = f"{rank}" if near is None else f"{rank} · {near[query, rank - 1]:.3f}"
                figures.append(figure(gallery_image(row), [place, gallery_names[row]], kind=kind))
        hits = f"{kinds.count('right')} of the first {len(figures) - 1} right"
        total = f"{judged.positives.counts[query]} in the gallery"
        own = f' data-class="{html_text(query_classes[query])}"' if query_classes else ""
        parts.append(
            f"<div data-item{own}><h3>{html_text(metric)} {values[query]:.3f} <small>{hits}, {total}</small></h3>"
            f'<div class="row">{"".join(figures)}</div></div>'
        )
    left_out = n_queries - len(ranked)
    lowest = "average precision" if metric == AP else html_text(metric)
    notes = f"{len(parts)} of {n_queries} queries, lowest {lowest} first."
    notes += f" {left_out} without anything relevant." if left_out else ""
    return f"<p>{notes}</p>{''.join(parts)}"


def _kinds(rows: NDArray[np.integer], relevance: Relevance, query: int) -> list[str]:
    """Of each listed row whether it is right, wrong or junk; empty for what is not shown."""
    judged = relevance.block(slice(query, query + 1))
    positives, junk = set(judged.positives.rows.tolist()), set(judged.junk.rows.tolist())
    return [
        "" if row in (-1, judged.own[0]) else "right" if row in positives else "junk" if row in junk else "wrong"
        for row in rows.tolist()
    ]


def _called(metric: str) -> str:
    """What one query's part of a mean is called.

    >>> [_called(name) for name in ("map", "map@1000", "map_trapezoidal", "hit_rate@1")]
    ['AP', 'AP@1000', 'AP_trapezoidal', 'hit_rate@1']
    """
    return "AP" + metric.removeprefix("map") if metric.startswith("map") else metric
