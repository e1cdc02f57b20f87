"""What a feature set is made of, and its checks before anything is written."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from featurebank.store import limits
from featurebank.store.errors import InvalidInputError

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{limits.NAME_BYTES - 1}}}")
_RESERVED = ("labels", "rows")  # the other names in a batch
_LARGEST_STR = 64 << 20
_DECODED_AT_ONCE = 4 << 20
_AT_ONCE = 1 << 14  # strings


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of a backbone, as it is stored.

    Attributes:
        name: Letters, digits and ``._-``; not ``labels`` or ``rows``.
        shape: The shape of one row, such as ``(1280,)`` or ``(257, 384)``.
        dtype: ``"float16"`` or ``"float32"``.

    >>> Output(name="pooled", shape=(1280,))
    Output(name='pooled', shape=(1280,), dtype='float16')
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float16"


@dataclass(frozen=True, kw_only=True)
class Records:
    """The N records of a split, in their order.

    Attributes:
        ids: N distinct, non-empty strings of at most 1,024 UTF-8 bytes, without NUL.
        labels: int64, (N,) or, multi-label, (N, L).
        content_hash: uint8, (N, 16): XXH3-128 of each record's content, big-endian.
        columns: Extra (N,) columns: bool, integers, floats or fixed-width strings.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    content_hash: NDArray[np.uint8]
    columns: Mapping[str, NDArray[Any]] = dataclasses.field(default_factory=dict)


def quantity(count: int, noun: str) -> str:
    """A count with its noun.

    >>> quantity(1, "row"), quantity(2, "row")
    ('1 row', '2 rows')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"


def first_few(numbers: Iterable[int]) -> str:
    """The first ten numbers, and an ellipsis for the rest.

    >>> first_few(range(12))
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …'
    """
    shown = [str(number) for number in itertools.islice(numbers, 11)]
    return ", ".join([*shown[:10], "…"] if len(shown) > 10 else shown)


def checked_outputs(outputs: Sequence[Output]) -> tuple[Output, ...]:
    """The outputs with plain ints in their shapes.

    Raises:
        InvalidInputError: none, a name twice, or a name, shape or dtype that cannot be stored.
    """
    if not outputs:
        raise InvalidInputError("a feature set must have at least one output; found none")
    seen: set[str] = set()
    for output in outputs:
        check_name(output.name, "an output's name")
        if output.name in seen or output.name in _RESERVED:
            raise InvalidInputError(
                f"output names must be distinct and none of {', '.join(_RESERVED)}; found {output.name!r}"
                f"{' twice' if output.name in seen else ''}"
            )
        seen.add(output.name)
        if output.dtype not in ("float16", "float32"):
            raise InvalidInputError(
                f"the dtype of output {output.name!r} must be float16 or float32; found {output.dtype!r}"
            )
        if len(output.shape) > limits.ROW_DIMENSIONS or any(int(n) != n or n < 1 for n in output.shape):
            raise InvalidInputError(
                f"the row shape of output {output.name!r} must be at most 7 positive ints; found {output.shape!r}"
            )
    return tuple(dataclasses.replace(o, shape=tuple(int(n) for n in o.shape)) for o in outputs)


def checked_records(records: Records) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The record arrays and the extra columns as they are stored: little-endian, strings as NUL-padded UTF-8.

    Raises:
        InvalidInputError: a length, dtype or value that cannot be stored.
    """
    ids = _encoded(records.ids, "ids", limits.ID_BYTES)
    n = len(ids)
    if n == 0:
        raise InvalidInputError("a feature set must have at least one record; found none")
    _check_ids(records.ids, ids)
    labels = _stored(np.asarray(records.labels))
    if labels.dtype != np.int64 or labels.ndim not in (1, 2) or len(labels) != n or 0 in labels.shape:
        raise InvalidInputError(
            f"labels must be int64 of shape ({n},) or ({n}, L), one per id; found {labels.dtype} {labels.shape}"
        )
    hashes = np.asarray(records.content_hash)
    if hashes.dtype != np.uint8 or hashes.shape != (n, 16):
        raise InvalidInputError(
            f"content_hash must be uint8 of shape ({n}, 16), one per id; found {hashes.dtype} {hashes.shape}"
        )
    columns = {name: _column(name, values, n) for name, values in records.columns.items()}
    return {"id": ids, "label": labels, "content_hash": _stored(hashes)}, columns


