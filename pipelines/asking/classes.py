"""How the classes of one set are found in another: by name where both have names, by number only where they have none.

Everything that compares classes of two sets goes through `match_classes`; for rows, see
`featurebank.pipelines.asking.inputs.matched`.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["AMBIGUOUS", "ClassMatch", "listed", "match_classes"]

AMBIGUOUS = -2


@dataclass(frozen=True, kw_only=True)
class ClassMatch:
    """What was done to find the classes of a set in another one, the reference.

    Attributes:
        by: ``name``; ``number`` where one of the two, or neither, has names.
        numbers: for each class of the set its number in the reference, `AMBIGUOUS` where that cannot be told; classes
            that the reference lacks follow behind its own. Empty by number: labels stay as they are.
        names: of all these numbers; by number of whichever is named.
        nameless: which of the two have no names, ``set`` or ``reference``.
        missing: names that only the reference has.
        extra: names that only the set has.
        ambiguous: names that both have, and that several classes of one of them share.
        near: unmatched names, the set's and the reference's, that differ only in case, blanks or the form of accents.
    """

    by: Literal["name", "number"]
    numbers: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    nameless: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    near: tuple[tuple[str, str], ...] = ()

    @property
    def renumbers(self) -> bool:
        """Whether a label means another class in the two sets."""
        return self.numbers != tuple(range(len(self.numbers)))

    def notes(self, split: str, reference: str) -> list[str]:
        """What to tell of it, by the names of the two; nothing where both have the same classes in one order."""
        found = []
        if len(self.nameless) == 2:
            found.append(f"{split} and {reference} name no classes: their numbers are taken to mean the same")
        elif self.nameless:
            one, other = (split, reference) if self.nameless == ("set",) else (reference, split)
            found.append(f"{one} names no classes: its numbers are taken to be those of {other}")
        if self.renumbers:
            found.append(f"{split} numbers its classes otherwise than {reference}: they are matched by name")
        if self.near:
            pairs = listed([f"{theirs!r} and {ours!r}" for theirs, ours in self.near])
            found.append(f"names of {split} and {reference} that are only alike count as different classes: {pairs}")
        return found


def match_classes(reference: Sequence[str], names: Sequence[str]) -> ClassMatch:
    """Finds classes by their exact names; no names at all leave the numbers as they are.

    >>> match_classes(["ant", "bee", "cat"], ["cat", "ant", "dog"])
    ClassMatch(by='name', numbers=(2, 0, 3), names=('ant', 'bee', 'cat', 'dog'), nameless=(), missing=('bee',), \
extra=('dog',), ambiguous=(), near=())

    Args:
        reference: names of the classes 0..K-1 of the set whose numbering is wanted; may be empty.
        names: those of the other.
    """
    ours, theirs = tuple(reference), tuple(names)
    if not ours or not theirs:
        sides = (("set", theirs), ("reference", ours))
        return ClassMatch(by="number", names=ours or theirs, nameless=tuple(side for side, named in sides if not named))
    if ours == theirs:
        return ClassMatch(by="name", numbers=tuple(range(len(ours))), names=ours)
    shared = set(ours) & set(theirs)
    several = {name for side in (ours, theirs) for name, count in Counter(side).items() if count > 1} & shared
    place = {name: number for number, name in enumerate(ours)}
    extra = [name for name in theirs if name not in shared]
    behind = iter(range(len(ours), len(ours) + len(extra)))
    missing = [name for name in ours if name not in shared]
    alike = {_alike(name): name for name in missing}
    return ClassMatch(
        by="name",
        numbers=tuple(
            next(behind) if name not in shared else AMBIGUOUS if name in several else place[name] for name in theirs
        ),
        names=(*ours, *extra),
        missing=tuple(missing),
        extra=tuple(extra),
        ambiguous=tuple(name for name in dict.fromkeys(theirs) if name in several),
        near=tuple((name, alike[_alike(name)]) for name in extra if _alike(name) in alike),
    )


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first few, and dots where there are more.

    >>> listed(["a", "b", "c"], most=2)
    'a, b, …'
    """
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def _alike(name: str) -> str:
    """What is left of a name without case, blanks, and the choice of one character or two for an accent."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
