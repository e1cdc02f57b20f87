"""Where a run stands, as a line for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurebank.pipelines.training.loop import Progress

__all__ = ["told"]

SLOW = 0.3
"""The share of the time from which rows are what a run waits for."""


def told(what: str, progress: Progress) -> str:
    """``WHAT  step 40 of 93  loss 0.71  rate 2.9e-04  61 rows/s  0:27 left  limited by reading images``."""
    left = (progress.steps - progress.step) * progress.batch_size / max(1e-9, progress.rows_per_second)
    score = "" if math.isnan(progress.score) else f"  validation {progress.score:.3f}"
    limit = "reading rows" if progress.waiting > SLOW else "the network"
    return (
        f"{what}  step {progress.step:,} of at most {progress.steps:,}  loss {progress.loss:.3f}{score}  "
        f"rate {progress.rate:.1e}  {progress.rows_per_second:,.0f} rows/s  at most {int(left) // 60}:"
        f"{int(left) % 60:02} left  limited by {limit}"
    )
