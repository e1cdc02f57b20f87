"""Labels as people write them: class indices, class names, lists of either, or values to regress to.

Shapes: N records, L labels a record.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featurebank.extract.datasets._columns import EXACT, is_missing
from featurebank.extract.datasets._reading import shown
from featurebank.extract.errors import DatasetError

SEPARATOR: Final = "|"
CLASSES: Final = 1 << 16
"""The most labels of a record: see FORMAT.md, "Limits"."""
CELLS: Final = 1 << 28

WHOLE: Final = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0*)?")
VALUE: Final = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+][0-9]+)?")
ITEM: Final = r"""(?:-?[0-9]+(?:\.[0-9]*)?|"[^"\\]*"|'[^'\\]*')"""
LIST: Final = re.compile(rf"\[\s*(?:{ITEM}\s*(?:,\s*{ITEM}\s*)*)?\]")


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of all records.

    Attributes:
        labels: (N,) class indices, -1 where there is none; or (N, L) zeros and ones.
        class_names: K names, none where labels are indices or values.
        values: (N,) float64, NaN where there is none, where the labels are decimals; ``labels`` are -1 then.
        notes: what was taken to mean what.
    """

    labels: NDArray[np.int64]
    class_names: Sequence[str] = ()
    values: NDArray[np.float64] | None = None
    notes: Sequence[str] = ()

    def take(self, rows: Sequence[int]) -> Labels:
        """Those of some records."""
        picked = None if self.values is None else self.values[rows]
        return Labels(labels=self.labels[rows], class_names=self.class_names, values=picked, notes=self.notes)


def parse_labels(cells: Sequence[Any], place: object) -> Labels:
    """What the cells of a column of labels mean.

    Blank, ``NA`` and ``nan`` are no label; where records have several, a blank is a record with none of them. Whole
    numbers are class indices, also where they are written ``2.0``; where a number has decimals all of them are values;
    anything else is a name, and names are numbered in byte order. ``a|b`` and ``["a", "b"]`` are several labels.

    Raises:
        DatasetError: lists that are none, several values a record, numbers that no index can be.

    >>> parse_labels(["0.0", "10.0", "2.0", "NA"], "pets.csv").labels.tolist()
    [0, 10, 2, -1]
    >>> parse_labels(["0.5", "2"], "pets.csv").values.tolist()
    [0.5, 2.0]
    """
    several = any(isinstance(cell, list | tuple) or _is_list(cell) for cell in cells)
    parts = [_parts(cell, several, place) for cell in cells]
    gaps = [row for row, cell in enumerate(cells) if several and is_missing(cell) and cell != ""]
    distinct = {text for part in parts for text in part}
    notes = _missing_notes(cells)
    whole = {text: found[1] for text in distinct if (found := WHOLE.fullmatch(text))}
    if len(whole) == len(distinct):
        index = {text: _index(digits, place) for text, digits in whole.items()}
        return Labels(labels=_rows(parts, index, gaps if several else None, place), notes=notes)
    if all(VALUE.fullmatch(text) and math.isfinite(float(text)) for text in distinct):
        if several:
            raise DatasetError(f"{place}: where records have several labels, they must be classes, found decimals")
        values = np.array([float(part[0]) if part else np.nan for part in parts], np.float64)
        notes.append("labels with decimals are no classes: they are kept as the column 'label', to regress to")
        return Labels(labels=np.full(len(parts), -1, np.int64), values=values, notes=notes)
    names = sorted(distinct)
    index = {name: k for k, name in enumerate(names)}
    return Labels(labels=_rows(parts, index, gaps if several else None, place), class_names=names, notes=notes)


def class_index(value: object) -> int | None:
    """A number as a class index, -1 or more; ``None`` where it is none.

    >>> [class_index(value) for value in (3, 3.0, 3.5, -2, True, 1 << 70, "3")]
    [3, 3, None, None, None, None, None]
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 1 << 63 else None


def whole_labels(labels: ArrayLike, place: object) -> NDArray[np.int64]:
    """Labels in an array, as int64: floats that are whole are class indices, NaN is none (-1).

    Raises:
        DatasetError: they are no numbers, or have decimals.

    >>> whole_labels([0.0, 2.0, float("nan")], "pets").tolist()
    [0, 2, -1]
    """
    given = np.asarray(labels)
    if given.dtype.kind not in "biuf":
        raise DatasetError(f"{place}: labels must be whole numbers, found {given.dtype}")
    if given.dtype.kind == "f":
        given = np.where(np.isnan(given), -1, given)
        if (odd := given[(given != np.floor(given)) | (np.abs(given) >= EXACT)]).size:
            raise DatasetError(
                f"{place}: labels must be whole numbers, found {odd[0]}; numbers to regress to belong in a column"
            )
    return np.ascontiguousarray(given, np.int64)


def _is_list(cell: object) -> bool:
    return isinstance(cell, str) and (SEPARATOR in cell or cell.strip().startswith("["))


def _parts(cell: object, several: bool, place: object) -> list[str]:
    """The labels of one record, as text."""
    if isinstance(cell, str) and cell.strip().startswith("["):
        if not LIST.fullmatch(cell.strip()):
            raise DatasetError(
                f'{place}: a list of labels must be written [0, 2], ["cat", "dog"] or cat|dog, found {shown(cell)}'
            )
        cell = [item.strip("\"'") for item in re.findall(ITEM, cell)]
    values = cell if isinstance(cell, list | tuple) else [cell]
    if several and isinstance(cell, str):
        values = cell.split(SEPARATOR)
    return [str(value).strip() for value in values if not is_missing(value)]


def _index(digits: str, place: object) -> int:
    found = class_index(int(digits)) if len(digits) < 20 else None
    if found is None:
        raise DatasetError(
            f"{place}: labels must be class indices of 64 bits, -1 (none) or 0 upwards, found {shown(digits)}; "
            "values to regress to belong in a column of their own"
        )
    return found


def _rows(
    parts: Sequence[Sequence[str]], index: dict[str, int], gaps: Sequence[int] | None, place: object
) -> NDArray[np.int64]:
    """(N,) indices; or, with the rows of which nothing is known, (N, L) zeros and ones, -1 in those."""
    if gaps is None:
        return np.array([index[part[0]] if part else -1 for part in parts], np.int64)
    low, high = min(index.values(), default=-1), max(index.values(), default=-1)
    most = min(CLASSES, CELLS // len(parts))
    if low < 0:
        raise DatasetError(
            f"{place}: where records have several labels, each must be 0 or more, found {low if index else 'none'}"
        )
    if high >= most:
        raise DatasetError(
            f"{place}: where {len(parts):,} records have several labels, each must be below {most:,}, found {high}"
        )
    width = high + 1
    labels = np.zeros((len(parts), width), np.int64)
    for row, part in enumerate(parts):
        labels[row, [index[text] for text in part]] = 1
    labels[list(gaps)] = -1
    return labels


def _missing_notes(cells: Sequence[Any]) -> list[str]:
    words = Counter(cell.strip() for cell in cells if isinstance(cell, str) and cell.strip() and is_missing(cell))
    return [f"{n:,} label{'' if n == 1 else 's'} {word!r} taken to mean none" for word, n in sorted(words.items())]
