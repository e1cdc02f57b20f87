"""Numbers of several runs as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from featurebank.pipelines.asking.answer import Score

__all__ = ["over_seeds"]


def over_seeds(scores: Sequence[Score]) -> Score:
    """The mean over seeds and Student's 95 % interval; of one seed its own."""
    if len(scores) == 1:
        return scores[0]
    from scipy.stats import t  # type: ignore[import-untyped]

    values = np.array([score.value for score in scores])
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    value = float(values.mean())
    return replace(
        scores[0], value=value, low=value - half, high=value + half, interval=f"{len(values)} seeds, Student"
    )
