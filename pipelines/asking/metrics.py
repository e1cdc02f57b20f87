"""Every metric by name: which direction is better, and what a heading calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Direction", "Metric", "metric"]

Direction = Literal["higher", "lower"]

LOWER = frozenset(
    "nll brier ece ece_unscaled mae rmse mce corruption_error accuracy_lost fpr_at_95 accuracy_gap "
    "demographic_parity_gap equalised_odds_gap".split()
)
WORDS = {"auroc": "AUROC", "fpr_at_95": "FPR@95", "aupr_in": "AUPR in", "aupr_out": "AUPR out", "mce": "mCE"}
UNITS = {"mce": "%"}
FULL = re.compile(r"^full_spectrum_")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: as results have it.
        direction: which values are better.
        title: as tables have it.
        unit: of its values, where it is not in 0..1 or the data's own.
    """

    name: str
    direction: Direction
    title: str
    unit: str = ""

    def gain(self, value: float) -> float:
        """A value as a number of which more is better."""
        return value if self.direction == "higher" else -value


def metric(name: str) -> Metric:
    """What is known of a metric; of those that no table lists, more is better.

    >>> metric("nll").direction, metric("full_spectrum_auroc").title
    ('lower', 'full spectrum AUROC')
    """
    base = FULL.sub("", name)
    words = WORDS.get(base, base.replace("_", " "))
    return Metric(
        name=name,
        direction="lower" if base in LOWER else "higher",
        title=f"full spectrum {words}" if base != name else words,
        unit=UNITS.get(base, ""),
    )
