"""What a rung says of a backbone: which rows it has right when they are left out, and scores that decide nothing.

Shapes: N rows of a rung.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.results import Computed, Results, Row
from featurebank.pipelines.jobs.choose.field import NAME, VERSION
from featurebank.store import FeatureSet
from featurebank.store.fingerprint import content_hash

__all__ = ["ALIKE", "SCORES", "Scored", "alike", "beside", "features_of", "scored"]

ALIKE = 0.98
"""Cosine, of features less their mean, from which two images are near duplicates."""

SCORES = ("ridge", "knn", "class mean", "LogME")
METRICS = {"LogME": "log_evidence"}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What was found.

    Attributes:
        correct: (N,) whether the regression of the other rows has a row right.
        values: of each of `SCORES`.
    """

    correct: NDArray[np.bool_]
    values: dict[str, float]


def features_of(path: Path) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]:
    """Features (N, D) as float32, which rows have some (N,), and labels (N,)."""
    with FeatureSet(path) as feature_set:
        name = "pooled" if "pooled" in feature_set.outputs else feature_set.outputs[0]
        features = np.asarray(feature_set[name], np.float32).reshape(len(feature_set), -1)
        return features, np.asarray(feature_set.ok), np.asarray(feature_set.labels)


def alike(path: Path, usable: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) a number for each group of near duplicates, by the features of one backbone; of other rows their own."""
    from featurebank.retrieval.duplicates import duplicate_groups, near_duplicates

    rows = np.flatnonzero(usable)
    features = features_of(path)[0][rows]
    pairs = near_duplicates(features - features.mean(0), threshold=ALIKE)
    groups = np.arange(len(usable))
    for group in duplicate_groups(pairs, len(rows)):
        groups[rows[group]] = rows[group[0]]
    return groups


def beside(path: Path, other: Path) -> NDArray[np.bool_]:
    """(N,) which rows of a set have a near duplicate in another set of the same backbone."""
    from featurebank.retrieval.duplicates import near_duplicates

    (features, ok, _), (others, others_ok, _) = features_of(path), features_of(other)
    mean = others[others_ok].mean(0)
    pairs = near_duplicates(others[others_ok] - mean, features[ok] - mean, threshold=ALIKE)
    found = np.zeros(len(features), np.bool_)
    found[np.flatnonzero(ok)[np.unique(pairs.second)]] = True
    return found


def scored(
    results: Results, name: str, path: Path, usable: NDArray[np.bool_], groups: NDArray[np.int64] | None
) -> Scored:
    """The scores of a backbone on a rung; those that are known are read back.

    Args:
        results: that keep them.
        name: of the backbone.
        path: of its feature set.
        usable: (N,) rows that every backbone of the rung has.
        groups: (N,) near duplicates, left out together; ``None`` where there are none.
    """
    with FeatureSet(path) as feature_set:
        place, mark = f"{feature_set.dataset}/{feature_set.split}", feature_set.fingerprint
    row = Row(question=NAME, backbone=name, test=place, set=place, metric="accuracy", value=0.0, fingerprints=(mark,))
    how = {} if usable.all() else {"rows": content_hash(usable.tobytes()).hex()}
    if groups is not None:
        how["groups"] = content_hash(groups.astype("<i8").tobytes()).hex()
    result = results.once(NAME, how, [mark], lambda: _computed(row, path, usable, groups), version=VERSION)
    return Scored(
        correct=results.arrays(result)["correct"], values={row.score: float(row.value) for row in result.rows}
    )


def _computed(about: Row, path: Path, usable: NDArray[np.bool_], groups: NDArray[np.int64] | None) -> Computed:
    from featurebank.probes.leave_one_out import predict_left_out
    from featurebank.probes.transferability import class_mean_predictions, log_me, neighbour_predictions

    features, _, labels = features_of(path)
    features, labels = features[usable], labels[usable]
    left = predict_left_out(features, labels, groups=None if groups is None else groups[usable])
    values = (
        float((left.predictions == labels).mean()),
        float((neighbour_predictions(features, labels) == labels).mean()),
        float((class_mean_predictions(features, labels) == labels).mean()),
        log_me(features, labels),
    )
    rows = [
        replace(about, score=score, metric=METRICS.get(score, about.metric), value=value, n=len(labels))
        for score, value in zip(SCORES, values, strict=True)
    ]
    correct = np.zeros(len(usable), np.bool_)
    correct[usable] = left.predictions == labels
    return Computed(rows=rows, arrays={"correct": correct}, chosen={"penalty": left.penalty})
