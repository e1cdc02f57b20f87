"""Scores of all sets in one pass, those that cannot be computed left out with the reason.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.errors import fault
from featurebank.probes.ood.contract import OODScore
from featurebank.probes.ood.registry import score_all
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["score_sets"]

Sets = Mapping[str, tuple[ArrayLike | None, ArrayLike | None]]
Values = dict[str, dict[str, NDArray[np.float64]]]


def score_sets(
    parts: Sequence[TrainingSet], sets: Sets, chosen: Sequence[OODScore], explain: Callable[[str], str]
) -> tuple[Values, dict[str, str], dict[str, str]]:
    """Fits each score on the first training set that has what it needs, and scores every set.

    Args:
        parts: training sets, the fullest first.
        sets: name to features (N, D) and logits (N, K).
        chosen: unfitted scores.
        explain: what to say of a need that no training set meets.

    Returns:
        Set to score to (N,) float64, in the order chosen; score to what it needs and lacks; and score to what went
        wrong with it.
    """
    values: Values = {name: {} for name in sets}
    failed: dict[str, str] = {}
    for part in parts:
        own = [s for s in chosen if part is next((p for p in parts if p.missing(s.needs) is None), None)]
        scored, refused = _scored(part, sets, own)
        failed |= refused
        for name, of in scored.items():
            values[name] |= of
    lacking = [score for score in chosen if all(part.missing(score.needs) for part in parts)]
    unmet = {score.name: explain(str(parts[0].missing(score.needs))) for score in lacking}
    return values, unmet, failed


def _scored(part: TrainingSet, sets: Sets, chosen: Sequence[OODScore]) -> tuple[Values, dict[str, str]]:
    """The scores, less those whose fit refuses the training rows; looked for only if something is refused."""
    if not chosen:
        return {}, {}
    try:
        return score_all(part, sets, chosen).values, {}
    except Exception as error:
        if len(chosen) == 1:
            return {}, {chosen[0].name: fault(error)}
    refused = {score.name: why for score in chosen if (why := _refusal(part, score))}
    left = [score for score in chosen if score.name not in refused]
    found: Values = {name: {} for name in sets}
    # A score that can be fitted and fails later shows only alone.
    for some in [left] if refused else [[score] for score in left]:
        values, reasons = _scored(part, sets, some)
        refused |= reasons
        for name, scored in values.items():
            found[name] |= scored
    return found, refused


def _refusal(part: TrainingSet, score: OODScore) -> str:
    try:
        score.fit(part)
    except Exception as error:
        return fault(error)
    return ""
