"""Everything the store raises.

::

    StoreError
    ├── InvalidInputError    (ValueError)         what was handed in cannot be stored
    │   └── NonFiniteError                        features with NaN or infinity
    ├── NotAFeatureSetError  (ValueError)         the file is something else
    ├── FormatVersionError   (ValueError)         written by a newer featurebank
    ├── CorruptError         (ValueError)         the bytes are not those that were sealed
    ├── NotSealedError       (ValueError)         still being written
    ├── IncompleteError      (ValueError)         cannot be sealed yet
    ├── TooLargeError        (MemoryError)        there is not the memory to read it
    ├── UncheckedError       (RuntimeError)       nothing is known of the file: what should check it could not
    ├── NotFoundError        (KeyError)           no such file, feature set, output
    │   └── UnknownNameError                      a name that nothing answers to
    ├── AmbiguousError       (KeyError)           several feature sets match
    ├── ExistsError          (FileExistsError)    would overwrite
    ├── LockedError          (BlockingIOError)    another writer has it
    └── StorageError         (OSError)            the disk is full, read-only, failing

Each also is the built-in a caller would expect, and its text says what must hold, what was found and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AmbiguousError",
    "CorruptError",
    "ExistsError",
    "FormatVersionError",
    "IncompleteError",
    "InvalidInputError",
    "LockedError",
    "NonFiniteError",
    "NotAFeatureSetError",
    "NotFoundError",
    "NotSealedError",
    "StorageError",
    "StoreError",
    "TooLargeError",
    "UncheckedError",
    "UnknownNameError",
    "damaged",
    "unknown_name",
]

_LISTED = 20


class StoreError(Exception):
    """The base of every error of the store."""

    def __str__(self) -> str:
        # KeyError would show the repr of the message, with its line breaks escaped.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class InvalidInputError(StoreError, ValueError):
    """Outputs, records, a key, a name or a path that cannot be stored."""


class NonFiniteError(InvalidInputError):
    """Features hold NaN or infinity after the cast to the stored dtype; the text names the rows."""


class NotAFeatureSetError(StoreError, ValueError):
    """The path is no regular file, or the file does not begin as a feature set."""


class FormatVersionError(StoreError, ValueError):
    """The file has a format version that this release does not know."""


class CorruptError(StoreError, ValueError):
    """The file is damaged: truncated, overwritten, or at odds with its own header."""


class NotSealedError(StoreError, ValueError):
    """The file is a partial: it can be resumed, not read."""


class IncompleteError(StoreError, ValueError):
    """Sealing was asked for while chunks or rows are missing."""


class TooLargeError(StoreError, MemoryError):
    """Reading needs more memory than there is; the file may be as it was sealed."""


class UncheckedError(StoreError, RuntimeError):
    """The file could not be checked: what should have done so was ended, or had too little time or memory."""


class NotFoundError(StoreError, KeyError):
    """There is no such file, store or feature set."""


class UnknownNameError(NotFoundError):
    """Nothing has that name, of a backbone, dataset, split, output, …; the text has the nearest names there are."""


class AmbiguousError(StoreError, KeyError):
    """Several feature sets match; the text lists their fingerprints and where their keys differ."""


class ExistsError(StoreError, FileExistsError):
    """A feature set, or a partial of it, is already there."""


class LockedError(StoreError, BlockingIOError):
    """Another writer holds the partial."""


class StorageError(StoreError, OSError):
    """The operating system refused: no space, read-only, no permission, a failing disk."""


def damaged(path: object, what: str, expected: object, found: object) -> CorruptError:
    """The error for a file that is not as it was sealed.

    >>> print(damaged("demo.h5", "its size", "4096 bytes", "4095 bytes"))
    demo.h5 is damaged: its size must be 4096 bytes; found 4095 bytes; restore it from a copy or extract it again
    """
    return CorruptError(
        f"{path} is damaged: {what} must be {expected}; found {found}; restore it from a copy or extract it again"
    )


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "", *, where: str = "") -> UnknownNameError:
    """The error for a name that nothing answers to, with the nearest spellings of those there are.

    Args:
        kind: What it should name.
        name: As it was given.
        known: The names there are.
        hint: What to say beside them.
        where: Such as a file, which the text begins with.

    >>> print(unknown_name("backbone", "efficientnet_lite", ["efficientnet_lite0", "mobilenetv2"]))
    unknown backbone 'efficientnet_lite'; did you mean 'efficientnet_lite0'?
    >>> print(unknown_name("output", "x", ["pooled", "tokens"], where="demo.h5"))
    demo.h5: unknown output 'x'; known: pooled, tokens
    """
    import difflib

    names = sorted(set(known))
    if close := difflib.get_close_matches(name, names, n=5, cutoff=0.5):
        advice = f"did you mean {' or '.join(map(repr, close))}?"
    elif names:
        more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
        advice = f"known: {', '.join(names[:_LISTED])}{more}"
    else:
        advice = "there is none at all"
    begin, end = f"{where}: " if where else "", f" {hint}" if hint else ""
    return UnknownNameError(f"{begin}unknown {kind} {name!r}; {advice}{end}")
