"""Keys: canonical JSON, its SHA-256, and the hash of one record's content.

What goes into a key is decided by whoever builds it; here is only how it becomes a fingerprint, so that the same key
gives the same 64 hex digits on every machine, interpreter and day.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

__all__ = [
    "JSON",
    "canonical_json",
    "content_hash",
    "differences",
    "fingerprint",
    "is_default",
    "is_provisional",
    "provisional",
    "record",
    "records_digest",
]

_DIGEST_HEADER = b"featurebank dataset 1\n"
_IDS_AT_ONCE = 1 << 14
_PROVISIONAL = "provisional:"
JSON: TypeAlias = "str | int | float | bool | list[JSON] | tuple[JSON, ...] | dict[str, JSON] | None"


def canonical_json(value: object) -> bytes:
    """The one UTF-8 spelling of a JSON value: keys sorted, no spaces, no escapes beyond JSON's own, floats shortest.

    Args:
        value: str, int, float, bool, None, and lists, tuples and string-keyed mappings of them.

    Raises:
        TypeError: any other type, NumPy scalars included, and keys that are not strings. Nothing is coerced silently.
        ValueError: NaN or infinity, or a string that is not valid Unicode.

    >>> canonical_json({"b": 1, "a": [1.5, None, "é"]}).decode()
    '{"a":[1.5,null,"é"],"b":1}'
    """
    return spelled(_checked(value, "$")).encode("utf-8")


def spelled(value: object) -> str:
    """The text of `canonical_json`, of a value that JSON's own decoder has given, whose types need no look."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(key: Mapping[str, object]) -> str:
    """SHA-256 of the canonical JSON of a key, as 64 lower-case hex digits.

    >>> fingerprint({})[:16]
    '44136fa355b3678a'
    """
    return hashlib.sha256(canonical_json(key)).hexdigest()


def record(value: object) -> Any:
    """A frozen dataclass as plain JSON, without the fields that still have their default.

    Fields declared with ``compare=False`` (paths, origins) never enter. Dropping defaults means that a field added
    later leaves every existing key as it was.

    Raises:
        TypeError: a type that has no canonical JSON.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Crop:
    ...     size: int
    ...     mode: str = "center"
    >>> record(Crop(224)), record(Crop(224, "squash"))
    ({'size': 224}, {'size': 224, 'mode': 'squash'})
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return [record(item) for item in value] if isinstance(value, list | tuple) else _checked(value, "$")
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if not field.compare or is_default(field, item):
            continue
        kept[field.name] = record(item)
    return kept


def is_default(field: dataclasses.Field[Any], item: object) -> bool:
    """Whether a dataclass's field has its default, of the same type.

    >>> is_default(dataclasses.fields(dataclasses.make_dataclass("Crop", [("size", int, 224)]))[0], 224.0)
    False
    """
    if field.default is not dataclasses.MISSING:
        return bool(item == field.default and type(item) is type(field.default))
    if field.default_factory is not dataclasses.MISSING:
        return bool(item == field.default_factory())
    return False


def content_hash(content: bytes | bytearray | memoryview | NDArray[Any]) -> bytes:
    """XXH3-128 of one record's content, 16 bytes big-endian.

    Encoded files are hashed as they are. Raw pixels are hashed as ``b"<shape joined by x>:<dtype>:"`` followed by the
    C-contiguous little-endian values, so that an array of another shape has another hash.

    >>> content_hash(b"").hex()
    '99aa06d3014798d86001c324468d497f'
    >>> content_hash(np.zeros((2, 3), np.uint8)) == content_hash(np.zeros((3, 2), np.uint8))
    False
    """
    if not isinstance(content, np.ndarray):
        return xxhash.xxh3_128_digest(content)
    values = np.ascontiguousarray(content, dtype=content.dtype.newbyteorder("<"))
    state = xxhash.xxh3_128(f"{'x'.join(map(str, values.shape))}:{values.dtype.str.lstrip('<|=>')}:".encode())
    state.update(values.reshape(-1).view(np.uint8).data)
    return state.digest()


def records_digest(ids: Iterable[str], labels: NDArray[Any], content_hashes: NDArray[Any]) -> str:
    """Hex SHA-256 of the ordered ids, labels and contents of a split: the ``dataset.digest`` of a key.

    Over these bytes, all numbers little-endian: ``featurebank dataset 1`` and a newline; N as uint64; N id lengths in
    bytes as uint32; the ids in UTF-8, one after the other; the number of dimensions of the labels as uint64 and their
    shape, each uint64; the labels as int64, row by row; the (N, 16) content hashes.
    """
    ids = ids if isinstance(ids, Sequence | np.ndarray) else list(ids)
    labels = np.ascontiguousarray(labels, dtype="<i8")
    sha256 = hashlib.sha256(_DIGEST_HEADER)
    sha256.update(np.array([len(ids)], "<u8").tobytes())
    # Twice over, for the lengths come first: bytes of every id at once would take more memory than the ids.
    for encoded in _encoded(ids):
        sha256.update(np.fromiter(map(len, encoded), "<u4", len(encoded)).tobytes())
    for encoded in _encoded(ids):
        sha256.update(b"".join(encoded))
    sha256.update(np.array([labels.ndim, *labels.shape], "<u8").tobytes())
    sha256.update(labels.tobytes())
    sha256.update(np.ascontiguousarray(content_hashes, np.uint8).tobytes())
    return sha256.hexdigest()


def provisional(digest: str) -> str:
    """What stands for the digest of contents that are not known yet: as long as a digest, and never taken for one.

    >>> provisional("0123456789abcdef" * 4)
    'provisional:0123456789abcdef0123456789abcdef0123456789abcdef0123'
    """
    return f"{_PROVISIONAL}{digest}"[:64]


def is_provisional(key: Mapping[str, Any]) -> bool:
    """Whether a key has something else in place of the digest of its dataset's contents."""
    dataset = key.get("dataset")
    return isinstance(dataset, Mapping) and str(dataset.get("digest")).startswith(_PROVISIONAL)


def _encoded(ids: Sequence[str] | NDArray[Any]) -> Iterator[list[bytes]]:
    for start in range(0, len(ids), _IDS_AT_ONCE):
        yield [name.encode("utf-8") for name in ids[start : start + _IDS_AT_ONCE]]


def differences(left: object, right: object, path: str = "") -> list[tuple[str, object, object]]:
    """Where two keys differ: (path, value on the left, value on the right), an absent value as ``None``.

    >>> differences({"dtype": "float16", "x": {"a": 1}}, {"dtype": "float32", "x": {"a": 1}})
    [('dtype', 'float16', 'float32')]
    """
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        found: list[tuple[str, object, object]] = []
        for name in sorted({*left, *right}):
            below = f"{path}.{name}" if path else str(name)
            found += differences(left.get(name), right.get(name), below)
        return found
    same = left == right or (isinstance(left, list | tuple) and isinstance(right, list | tuple) and [*left] == [*right])
    return [] if same else [(path, left, right)]


def _checked(value: object, path: str) -> object:
    if value is None or type(value) in (str, bool, int):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"a key must hold finite numbers; found {value!r} at {path}")
        return value
    if isinstance(value, list | tuple):
        return [_checked(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for name in value:
            if type(name) is not str:
                raise TypeError(f"a key's names must be str; found {type(name).__name__} {name!r} at {path}")
        return {name: _checked(item, f"{path}.{name}") for name, item in value.items()}
    raise TypeError(
        f"a key must be made of str, int, float, bool, None, lists and mappings; found {type(value).__name__} at {path}"
    )
