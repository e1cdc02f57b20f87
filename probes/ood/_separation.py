"""How far two sets of scores are apart: every metric from one sort, and its interval without drawing rows.

Shapes: N in-distribution rows, M others, T distinct scores, B draws, G bins of neighbouring scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.intervals import delong_interval, wilson_interval
from featurebank.probes.metrics import as_values
from featurebank.probes.weighted import percentiles

__all__ = ["METRICS", "Detection", "Separation"]

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Ends = tuple[float, float]
Way = tuple[Counts, Counts]
"""Rows of the positives and of the others at each score or bin, in the order of a walk that best meets those first."""

TPR = 0.95
FINE = 8


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well scores separate two sets.

    Attributes:
        auroc: how often an in-distribution row scores above another one, ties counting half.
        fpr_at_95: share of the others that is kept at the highest threshold that keeps 95 % of the in-distribution
            rows: the papers' definition.
        fpr_at_95_ood: share of the in-distribution rows that is lost at the lowest threshold that finds 95 % of the
            others: what OpenOOD and pytorch-ood call FPR95.
        aupr_in: average precision with in-distribution rows as positives.
        aupr_out: average precision with the others as positives.
        aupr_in_trapezoid: area under the same points joined by lines, as OpenOOD and pytorch-ood.
        aupr_out_trapezoid: the same for the others.
    """

    auroc: float
    fpr_at_95: float
    fpr_at_95_ood: float
    aupr_in: float
    aupr_out: float
    aupr_in_trapezoid: float
    aupr_out_trapezoid: float


METRICS = tuple(field.name for field in fields(Detection))
RATES = ("fpr_at_95", "fpr_at_95_ood")
AREAS = ("aupr_in", "aupr_in_trapezoid", "aupr_out", "aupr_out_trapezoid")


class Separation:
    """Two sets of scores, higher for in-distribution rows.

    Args:
        in_scores: (N,) of in-distribution rows.
        out_scores: (M,) of the others.

    Raises:
        ValueError: a set is empty, or a score is not finite.
    """

    def __init__(self, in_scores: ArrayLike, out_scores: ArrayLike) -> None:
        sides = [np.sort(as_values(of, name)) for of, name in ((in_scores, "in_scores"), (out_scores, "out_scores"))]
        distinct = np.unique(np.concatenate(sides))
        inside, outside = (np.diff(side.searchsorted(distinct, "right"), prepend=0) for side in sides)
        self._ascending: Way = inside, outside
        self._ways = _both_ways(inside, outside)

    def metrics(self) -> Detection:
        """The metrics of all rows."""
        (kept, passed), (found, lost) = self._ways
        n, m = int(kept.sum()), int(found.sum())
        before = 2 * passed.cumsum() - passed
        (aupr_in, trapezoid_in), (aupr_out, trapezoid_out) = (_areas(*way, True).tolist() for way in self._ways)
        return Detection(
            auroc=int(kept @ (2 * m - before)) / (2 * n * m),
            fpr_at_95=int(passed.cumsum()[kept.cumsum().searchsorted(_quota(n))]) / m,
            fpr_at_95_ood=int(lost.cumsum()[found.cumsum().searchsorted(_quota(m))]) / n,
            aupr_in=aupr_in,
            aupr_out=aupr_out,
            aupr_in_trapezoid=trapezoid_in,
            aupr_out_trapezoid=trapezoid_out,
        )

    def intervals(self, *, draws: int, level: float = 0.95, random_state: int = 0) -> dict[str, Ends]:
        """Of the AUROC DeLong's interval; of the others percentiles over draws of rows of each set with replacement.

        Rates are drawn as such (`_drawn_rates`), areas from counts in bins of neighbouring scores (`_drawn_areas`); no
        draw takes rows one by one. Where a rate is 0 or 1, draws say too little, and the interval is Wilson's.

        Args:
            draws: B, at least 1.
            level: of the intervals, between 0 and 1.
            random_state: of the draws.
        """
        generator = np.random.default_rng(random_state)
        drawn = dict(zip(AREAS, _drawn_areas(*self._ascending, draws, generator), strict=True))
        drawn |= {rate: _drawn_rates(*way, draws, generator) for rate, way in zip(RATES, self._ways, strict=True)}
        ends = {metric: percentiles(of, level) for metric, of in drawn.items()}
        ends["auroc"] = delong_interval(*self._ascending, level=level)
        whole = self.metrics()
        for rate, (_, other) in zip(RATES, self._ways, strict=True):
            if (share := getattr(whole, rate)) in (0.0, 1.0):
                low, high = wilson_interval(share * other.sum(), other.sum(), level=level)
                ends[rate] = float(low), float(high)
        return {metric: ends[metric] for metric in METRICS}


def _both_ways(inside: Counts, outside: Counts) -> tuple[Way, Way]:
    """From counts (…, T) at ascending scores: down with in-distribution rows as positives, up with the others."""
    return (inside[..., ::-1], outside[..., ::-1]), (outside, inside)


