"""Results as a table of backbones and settings without a gap: what `rank` ranks, and what it had to leave out.

Shapes: B backbones, S settings.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Result, Row
from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.summaries.facts import Kind
from featurebank.pipelines.summaries.results import filtered, fits
from featurebank.store.errors import unknown_name

__all__ = ["Chosen", "RankTable", "Setting", "rank_table"]

Floats = NDArray[np.float64]
DERIVED = ("compare", "groups")  # numbers about numbers, of which no line is one backbone
NO_QUALITY = ("choose", "duplicates", "efficiency")  # ranked only where they are asked for by name
WORDS = ("question", "set", "score", "shots", "group")
SHOWN = 5  # faults that a message lists


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which results are ranked; texts may have ``*`` for anything.

    Attributes:
        where: values by column, as `filtered` takes them.
        metrics: names, instead of each question's main one.
        options: NAME=VALUE of questions that were asked in several ways.
        fingerprints: beginnings of fingerprints or of results' names, where a cell has several numbers.
        backbones: names.
        alike: what is known of them.
        common: what is kept where numbers are missing: the settings or the backbones that lack none.
    """

    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    alike: Kind = field(default_factory=Kind)
    common: Literal["settings", "backbones"] | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where backbones can be ranked: everything that a number is about but the backbone; see `Row`."""

    question: str
    train: str
    test: str
    set: str
    score: str
    shots: str
    group: str
    metric: str
    direction: str

    @classmethod
    def of(cls, row: Row) -> Setting:
        """The setting of a number."""
        return cls(**{one.name: getattr(row, one.name) for one in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class RankTable:
    """A number of each backbone in each setting.

    Attributes:
        backbones: B names.
        settings: S.
        rows: (B, S) results.
        left_out: ``backbone`` or ``setting``, the name, and why.
        notes: what to know about the numbers.
    """

    backbones: tuple[str, ...]
    settings: tuple[Setting, ...]
    rows: tuple[tuple[Row, ...], ...]
    left_out: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def gains(self) -> Floats:
        """(B, S) values, greater is better."""
        return np.array([[_gain(row, row.value) for row in line] for line in self.rows])

    @property
    def ends(self) -> tuple[Floats, Floats]:
        """Lower and upper ends (B, S) of the gains' 95 % intervals; NaN where there are none."""
        ends = np.array([[_ends(row) for row in line] for line in self.rows])
        return ends[..., 0], ends[..., 1]

    @property
    def tasks(self) -> tuple[str, ...]:
        """S, the question of each setting."""
        return tuple(setting.question for setting in self.settings)

    @property
    def labels(self) -> tuple[str, ...]:
        """S, what each setting is called: what differs among them."""
        return labels_of(self.settings)

    def of(self, names: Sequence[str]) -> RankTable:
        """The table of these of its backbones, in their order."""
        line = dict(zip(self.backbones, self.rows, strict=True))
        return replace(self, backbones=tuple(names), rows=tuple(line[name] for name in names))


def rank_table(results: Iterable[Result], chosen: Chosen) -> RankTable:
    """The numbers of results that are chosen, one in each cell.

    Raises:
        ConfigError: nothing to rank; a cell with several numbers, or without one, that nothing decides.
        UnknownNameError: a backbone, metric or style that no result has.
    """
    taken = _taken([*results], chosen)
    names = sorted({row.backbone for row, _ in taken})
    kept, others = chosen.alike.apart(_named(names, chosen.backbones))
    if len(kept) < 2 and others:
        reasons = "; ".join(f"{name} ({why})" for name, why in others[:SHOWN])
        raise ConfigError(
            f"a ranking must have two backbones or more; found {len(kept)} of {len(names)} that are as asked for, left "
            f"out were {reasons}{' …' if len(others) > SHOWN else ''}: ask for less"
        )
    cells: dict[tuple[str, Setting], list[tuple[Row, Result]]] = defaultdict(list)
    for row, result in taken:
        if row.backbone in kept:
            cells[row.backbone, Setting.of(row)].append((row, result))
    single = _single(cells, chosen)
    settings = sorted({setting for _, setting in single}, key=astuple)
    backbones, settings, gone = _complete(sorted(kept), settings, single, chosen.common)
    rows = tuple(tuple(single[name, setting] for setting in settings) for name in backbones)
    return RankTable(
        backbones=tuple(backbones),
        settings=tuple(settings),
        rows=rows,
        left_out=(*(("backbone", name, why) for name, why in others), *gone),
        notes=tuple(_notes(rows, settings)),
    )


