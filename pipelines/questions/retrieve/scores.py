"""The numbers of a ranking: metrics with intervals over queries or clusters of them, the main one, what is kept.

Shapes: M queries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.answer import Score
from featurebank.pipelines.asking.inputs import SplitRows
from featurebank.store.errors import unknown_name

if TYPE_CHECKING:
    from featurebank.retrieval.evaluation import Evaluation

__all__ = ["MAIN", "drawn_together", "kept_arrays", "main_metric", "protocol_scores"]

MAIN = ("map", "map_trapezoidal", "map@100", "map@r")
CLASS = "class"
CUT = re.compile(r"map@\d+")


def main_metric(names: Sequence[str]) -> str:
    """The mean average precision among some metrics, or else the first of them.

    >>> main_metric(["hit_rate@1", "map@r", "map"]), main_metric(["hit_rate@1", "map@r", "map@1000"])
    ('map', 'map@1000')
    """
    cut = (name for name in names if CUT.fullmatch(name))
    return next((name for name in (*MAIN[:2], *cut, *MAIN[2:]) if name in names), names[0])


def drawn_together(queries: SplitRows, cluster: str, by: str | None) -> tuple[str, NDArray[Any]]:
    """What is drawn instead of queries, and that of each query (M,): ``class``, what makes rows relevant, or a column.

    Raises:
        ValueError: the queries have no classes.
        UnknownNameError: they lack the column.
    """
    if cluster == CLASS and by is None and queries.labels.ndim == 1 and (queries.labels >= 0).any():
        return "classes", queries.labels
    name, columns = by if cluster == CLASS else cluster, queries.columns
    if name is None:
        raise ValueError(
            f"--cluster class needs the classes of {queries.name}, found none; name a column: "
            f"{', '.join(columns) or 'it has none'}"
        )
    if name not in columns:
        raise unknown_name(f"column of {queries.name}", name, columns)
    return "classes" if cluster == CLASS else f"values of {cluster}", columns[name]


def protocol_scores(found: Evaluation, clusters: tuple[str, NDArray[Any]] | None, *, seed: int) -> list[Score]:
    """Every metric, the main one first; those of single queries with an interval; ``clusters`` as `drawn_together`."""
    from featurebank.pipelines.asking.intervals import mean_score

    main = main_metric([*found.values])
    scores = []
    for name in sorted(found.values, key=lambda name: name != main):
        if name not in found.per_query:
            scores.append(Score(metric=name, value=found.values[name]))
            continue
        known = ~np.isnan(values := found.per_query[name])
        among = None if clusters is None else (clusters[0], clusters[1][known])
        scores.append(mean_score(name, values[known], seed=seed, unit="queries", clusters=among))
    return scores


def kept_arrays(
    ids: NDArray[np.str_], rows: NDArray[np.intp], per_query: Mapping[str, NDArray[np.float64]]
) -> dict[str, NDArray[Any]]:
    """Of the queries that have something relevant: ids, row numbers, the main metric as score, and all metrics."""
    if not per_query:
        return {}
    score = per_query[main_metric([*per_query])]
    known = ~np.isnan(score)
    every = {name: values[known].astype(np.float32) for name, values in per_query.items()}
    return {"ids": ids[known], "rows": rows[known], "score": score[known], **every}
