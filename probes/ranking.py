"""Which backbone is best over many settings: z-scores within each setting, averaged over tasks (Goldblum et al. 2023).

Battle of the Backbones (arXiv:2310.19909) compares backbones across datasets and metrics that way. Its text leaves two
things open, which are options here: which standard deviation, and what an empty cell does.

Shapes: B backbones, S settings (a dataset, protocol and metric each), T tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Ranking", "rank_backbones", "ranks", "setting_weights", "z_scores"]

Floats = NDArray[np.float64]
Deviation = Literal["population", "sample"]
Missing = Literal["refuse", "leave out"]
DECIMALS = 12  # of z-scores, which are of the order of 1: what differs beyond them differs by rounding
DDOF = {"population": 0, "sample": 1}


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Backbones over all settings of all tasks; NaN where a backbone has no cell.

    Attributes:
        names: B, best first; equal ones in the order given.
        rank: (B,) float64 of ``overall``, 1 the best; equal ones share the mean of their places.
        overall: (B,) float64, mean of the task scores.
        tasks: T.
        task_scores: (B, T) float64, mean of the z-scores of each task's settings.
        z: (B, S) float64, in the order of the settings given.
    """

    names: tuple[str, ...]
    rank: Floats
    overall: Floats
    tasks: tuple[Hashable, ...]
    task_scores: Floats
    z: Floats