def _gain(row: Row, value: float) -> float:
    return value if row.direction == "higher" else -value


def _ends(row: Row) -> tuple[float, float]:
    if row.low is None or row.high is None:
        return np.nan, np.nan
    low, high = sorted((_gain(row, row.low), _gain(row, row.high)))
    return low, high


def _taken(results: Sequence[Result], chosen: Chosen) -> list[tuple[Row, Result]]:
    """The numbers of single backbones that are chosen by what they are, each with its computation."""
    asked = chosen.where.get("question", ())
    every = [
        (row, result)
        for result in results
        for row in result.rows
        if row.question not in DERIVED
        and (row.question not in NO_QUALITY or row.question in asked)
        and "/" in row.set  # others are means over sets that stand in the table themselves
    ]
    known = {row.metric for row, _ in every}
    for name in chosen.metrics:
        if name not in known and every:
            raise unknown_name("metric", name, known)
    rows = filtered([row for row, _ in every], chosen.where)
    wanted = {id(row) for row in rows if (row.metric in chosen.metrics if chosen.metrics else row.primary)}
    taken = [(row, result) for row, result in every if id(row) in wanted and _asked_so(result, chosen.options)]
    if not taken:
        raise ConfigError(
            f"a ranking must have results; found {len(every):,} numbers, none of them chosen: ask a question first, "
            "such as featurebank probe DATASET, or choose others with --where and --metric"
        )
    return taken


def _asked_so(result: Result, options: Sequence[str]) -> bool:
    """Whether a computation has the options' values, as far as its question has such options."""
    settings = result.settings
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            raise ConfigError(f"--option must be NAME=VALUE, such as protocol=bob; found {option!r}")
        if name in settings and _plain(settings[name]) != value:
            return False
    return True


