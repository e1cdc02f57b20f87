"""Who is out, when to stop, and who is picked: functions of what each backbone got right, row by row, and of its cost.

Backbones are compared in pairs, on the same rows, with the leader: the one that is right most often. Every interval of
a difference is corrected by Bonferroni over all ordered pairs of backbones, for who leads is chosen by the same rows,
and over all rungs. Over backbones and rungs alone, some backbone of nine equal ones is dropped in a fifth of races.

Shapes: N rows of a rung.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from featurebank.probes.intervals import paired_interval

__all__ = ["Rules", "Standing", "compared", "cut_to_fit", "is_out", "picked", "rows_to_tell", "rungs", "settled"]

Correct = Mapping[str, NDArray[np.bool_]]
FIRST, FIRST_OF_CLASS, LARGEST = 100, 8, 2000


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is asked of a race.

    Attributes:
        tolerance: differences of accuracy below it do not matter.
        confidence: that no drop is wrong, over the whole race.
        comparisons: ordered pairs of backbones, times rungs: any of them may lead at any rung.
    """

    tolerance: float
    confidence: float
    comparisons: int

    @property
    def level(self) -> float:
        """Of each two-sided interval: only one of its ends decides anything."""
        return 1 - 2 * (1 - self.confidence) / self.comparisons


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A backbone beside the leader.

    Attributes:
        accuracy: share of rows that it has right.
        low: lower end of the interval of the leader's accuracy minus its own; 0 of the leader.
        high: upper end.
        differs: share of rows on which the two are not both right or both wrong.
    """

    accuracy: float
    low: float = 0.0
    high: float = 0.0
    differs: float = 0.0


def rungs(rows: int, classes: int, limit: int | None = None) -> list[int]:
    """How many rows each rung has: from 100, or 8 a class, doubling to the limit (2,000 if None) or all there are.

    >>> rungs(5000, 10), rungs(796, 16, 500)
    ([100, 200, 400, 800, 1600, 2000], [128, 256, 500])
    """
    first = max(FIRST, FIRST_OF_CLASS * classes)
    last = min(rows, max(LARGEST, first) if limit is None else limit)
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(2 * sizes[-1])
    return [*sizes[:-1], last]


def compared(
    correct: Correct, costs: Mapping[str, float], rules: Rules, *, untrained: Collection[str] = ()
) -> dict[str, Standing]:
    """Each backbone beside the leader, which is the first; of equally many right rows the cheaper one comes first.

    Those that nothing has trained do not lead, and the best of the others may be worse than they are.

    >>> few = {"big": np.arange(200) > 9, "small": np.arange(200) > 59}
    >>> found = compared(few, {"big": 2.0, "small": 1.0}, Rules(tolerance=0.01, confidence=0.95, comparisons=2))
    >>> [(name, round(one.accuracy, 2), round(one.low, 2)) for name, one in found.items()]
    [('big', 0.95, 0.0), ('small', 0.7, 0.19)]
    """
    order = sorted(correct, key=lambda name: (name in untrained, -int(correct[name].sum()), costs[name], name))
    leader = correct[order[0]]
    standings = {}
    for name in order:
        mine, n = correct[name], len(leader)
        first, second = int((leader & ~mine).sum()), int((mine & ~leader).sum())
        low, high = paired_interval(first, second, n, level=rules.level) if name != order[0] else (0.0, 0.0)
        standings[name] = Standing(accuracy=float(mine.mean()), low=low, high=high, differs=(first + second) / n)
    return standings


def is_out(standing: Standing, rules: Rules) -> bool:
    """Whether a backbone is proven to be worse than the leader, and not proven to be within the tolerance."""
    return standing.low > 0 and standing.high > rules.tolerance


def settled(standings: Mapping[str, Standing], rules: Rules) -> str:
    """Why nothing more can come of the race, of those that are still in it; empty where something can."""
    if len(standings) == 1:
        return "one is left"
    if all(one.low >= -rules.tolerance for one in standings.values()):
        return f"none can be better than the leader by {rules.tolerance:g}"
    return ""


def picked(
    standings: Mapping[str, Standing], costs: Mapping[str, float], rules: Rules, *, untrained: Collection[str] = ()
) -> str:
    """The cheapest that is proven to be within the tolerance of the leader, or the leader, the first of them."""
    leader = next(iter(standings))
    within = [
        leader,
        *(name for name, one in standings.items() if one.high <= rules.tolerance and name not in untrained),
    ]
    return min(within, key=lambda name: (costs[name], name))


def rows_to_tell(differs: float, rules: Rules, *, points: float = 0.01) -> int:
    """How many rows in all tell apart two backbones whose accuracies are that far apart.

    >>> rows_to_tell(0.1, Rules(tolerance=0.01, confidence=0.95, comparisons=56))
    9758
    """
    z = NormalDist().inv_cdf((1 + rules.level) / 2)
    return int(np.ceil((z / points) ** 2 * differs))


def cut_to_fit(standings: Sequence[str], seconds: Mapping[str, float], left: float) -> list[str]:
    """The backbones, the best first, of which the next rung fits into the seconds that are left; the last go first."""
    kept = list(standings)
    while kept and sum(seconds[name] for name in kept) > left:
        kept.pop()
    return kept
