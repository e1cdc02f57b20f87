"""Extra columns: cells become numbers only where no cell loses anything by it, and what a store cannot hold is told.

Shapes: N records.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._reading import is_unicode, shown
from featurebank.store.limits import ALL_TEXT_BYTES, COLUMNS, NAME_BYTES, TEXT_BYTES

NOTES: Final = 16
BOOLEANS: Final = (("True", "False"), ("true", "false"), ("TRUE", "FALSE"))
LONGEST_NUMBER: Final = 32
EXACT: Final = 1 << 53
NESTED: Final = frozenset({list, tuple, dict, bytes})


def column(cells: Sequence[Any], *, typed: bool = False) -> NDArray[np.generic]:
    """(N,) booleans, int64, float64 or strings: the narrowest that gives every cell's text back as it was.

    ``007``, ``1_1``, ``1.10``, ``12e4``, ``1e999`` and numbers of 20 digits stay text, and so does every other cell of
    their column. Whole numbers with gaps are text too, because a float is none of them; in a column of floats a gap is
    NaN, in text it is blank.

    Args:
        cells: strings, numbers, booleans, or ``None`` for a gap.
        typed: whether the file says what its cells are, so that its strings are strings.

    >>> column(["3", "-1"]).dtype, column(["007", "7"]).tolist(), column(["1.5", "", "2"]).tolist()
    (dtype('int64'), ['007', '7'], [1.5, nan, 2.0])
    """
    kinds = {type(cell) for cell in cells}
    if kinds & NESTED:
        return _objects(cells)
    if kinds == {bool}:
        return np.array(cells, np.bool_)
    if kinds == {int} and all(-(1 << 63) <= cell < 1 << 63 for cell in cells):
        return np.array(cells, np.int64)
    if float in kinds and kinds <= {float, type(None)}:
        return np.array([np.nan if cell is None else cell for cell in cells], np.float64)
    texts = ["" if cell is None else str(cell) for cell in cells]
    return _strings(texts) if typed and str in kinds else _parsed(texts)


def is_missing(cell: object) -> bool:
    """Whether a cell says that there is no value: blank, ``NA``, ``nan``, null.

    >>> [is_missing(cell) for cell in (None, "", " NA", "nan", float("nan"), "none", 0)]
    [True, True, True, True, True, False, False]
    """
    if isinstance(cell, str):
        return cell.strip() in {"", "NA", "<NA>", "nan", "NaN"}
    return cell is None or (isinstance(cell, float) and cell != cell)  # noqa: PLR0124 (NaN alone is not itself)


def _parsed(texts: Sequence[str]) -> NDArray[np.generic]:
    """Of text, as CSV has it. White space around a cell is no part of it, unless it tells two cells apart."""
    distinct = set(texts)
    stripped = {text: text.strip() for text in distinct}
    if len(set(stripped.values())) == len(distinct):
        texts, distinct = [stripped[text] for text in texts], set(stripped.values())
    for yes, no in BOOLEANS:
        if distinct and distinct <= {yes, no}:
            return np.array([text == yes for text in texts], np.bool_)
    values = _numbers(distinct)
    if values is None:
        return _strings(texts)
    whole = all(isinstance(value, int) for value in values.values())
    return np.array([values[text] for text in texts], np.int64 if whole else np.float64)


def _numbers(texts: set[str]) -> dict[str, int | float] | None:
    """The number of each text, all int or all float; ``None`` where any would not become the same text again."""
    if texts <= {""} or any(len(text) > LONGEST_NUMBER for text in texts):
        return None
    try:
        whole = {text: int(text) for text in texts}
        fits = all(str(value) == text and -(1 << 63) <= value < 1 << 63 for text, value in whole.items())
        return dict(whole) if fits else None
    except ValueError:
        pass
    try:
        found = {text: float(text) for text in texts if text}
    except ValueError:
        return None
    if all(_is_whole(text) for text in found):
        return None  # Whole numbers with gaps.
    for written in (repr, _shortest):
        if all(written(value) == text for text, value in found.items()) and len(set(found.values())) == len(found):
            gap = {"": float("nan")} if "" in texts else {}
            return None if gap and "nan" in found else {**found, **gap}
    return None


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d+", text, re.ASCII) is not None


def _shortest(value: float) -> str:
    """Whole numbers without a point, as spreadsheets write them, as far as they are exact."""
    return str(int(value)) if value.is_integer() and abs(value) <= EXACT else repr(value)


def _strings(texts: Sequence[str]) -> NDArray[np.generic]:
    """As objects where fixed width would lose a NUL or take far more than the texts: no store holds those either."""
    longest = max(map(len, texts), default=0)
    if longest > TEXT_BYTES or longest * len(texts) > ALL_TEXT_BYTES or any("\0" in text for text in texts):
        return _objects(texts)
    return np.array(texts, np.str_)


def _objects(cells: Sequence[Any]) -> NDArray[np.generic]:
    objects: NDArray[Any] = np.empty(len(cells), object)
    for row, cell in enumerate(cells):
        objects[row] = cell
    return objects


def storable(columns: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[np.generic]], list[str]]:
    """Those columns that a store can hold, under names that it takes, and notes on what was changed or left out."""
    kept: dict[str, NDArray[np.generic]] = {}
    notes: list[str] = []
    room = ALL_TEXT_BYTES
    for given, values in columns.items():
        why, size = _unfit(values)
        if size > room:
            why = f"its {len(values):,} texts, each as long as the longest, are {size:,} bytes, a store holds {room:,}"
        if len(kept) == COLUMNS:
            why = f"a store holds {COLUMNS:,} columns"
        if why:
            notes.append(f"column {shown(given)} is left out: {why}")
            continue
        name = next(name for name in _names(given) if name not in kept and (name == given or name not in columns))
        # Texts that are objects because of other rows than these.
        kept[name] = np.array(values.tolist(), np.str_) if values.dtype.kind == "O" else values
        room -= size
        if name != given:
            notes.append(f"column {shown(given)} is called {name!r} in the store")
    if len(notes) > NOTES:
        notes[NOTES:] = [f"{len(notes) - NOTES:,} more columns are renamed or left out"]
    return kept, notes


def _names(given: str) -> Iterator[str]:
    """The name as a store takes it, then the same with numbers."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", given).lstrip("._-")[:NAME_BYTES] or "column"
    yield plain
    for k in itertools.count(2):
        yield f"{plain[: NAME_BYTES - 6]}_{k}"


def _unfit(values: NDArray[Any]) -> tuple[str, int]:
    """Why a store cannot hold a column, empty where it can; and the bytes that its texts take there."""
    if values.dtype.kind in "biuf" and values.dtype.itemsize <= 8:
        return "", 0
    texts: list[Any] = values.tolist() if values.dtype.kind in "UO" and values.ndim == 1 else [values.dtype]
    longest = max((len(text.encode("utf-8", "replace")) for text in texts if isinstance(text, str)), default=0)
    why = ""
    if strangers := {type(text).__name__ for text in texts if not isinstance(text, str)}:
        why = f"neither numbers nor text but {', '.join(sorted(strangers))}"
    elif longest > TEXT_BYTES:
        why = f"a text in it has {longest:,} bytes, a store holds {TEXT_BYTES:,}"
    elif any("\0" in text or not is_unicode(text) for text in texts):
        why = "a text in it has a NUL or is no valid Unicode"
    return why, longest * len(texts)
