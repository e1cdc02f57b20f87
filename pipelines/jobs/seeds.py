"""Numbers of several runs as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featurebank.pipelines.asking.answer import Score

__all__ = ["over_seeds"]

MOST = {"nll": np.inf, "brier": 2.0}
"""What a number can be at most; 1 for all others that jobs give, which are shares. None is below 0."""


def over_seeds(scores: Sequence[Score]) -> Score:
    """The mean over seeds and Student's 95 % interval, cut off where no value can be; of one seed its own."""
    if len(scores) == 1:
        return scores[0]
    from scipy.stats import t  # type: ignore[import-untyped]

    values = np.array([score.value for score in scores])
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    value = float(values.mean())
    most = MOST.get(scores[0].metric, 1.0)
    low, high = max(0.0, value - half), min(most, value + half)
    return replace(scores[0], value=value, low=low, high=high, interval=f"{len(values)} seeds, Student")
