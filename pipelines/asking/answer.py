"""What a question finds: numbers with their intervals, what was chosen, what was predicted, and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Answer", "Score"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number.

    Attributes:
        metric: its name; see `featurebank.pipelines.asking.metrics`.
        value: the number.
        low: lower end of its 95 % interval.
        high: upper end.
        interval: what the interval is over, and how it was made; empty where there is none.
        set: what it is about, DATASET/SPLIT, where that is not the set that is scored itself.
        score: which method gave it, where a question has several.
        shots: how many labels, ``10`` of each class or ``1%``.
        group: of which rows.
        n: rows that it is over.
        details: what else belongs to it; plain JSON.
    """

    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    interval: str = ""
    set: str = ""
    score: str = ""
    shots: str = ""
    group: str = ""
    n: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a question found.

    Attributes:
        scores: numbers, the main one first.
        chosen: what was chosen on the validation rows; plain JSON.
        arrays: what was predicted for each row, by name.
        notes: what to know about the numbers.
        parts: of a question with several methods, what each of them found; the rest belongs to none.
        keep: whether it is the answer for good; not where something went wrong that may go right another time.
    """

    scores: Sequence[Score]
    chosen: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    parts: Mapping[str, Answer] = field(default_factory=dict)
    keep: bool = True
