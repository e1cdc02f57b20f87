"""Retrieval on cached features: exact and approximate search, the fields' own protocols, better rankings.

>>> from featurebank import retrieval
>>> features = [[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]
>>> retrieval.evaluate(features, None, [0, 0, 1, 1]).values["map"]
1.0
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurebank.retrieval.descriptors import (
        PCAWhitening,
        average_scales,
        concatenate,
        l2_normalise,
        power_normalise,
    )
    from featurebank.retrieval.diffusion import diffuse
    from featurebank.retrieval.duplicates import Duplicates, duplicate_groups, near_duplicates
    from featurebank.retrieval.evaluation import Evaluation, evaluate, evaluate_lists
    from featurebank.retrieval.expansion import augment_database, expand_queries
    from featurebank.retrieval.index import FeatureIndex, IndexReport, StaleIndexError, content_fingerprint
    from featurebank.retrieval.page import render_page
    from featurebank.retrieval.protocols import PROTOCOLS, Protocol
    from featurebank.retrieval.relevance import LabelRelevance, ListRelevance, Relevance, rows_of_ids, two_level_split
    from featurebank.retrieval.reranking import rerank_k_reciprocal
    from featurebank.retrieval.search import nearest, nearest_blocks

__all__ = [
    "PROTOCOLS",
    "Duplicates",
    "Evaluation",
    "FeatureIndex",
    "IndexReport",
    "LabelRelevance",
    "ListRelevance",
    "PCAWhitening",
    "Protocol",
    "Relevance",
    "StaleIndexError",
    "augment_database",
    "average_scales",
    "concatenate",
    "content_fingerprint",
    "diffuse",
    "duplicate_groups",
    "evaluate",
    "evaluate_lists",
    "expand_queries",
    "l2_normalise",
    "near_duplicates",
    "nearest",
    "nearest_blocks",
    "power_normalise",
    "render_page",
    "rerank_k_reciprocal",
    "rows_of_ids",
    "two_level_split",
]

_MODULES = {
    "descriptors": ("PCAWhitening", "average_scales", "concatenate", "l2_normalise", "power_normalise"),
    "diffusion": ("diffuse",),
    "duplicates": ("Duplicates", "duplicate_groups", "near_duplicates"),
    "evaluation": ("Evaluation", "evaluate", "evaluate_lists"),
    "expansion": ("augment_database", "expand_queries"),
    "index": ("FeatureIndex", "IndexReport", "StaleIndexError", "content_fingerprint"),
    "page": ("render_page",),
    "protocols": ("PROTOCOLS", "Protocol"),
    "relevance": ("LabelRelevance", "ListRelevance", "Relevance", "rows_of_ids", "two_level_split"),
    "reranking": ("rerank_k_reciprocal",),
    "search": ("nearest", "nearest_blocks"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"featurebank.retrieval.{_HOMES[name]}"), name)
