"""Protocols by name: which metrics a benchmark reports, and how it reads its ground truth.

In all of them the query itself and junk leave the ranking, equal similarities are ordered by gallery row, and a query
without relevant rows is left out of the means, but where a protocol says otherwise. Split, crops and image sizes are
the dataset's: see `about`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from featurebank.retrieval import metrics
from featurebank.retrieval.ranks import PositiveRanks

__all__ = ["PROTOCOLS", "Protocol", "RankMetric", "find_protocol"]

RankMetric = Callable[[PositiveRanks], NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How one benchmark is scored.

    Attributes:
        name: As `find_protocol` takes it.
        about: Source, split and quirks, in a sentence or two.
        metrics: Metrics of the ranking of each query, by name; their means over the queries are reported.
        positives: Names of a revisited ground truth whose rows are relevant; empty where there is none.
        junk: Those whose rows are junk.
        pairs: Candidates of each query that enter one ranking of all pairs, for micro-AP and recall at precision 90;
            None where pairs are not ranked.
    """

    name: str
    about: str
    metrics: Mapping[str, RankMetric] = field(default_factory=dict)
    positives: tuple[str, ...] = ()
    junk: tuple[str, ...] = ()
    pairs: int | None = None

    def within(self, depth: int) -> tuple[dict[str, RankMetric], tuple[str, ...]]:
        """What the first ``depth`` rows of each list can say, and the names of the metrics that they cannot.

        A metric of the whole ranking takes its depth into its name, ``map@100``; one that counts to the number of
        relevant rows keeps its name, and must be left out where a query has more of them than ``depth``.

        >>> kept, lost = find_protocol("instre").within(5)
        >>> list(kept), lost
        (['hit_rate@1', 'hit_rate@5', 'map@r', 'r_precision', 'map@5'], ('hit_rate@10',))
        """
        kept: dict[str, RankMetric] = {}
        lost = []
        for name, metric in self.metrics.items():
            of, options = (metric.func, metric.keywords) if isinstance(metric, partial) else (metric, {})
            if of in _CUT and not options:
                kept[f"{name}@{depth}"] = partial(_CUT[of], k=depth)
            elif of in BY_R or ("divisor" not in options and options.get("k", depth + 1) <= depth):
                kept[name] = metric
            else:
                lost.append(name)
        return kept, tuple(lost)


