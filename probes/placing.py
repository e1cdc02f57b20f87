"""How sure is a place in a ranking? Rankings drawn again, and the interval of each backbone's place.

Two sorts of chance move a place, and an interval speaks of one of them: which settings were asked (`redrawn_settings`),
or which test rows these were asked on (`redrawn_values`).

Shapes: B backbones, S settings, D draws.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.probes._rows import row_slices
from featurebank.probes.intervals import row_weights
from featurebank.probes.ranking import DECIMALS, ranks, setting_weights
from featurebank.probes.weighted import check_draws

__all__ = ["Places", "places", "redrawn_settings", "redrawn_values"]

Floats = NDArray[np.float64]
NORMAL_975 = 1.959963984540054
BLOCK_VALUES = 2**21  # of drawn tables at a time


@dataclass(frozen=True, kw_only=True)
class Places:
    """The places of backbones, in the order given; equal ones share the mean of their places.

    Attributes:
        place: (B,) float64, 1 the best.
        low: (B,) float64, the better end of the place's interval; a place that was drawn.
        high: (B,) float64, the worse end.
        first: (B,) float64, share of draws in which it is the best; of several best ones, each has its part.
        ahead: (B - 1,) float64, best first: share of draws in which each is before the next one; a tie is a half.
    """

    place: Floats
    low: Floats
    high: Floats
    first: Floats
    ahead: Floats


def redrawn_settings(
    scores: ArrayLike, tasks: Sequence[Hashable], *, draws: int = 1000, random_state: int = 0
) -> Floats:
    """Overall scores (D, B) over settings drawn with replacement, as many as there are.

    Overall is the mean over the tasks that were drawn of the mean over each one's settings.

    Args:
        scores: (B, S) in each setting: z-scores, or the negatives of ranks.
        tasks: S, the task of each setting; all of one where settings weigh the same.
        draws: D.
        random_state: of the draws.

    Raises:
        ValueError: scores that are not finite numbers (B, S) of S tasks.
    """
    table = np.asarray(scores, np.float64)
    if table.ndim != 2 or table.shape[1] != len(tasks) or not np.isfinite(table).all():
        raise ValueError(f"scores must be finite numbers (B, S) of {len(tasks)} tasks, found shape {table.shape}")
    member = np.array([[task == of for of in dict.fromkeys(tasks)] for task in tasks], np.float64)
    drawn = []
    for counts in row_weights(len(tasks), draws=draws, random_state=random_state):
        settings = counts @ member
        of_task = np.maximum(settings, 1) * (settings > 0).sum(1, keepdims=True)
        drawn.append(counts / (of_task @ member.T) @ table.T)
    return np.concatenate(drawn)


def redrawn_values(
    values: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    tasks: Sequence[Hashable],
    scored: Callable[[Floats], Floats],
    *,
    draws: int = 1000,
    random_state: int = 0,
) -> Floats:
    """Overall scores (D, B) of values drawn from their intervals, each for itself.

    A value is drawn from the two halves of normal distributions whose 95 % intervals end where its own does. Backbones
    that were scored on the same test rows are surer of their order than this says: their errors go together.

    Args:
        values: (B, S), greater is better.
        low: (B, S) lower ends of 95 % intervals; NaN, where there is none: such a value stays as it is.
        high: (B, S) upper ends.
        tasks: S, the task of each setting, see `rank_backbones`.
        scored: from tables (B, X) of X settings to scores (B, X), such as `z_scores`.
        draws: D.
        random_state: of the draws.

    Raises:
        ValueError: arrays of different shapes, or values that ``scored`` refuses.
    """
    middle, *ends = (np.asarray(part, np.float64) for part in (values, low, high))
    if middle.ndim != 2 or any(end.shape != middle.shape for end in ends) or middle.shape[1] != len(tasks):
        raise ValueError(
            f"values, low and high must be (B, S) of {len(tasks)} tasks, found {middle.shape}, {ends[0].shape} and "
            f"{ends[1].shape}"
        )
    below, above = (np.nan_to_num(np.abs(end - middle)) / NORMAL_975 for end in ends)
    generator, weights, drawn = np.random.default_rng(random_state), setting_weights(tasks), []
    for block in row_slices(draws, middle.size, values=BLOCK_VALUES):
        size = block.stop - block.start
        noise = generator.standard_normal((size, *middle.shape))
        tables = middle + noise * np.where(noise < 0, below, above)
        scores = scored(tables.transpose(1, 0, 2).reshape(len(middle), -1))
        drawn.append((scores.reshape(len(middle), size, -1) @ weights).T)
    return np.concatenate(drawn)


def places(overall: ArrayLike, drawn: ArrayLike, *, level: float = 0.95) -> Places:
    """The places of backbones by their overall scores, with percentile intervals from scores that were drawn.

    Scores that differ by rounding only, below 1e-12, are equal.

    Args:
        overall: (B,), greater is better.
        drawn: (D, B), as `redrawn_settings` and `redrawn_values` have them.
        level: of the interval.

    Raises:
        ValueError: shapes that do not fit, scores that are not finite, or ``level`` not between 0 and 1.

    >>> found = places([0.9, 0.5, 0.1], [[0.9, 0.5, 0.1], [0.8, 0.3, 0.4]])
    >>> found.place.tolist(), found.low.tolist(), found.high.tolist(), found.first.tolist()
    ([1.0, 2.0, 3.0], [1.0, 2.0, 2.0], [1.0, 3.0, 3.0], [1.0, 0.0, 0.0])
    """
    scores, several = np.asarray(overall, np.float64), np.asarray(drawn, np.float64)
    if several.ndim != 2 or several.shape[1:] != scores.shape:
        raise ValueError(f"drawn must be (D, B) for overall (B,), found {several.shape} and {scores.shape}")
    check_draws(len(several), level)
    place, each = ranks(scores.round(DECIMALS)), ranks(several.round(DECIMALS).T)
    low, high = np.quantile(each, ((1 - level) / 2, (1 + level) / 2), axis=1, method="inverted_cdf")
    best = each == each.min(0)
    ordered = each[place.argsort(kind="stable")]
    ahead = ((ordered[:-1] < ordered[1:]) + 0.5 * (ordered[:-1] == ordered[1:])).mean(1)
    return Places(place=place, low=low, high=high, first=(best / best.sum(0)).mean(1), ahead=ahead)
