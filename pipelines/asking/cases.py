"""The sets of one backbone that a question is about, and what was answered about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featurebank.pipelines.asking.results import Result, Row
from featurebank.store import Entry

__all__ = ["Answered", "Case", "Selection"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One backbone's feature sets for a question, by the part that they play.

    ``asked`` are the beginnings of fingerprints that were given, which choose among further sets too.
    """

    backbone: str
    sets: Mapping[str, tuple[Entry, ...]]
    asked: tuple[str, ...] = field(default=(), compare=False)

    def one(self, role: str) -> Entry:
        """The only set of a role."""
        (entry,) = self.sets[role]
        return entry

    @property
    def every(self) -> tuple[Entry, ...]:
        """All sets, in the order of the roles."""
        return tuple(entry for entries in self.sets.values() for entry in entries)

    def place(self, role: str) -> str:
        """DATASET/SPLIT of the first set of a role, empty where it has none."""
        return next((entry.place for entry in self.sets.get(role, ())), "")


@dataclass(kw_only=True)
class Selection:
    """Cases in the order of the keys; what was asked for and cannot be answered, and why; what was passed over."""

    cases: list[Case] = field(default_factory=list)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Answered:
    """The results about one case, one for each method."""

    case: Case
    results: tuple[Result, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """Of all its methods."""
        return [row for result in self.results for row in result.rows]

    @property
    def notes(self) -> list[str]:
        """Each once, behind the methods that it is about."""
        about: dict[str, list[str]] = {}
        for result in self.results:
            for note in result.notes:
                about.setdefault(note, []).append(result.part)
        return [note if "" in parts else f"{', '.join(parts)}: {note}" for note, parts in about.items()]

    @property
    def known(self) -> bool:
        """Whether nothing was computed."""
        return bool(self.results) and all(result.known for result in self.results)