def z_scores(values: ArrayLike, *, deviation: Deviation = "population", missing: Missing = "refuse") -> Floats:
    """Each column less its mean, in units of its standard deviation, over the backbones that have a value.

    A column in which all are equal tells no backbone from another: its z-scores are 0.

    Args:
        values: (B, S) scores, greater is better; NaN where there is none.
        deviation: ``population`` divides squares by the number of values, ``sample`` by one less.
        missing: what NaN does: ``refuse``, or ``leave out`` of the column's mean and deviation and stay NaN.

    Returns:
        (B, S) float64.

    Raises:
        ValueError: values of another shape, infinite or, where that is refused, missing; a column with fewer than two.

    >>> z_scores([[1.0, 5.0], [3.0, 5.0]]).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    if deviation not in DDOF:
        raise ValueError(f"deviation must be 'population' or 'sample', found {deviation!r}")
    table = _table(values, missing)
    counts = np.isfinite(table).sum(0)
    if (counts < 2).any():
        at = int(counts.argmin())
        raise ValueError(f"each setting needs values of at least two backbones; setting {at} has {counts[at]}")
    centred = table - np.nanmean(table, 0)
    spread = np.nanstd(table, 0, ddof=DDOF[deviation])
    equal = np.nanmin(table, 0) == np.nanmax(table, 0)
    scores: Floats = np.where(equal & np.isfinite(table), 0.0, centred / np.where(equal, 1.0, spread))
    return scores


def ranks(scores: ArrayLike) -> Floats:
    """Places by score, 1 the greatest; equal scores share the mean of their places.

    Args:
        scores: (B,), or (B, S) for places in each setting.

    Returns:
        float64 of the shape of ``scores``.

    Raises:
        ValueError: scores that are not finite numbers of such a shape.

    >>> ranks([0.5, 0.9, 0.5, 0.1]).tolist()
    [2.5, 1.0, 2.5, 4.0]
    """
    array = np.asarray(scores, np.float64)
    if array.ndim not in {1, 2} or not array.size or not np.isfinite(array).all():
        raise ValueError(f"scores must be finite numbers of shape (B,) or (B, S), found shape {array.shape}: {array}")
    below = -array.T
    order = below.argsort(-1, kind="stable")
    ordered = np.take_along_axis(below, order, -1)
    starts = np.ones(ordered.shape, np.bool_)
    starts[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    ends = np.ones_like(starts)
    ends[..., :-1] = starts[..., 1:]
    place = np.arange(1, len(array) + 1)
    first = np.maximum.accumulate(np.where(starts, place, 0), -1)
    last = np.minimum.accumulate(np.where(ends, place, len(array))[..., ::-1], -1)[..., ::-1]
    places = np.empty(ordered.shape)
    np.put_along_axis(places, order, (first + last) / 2, -1)
    return places.T


def setting_weights(tasks: Sequence[Hashable]) -> Floats:
    """(S,) weights of settings, of sum 1, in which each task weighs the same and each setting of one task too.

    >>> setting_weights(["retrieval", "ood", "ood"]).tolist()
    [0.5, 0.25, 0.25]
    """
    counts = Counter(tasks)
    return np.array([1 / (counts[task] * len(counts)) for task in tasks])


def rank_backbones(
    names: Sequence[str],
    values: ArrayLike,
    tasks: Sequence[Hashable],
    *,
    deviation: Deviation = "population",
    missing: Missing = "refuse",
) -> Ranking:
    """Ranks backbones: z-scores in each setting, their mean in each task, the mean of those.

    A task with many settings weighs no more than one with a single setting. Backbones whose overall scores differ by
    rounding only, below 1e-12, are equal.

    Args:
        names: B, different ones.
        values: (B, S) scores, greater is better (a loss or an error rate is negated first); NaN where there is none.
        tasks: S, the task of each setting.
        deviation: see `z_scores`.
        missing: see `z_scores`; a cell that is left out is left out of the mean of its task, a task without cells of
            the mean of tasks.

    Raises:
        ValueError: as of `z_scores`; lengths that do not fit, a name twice, or a backbone without any value.

    >>> found = rank_backbones(["a", "b", "c"], [[0.7, 0.2, 9.0], [0.9, 0.4, 7.0], [0.8, 0.3, 8.0]], ["x", "x", "y"])
    >>> found.names, found.rank.tolist()
    (('a', 'b', 'c'), [2.0, 2.0, 2.0])
    """
    table = _table(values, missing)
    if table.shape != (len(names), len(tasks)) or len(set(names)) != len(names):
        raise ValueError(
            f"values must be (B, S) for B different names and S tasks, found {table.shape} for {len(names)} names, "
            f"{len(set(names))} of them different, and {len(tasks)} tasks"
        )
    empty = [name for name, row in zip(names, table, strict=True) if np.isnan(row).all()]
    if empty:
        raise ValueError(f"each backbone needs a value in at least one setting; none has {', '.join(empty)}")
    z = z_scores(table, deviation=deviation, missing=missing)
    different = tuple(dict.fromkeys(tasks))
    member = np.array([[task == of for task in tasks] for of in different])
    scores = np.stack([_row_means(z[:, settings]) for settings in member], 1)
    overall = _row_means(scores)
    compared = overall.round(DECIMALS)
    order = np.argsort(-compared, kind="stable")
    return Ranking(
        names=tuple(names[at] for at in order),
        rank=ranks(compared)[order],
        overall=overall[order],
        tasks=different,
        task_scores=scores[order],
        z=z[order],
    )


def _row_means(values: Floats) -> Floats:
    """(B, S) to (B,): the mean of the values there are, NaN where there are none."""
    known = np.isfinite(values)
    counts = known.sum(1)
    return np.where(counts > 0, np.where(known, values, 0.0).sum(1) / np.maximum(counts, 1), np.nan)


def _table(values: ArrayLike, missing: Missing) -> Floats:
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"values must be scores (B, S) of backbones in settings, found shape {table.shape}")
    if np.isinf(table).any():
        raise ValueError(
            f"values must be finite or NaN, found {table[np.isinf(table)][0]} at {_first(np.isinf(table))}"
        )
    if missing not in {"refuse", "leave out"}:
        raise ValueError(f"missing must be 'refuse' or 'leave out', found {missing!r}")
    gaps = np.isnan(table)
    if missing == "refuse" and gaps.any():
        raise ValueError(
            f"{int(gaps.sum())} of {gaps.size} values are missing, the first at (backbone, setting) {_first(gaps)}; "
            "compute them, or say missing='leave out'"
        )
    return table


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(at) for at in np.argwhere(mask)[0])
