"""Which rows play which part: fitted on, in distribution, out of distribution, shifted, or chosen on.

Shapes: N rows of a set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featurebank.pipelines.asking.inputs import Rows, SplitRows, match_notes, matched, vectors
from featurebank.pipelines.questions.ood.classifier import has_classes, rows_with_classes

__all__ = ["HELD_OUT", "Parts", "parts_of"]

HELD_OUT = ":held-out"  # behind the test set's name: its rows of the classes that are not in distribution


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The rows of one backbone, by the part that they play.

    Attributes:
        train: scores are fitted on them; those with a class, if any has one.
        validation: held-out in-distribution rows, where the store has them.
        inside: the in-distribution test rows.
        far: the out-of-distribution sets that are not near; all of them where none is.
        near: those that are.
        shifted: covariate-shifted in-distribution sets.
        tuning: the out-of-distribution set that parameters are chosen on.
        notes: how classes were matched, and which of them a name means.
    """

    train: SplitRows
    validation: SplitRows | None
    inside: SplitRows
    far: tuple[SplitRows, ...] = ()
    near: tuple[SplitRows, ...] = ()
    shifted: tuple[SplitRows, ...] = ()
    tuning: SplitRows | None = None
    notes: tuple[str, ...] = ()

    @property
    def outside(self) -> tuple[SplitRows, ...]:
        """All out-of-distribution sets, held-out classes first."""
        held, named = ([s for s in self.near if s.name.endswith(HELD_OUT) is is_held] for is_held in (True, False))
        return (*held, *self.far, *named)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The names of the near and of the far sets, where there are both."""
        groups = {"near": [split.name for split in self.near], "far": [split.name for split in self.far]}
        return {group: names for group, names in groups.items() if names and self.near}

    @property
    def tested(self) -> tuple[SplitRows, ...]:
        """Every set that is scored in the end."""
        return (self.inside, *self.outside, *self.shifted)


def parts_of(rows: Rows, id_classes: Sequence[str]) -> Parts:
    """Deals out the rows.

    With ``id_classes``, train, validation, test and shifted rows are those of these classes, and the test rows of the
    others are an out-of-distribution set, the first.

    Args:
        rows: by role: train, validation, test, ood, near, shifted, tuning.
        id_classes: names or numbers of the train set's classes, a number only where none is so named; all if empty.

    Raises:
        ValueError: a class that is not there, none that is held out, or features that are no vectors.
    """
    train = rows_with_classes(rows.train)
    inside = matched(vectors(rows.test), train)
    held = None if rows.validation is None else matched(rows_with_classes(rows.validation), train)
    alike = [_comparable(vectors(split), train) for split in rows["shifted"]]
    whole = Parts(
        train=train,
        validation=held if held is not None and has_classes(held) else None,
        inside=inside,
        far=tuple(map(vectors, rows["ood"])),
        near=tuple(map(vectors, rows["near"])),
        shifted=tuple(split for split, _ in alike),
        tuning=next(map(vectors, rows["tuning"]), None),
        notes=(
            *match_notes(train, held, inside, *(split for split, _ in alike)),
            *(f"{split.name} counts as having no classes: {reason}" for split, reason in alike if reason),
        ),
    )
    return _restricted(whole, id_classes) if id_classes else whole


def _comparable(split: SplitRows, train: SplitRows) -> tuple[SplitRows, str]:
    """The rows in the train set's classes, or without classes and the reason: scores need none."""
    try:
        return matched(split, train), ""
    except ValueError as error:
        return replace(split, labels=np.full_like(split.labels, -1)), str(error)


def _restricted(whole: Parts, id_classes: Sequence[str]) -> Parts:
    kept, notes = _numbers(whole.train, id_classes)
    if whole.inside.labels.ndim != 1:
        raise ValueError(f"--id-classes needs one class a row; {whole.inside.name} has several")
    known = np.isin(whole.inside.labels, kept)
    others = ~known & (whole.inside.labels >= 0)
    for rows, what in ((known, "of --id-classes"), (others, "of other classes, to be held out")):
        if not rows.any():
            raise ValueError(f"{whole.inside.name} must have rows {what}; found none")
    held_out = replace(whole.inside.where(others), name=whole.inside.name + HELD_OUT)
    return replace(
        whole,
        train=_of(whole.train, kept),
        validation=None if whole.validation is None else _of(whole.validation, kept),
        inside=_of(whole.inside, kept),
        near=(held_out, *whole.near),
        shifted=tuple(_of(split, kept) for split in whole.shifted),
        notes=(*whole.notes, *notes),
    )


def _of(split: SplitRows, classes: NDArray[np.int64]) -> SplitRows:
    some = split.where(np.isin(split.labels, classes)) if split.labels.ndim == 1 else None
    if some is None or not len(some.labels):
        raise ValueError(f"{split.name} must have rows of --id-classes; found none")
    return some


def _numbers(train: SplitRows, id_classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The labels that are meant, ascending, and what to say of those that could mean others."""
    if not has_classes(train):
        raise ValueError(f"--id-classes needs the classes of the rows; {train.name} has none")
    present = np.unique(train.labels)
    by_number = {str(label): int(label) for label in present}
    numbers = by_number | {name: label for label, name in enumerate(train.class_names)}
    shared = [name for name, count in Counter(train.class_names).items() if count > 1 and name in id_classes]
    if shared:
        raise ValueError(f"--id-classes: several classes of {train.name} are called {shared[0]!r}; give their numbers")
    unknown = [name for name in id_classes if numbers.get(name) not in present]
    if unknown:
        known = ", ".join(train.class_names) or f"{present[0]} to {present[-1]}"
        raise ValueError(f"--id-classes must be classes of {train.name}: {known}; found {', '.join(unknown)}")
    found = np.unique([numbers[name] for name in id_classes])
    if len(found) < 2:
        raise ValueError(f"--id-classes must be at least two classes; found {', '.join(id_classes)}")
    notes = [
        f"--id-classes {name} is the class of that name, number {numbers[name]}; "
        f"class number {name} is {train.class_name(by_number[name])}"
        for name in dict.fromkeys(id_classes)
        if numbers[name] != by_number.get(name, numbers[name])
    ]
    return found, notes
