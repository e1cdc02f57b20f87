"""How well scores separate in-distribution rows from others: exact with ties, with intervals, over several sets.

Shapes: N in-distribution rows, M others. Scores are higher for in-distribution rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.intervals import delong_interval, wilson_interval
from featurebank.probes.metrics import as_values
from featurebank.probes.ood.registry import get, score_all
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["Detection", "DetectionSummary", "SelectedParameters", "detection", "evaluate", "select", "shared_rows"]

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
class DetectionSummary:
    """One score on several sets of others.

    Attributes:
        sets: name to how well it is separated.
        groups: name of a group, such as near or far, to the mean over its sets.
        intervals: set to metric to the ends of its interval; empty without draws.
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
class SelectedParameters:
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
    return _Scores(as_values(in_scores, "in_scores"), as_values(out_scores, "out_scores")).whole()


def evaluate(
    in_scores: ArrayLike,
    out_scores: Mapping[str, ArrayLike],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    shifted: ArrayLike | None = None,
    draws: int = 0,
    level: float = 0.95,
    random_state: int = 0,
) -> DetectionSummary:
    """A score's metrics on several sets, their means over groups, and intervals.

    Args:
        in_scores: (N,).
        out_scores: name of a set to its scores (M,).
        groups: name to sets, such as ``{"near": ("ssb_hard", "ninco"), "far": ("inaturalist", "textures")}``; a group's
            metric is the mean over its sets, as in OpenOOD.
        shifted: scores of covariate-shifted in-distribution rows, for the full spectrum.
        draws: resamples of in-distribution rows and of each set, each keeping its size, for percentile intervals;
            the AUROC has DeLong's.
        level: of the intervals.
        random_state: of the draws.

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
    return DetectionSummary(
        sets=sets,
        groups=_grouped(sets, groups),
        intervals={
            name: _intervals(known, values, draws, level, random_state) for name, values in others.items() if draws
        },
        full_spectrum=spectrum,
        full_spectrum_groups=_grouped(spectrum, groups) if spectrum else {},
    )


def select(
    name: str, grid: Mapping[str, Sequence[Any]], train: TrainingSet, *, validation_in: Rows, validation_out: Rows
) -> SelectedParameters:
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
    return SelectedParameters(parameters=best, auroc=auroc, tried=tuple(tried))


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


class _Direction(NamedTuple):
    """Where one set's S distinct scores stand among the other's, walking one way over all T distinct scores.

    Attributes:
        at: (S,) places among all.
        before: (S,) how many of the other set's distinct scores come earlier.
        through: (S,) the same with an equal one.
        size: T.
    """

    at: NDArray[np.intp]
    before: NDArray[np.intp]
    through: NDArray[np.intp]
    size: int

    @classmethod
    def of(cls, own: NDArray[np.int64], other: NDArray[np.int64]) -> Self:
        """From the rows of both sets at each score (T,)."""
        at = np.flatnonzero(own)
        counted = np.concatenate([[0], (other > 0).cumsum()])
        return cls(at, counted[at], counted[at + 1], len(own))

    def read(self, own: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[float, float, float, float]:
        """How often own rows come first, the others passed with 95 % of own rows, average precision, trapezoid area.

        The areas are of precision and recall, own rows as positives, from recall 0 at precision 1.

        Args:
            own: (S,) rows at each distinct score of the set, in the order of the walk; may be 0.
            other: the same of the other set.
        """
        hits, passed = own.cumsum(), np.concatenate([[0], other.cumsum()])
        n, m = int(hits[-1]), int(passed[-1])
        misses, earlier = passed[self.through], passed[self.before]
        seen = hits - own + earlier
        precision = hits / np.maximum(hits + misses, 1)
        previous = np.where(seen > 0, (hits - own) / np.maximum(seen, 1), 1.0)
        points = np.zeros((2, self.size))
        points[0, self.at] = own / n * precision
        points[1, self.at] = own / n * (precision + previous)
        return (
            int(own @ (2 * m - misses - earlier)) / (2 * n * m),
            int(misses[hits.searchsorted(_quota(n))]) / m,
            float(points[0].sum()),
            float(points[1].sum() / 2),
        )


class _Scores:
    """Two sets of scores, to be read as they are or as rows drawn from them."""

    def __init__(self, inside: NDArray[Any], outside: NDArray[Any]) -> None:
        self.sides = [np.unique(values, return_inverse=True, return_counts=True) for values in (inside, outside)]
        distinct = np.union1d(self.sides[0][0], self.sides[1][0])
        self.counts = np.zeros((2, len(distinct)), np.int64)
        for row, (values, _, counts) in zip(self.counts, self.sides, strict=True):
            row[distinct.searchsorted(values)] = counts
        first, second = self.counts
        self._down, self._up = _Direction.of(first[::-1], second[::-1]), _Direction.of(second, first)

    def read(self, inside: NDArray[np.int64], outside: NDArray[np.int64]) -> Detection:
        """The metrics of so many rows at each distinct score of each set, ascending."""
        auroc, fpr, aupr_in, trapezoid_in = self._down.read(inside[::-1], outside[::-1])
        _, fpr_ood, aupr_out, trapezoid_out = self._up.read(outside, inside)
        return Detection(
            auroc=auroc,
            fpr_at_95=fpr,
            fpr_at_95_ood=fpr_ood,
            aupr_in=aupr_in,
            aupr_out=aupr_out,
            aupr_in_trapezoid=trapezoid_in,
            aupr_out_trapezoid=trapezoid_out,
        )

    def whole(self) -> Detection:
        """The metrics of all rows."""
        return self.read(self.sides[0][2], self.sides[1][2])

    def drawn(self, generator: np.random.Generator) -> Detection:
        """The metrics of as many rows of each set, drawn with replacement."""
        counts = [
            np.bincount(place[generator.integers(0, len(place), len(place))], minlength=len(values))
            for values, place, _ in self.sides
        ]
        return self.read(*counts)


def _quota(rows: int) -> int:
    """The smallest number of rows that is at least 95 % of them."""
    return math.ceil(TPR * rows - 1e-9 * rows)


def _grouped(sets: Mapping[str, Detection], groups: Mapping[str, Sequence[str]] | None) -> dict[str, Detection]:
    return {
        group: Detection(
            **{metric: float(np.mean([getattr(sets[name], metric) for name in members])) for metric in METRICS}
        )
        for group, members in (groups or {}).items()
    }


def _intervals(
    inside: NDArray[Any], outside: NDArray[Any], draws: int, level: float, random_state: int
) -> dict[str, tuple[float, float]]:
    """DeLong's interval of the AUROC; of the others percentiles, every draw taking rows of both sets with replacement.

    Where a rate is 0 or 1 all draws are alike, and the interval is Wilson's.
    """
    scores, generator = _Scores(inside, outside), np.random.default_rng(random_state)
    drawn = [[*vars(scores.drawn(generator)).values()] for _ in range(draws)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    intervals = {metric: (float(a), float(b)) for metric, a, b in zip(METRICS, low, high, strict=True)}
    intervals["auroc"] = delong_interval(*scores.counts, level=level)
    whole = scores.whole()
    for metric, rows in (("fpr_at_95", len(outside)), ("fpr_at_95_ood", len(inside))):
        if (rate := getattr(whole, metric)) in (0.0, 1.0):
            a, b = wilson_interval(rate * rows, rows, level=level)
            intervals[metric] = (float(a), float(b))
    return intervals
