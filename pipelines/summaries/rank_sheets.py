"""Standings in words and tables, for the console, the page and JSON alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Row
from featurebank.pipelines.asking.sheet import Cell, Sheet
from featurebank.pipelines.summaries.standings import LEVEL, SIGNIFICANT, Standings, settings_needed
from featurebank.probes.rank_statistics import cliques

__all__ = ["answer", "correlation_sheets", "notes_of", "standings_json", "standings_sheet", "values_sheet"]

Floats = NDArray[np.float64]
CERTAIN = f"{100 * LEVEL:.0f} %"
FEW = 5  # settings: with fewer the bootstrap over them says little
MOST_DRAWN = 1000  # values whose intervals a page draws
SHOWN = 5  # backbones that a note names
LARGEST_MATRIX = 20  # settings whose correlations a console shows
DRAWN = {
    "settings": "settings resampled",
    "rows": "test rows resampled, through each value's own interval and each for itself",
}


def standings_sheet(ranked: Standings) -> Sheet:
    """A line for each backbone, best first."""
    columns = ["place", "first", "mean z", "mean rank", "win rate", "strength"]
    columns += [f"z {task}" for task in ranked.tasks] if len(ranked.tasks) > 1 else []
    columns += ["p against first"] if len(ranked.table.settings) > 1 else []
    columns += ["place without"] if ranked.remaining else []
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = []
    for at, name in enumerate(ranked.table.backbones):
        cells: list[Cell] = [
            _place(ranked, at),
            "" if ranked.places is None else _percent(float(ranked.places.first[at])),
            f"{ranked.z[at]:+.2f}",
            f"{ranked.mean_rank[at]:.2f}",
            _short(ranked.win_rate[at]),
            f"{ranked.strength[at]:+.2f}",
        ]
        cells += [f"{z:+.2f}" for z in ranked.task_z[at]] if len(ranked.tasks) > 1 else []
        cells += [_p(ranked.p_holm[0, at]) if at else ""] if len(ranked.table.settings) > 1 else []
        cells += [_moved(*ranked.remaining[name]) if name in ranked.remaining else ""] if ranked.remaining else []
        lines.append(((name,), tuple(cells)))
    backbones, settings = counted(len(lines), "backbone"), counted(len(ranked.table.settings), "setting")
    return Sheet(title=f"{backbones} in {settings}", names=("backbone",), columns=columns, lines=lines)


def correlation_sheets(ranked: Standings) -> Iterator[Sheet]:
    """Spearman's correlations; nothing where there is one setting, or too many for a table."""
    for one in ranked.agreements:
        if not 2 <= len(one.names) <= LARGEST_MATRIX:
            continue
        lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = [
            ((f"{at + 1} {name}",), tuple("" if math.isnan(value) else _short(value) for value in one.spearman[at]))
            for at, name in enumerate(one.names)
        ]
        columns = [str(at + 1) for at in range(len(one.names))]
        yield Sheet(title=f"Spearman's correlation of {one.of}", names=(one.of,), columns=columns, lines=lines)


def values_sheet(ranked: Standings) -> Sheet:
    """The results that were ranked; as texts without intervals where they are many."""
    plain = ranked.table.gains.size > MOST_DRAWN
    lines: list[tuple[tuple[str, ...], tuple[Cell, ...]]] = [
        ((name,), tuple(metric(row.metric).shown(row.value) if plain else row for row in rows))
        for name, rows in zip(ranked.table.backbones, ranked.table.rows, strict=True)
    ]
    columns = [label.replace(" ", "\n") for label in ranked.table.labels]
    return Sheet(title="Values", names=("backbone",), columns=columns, lines=lines)


def answer(ranked: Standings) -> str:
    """Who is first and how sure that is, in a sentence or two."""
    first, others, settings = ranked.table.backbones[0], len(ranked.table.backbones) - 1, len(ranked.table.settings)
    score = f"mean z {ranked.z[0]:+.2f}" if ranked.way.sort == "z" else f"mean rank {ranked.mean_rank[0]:.2f}"
    text = f"{first} is first of {others + 1} backbones in {counted(settings, 'setting')}, by {score}"
    if ranked.places is not None:
        ends = " to ".join(_shown_place(end) for end in (ranked.places.low[0], ranked.places.high[0]))
        text += f"; its place is {ends} ({CERTAIN} interval, {ranked.way.resample} resampled)"
    if settings > 1:
        told = int((ranked.p_holm[0, 1:] < SIGNIFICANT).sum())
        text += f". {told or 'None'} of the other {others} {'is' if told < 2 else 'are'} told apart from it"
    return text + "."


