"""Every metric by name: which direction is better, and what a heading calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Direction", "Metric", "metric"]

Direction = Literal["higher", "lower"]

LOWER = frozenset({
    "nll", "brier", "ece", "ece_unscaled", "mae", "rmse", "mce", "corruption_error", "accuracy_lost", "fpr_at_95",
    "accuracy_gap", "demographic_parity_gap", "equalised_odds_gap", "images", "pairs", "same_bytes", "place",
    "parameters", "gmacs", "latency_p50", "latency_p90", "latency_p99", "latency_with_decode", "peak_memory", "energy",
})  # fmt: skip
WORDS = {
    "auroc": "AUROC", "fpr_at_95": "FPR@95", "aupr_in": "AUPR in", "aupr_out": "AUPR out", "mce": "mCE",
    "gmacs": "GMACs", "miou": "mean IoU", "iou": "IoU", "dice": "Dice",
}  # fmt: skip
UNITS = {
    "latency_p50": "ms", "latency_p90": "ms", "latency_p99": "ms", "latency_with_decode": "ms",
    "throughput": "images/s", "throughput_with_decode": "images/s", "peak_memory": "MB", "energy": "J/image",
}  # fmt: skip
GAINS = frozenset({"gain"})
COUNTS = frozenset({"images", "pairs", "same_bytes", "place", "parameters", "peak_memory"})
FULL, SHORT = re.compile(r"^full_spectrum_"), re.compile(r"^([+-]?)0\.")
FORMS = {
    **dict.fromkeys(UNITS, ",.2f"), **dict.fromkeys(COUNTS, ",.0f"), **dict.fromkeys(GAINS, "+.3f"), "mce": ".1f",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric.

    Attributes:
        name: as results have it.
        direction: which values are better.
        title: as tables have it.
        form: of its values, as `format` takes it.
        unit: of its values; ``""`` where they have none.
    """

    name: str
    direction: Direction
    title: str
    form: str = ".3f"
    unit: str = ""

    def gain(self, value: float) -> float:
        """A value as a number of which more is better."""
        return value if self.direction == "higher" else -value

    def shown(self, value: float, *, signed: bool = False) -> str:
        """A value as people read it, without the zero before the point.

        >>> metric("auroc").shown(0.9134), metric("pairs").shown(1200.0), metric("accuracy").shown(-0.02, signed=True)
        ('.913', '1,200', '-.020')
        """
        text = format(value, "+" + self.form.lstrip("+") if signed else self.form)
        return SHORT.sub(r"\1.", text) if self.form.endswith(".3f") else text


def metric(name: str) -> Metric:
    """What is known of a metric; of those that no table lists, more is better.

    >>> metric("nll").direction, metric("full_spectrum_auroc").title
    ('lower', 'full spectrum AUROC')
    >>> metric("throughput").title, metric("throughput").shown(1234.5)
    ('throughput, images/s', '1,234.50')
    """
    base = FULL.sub("", name)
    unit = UNITS.get(base, "")
    words = WORDS.get(base, base.replace("_", " ")) + (f", {unit}" if unit else "")
    return Metric(
        name=name,
        direction="lower" if base in LOWER else "higher",
        title=f"full spectrum {words}" if base != name else words,
        form=FORMS.get(base, ".3f"),
        unit=unit,
    )
