"""How well scores separate in-distribution rows from others: exact with ties, with intervals, over several sets.

Shapes: N in-distribution rows, M others. Scores are higher for in-distribution rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes.metrics import as_values
from featurebank.probes.ood._separation import METRICS, Detection, Separation
from featurebank.probes.ood.registry import get, score_all
from featurebank.probes.ood.statistics import TrainingSet

__all__ = ["Detection", "DetectionSummary", "SelectedParameters", "detection", "evaluate", "select", "shared_rows"]

Rows = tuple[ArrayLike | None, ArrayLike | None]


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
    return Separation(in_scores, out_scores).metrics()


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
            the AUROC has DeLong's. See `Separation.intervals`.
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
    apart = {name: Separation(known, values) for name, values in others.items()}
    sets = {name: separation.metrics() for name, separation in apart.items()}
    spectrum: dict[str, Detection] = {}
    if shifted is not None:
        whole = np.concatenate([known, as_values(shifted, "shifted")])
        spectrum = {name: detection(whole, values) for name, values in others.items()}
    return DetectionSummary(
        sets=sets,
        groups=_grouped(sets, groups),
        intervals={
            name: separation.intervals(draws=draws, level=level, random_state=random_state)
            for name, separation in apart.items()
            if draws
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


def _grouped(sets: Mapping[str, Detection], groups: Mapping[str, Sequence[str]] | None) -> dict[str, Detection]:
    return {
        group: Detection(
            **{metric: float(np.mean([getattr(sets[name], metric) for name in members])) for metric in METRICS}
        )
        for group, members in (groups or {}).items()
    }