def notes_of(ranked: Standings) -> list[str]:
    """What the numbers mean, what they rest on, and what was left out."""
    return [*_meanings(ranked), *_tests(ranked), *_agreement(ranked), *_pool(ranked), *ranked.table.notes]


def standings_json(ranked: Standings) -> dict[str, Any]:
    """Everything for programs."""
    table, drawn = ranked.table, ranked.places
    backbones = [
        {
            "backbone": name,
            "place": ranked.place[at],
            "low": None if drawn is None else drawn.low[at],
            "high": None if drawn is None else drawn.high[at],
            "first": None if drawn is None else drawn.first[at],
            "mean_z": ranked.z[at],
            "mean_rank": ranked.mean_rank[at],
            "win_rate": ranked.win_rate[at],
            "strength": ranked.strength[at],
            "tasks": dict(zip(ranked.tasks, ranked.task_z[at].tolist(), strict=True)),
            "values": [row.value for row in table.rows[at]],
            "results": [row.result for row in table.rows[at]],
            "without": ranked.remaining.get(name, (None, None))[1],
        }
        for at, name in enumerate(table.backbones)
    ]
    pairs = [
        {
            "first": table.backbones[one],
            "second": table.backbones[other],
            "wins": ranked.won[one, other],
            "p": ranked.p_value[one, other],
            "p_holm": ranked.p_holm[one, other],
        }
        for one, other in zip(*(half.tolist() for half in np.triu_indices(len(table.backbones), 1)), strict=True)
    ]
    return {
        "sort": ranked.way.sort,
        "resampled": ranked.way.resample,
        "resamples": 0 if drawn is None else ranked.way.resamples,
        "settings": [
            {"name": label, **vars(setting)} for label, setting in zip(table.labels, table.settings, strict=True)
        ],
        "backbones": backbones,
        "tests": {
            "friedman": vars(ranked.friedman) | {"f_statistic": _finite(ranked.friedman.f_statistic)},
            "critical_difference": ranked.difference,
            "cliques": [list(names) for names in clique_names(ranked)],
            "differences": "z-scores" if ranked.by_z else "values",
            "pairs": pairs,
        },
        "correlations": [
            {"of": one.of, "names": list(one.names), "pearson": _plain(one.pearson), "spearman": _plain(one.spearman)}
            for one in ranked.agreements
        ],
        "left_out": [{"kind": kind, "name": name, "why": why} for kind, name, why in table.left_out],
        "notes": [answer(ranked), *notes_of(ranked)],
    }


def clique_names(ranked: Standings) -> Iterator[tuple[str, ...]]:
    """The backbones of each run that Nemenyi's test does not tell apart, by mean rank."""
    order = np.argsort(ranked.mean_rank, kind="stable")
    for first, last in cliques(ranked.mean_rank[order], ranked.difference):
        yield tuple(ranked.table.backbones[at] for at in order[first : last + 1])


def _meanings(ranked: Standings) -> Iterator[str]:
    size, way = len(ranked.table.backbones), ranked.way
    tasks = f", then over the {len(ranked.tasks)} tasks ({', '.join(ranked.tasks)})" if len(ranked.tasks) > 1 else ""
    left = any(kind == "backbone" for kind, _, _ in ranked.table.left_out)
    again = f"re-standardised over {size} backbones" if left else f"over these {size} backbones"
    yield f"z-scores: {again} in each setting, population deviation; meaned over settings{tasks}"
    if ranked.places is not None:
        score = "mean z" if way.sort == "z" else "mean rank"
        yield f"place: by {score}; {CERTAIN} interval: {DRAWN[way.resample]}, {way.resamples:,} draws"
        settings = len(ranked.table.settings)
        if way.resample == "settings" and settings < FEW:
            yield f"intervals from {settings} settings drawn again are guesses: ask more, or --resample rows"
        blind = int(np.isnan(ranked.table.ends[0]).sum()) if way.resample == "rows" else 0
        if blind:
            yield f"{blind:,} of {ranked.table.gains.size:,} values have no interval and were taken as exact"
    elif way.resamples:
        yield "one setting cannot be drawn again: the places have no intervals; --resample rows draws test rows"


