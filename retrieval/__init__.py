"""Retrieval on cached features: exact and approximate search, the fields' own protocols, better rankings.

>>> from featurebank import retrieval
>>> features = [[1.0, 0.0], [0.9, 0.1], [0.1, 0.9], [0.0, 1.0]]
>>> retrieval.evaluate(features, None, [0, 0, 1, 1]).values["map"]
1.0
"""

from typing import TYPE_CHECKING

from featurebank._faces import lazy_names

if TYPE_CHECKING:
    from featurebank.retrieval.descriptors import *
    from featurebank.retrieval.diffusion import *
    from featurebank.retrieval.duplicates import *
    from featurebank.retrieval.evaluation import *
    from featurebank.retrieval.expansion import *
    from featurebank.retrieval.index import *
    from featurebank.retrieval.metrics import *
    from featurebank.retrieval.protocols import *
    from featurebank.retrieval.ranks import *
    from featurebank.retrieval.relevance import *
    from featurebank.retrieval.reranking import *
    from featurebank.retrieval.search import *
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "descriptors": "PCAWhitening average_scales concatenate l2_normalise power_normalise",
            "diffusion": "diffuse",
            "duplicates": "Duplicates duplicate_groups near_duplicates",
            "evaluation": "Evaluation evaluate evaluate_lists",
            "expansion": "Weights augment_database expand_queries",
            "index": "FeatureIndex IndexReport Part StaleIndexError content_fingerprint",
            "metrics": (
                "average_precision average_precision_at_k hit_rate_at_k map_at_r mean_over_queries "
                "micro_average_precision ndcg_at_k precision_at_k r_precision recall_at_k recall_at_precision "
                "reciprocal_rank trapezoidal_average_precision"
            ),
            "protocols": "PROTOCOLS Protocol RankMetric find_protocol",
            "ranks": "PositiveRanks Ties exact_ranks ranks_in_lists",
            "relevance": "Judged LabelRelevance ListRelevance Ragged Relevance rows_of_ids two_level_split",
            "reranking": "rerank_k_reciprocal",
            "search": "nearest nearest_blocks",
        },
    )
