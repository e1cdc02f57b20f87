"""Pictures of answers as SVG: how right a classifier is at each confidence.

Shapes: M test rows, B bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.page import name_html

if TYPE_CHECKING:
    from featurebank.pipelines.asking.cases import Answered
    from featurebank.pipelines.asking.results import Results

__all__ = ["reliability_section", "reliability_svg"]

BINS = 15
SIDE, COUNTS = 180, 36


def reliability_section(answered: Sequence[Answered], results: Results) -> str:
    """A reliability diagram of each backbone, from the probabilities that were kept of its predictions."""
    figures = []
    for one in answered:
        kept: Mapping[str, NDArray[Any]] = results.arrays(one.results[0])
        drawn = reliability_svg(
            kept["predictions"] == kept["labels"], np.exp(kept["log_confidence"].astype(np.float64))
        )
        figures.append(f"<div><h3>{name_html(one.case.backbone)}</h3>{drawn}</div>")
    first = answered[0].rows[0]
    title = name_html(f"{first.question}: {first.test}")
    about = f"How often a prediction is right, by its confidence, in {BINS} bins; on the line they agree."
    return (
        f"<section><h2>Reliability of {title}</h2><p>{about} Below: how many rows each bin has.</p>"
        f'<div class="row">{"".join(figures)}</div></section>'
    )


def reliability_svg(correct: NDArray[np.bool_], confidence: NDArray[np.float64]) -> str:
    """Accuracy against mean confidence in bins (a, b] of equal width (Guo et al. 2017, arXiv:1706.04599).

    Args:
        correct: (M,).
        confidence: (M,) probability of the predicted class.
    """
    place = np.clip((np.arange(BINS + 1) / BINS).searchsorted(confidence, "left") - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    right, sure = (
        np.bincount(place, values, minlength=BINS) / np.maximum(count, 1) for values in (correct, confidence)
    )
    points = [(SIDE * sure[at], SIDE * (1 - right[at])) for at in np.flatnonzero(count)]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    step, top = SIDE / BINS, max(int(count.max()), 1)
    bars = "".join(
        f'<rect x="{at * step + 1:.1f}" y="{SIDE + 8 + COUNTS * (1 - n / top):.1f}" width="{step - 2:.1f}" '
        f'height="{COUNTS * n / top:.1f}" fill="var(--in)"/>'
        for at, n in enumerate(count.tolist())
    )
    return (
        f'<svg width="{SIDE + 40}" height="{SIDE + COUNTS + 40}" viewBox="-30 -6 {SIDE + 40} {SIDE + COUNTS + 40}" '
        f'role="img" aria-label="reliability diagram"><path class="axis" d="M0 0V{SIDE}H{SIDE}"/>'
        f'<path class="axis" stroke-dasharray="3 3" d="M0 {SIDE}L{SIDE} 0"/>'
        f'<path class="whisker" fill="none" d="{line}"/>{dots}{bars}'
        f'<text x="-6" y="4" text-anchor="end">1</text><text x="-6" y="{SIDE}" text-anchor="end">0</text>'
        f'<text x="0" y="{SIDE + COUNTS + 22}">0</text>'
        f'<text x="{SIDE / 2}" y="{SIDE + COUNTS + 22}" text-anchor="middle">confidence</text>'
        f'<text x="{SIDE}" y="{SIDE + COUNTS + 22}" text-anchor="end">1</text></svg>'
    )
