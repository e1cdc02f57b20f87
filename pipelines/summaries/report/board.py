"""Who is best at one question, how sure that is, and what each costs: the table that a report opens with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from featurebank.pipelines.asking.fronts import pareto_front
from featurebank.pipelines.asking.metrics import metric
from featurebank.pipelines.asking.results import Row
from featurebank.pipelines.asking.sheet import interval_of
from featurebank.pipelines.summaries.rank_table import DERIVED, NO_QUALITY, Setting
from featurebank.pipelines.summaries.report.prices import Price
from featurebank.pipelines.summaries.standings import SIGNIFICANT

__all__ = ["Board", "Line", "boards_of"]

FIRST = ("linear", "finetune", "attentive", "mlp", "knn", "multilabel", "regression", "dense", "zeroshot", "retrieve")
"""Questions in the order in which a report prefers them, where as many backbones answered each."""
WHOLE = ("", "tuned")  # what is no part or variant of a question: its answer itself


@dataclass(frozen=True, kw_only=True)
class Line:
    """One number of a board.

    Attributes:
        row: the number.
        tied: whether it is not told apart from the best.
    """

    row: Row
    tied: bool = False

    @property
    def gain(self) -> float:
        """Its value as a number of which more is better."""
        return _gains(self.row)[1]


@dataclass(frozen=True, kw_only=True)
class Board:
    """The numbers of one setting.

    Attributes:
        setting: what they are about.
        lines: best first.
        paired: whether any two were told apart by a paired test.
    """

    setting: Setting
    lines: tuple[Line, ...]
    paired: bool = False

    @property
    def best(self) -> Line:
        """The first line."""
        return self.lines[0]

    @property
    def single(self) -> dict[str, Line]:
        """The best line of each backbone."""
        found: dict[str, Line] = {}
        for line in self.lines:
            found.setdefault(line.row.backbone, line)
        return found

    def cheapest(self, price: Price) -> Line | None:
        """The cheapest of those that are not told apart from the best, where that is cheaper than the best itself."""
        most = price.values.get(self.best.row.backbone)
        known = [line for line in self.lines if line.tied and line.row.backbone in price.values]
        if most is None or not known:
            return None
        line = min(known, key=lambda one: price.values[one.row.backbone])
        return line if price.values[line.row.backbone] < most else None

    def front(self, price: Price) -> set[str]:
        """The backbones that no other beats in both, number and price."""
        known = {name: line for name, line in self.single.items() if name in price.values}
        if not known:
            return set()
        on = pareto_front([(line.gain, -price.values[name]) for name, line in known.items()])
        return {name for name, is_on in zip(known, on.tolist(), strict=True) if is_on}

    def answer(self, price: Price | None) -> str:
        """Who is best, how sure that is, and whether something cheaper does it too."""
        row, others = self.best.row, len(self.single) - 1
        known = metric(row.metric)
        ends = f" ({interval_of(row)})" if row.low is not None else ""
        text = f"On {row.set}, {row.backbone} is best at {known.shown(row.value)}{ends} {known.title} ({called(row)})"
        if not others:
            return f"{text}; no other backbone was asked."
        tied = {line.row.backbone for line in self.lines if line.tied} - {row.backbone}
        if not tied:
            return f"{text}; the other {others:,} {'is' if others == 1 else 'are'} told apart from it."
        cheap = None if price is None else self.cheapest(price)
        if cheap is None or price is None:
            return f"{text}; {len(tied):,} of the other {others:,} {'is' if len(tied) == 1 else 'are'} not told apart."
        share = price.values[cheap.row.backbone] / price.values[row.backbone]
        return f"{text}; {cheap.row.backbone} is not told apart and takes {100 * share:.0f} % of the {price.share}."


def boards_of(rows: Iterable[Row]) -> list[Board]:
    """A board of each setting, those of most backbones first, then what is asked most, then the most rows."""
    every = [*rows]
    of: dict[Setting, list[Row]] = {}
    for row in every:
        if row.primary and row.question not in (*DERIVED, *NO_QUALITY) and "/" in row.set:
            of.setdefault(Setting.of(row), []).append(row)
    tests = _tests(every)
    boards = [_board(setting, numbers, tests) for setting, numbers in of.items()]
    return sorted(boards, key=_order)


def called(row: Row) -> str:
    """What was asked, in words."""
    shots = f"{row.shots}-shot" if row.shots.isdigit() else row.shots
    return " ".join(word for word in (row.question, row.score, shots, row.group) if word)


def _order(board: Board) -> tuple[object, ...]:
    setting = board.setting
    place = FIRST.index(setting.question) if setting.question in FIRST else len(FIRST)
    rows = max((line.row.n or 0 for line in board.lines), default=0)
    parts = setting.score not in WHOLE, bool(setting.shots), bool(setting.group)
    return -len(board.single), parts, place, -rows, astuple(setting)


def _board(setting: Setting, rows: Sequence[Row], tests: Mapping[tuple[object, ...], float]) -> Board:
    ordered = sorted(rows, key=lambda row: (-_gains(row)[1], row.backbone, row.result))
    best = ordered[0]
    asked = [_place(setting, best.backbone, row.backbone) in tests for row in ordered[1:]]
    lines = [Line(row=best), *(Line(row=row, tied=_is_tied(setting, best, row, tests)) for row in ordered[1:])]
    return Board(setting=setting, lines=tuple(lines), paired=any(asked))


def _is_tied(setting: Setting, best: Row, row: Row, tests: Mapping[tuple[object, ...], float]) -> bool:
    """By the paired test of the two where one was asked for, else by whether their intervals overlap."""
    if (p_value := tests.get(_place(setting, best.backbone, row.backbone))) is not None:
        return p_value >= SIGNIFICANT
    if None in (best.low, best.high, row.low, row.high):
        return row.value == best.value
    return _gains(row)[2] >= _gains(best)[0]


def _gains(row: Row) -> tuple[float, float, float]:
    """Lower end, value and upper end as numbers of which more is better."""
    ends = [row.value if end is None else end for end in (row.low, row.value, row.high)]
    if row.direction == "higher":
        return ends[0], ends[1], ends[2]
    return -ends[2], -ends[1], -ends[0]


def _tests(rows: Sequence[Row]) -> dict[tuple[object, ...], float]:
    """The p of each comparison of two backbones, corrected by Holm; see `featurebank.pipelines.asking.compare`."""
    found: dict[tuple[object, ...], float] = {}
    for row in rows:
        p_value, names = row.details.get("p_holm"), (row.details.get("first"), row.details.get("second"))
        if row.question == "compare" and isinstance(p_value, int | float) and all(isinstance(n, str) for n in names):
            about = (row.details.get("of"), row.train, row.set, row.score, row.shots, row.metric)
            found[*about, frozenset(names)] = float(p_value)
    return found


def _place(setting: Setting, first: str, second: str) -> tuple[object, ...]:
    about = (setting.question, setting.train, setting.set, setting.score, setting.shots, setting.metric)
    return *about, frozenset((first, second))