def _plain(value: Any) -> str:
    return ",".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _named(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not any(fits(name, pattern) for name in names):
            raise unknown_name("backbone", pattern, names)
    return [name for name in names if not patterns or any(fits(name, one) for one in patterns)]


def _single(
    cells: Mapping[tuple[str, Setting], Sequence[tuple[Row, Result]]], chosen: Chosen
) -> dict[tuple[str, Setting], Row]:
    """The number of each cell; where there are several, the one whose fingerprint or name begins as chosen.

    Raises:
        ConfigError: several are left; they are named.
    """
    single, several = {}, []
    for cell, every in sorted(cells.items(), key=lambda one: (one[0][0], astuple(one[0][1]))):
        begun = [one for one in every if _begins(one[0], chosen.fingerprints)]
        numbers = begun if begun and len(every) > 1 else every
        single[cell] = numbers[0][0]
        if len(numbers) > 1:
            several.append((cell, numbers))
    if several:
        lines = []
        for (name, setting), numbers in several[:SHOWN]:
            lines.append(f"{name}, {labels_of([setting])[0]}:")
            lines += [f"  {_described(row, result, [of for _, of in numbers])}" for row, result in numbers]
        more = f"\n… and {len(several) - SHOWN:,} more" if len(several) > SHOWN else ""
        raise ConfigError(
            f"each backbone must have one number in a setting; found several in {len(several):,} of {len(cells):,} "
            "cells:\n" + "\n".join(lines) + more + "\nchoose with --option NAME=VALUE, with --fingerprint and the first"
            " digits of one or of a result, or with --where"
        )
    return single


def _begins(row: Row, beginnings: Sequence[str]) -> bool:
    return any(text.startswith(one) for one in beginnings for text in (*row.fingerprints, row.result))


def _described(row: Row, result: Result, others: Sequence[Result]) -> str:
    """A number, and how its computation differs from those of the same cell."""
    differing = [
        f"{name}={_plain(value)}"
        for name, value in result.settings.items()
        if len({_plain(other.settings.get(name)) for other in others}) > 1
    ]
    ways = ", ".join([*differing, f"result {row.result}"])
    return f"{metric(row.metric).shown(row.value)}: {ways}, of {' '.join(one[:8] for one in row.fingerprints)}"


def _complete(
    names: list[str],
    settings: list[Setting],
    single: Mapping[tuple[str, Setting], Row],
    common: Literal["settings", "backbones"] | None,
) -> tuple[list[str], list[Setting], list[tuple[str, str, str]]]:
    """Backbones and settings without a gap between them, and what was left out for that.

    Raises:
        ConfigError: numbers are missing and nothing says what to do; or fewer than two backbones or no setting remain.
    """
    gaps = [(name, setting) for name in names for setting in settings if (name, setting) not in single]
    lacking, lacked = Counter(name for name, _ in gaps), Counter(setting for _, setting in gaps)
    labels = dict(zip(settings, labels_of(settings), strict=True))
    left_out = []
    if gaps and common is None:
        lines = "".join(f"\n  {name} in {labels[setting]}" for name, setting in gaps[:SHOWN])
        more = f"\n  … and {len(gaps) - SHOWN:,} more" if len(gaps) > SHOWN else ""
        raise ConfigError(
            f"each backbone must have a number in each setting; found {len(gaps):,} of {len(names) * len(settings):,} "
            f"missing:{lines}{more}\nask for them, or rank a part: with --common settings the "
            f"{len(settings) - len(lacked)} of {len(settings)} that all backbones have, with --common backbones the "
            f"{len(names) - len(lacking)} of {len(names)} that have all settings, or choose with --where"
        )
    if gaps and common == "settings":
        left_out = [("setting", labels[one], f"{lacked[one]} of {len(names)} backbones lack it") for one in lacked]
        settings = [one for one in settings if one not in lacked]
    elif gaps:
        left_out = [("backbone", one, f"lacks {lacking[one]} of {len(settings)} settings") for one in lacking]
        names = [one for one in names if one not in lacking]
    if len(names) < 2 or not settings:
        other = f", or --common {'backbones' if common == 'settings' else 'settings'}" if gaps else ""
        raise ConfigError(
            f"a ranking must have two backbones or more in one setting or more; found {len(names)} "
            f"({', '.join(names) or 'none'}) in {len(settings)}: choose less narrowly{other}"
        )
    return names, settings, left_out


def labels_of(settings: Sequence[Setting]) -> tuple[str, ...]:
    """What tells each setting from the others, or where it is where it is alone."""
    differing = [one.name for one in fields(Setting) if len({getattr(setting, one.name) for setting in settings}) > 1]
    labels: list[str] = []
    for names in (WORDS, (*WORDS, "metric"), (*WORDS, "metric", "train"), (*WORDS, "metric", "train", "test")):
        shown = [one for one in names if one in differing] or ["question", "set"]
        labels = [" ".join(_word(one, name) for name in shown if getattr(one, name)) for one in settings]
        if len({*labels}) == len(labels):
            break
    return tuple(labels)


def _word(setting: Setting, name: str) -> str:
    value: str = getattr(setting, name)
    if name == "shots" and value.isdigit():
        return f"{value}-shot"
    return metric(value).title if name == "metric" else value


def _notes(rows: Sequence[Sequence[Row]], settings: Sequence[Setting]) -> list[str]:
    """What may not be alike in a column."""
    notes = []
    for at, label in enumerate(labels_of(settings)):
        counts = {n for line in rows if (n := line[at].n) is not None}
        if len(counts) > 1:
            notes.append(f"{label}: of {min(counts):,} to {max(counts):,} rows, not the same of each backbone")
    return notes
