"""Who is first, and how sure that is: a table of results ranked, tested, and drawn again.

Shapes: B backbones, best first; S settings; T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.summaries.rank_table import RankTable
from featurebank.probes.comparison import holm, signed_ranks
from featurebank.probes.placing import Places, places, redrawn_settings, redrawn_values
from featurebank.probes.rank_statistics import (
    Friedman,
    bradley_terry,
    correlations,
    critical_difference,
    friedman,
    win_rates,
    wins,
)
from featurebank.probes.ranking import DECIMALS, rank_backbones, ranks, setting_weights, z_scores
from featurebank.store.errors import unknown_name

__all__ = ["LEVEL", "SIGNIFICANT", "Agreement", "Standings", "Way", "settings_needed", "standings"]

Floats = NDArray[np.float64]
LEVEL, SIGNIFICANT = 0.95, 0.05


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a table is ranked.

    Attributes:
        sort: by ``z``, the mean over tasks of the mean z-score in each one's settings, or by ``rank``, the mean rank in
            all settings.
        resample: what the intervals of places draw again: ``settings``, or test ``rows`` through the values' intervals.
        resamples: draws; 0 for no intervals.
        seed: of the draws.
        without: backbones that are thought away, all at once, to see who changes places.
    """

    sort: Literal["z", "rank"] = "z"
    resample: Literal["settings", "rows"] = "settings"
    resamples: int = 1000
    seed: int = 0
    without: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How alike X settings, or tasks by their mean z-scores, judge the backbones.

    Attributes:
        of: ``settings`` or ``tasks``.
        names: X.
        pearson: (X, X); NaN of one in which all are equal.
        spearman: (X, X).
    """

    of: str
    names: tuple[str, ...]
    pearson: Floats
    spearman: Floats

    @classmethod
    def among(cls, of: str, names: tuple[str, ...], gains: Floats) -> Agreement:
        """Of the columns of gains (B, X)."""
        return cls(of=of, names=names, pearson=correlations(gains, "pearson"), spearman=correlations(gains))


@dataclass(frozen=True, kw_only=True)
class Standings:
    """A table of results, ranked.

    Attributes:
        table: the results, best backbone first.
        way: how they were ranked.
        place: (B,) of the overall score, 1 the best; equal ones share the mean of their places.
        places: how sure that is; ``None`` without draws, or where one setting leaves none to draw.
        z: (B,) mean z-score over tasks.
        tasks: T.
        task_z: (B, T) mean z-score over the settings of each task.
        mean_rank: (B,) over settings.
        win_rate: (B,) share of the others that it beats.
        strength: (B,) of Bradley and Terry's model.
        friedman: the test of all of them.
        difference: of mean ranks, from which Nemenyi's test tells two apart.
        won: (B, B) settings in which the one of the row beats that of the column; a tie is a half.
        p_value: (B, B) of Wilcoxon's signed-rank test.
        p_holm: (B, B), corrected for all pairs.
        by_z: whether Wilcoxon's differences are of z-scores, because settings have several metrics.
        agreements: of settings; where some task has several, of tasks too.
        remaining: the places of those that are not thought away, before and then, where some are.
        swayed: how many of the backbones change the order of the others, were they not there.
    """

    table: RankTable
    way: Way
    place: Floats
    places: Places | None
    z: Floats
    tasks: tuple[str, ...]
    task_z: Floats
    mean_rank: Floats
    win_rate: Floats
    strength: Floats
    friedman: Friedman
    difference: float
    won: Floats
    p_value: Floats
    p_holm: Floats
    by_z: bool
    agreements: tuple[Agreement, ...]
    remaining: dict[str, tuple[float, float]] = field(default_factory=dict)
    swayed: int = 0


def standings(table: RankTable, way: Way) -> Standings:
    """Ranks a table.

    Raises:
        UnknownNameError: one that is thought away is not in the table.
        ConfigError: all but one are thought away.
    """
    overall = _overall(table.gains, table.tasks, way)
    order = np.argsort(-overall.round(DECIMALS), kind="stable")
    table = table.of([table.backbones[at] for at in order])
    gains, tasks, overall = table.gains, table.tasks, overall[order]
    ranking = rank_backbones(table.backbones, gains, tasks)
    own = [ranking.names.index(name) for name in table.backbones]
    by_z = len({setting.metric for setting in table.settings}) > 1
    named = tuple(map(str, ranking.tasks))
    agreements = [Agreement.among("settings", table.labels, gains)]
    if 1 < len(named) < len(tasks):
        agreements.append(Agreement.among("tasks", named, ranking.task_scores[own]))
    won = wins(gains)
    p_value, p_holm = _pairs(z_scores(gains) if by_z else gains)
    return Standings(
        table=table,
        way=way,
        place=ranks(overall.round(DECIMALS)),
        places=_places(table, overall, way),
        z=ranking.overall[own],
        tasks=named,
        task_z=ranking.task_scores[own],
        mean_rank=ranks(gains).mean(1),
        win_rate=win_rates(gains),
        strength=bradley_terry(won),
        friedman=friedman(gains),
        difference=critical_difference(*gains.shape, level=SIGNIFICANT),
        won=won,
        p_value=p_value,
        p_holm=p_holm,
        by_z=by_z,
        agreements=tuple(agreements),
        remaining=_remaining(table, way),
        swayed=_swayed(gains, tasks, way),
    )


def settings_needed(tests: int) -> int:
    """The least number of settings from which Wilcoxon's test can tell two apart, if corrected for so many tests.

    >>> settings_needed(1), settings_needed(528)
    (6, 15)
    """
    return math.ceil(math.log2(2 * tests / SIGNIFICANT))


def _overall(gains: Floats, tasks: Sequence[str], way: Way) -> Floats:
    if way.sort == "rank":
        return np.asarray(-ranks(gains).mean(1))
    overall: Floats = z_scores(gains) @ setting_weights(tasks)
    return overall


def _places(table: RankTable, overall: Floats, way: Way) -> Places | None:
    gains = table.gains
    if not way.resamples or (way.resample == "settings" and len(table.settings) < 2):
        return None

    def scored(tables: Floats) -> Floats:
        return z_scores(tables) if way.sort == "z" else -ranks(tables)

    tasks = table.tasks if way.sort == "z" else ("",) * len(table.settings)
    draws = {"draws": way.resamples, "random_state": way.seed}
    if way.resample == "settings":
        return places(overall, redrawn_settings(scored(gains), tasks, **draws), level=LEVEL)
    return places(overall, redrawn_values(gains, *table.ends, tasks, scored, **draws), level=LEVEL)


def _pairs(values: Floats) -> tuple[Floats, Floats]:
    """p-values of each two backbones, (B, B), as they are and corrected for all pairs."""
    upper = np.triu_indices(len(values), 1)
    p_value, p_holm = np.ones((2, len(values), len(values)))
    alone = signed_ranks((values[upper[0]] - values[upper[1]]).round(DECIMALS))
    p_value[upper] = p_value.T[upper] = alone
    p_holm[upper] = p_holm.T[upper] = holm(alone)
    return p_value, p_holm


def _remaining(table: RankTable, way: Way) -> dict[str, tuple[float, float]]:
    """Places among those that are not thought away, as they are now and as they would be then."""
    if not way.without:
        return {}
    for name in way.without:
        if name not in table.backbones:
            raise unknown_name("backbone of the ranking", name, table.backbones)
    kept = [at for at, name in enumerate(table.backbones) if name not in way.without]
    if len(kept) < 2:
        raise ConfigError(f"--without must leave two backbones or more to rank; found {len(kept)}: think fewer away")
    gains = table.gains
    now = ranks(_overall(gains, table.tasks, way)[kept].round(DECIMALS))
    then = ranks(_overall(gains[kept], table.tasks, way).round(DECIMALS))
    return {
        table.backbones[at]: ends for at, ends in zip(kept, zip(now.tolist(), then.tolist(), strict=True), strict=True)
    }


def _swayed(gains: Floats, tasks: Sequence[str], way: Way) -> int:
    """How many backbones change the order of the others, were they not there."""
    if len(gains) < 3:
        return 0
    now, count = _overall(gains, tasks, way), 0
    for at in range(len(gains)):
        then = _overall(np.delete(gains, at, 0), tasks, way)
        count += not np.array_equal(ranks(then.round(DECIMALS)), ranks(np.delete(now, at).round(DECIMALS)))
    return count
