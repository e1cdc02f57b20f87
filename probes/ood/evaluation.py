"""How well scores separate in-distribution rows from others: exact with ties, with intervals, over several sets.

Shapes: N in-distribution rows, M others. Scores are higher for in-distribution rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.metrics import as_values
from featurebank.probes.ood.registry import get, score_all
from featurebank.probes.ood.statistics import TrainingSet
from featurebank.probes.proportions import auroc_interval, wilson_interval

__all__ = ["Detection", "Evaluation", "Selection", "detection", "evaluate", "select", "shared_rows"]

TPR = 0.95
Rows = tuple[ArrayLike | None, ArrayLike | None]


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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One score on several sets of others.

    Attributes:
        sets: name to how well it is separated.
        groups: name of a group, such as near or far, to the mean over its sets.
        intervals: set to metric to the ends of its bootstrap interval; empty without draws.
        full_spectrum: as ``sets``, with covariate-shifted in-distribution rows counted as in-distribution; empty
            without such rows.
        full_spectrum_groups: as ``groups``.
    """

    sets: dict[str, Detection]
    groups: dict[str, Detection]
    intervals: dict[str, dict[str, tuple[float, float]]]
    full_spectrum: dict[str, Detection]
    full_spectrum_groups: dict[str, Detection]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Parameters of a score that were chosen on validation rows.

    Attributes:
        parameters: the best.
        auroc: theirs, on the validation rows.
        tried: every combination and its AUROC.
    """

    parameters: dict[str, Any]
    auroc: float
    tried: tuple[tuple[dict[str, Any], float], ...]


def detection(in_scores: ArrayLike, out_scores: ArrayLike) -> Detection:
    """Every metric of two sets of scores, from one sort.

    >>> found = detection([0.9, 0.8, 0.7, 0.4], [0.5, 0.4, 0.1])
    >>> round(found.auroc, 4), round(found.fpr_at_95, 4), found.fpr_at_95_ood
    (0.875, 0.6667, 0.25)

    Args:
        in_scores: (N,) of in-distribution rows.
        out_scores: (M,) of the others.

    Raises:
        ValueError: a set is empty, or a score is not finite.
    """
    inside, outside, _ = _counts(as_values(in_scores, "in_scores"), as_values(out_scores, "out_scores"))
    return _detection(inside, outside)


def evaluate(
    in_scores: ArrayLike,
    out_scores: Mapping[str, ArrayLike],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    shifted: ArrayLike | None = None,
    draws: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> Evaluation:
    """A score's metrics on several sets, their means over groups, and bootstrap intervals.

    Args:
        in_scores: (N,).
        out_scores: name of a set to its scores (M,).
        groups: name to sets, such as ``{"near": ("ssb_hard", "ninco"), "far": ("inaturalist", "textures")}``; a group's
            metric is the mean over its sets, as in OpenOOD.
        shifted: scores of covariate-shifted in-distribution rows, for the full spectrum.
        draws: resamples of in-distribution rows and of each set, each keeping its size, for percentile intervals.
        level: of the intervals.
        seed: of the draws.

    Raises:
        ValueError: no set, a group of an unknown or no set, or as for `detection`.
    """
    known = as_values(in_scores, "in_scores")
    if not out_scores:
        raise ValueError("out_scores must have at least one set; found none")
    for group, members in (groups or {}).items():
        unknown = [name for name in members if name not in out_scores]
        if unknown or not members:
            raise ValueError(f"group {group!r} must name sets among {', '.join(out_scores)}; found {list(members)}")
    if draws and not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1; found {level}")
    others = {name: as_values(values, f"scores of {name}") for name, values in out_scores.items()}
    sets = {name: detection(known, values) for name, values in others.items()}
    spectrum: dict[str, Detection] = {}
    if shifted is not None:
        whole = np.concatenate([known, as_values(shifted, "shifted")])
        spectrum = {name: detection(whole, values) for name, values in others.items()}
    return Evaluation(
        sets=sets,
        groups=_grouped(sets, groups),
        intervals={name: _intervals(known, values, draws, level, seed) for name, values in others.items() if draws},
        full_spectrum=spectrum,
        full_spectrum_groups=_grouped(spectrum, groups) if spectrum else {},
    )


def select(
    name: str, grid: Mapping[str, Sequence[Any]], train: TrainingSet, *, validation_in: Rows, validation_out: Rows
) -> Selection:
    """The parameters of a score with the best AUROC on validation rows; of equal ones the first in the grid.

    It sees no test rows: pass validation rows that are not among them (`shared_rows` counts those that are).

    Args:
        name: of the score.
        grid: parameter to candidates; every combination is tried.
        train: the training rows.
        validation_in: features and logits of in-distribution rows.
        validation_out: features and logits of others.

    Raises:
        ValueError: no candidate, an unknown score or parameter, or what it raises for bad input.
    """
    allowed = get(name)().get_params()
    unknown = sorted(set(grid) - set(allowed))
    if unknown or not grid or not all(len(candidates) for candidates in grid.values()):
        raise ValueError(
            f"grid must give candidates for parameters of {name!r}, which are {', '.join(allowed) or 'none'}; "
            f"found {dict(grid)}"
        )
    tried = []
    for values in itertools.product(*grid.values()):
        parameters = dict(zip(grid, values, strict=True))
        scored = score_all(train, {"in": validation_in, "out": validation_out}, [get(name)(**parameters)])
        auroc = detection(scored.values["in"][name], scored.values["out"][name]).auroc
        tried.append((parameters, auroc))
    best, auroc = max(tried, key=lambda pair: pair[1])
    return Selection(parameters=best, auroc=auroc, tried=tuple(tried))


def shared_rows(hashes: ArrayLike, reference: ArrayLike) -> NDArray[np.bool_]:
    """Which rows have a content hash that the reference has too, (M,): in-distribution images inside another set.

    A hash of zeros is that of a record that could not be read, and like no other.

    >>> int(shared_rows(np.array([[1, 2], [3, 4]], np.uint8), np.array([[3, 4]], np.uint8)).sum())
    1

    Args:
        hashes: (M, B) uint8, as the store's ``content_hash``.
        reference: (N, B) uint8.

    Raises:
        ValueError: other shapes or dtypes.
    """
    arrays = [np.ascontiguousarray(values) for values in (hashes, reference)]
    if any(array.ndim != 2 or array.dtype != np.uint8 or array.shape[1] != arrays[0].shape[1] for array in arrays):
        raise ValueError(
            "content hashes must be uint8 of shape (rows, bytes), of equal bytes; "
            f"found {' and '.join(f'{array.dtype} {array.shape}' for array in arrays)}"
        )
    one = np.dtype((np.void, arrays[0].shape[1]))
    return np.isin(arrays[0].view(one)[:, 0], arrays[1].view(one)[:, 0]) & arrays[0].any(axis=1)


def _counts(
    inside: NDArray[Any], outside: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Rows of both sets at each distinct score, highest first, and the place there of each row."""
    distinct, place = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    place = len(distinct) - 1 - place
    first = np.bincount(place[: len(inside)], minlength=len(distinct))
    return first, np.bincount(place[len(inside) :], minlength=len(distinct)), place


