"""A ranking to look at: one HTML page that needs no network, the worst queries first.

Shapes: M queries, k gallery rows listed for each.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.retrieval.ranks import ranks_in_lists
from featurebank.retrieval.relevance import Relevance
from featurebank.store.text import html_text as escape

__all__ = ["Thumbnail", "render_page"]

Thumbnail = Callable[[int], bytes]

KINDS = ((b"\xff\xd8\xff", "jpeg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"), (b"RIFF", "webp"))
MARKS = {"right": "✓", "wrong": "✗", "junk": "○"}
AP = "AP"
STYLE = """
:root { color-scheme: light dark; --right: #1a8f4c; --wrong: #cf3341; --junk: #8a8a8a; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 90rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; font-variant-numeric: tabular-nums; }
h2 small { font-weight: normal; opacity: .75; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; }
dt { opacity: .75; font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
.query { display: flex; gap: 1.5rem; align-items: flex-start; }
ol { list-style: none; display: flex; flex-wrap: wrap; gap: .5rem; margin: 0; padding: 0; }
figure { margin: 0; width: 104px; flex: none; font-size: .75rem; }
img { width: 96px; height: 96px; object-fit: contain; display: block;
  border: 4px solid transparent; background: #8882; }
figcaption { overflow-wrap: anywhere; }
.right img { border-color: var(--right); } .right b { color: var(--right); }
.wrong img { border-color: var(--wrong); } .wrong b { color: var(--wrong); }
.junk img { border: 4px dashed var(--junk); } .junk b { color: var(--junk); }
""".strip()


def render_page(
    lists: ArrayLike,
    relevance: Relevance,
    average_precision: ArrayLike,
    *,
    query_image: Thumbnail,
    gallery_image: Thumbnail,
    query_names: Sequence[str] | None = None,
    gallery_names: Sequence[str] | None = None,
    similarity: ArrayLike | None = None,
    title: str = "Retrieval",
    summary: Mapping[str, float] | None = None,
    metric: str = AP,
    limit: int = 100,
) -> str:
    """The page as HTML: each query with its AP and first thumbnails, right ones and wrong ones framed and marked.

    Lowest AP first, equal ones by row. A query without relevant rows has no AP and is only counted. The query's own row
    is left out of its list; junk is framed as such.

    Args:
        lists: (M, k) gallery rows, best first; -1 where nothing was found.
        relevance: what is relevant among the N rows.
        average_precision: (M,) as an evaluation's ``per_query`` has it, NaN without relevant rows.
        query_image: a query's thumbnail, by its row: bytes of a small JPEG, PNG, GIF or WebP file.
        gallery_image: a gallery row's, likewise.
        query_names: M names; by default the rows.
        gallery_names: N names; likewise.
        similarity: (M, k) shown under the thumbnails.
        title: of the page.
        summary: metrics shown at its top.
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
    if values.shape != (n_queries,):
        raise ValueError(f"average_precision must be one for each of {n_queries} queries; found shape {values.shape}")
    if limit < 1:
        raise ValueError(f"limit must be at least 1; found {limit}")
    near = None if similarity is None else np.asarray(similarity)
    if near is not None and near.shape != rows.shape:
        raise ValueError(f"similarity must have the shape of the lists, {rows.shape}; found {near.shape}")
    query_captions = _names(query_names, n_queries, "query_names")
    gallery_captions = _names(gallery_names, relevance.n_gallery, "gallery_names")
    ranked = [int(query) for query in np.argsort(values, kind="stable") if not np.isnan(values[query])]
    sections = []
    for query in ranked[:limit]:
        kinds = _kinds(rows[query], relevance, query)
        shown = [
            _figure(
                gallery_image(int(row)), kind, f"{rank}", gallery_captions(int(row)), _number(near, query, rank - 1)
            )
            for rank, (row, kind) in enumerate(zip(rows[query], kinds, strict=True), 1)
            if kind
        ]
        hits = f"{kinds.count('right')} of the first {len(shown)} right"
        total = f"{judged.positives.counts[query]} in the gallery"
        sections.append(
            f"<section><h2>{escape(metric)} {values[query]:.3f} <small>{hits}, {total}</small></h2>"
            f'<div class="query">{_figure(query_image(query), "", "query", query_captions(query), "")}'
            f"<ol>{''.join(f'<li>{figure}</li>' for figure in shown)}</ol></div></section>"
        )
    left_out = n_queries - len(ranked)
    lowest = "average precision" if metric == AP else escape(metric)
    notes = f"{len(sections)} of {n_queries} queries, lowest {lowest} first."
    notes += f" {left_out} without anything relevant." if left_out else ""
    metrics = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value:.4f}</dd></div>" for name, value in (summary or {}).items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><header><h1>{escape(title)}</h1><dl>{metrics}</dl><p>{notes}</p></header>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def _kinds(rows: NDArray[np.integer], relevance: Relevance, query: int) -> list[str]:
    """Of each listed row whether it is right, wrong or junk; empty for what is not shown."""
    judged = relevance.block(slice(query, query + 1))
    positives, junk = set(judged.positives.rows.tolist()), set(judged.junk.rows.tolist())
    return [
        "" if row in (-1, judged.own[0]) else "right" if row in positives else "junk" if row in junk else "wrong"
        for row in rows.tolist()
    ]


def _figure(image: bytes, kind: str, place: str, name: str, number: str) -> str:
    mark = f'<b title="{kind}">{MARKS[kind]}</b> ' if kind else ""
    classes = f' class="{kind}"' if kind else ""
    return (
        f'<figure{classes}><img src="{_data_uri(image)}" alt="{escape(name)}" loading="lazy">'
        f"<figcaption>{mark}{place}{number and f' · {number}'}<br>{escape(name)}</figcaption></figure>"
    )


def _data_uri(image: bytes) -> str:
    for start, kind in KINDS:
        if image.startswith(start):
            return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
    raise ValueError(f"a thumbnail must be the bytes of a JPEG, PNG, GIF or WebP file; found {bytes(image[:8])!r}")


def _number(values: NDArray[np.generic] | None, query: int, place: int) -> str:
    return "" if values is None else f"{values[query, place]:.3f}"


def _names(names: Sequence[str] | None, count: int, what: str) -> Callable[[int], str]:
    if names is None:
        return str
    if len(names) != count:
        raise ValueError(f"{what} must be {count}; found {len(names)}")
    return lambda row: str(names[row])