def _tests(ranked: Standings) -> Iterator[str]:
    settings, size = len(ranked.table.settings), len(ranked.table.backbones)
    if settings < 2:
        return
    test = ranked.friedman
    f = f", Iman-Davenport F {test.f_statistic:.2f}" if math.isfinite(test.f_statistic) else ""
    agreed = f"Kendall's W {_short(test.concordance)}"
    yield f"Friedman's test: chi-square {test.statistic:.2f}, p {_p(test.p_value)}{f}; {agreed}"
    pairs = size * (size - 1) // 2
    told = int((ranked.p_holm[np.triu_indices(size, 1)] < SIGNIFICANT).sum())
    of = "z-scores, as settings have several metrics" if ranked.by_z else "values"
    text = f"p: Wilcoxon's signed ranks of {of}, Holm's correction over {counted(pairs, 'pair')}; {told:,} told apart"
    needed = settings_needed(pairs)
    yield text + (f", as {settings} settings cannot: {needed} at least are needed" if settings < needed else "")
    if ranked.places is not None and size > 2:
        near = int((ranked.places.ahead >= LEVEL).sum())
        yield f"of {size - 1:,} neighbours {near:,} are in this order in {CERTAIN} of the draws or more"
    if len({setting.set for setting in ranked.table.settings}) < settings:
        yield "several settings share a dataset: they are not independent, and tests and intervals are too sure"


def _agreement(ranked: Standings) -> Iterator[str]:
    for agreement in ranked.agreements:
        names = agreement.names
        one, other = np.triu_indices(len(names), 1)
        known = agreement.spearman[one, other]
        if not np.isfinite(known).any():
            continue
        ends = [
            f"{_short(known[at])} ({names[one[at]]}; {names[other[at]]})"
            for at in (int(np.nanargmin(known)), int(np.nanargmax(known)))
        ]
        between = f"{_short(float(np.nanmean(known)))}, from {ends[0]} to {ends[1]}"
        pearson = _short(float(np.nanmean(agreement.pearson[one, other])))
        yield f"{agreement.of} correlate by Spearman {between}; by Pearson {pearson}"


def _pool(ranked: Standings) -> Iterator[str]:
    size = len(ranked.table.backbones)
    if ranked.swayed:
        yield f"{ranked.swayed:,} of {size:,} backbones change the order of the others, were they not there"
    if ranked.remaining:
        moved = [f"{name} to {_moved(*ends)}" for name, ends in ranked.remaining.items() if len({*ends}) > 1]
        more = f" and {len(moved) - SHOWN:,} more" if len(moved) > SHOWN else ""
        shown = "; ".join(moved[:SHOWN]) + more if moved else "nobody changes places"
        yield f"without {', '.join(ranked.way.without)}, among the remaining: {shown}"
    for _, name, why in ranked.table.left_out:
        yield f"left out: {name} ({why})"


def _place(ranked: Standings, at: int) -> Row:
    """A place as a row, so that its interval is shown and drawn as those of results are."""
    drawn = ranked.places
    return Row(
        question="rank",
        backbone=ranked.table.backbones[at],
        metric="place",
        direction="lower",
        value=math.floor(ranked.place[at]),
        low=None if drawn is None else math.floor(drawn.low[at]),
        high=None if drawn is None else math.ceil(drawn.high[at]),
        interval=DRAWN[ranked.way.resample],
    )


def _shown_place(place: float) -> str:
    return f"{math.floor(place)}"


def _moved(now: float, then: float) -> str:
    return _shown_place(then) + (f" (from {_shown_place(now)})" if now != then else "")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "setting"), counted(1200, "setting")
    ('1 setting', '1,200 settings')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _plain(matrix: Floats) -> list[list[float | None]]:
    return [[_finite(one) for one in line] for line in matrix.tolist()]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _short(value: float) -> str:
    """A number of at most 1 without the zero before the point."""
    text = f"{round(float(value), 3) + 0.0:.3f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _p(value: float) -> str:
    """A p-value of which less is less likely than can be told.

    >>> _p(0.0125), _p(1.5e-24)
    ('.013', '1.5e-24')
    """
    return f"{value:.1e}" if value < 0.001 else _short(float(value))
