"""The manifest: the key, which never changes, then the provenance, which the writer rewrites in place.

The text is ``{"key":K,"provenance":P}`` in canonical JSON, padded with spaces to a fixed capacity. The bytes up to and
including ``"provenance":`` are the same in every version of the text, so a rewrite cut short can cost the provenance,
never the key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from featurebank.store import limits
from featurebank.store.errors import InvalidInputError
from featurebank.store.fingerprint import canonical_json, spelled

_SLACK = 64 << 10
_BEFORE, _AFTER = b'{"key":', b',"provenance":'


def encode(key: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """The manifest's text, unpadded.

    Raises:
        InvalidInputError: it is no mapping, or has more values or levels than the format allows.
        TypeError: it is no plain JSON.

    >>> encode({"b": 1, "a": 2}, {})
    b'{"key":{"a":2,"b":1},"provenance":{}}'
    """
    for name, value in (("key", key), ("provenance", provenance)):
        if not isinstance(value, Mapping):
            raise InvalidInputError(f"the {name} must be a mapping; found {type(value).__name__}")
    try:
        _check_depth({"key": key, "provenance": provenance})
        text = _BEFORE + canonical_json(key) + _AFTER + canonical_json(provenance) + b"}"
        _check_marks(text)
    except _LimitError as error:
        raise InvalidInputError(f"key and provenance {error}; put less into them") from error
    return text


def capacity(key: Mapping[str, Any], provenance: Mapping[str, Any]) -> int:
    """The bytes to set aside: a multiple of 4,096 that leaves at least 64 KiB for provenance.

    The provenance given at first has no influence until it is large, so that it does not move any array.
    """
    room = max(_SLACK, 2 * len(canonical_json(provenance)))
    return -(-(len(encode(key, {})) + room) // 4096) * 4096


def key_digest(data: bytes) -> str:
    """The fingerprint of the key as the text spells it, without parsing it; another one where it is not canonical.

    >>> from featurebank.store.fingerprint import fingerprint
    >>> key_digest(encode({"a": 1}, {})) == fingerprint({"a": 1})
    True
    """
    return hashlib.sha256(data[len(_BEFORE) : data.find(_AFTER)]).hexdigest()


def decode(data: bytes) -> dict[str, Any]:
    """The manifest as a dict with ``key`` and ``provenance``.

    Raises:
        ValueError: the text is no manifest.
    """
    _check_marks(data)
    try:
        text = data.decode("utf-8")
        manifest, end = json.JSONDecoder().raw_decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    parts: list[Any] = [manifest.get("key"), manifest.get("provenance")] if isinstance(manifest, dict) else []
    if len(parts) != len(manifest) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("it must be an object of two objects, key and provenance")
    # Compared at once: the padding is most of it, and JSON's own search for white space reads it byte by byte.
    if text[end:] != " " * (len(text) - end):
        raise ValueError("there must be nothing but padding after it")
    _check_depth(manifest)
    # One spelling: no name twice, no infinity, no half of a character, whatever JSON would let pass.
    if spelled(manifest) != text[:end]:
        raise ValueError("it must be canonical JSON")
    return dict(manifest)


class _LimitError(ValueError):
    """More values or levels than the format allows."""


def marks(text: bytes) -> int:
    """How many brackets and commas a JSON text has.

    As objects, JSON takes up to a hundred times the memory of its text; each object needs one of these.
    """
    return sum(text.count(mark) for mark in (b"[", b"{", b","))


def _check_marks(text: bytes) -> None:
    # Most of the text is padding, which is told at once; where anything else follows the last brace, all is counted.
    end = text.rfind(b"}") + 1
    counted = text[:end] if text[end:] == b" " * (len(text) - end) else text
    if (found := marks(counted)) > limits.MANIFEST_MARKS:
        raise _LimitError(f"must have at most {limits.MANIFEST_MARKS:,} brackets and commas; found {found:,}")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(limits.MANIFEST_DEPTH + 1):
        below = (list(item.values()) if isinstance(item, Mapping) else item for item in level)
        level = [child for items in below if isinstance(items, list | tuple) for child in items]
        if not level:
            return
    raise _LimitError(f"must be nested at most {limits.MANIFEST_DEPTH} levels deep")


def salvage(data: bytes) -> dict[str, Any]:
    """The manifest of a partial whose last rewrite may have been cut short: then without provenance.

    Raises:
        ValueError: not even the key can be read.
    """
    try:
        return decode(data)
    except _LimitError:
        raise
    except ValueError:
        start = len(_BEFORE)
        key, _ = json.JSONDecoder().raw_decode(data.decode("utf-8", "replace"), start)
        return decode(encode(key, {}))