def _quota(rows: int) -> int:
    """The smallest number of rows that is at least 95 % of them."""
    return math.ceil(TPR * rows - 1e-9 * rows)


def _drawn_rates(own: Counts, other: Counts, draws: int, generator: np.random.Generator) -> Floats:
    """Shares (B,) of others that stand no later than the drawn row that completes 95 % of n drawn own ones.

    This is the bootstrap's own distribution: the q-th of n places drawn uniformly is a beta variable, and how many
    drawn others come before a given score a binomial one.

    Args:
        own: (T,) rows of the set at each score, in the order of the walk.
        other: (T,) of the other set.
        draws: B.
        generator: of the draws.
    """
    n, m = int(own.sum()), int(other.sum())
    quota = _quota(n)
    place = np.minimum((n * generator.beta(quota, n - quota + 1, draws)).astype(np.int64), n - 1)
    passed = other.cumsum()[own.cumsum().searchsorted(place, "right")]
    return np.asarray(generator.binomial(m, passed / m) / m)


def _drawn_areas(inside: Counts, outside: Counts, draws: int, generator: np.random.Generator) -> Floats:
    """Average precision and trapezoid area (4, B) of in-distribution rows, then of the others.

    Drawn are the rows of bins, which are single scores at both ends of each set and grow with what lies beyond them;
    what they lose of the areas is the same for every draw.

    Args:
        inside: (T,) in-distribution rows at each score, ascending.
        outside: (T,) others.
        draws: B.
        generator: of the draws.
    """
    starts = _bins(inside, outside)
    binned = np.add.reduceat(inside, starts), np.add.reduceat(outside, starts)
    sizes = np.diff(starts, append=len(inside))
    of_bins, drawn = (sizes[::-1], sizes), np.empty((2, 2, draws))
    for block in row_slices(draws, len(starts)):
        taken = (generator.multinomial(n.sum(), n / n.sum(), block.stop - block.start) for n in binned)
        for areas, way, scores in zip(drawn, _both_ways(*taken), of_bins, strict=True):
            areas[:, block] = _areas(*way, scores == 1)
    whole = _both_ways(inside, outside)
    for areas, way, rows, scores in zip(drawn, whole, _both_ways(*binned), of_bins, strict=True):
        areas += _lost(way, rows, scores)[:, None]  # noqa: PLW2901 - in place
    return drawn.reshape(4, draws)


def _lost(way: Way, binned: Way, scores: NDArray[np.intp]) -> Floats:
    """What draws of bins lack of both areas (2,): what bins lose of those of all rows, and ties that they hide.

    A row that stands in a bin with others and is drawn twice is a tie, with the precision of both: average precision
    gains half the precision's rise there.

    Args:
        way: of all scores (T,).
        binned: of the bins (G,).
        scores: (G,) how many each bin has.
    """
    lost = _areas(*way, True) - _areas(*binned, scores == 1)
    seen, precision, _ = _precision(*way)
    rises = way[0] * (1 - precision) / np.maximum(seen, 1)
    lost[0] += rises[np.repeat(scores > 1, scores)].sum() / (2 * way[0].sum())
    return lost


def _bins(inside: Counts, outside: Counts) -> NDArray[np.intp]:
    """Where bins of neighbouring scores begin (G,): each holds at most about 1 / `FINE` of what lies beyond it."""
    up = np.stack([inside, outside])
    before = np.concatenate([up.cumsum(1) - up, up[:, ::-1].cumsum(1)[:, ::-1]])
    far = np.floor(FINE * np.log(np.maximum(before, FINE) / FINE)) + np.minimum(before, FINE)
    return np.flatnonzero(np.concatenate([[True], (np.diff(far) != 0).any(0)]))


def _precision(own: Counts, other: Counts) -> tuple[Counts, Floats, Floats]:
    """Rows seen (…, T) through each score of a walk, the precision there, and before, where it begins at 1."""
    hits = own.cumsum(-1)
    seen = hits + other.cumsum(-1)
    precision = np.where(seen > 0, hits / np.maximum(seen, 1), 1.0)
    return seen, precision, np.concatenate([np.ones_like(precision[..., :1]), precision[..., :-1]], -1)


def _areas(own: Counts, other: Counts, single: bool | NDArray[np.bool_]) -> Floats:
    """Average precision and the area of its points joined by lines (2, …), own rows as positives.

    Args:
        own: (…, T) rows of the set at each score or bin, in the order of the walk.
        other: (…, T) of the other set.
        single: (T,) whether it is one score; in a bin average precision is taken to be the area too.
    """
    steps = own / own.sum(-1, keepdims=True)
    _, precision, previous = _precision(own, other)
    middle = (precision + previous) / 2
    return np.stack([(steps * np.where(single, precision, middle)).sum(-1), (steps * middle).sum(-1)])
