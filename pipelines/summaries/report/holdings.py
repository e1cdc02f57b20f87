"""What a store holds, each set opened once: how it was made, which rows failed, and what was computed from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from featurebank.extract.text_sets import TEXTS
from featurebank.pipelines.asking.results import Result, Results, Row
from featurebank.store import Entry, FeatureStore, StoreError

__all__ = ["Failure", "Held", "Holdings", "holdings_of"]

STAGES = ("read", "decode", "transform", "forward", "write")
LONGEST = 400  # characters of a reason


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A row that could not be extracted.

    Attributes:
        place: DATASET/SPLIT.
        row: its number.
        id: of its record.
        reason: why.
    """

    place: str
    row: int
    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """One file of the store.

    Attributes:
        entry: the file.
        failures: its rows that failed.
        seconds: by stage, as far as they were noted.
        versions: of libraries, likewise.
        device: likewise.
        precision: of the network.
        images_per_second: likewise.
        class_names: of the dataset; may be empty.
        trouble: why it cannot be read; empty where it can.
    """

    entry: Entry
    failures: tuple[Failure, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    precision: str = ""
    images_per_second: float | None = None
    class_names: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def state(self) -> str:
        """``sealed``, ``partial`` or ``damaged``; ``unreadable`` where it could not be looked at."""
        return self.entry.state if self.entry.checked else "unreadable"

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """A store's sets and results.

    Attributes:
        root: the store's folder.
        sets: every file, by backbone and place.
        computations: every result that has rows, of several versions the latest.
    """

    root: Path
    sets: tuple[Held, ...]
    computations: tuple[Result, ...]

    @cached_property
    def rows(self) -> list[Row]:
        """Every number, as `Results.rows` orders them."""
        return Results(self.root).rows()

    @cached_property
    def result_of(self) -> dict[str, Result]:
        """The computations by name."""
        return {one.name: one for one in self.computations}

    @cached_property
    def backbones(self) -> list[str]:
        """Those that have a set or a number of their own."""
        own = {row.backbone for row in self.rows if row.question not in ("compare", "groups")}
        return sorted({held.entry.name for held in self.sets} | own)

    @cached_property
    def places(self) -> list[str]:
        """DATASET/SPLIT of every set."""
        return sorted({held.entry.place for held in self.sets})

    @cached_property
    def matrix(self) -> dict[tuple[str, str], list[Held]]:
        """The files of a backbone at a place."""
        cells: dict[tuple[str, str], list[Held]] = {}
        for held in self.sets:
            cells.setdefault((held.entry.name, held.entry.place), []).append(held)
        return cells

    @cached_property
    def wanted(self) -> list[tuple[str, str]]:
        """Each backbone of a set with each place of images, and what else there is: texts are not every backbone's."""
        names = sorted({held.entry.name for held in self.sets})
        images = [place for place in self.places if not place.rpartition("/")[2].startswith(TEXTS)]
        every = {(name, place) for name in names for place in images}
        return sorted(every | self.matrix.keys())

    def state_of(self, cell: tuple[str, str]) -> str:
        """The best state of a cell's files; ``missing`` where there is none."""
        states = {held.state for held in self.matrix.get(cell, ())}
        return next((one for one in ("sealed", "partial", "damaged", "unreadable") if one in states), "missing")

    @property
    def sealed(self) -> list[Held]:
        """The sets that are whole."""
        return [held for held in self.sets if held.state == "sealed"]

    def by_fingerprint(self, fingerprint: str) -> Held | None:
        """The sealed set of a whole fingerprint, where it is here."""
        return self._whole.get(fingerprint)

    @cached_property
    def _whole(self) -> dict[str, Held]:
        return {held.entry.fingerprint: held for held in self.sealed}


def holdings_of(store: FeatureStore) -> Holdings:
    """Looks at every set and every result of a store; what cannot be read is told, and stops nothing."""
    entries = sorted(store.ls(), key=lambda one: (one.name, one.place, one.fingerprint))
    return Holdings(
        root=store.root,
        sets=tuple(_held(entry) for entry in entries),
        computations=tuple(sorted(Results(store.root).latest(), key=lambda one: (one.question, one.name))),
    )


def _held(entry: Entry) -> Held:
    if entry.state != "sealed" or not entry.checked:
        return Held(entry=entry, trouble=_here(entry, entry.message))
    try:
        with entry.open() as opened:
            made, key = opened.provenance, opened.key
            reasons = sorted(opened.reasons.items())
            ids = opened.ids if reasons else ()
            failures = tuple(
                Failure(place=entry.place, row=row, id=str(ids[row]), reason=why[:LONGEST]) for row, why in reasons
            )
            return Held(
                entry=entry,
                failures=failures,
                seconds=_numbers(made.get("seconds")),
                versions=_texts(made.get("versions")),
                device=_text(made.get("device")),
                precision=_text(key.get("precision")),
                images_per_second=_number(made.get("images_per_second")),
                class_names=tuple(map(str, opened.class_names)),
            )
    except (StoreError, OSError) as error:
        return Held(entry=entry, trouble=_here(entry, str(error)))


def _here(entry: Entry, message: str) -> str:
    """A message without the place of the store, which is nobody's business and may be another tomorrow."""
    return message if entry.root is None else message.replace(f"{entry.root}/", "")


# A set may have come from a stranger: its provenance is any JSON.


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    return float(value) if known else None


def _numbers(value: Any) -> dict[str, float]:
    """The stages in the order in which an image passes them, others behind."""
    if not isinstance(value, Mapping):
        return {}
    names: Sequence[str] = [*STAGES, *sorted(value.keys() - {*STAGES})]
    return {name: number for name in names if (number := _number(value.get(name))) is not None}


def _texts(value: Any) -> dict[str, str]:
    given = sorted(value.items()) if isinstance(value, Mapping) else ()
    return {name: text for name, text in given if isinstance(text, str)}