def _detection(inside: NDArray[np.int64], outside: NDArray[np.int64]) -> Detection:
    """The metrics from the rows at each score, highest first; scores without rows change nothing."""
    kept, passed = inside.cumsum(), outside.cumsum()
    n, m = int(kept[-1]), int(passed[-1])
    threshold = kept.searchsorted(_quota(n))
    # from the lowest score up: rows of the set outside that are found at or below each score
    hits, lost = outside[::-1].cumsum(), inside[::-1].cumsum()
    lowest = hits.searchsorted(_quota(m))
    aupr_in, trapezoid_in = _precision(inside, kept, passed)
    aupr_out, trapezoid_out = _precision(outside[::-1], hits, lost)
    above = 2 * (m - passed) + outside
    return Detection(
        auroc=int((inside * above).sum()) / (2 * n * m),
        fpr_at_95=int(passed[threshold]) / m,
        fpr_at_95_ood=int(lost[lowest]) / n,
        aupr_in=aupr_in,
        aupr_out=aupr_out,
        aupr_in_trapezoid=trapezoid_in,
        aupr_out_trapezoid=trapezoid_out,
    )


def _quota(rows: int) -> int:
    """The smallest number of rows that is at least 95 % of them."""
    return math.ceil(TPR * rows - 1e-9 * rows)


def _precision(gains: NDArray[np.int64], hits: NDArray[np.int64], misses: NDArray[np.int64]) -> tuple[float, float]:
    """Average precision and trapezoid area of the points of precision and recall, from recall 0 at precision 1."""
    seen = hits + misses
    precision = np.where(seen > 0, hits / np.maximum(seen, 1), 1.0)
    steps = gains / hits[-1]
    before = np.concatenate([[1.0], precision[:-1]])
    return float((steps * precision).sum()), float((steps * (precision + before)).sum() / 2)


def _grouped(sets: Mapping[str, Detection], groups: Mapping[str, Sequence[str]] | None) -> dict[str, Detection]:
    return {
        group: Detection(
            **{metric: float(np.mean([getattr(sets[name], metric) for name in members])) for metric in METRICS}
        )
        for group, members in (groups or {}).items()
    }


def _intervals(
    inside: NDArray[Any], outside: NDArray[Any], draws: int, level: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile intervals; every draw takes rows of both sets with replacement and counts them by score.

    Where a rate or the AUROC is 0 or 1 all draws are alike, and the interval is Wilson's or `auroc_interval`.
    """
    first, second, place = _counts(inside, outside)
    own, other = place[: len(inside)], place[len(inside) :]
    generator = np.random.default_rng(seed)
    drawn = np.empty((draws, len(METRICS)))
    for draw in range(draws):
        counts = [
            np.bincount(part[generator.integers(0, len(part), len(part))], minlength=len(first))
            for part in (own, other)
        ]
        one = _detection(*counts)
        drawn[draw] = [getattr(one, metric) for metric in METRICS]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    intervals = {metric: (float(a), float(b)) for metric, a, b in zip(METRICS, low, high, strict=True)}
    whole, n, m = _detection(first, second), len(inside), len(outside)
    if whole.auroc in (0.0, 1.0):
        intervals["auroc"] = auroc_interval(whole.auroc, n, m, level=level)
    for metric, rows in (("fpr_at_95", m), ("fpr_at_95_ood", n)):
        if (rate := getattr(whole, metric)) in (0.0, 1.0):
            ends = wilson_interval(rate * rows, rows, level=level)
            intervals[metric] = (float(ends[0]), float(ends[1]))
    return intervals