def checked_head(head: tuple[NDArray[Any], NDArray[Any]] | None) -> dict[str, NDArray[Any]]:
    """The classifier's weight (C, D) and bias (C,) as they are stored; nothing for a backbone without one.

    Raises:
        InvalidInputError: shapes that do not fit, a dtype other than float16 and float32, a value that is not finite.
    """
    if head is None:
        return {}
    weight, bias = (_stored(np.asarray(part)) for part in head)
    fits = weight.ndim == 2 and bias.ndim == 1 and len(weight) == len(bias) and weight.size > 0
    if not fits or any(part.dtype not in (np.float16, np.float32) for part in (weight, bias)):
        raise InvalidInputError(
            "the head must be a weight (C, D) and a bias (C,) of float16 or float32; "
            f"found {weight.dtype} {weight.shape} and {bias.dtype} {bias.shape}"
        )
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise InvalidInputError("the head must be finite; found NaN or infinity in it")
    return {"weight": weight, "bias": bias}


def check_name(name: str, what: str) -> None:
    """Raises InvalidInputError unless ``name`` can be a dataset's name in the file."""
    if not NAME.fullmatch(name):
        raise InvalidInputError(
            f"{what} must be 1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit; found {name!r}"
        )


def decoded_strings(encoded: NDArray[np.bytes_]) -> NDArray[Any]:
    """Strings of NUL-padded UTF-8, (N,): ``str_``, which takes four times the bytes, or ``StringDType`` where many."""
    if encoded.nbytes <= _LARGEST_STR:
        return np.strings.decode(encoded, "utf-8")
    decoded = np.empty(encoded.shape, np.dtypes.StringDType())
    rows = max(1, _DECODED_AT_ONCE // encoded.itemsize)
    for start in range(0, len(encoded), rows):
        decoded[start : start + rows] = np.strings.decode(encoded[start : start + rows], "utf-8")
    return decoded


def _check_ids(ids: Sequence[str], encoded: NDArray[np.bytes_]) -> None:
    if (empty := np.flatnonzero(encoded == b"")).size:
        raise InvalidInputError(f"ids must not be empty; found an empty id in row {empty[0]}")
    hashes = np.fromiter(map(xxhash.xxh3_64_intdigest, _bytes_of(encoded)), np.uint64, len(encoded))
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return
    # Ids that are equal, or two hashes that happen to be: only then are the ids themselves compared.
    distinct, first = set(ids), set[str]()
    for row, name in enumerate(ids if len(distinct) < len(ids) else ()):
        if name in first:
            raise InvalidInputError(
                f"ids must be distinct; found {str(name)!r} again in row {row} ({len(ids) - len(distinct)} duplicates)"
            )
        first.add(name)


def _bytes_of(strings: NDArray[np.bytes_]) -> Iterator[bytes]:
    for start in range(0, len(strings), _AT_ONCE):
        yield from strings[start : start + _AT_ONCE].tolist()


def _column(name: str, values: NDArray[Any], n: int) -> NDArray[Any]:
    check_name(name, "a column's name")
    values = np.asarray(values)
    if values.shape != (n,):
        raise InvalidInputError(f"column {name!r} must have shape ({n},), one value per id; found {values.shape}")
    if values.dtype.kind in "UT":
        return _encoded(values, f"column {name!r}", limits.TEXT_BYTES)
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise InvalidInputError(
            f"column {name!r} must be bool, integers, floats of at most 64 bits, or fixed-width str; "
            f"found {values.dtype}"
        )
    return _stored(values)


def _stored(values: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _encoded(strings: Sequence[str] | NDArray[Any], what: str, limit: int) -> NDArray[np.bytes_]:
    """NUL-padded UTF-8 of strings, some at a time: neither bytes nor a copy of each string are held for all of them."""
    given = strings if isinstance(strings, Sequence | np.ndarray) else list(strings)
    starts = range(0, len(given), _AT_ONCE)
    parts = [_encoded_part(given[start : start + _AT_ONCE], what, limit, start) for start in starts]
    encoded = np.empty(len(given), f"S{max((part.itemsize for part in parts), default=1)}")
    for start in reversed(starts):
        part = parts.pop()
        encoded[start : start + len(part)] = part
    return encoded


def _encoded_part(strings: Sequence[str] | NDArray[Any], what: str, limit: int, start: int) -> NDArray[np.bytes_]:
    given = strings.tolist() if isinstance(strings, np.ndarray) else list(strings)
    if {*map(type, given)} <= {str} and (joined := "".join(given)).isascii() and "\0" not in joined:
        # NumPy encodes plain ASCII ten times as fast as a loop does.
        at_once = np.array(given, dtype="S")
        if at_once.itemsize <= limit:
            return at_once
    encoded = []
    for row, text in enumerate(given, start):
        if not isinstance(text, str):
            raise InvalidInputError(f"{what} must be str; found {type(text).__name__} in row {row}")
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"{what} must be valid Unicode; found {text!r} in row {row}") from error
        if len(data) > limit or b"\0" in data:
            raise InvalidInputError(
                f"{what} must be at most {limit} UTF-8 bytes without NUL; found {len(data)} bytes, "
                f"{text[:40]!r}, in row {row}"
            )
        encoded.append(data)
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")