BY_R: tuple[RankMetric, ...] = (metrics.map_at_r, metrics.r_precision)
_CUT: Mapping[RankMetric, Callable[..., NDArray[np.float64]]] = {
    metrics.average_precision: metrics.average_precision_at_k,
    metrics.reciprocal_rank: metrics.reciprocal_rank,
    metrics.ndcg_at_k: metrics.ndcg_at_k,
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    >>> list(find_protocol("gldv2").metrics)
    ['map@100']

    Raises:
        ValueError: there is none; the text lists those there are and the nearest spelling.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    near = difflib.get_close_matches(name, PROTOCOLS, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}; found {name!r}{hint}")


def _bob_compat_reciprocal_rank(positives: PositiveRanks) -> NDArray[np.float64]:
    first = positives.places == 0
    ranks = first / (positives.ranks_with_junk + 1)
    return np.bincount(positives.owners, weights=ranks, minlength=len(positives)).astype(np.float64)


def _hit_rates(*ks: int) -> dict[str, RankMetric]:
    return {f"hit_rate@{k}": partial(metrics.hit_rate_at_k, k=k) for k in ks}


def _recalls(*ks: int) -> dict[str, RankMetric]:
    return {f"recall@{k}": partial(metrics.recall_at_k, k=k) for k in ks}


_BY_R: dict[str, RankMetric] = {"map@r": metrics.map_at_r, "r_precision": metrics.r_precision}
_STEP: dict[str, RankMetric] = {"map": metrics.average_precision}
_TRAPEZOIDAL: dict[str, RankMetric] = {"map_trapezoidal": metrics.trapezoidal_average_precision}
_RECIPROCAL: dict[str, RankMetric] = {"mrr": metrics.reciprocal_rank}
_REVISITED: dict[str, RankMetric] = {
    **_TRAPEZOIDAL,
    **{f"precision@{k}": partial(metrics.precision_at_k, k=k, divisor="last_positive") for k in (1, 5, 10)},
}
_LEVELS = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_BOB = "Battle of the Backbones (arXiv:2310.19909): split by `two_level_split`; of revisited sets the Medium level."

_ALL = (
    Protocol(
        name="labels",
        about="Any labelled set: every metric of rankings.",
        metrics={
            **_hit_rates(1, 5, 10),
            **_recalls(1, 5, 10),
            **_BY_R,
            **_STEP,
            **_RECIPROCAL,
            "ndcg": metrics.ndcg_at_k,
        },
    ),
    *(
        Protocol(
            name=f"{name}-{level}",
            about=f"Revisited {place} (arXiv:1803.11285), {level.capitalize()}: queries cropped to their box, junk "
            "removed, trapezoidal AP, mP@k over min(k, last relevant rank).",
            metrics=_REVISITED,
            positives=positives,
            junk=junk,
        )
        for name, place in (("roxford", "Oxford"), ("rparis", "Paris"))
        for level, (positives, junk) in _LEVELS.items()
    ),
    Protocol(
        name="gldv2",
        about="Google Landmarks v2 retrieval (arXiv:2004.01804): mAP@100 over min(relevant, 100).",
        metrics={"map@100": partial(metrics.average_precision_at_k, k=100)},
    ),
    *(
        Protocol(name=name, about=about, metrics={**_hit_rates(*ks), **_BY_R})
        for name, ks, about in (
            ("cub", (1, 2, 4, 8), "CUB-200-2011: the last 100 classes, each image a query in the others."),
            ("cars", (1, 2, 4, 8), "Cars196: the last 98 classes, each image a query in the others."),
            (
                "sop",
                (1, 10, 100, 1000),
                "Stanford Online Products: the test classes, each image a query in the others.",
            ),
            ("inshop", (1, 10, 20, 30), "In-shop clothes: its own query and gallery lists."),
            (
                "inat",
                (1, 4, 16, 32),
                "iNaturalist 2018 as retrieval: the test classes, each image a query in the others.",
            ),
            ("objectnet", (1, 5, 10), "ObjectNet: each image a query in the others, or `two_level_split`."),
        )
    ),
    Protocol(
        name="instre",
        about="INSTRE: its own queries and gallery (Iscen et al. 2017), or `two_level_split`.",
        metrics={**_hit_rates(1, 5, 10), **_BY_R, **_STEP},
    ),
    Protocol(
        name="copydays",
        about="Copydays: originals against their copies and distractors; trapezoidal AP, as DINO.",
        metrics=_TRAPEZOIDAL,
    ),
    Protocol(
        name="cross-modal",
        about="Text to image or back (Flickr30k, COCO): features of a shared space, Recall@1, 5, 10 as hit rates.",
        metrics=_hit_rates(1, 5, 10),
    ),
    Protocol(
        name="disc21",
        about="DISC21 (arXiv:2106.09672): ten candidates of each query, distractor queries included, in one ranking; "
        "of equal scores the wrong pairs first; a match that is no candidate counts as missed.",
        pairs=10,
    ),
    Protocol(
        name="bob",
        about=f"{_BOB} Recall is the share of the relevant rows that are found.",
        metrics={**_TRAPEZOIDAL, **_RECIPROCAL, **_recalls(1, 5, 10)},
        positives=("easy", "hard"),
        junk=("junk",),
    ),
    Protocol(
        name="bob-compat",
        about=f"{_BOB} As its published code: the reciprocal rank counts junk, and is 0 for a query without relevant "
        "rows, which other metrics leave out.",
        metrics={**_TRAPEZOIDAL, "mrr": _bob_compat_reciprocal_rank, **_recalls(1, 5, 10)},
        positives=("easy", "hard"),
        junk=("junk",),
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _ALL})
