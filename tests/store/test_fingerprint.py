"""Canonical JSON, fingerprints and content hashes."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from featurebank.store.fingerprint import canonical_json, content_hash, differences, fingerprint, record


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
).filter(_encodable)


@given(json_values)
def test_canonical_json_is_json_of_the_same_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@given(st.dictionaries(st.text("abcdef", min_size=1), st.integers(), min_size=2))
def test_order_of_insertion_does_not_matter(value: dict[str, int]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))


@pytest.mark.parametrize(
    "value",
    [np.float32(1), np.int64(1), {1: 2}, {"a": {1, 2}}, b"x", Path("x"), object(), [np.bool_(True)]],
    ids=lambda value: type(value).__name__,
)
def test_unknown_types_raise(value: object) -> None:
    with pytest.raises(TypeError, match="a key"):
        canonical_json(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_raise(value: float) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        canonical_json({"x": [value]})


def test_fingerprint_is_the_sha256_of_the_canonical_json() -> None:
    assert (
        fingerprint({"b": [1, True, None], "a": "é"})
        == hashlib.sha256('{"a":"é","b":[1,true,null]}'.encode()).hexdigest()
    )


def test_fingerprint_does_not_depend_on_the_process() -> None:
    code = "from featurebank.store.fingerprint import fingerprint; print(fingerprint({'a': 1.5, 'b': ['x', None]}))"
    made = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONHASHSEED": seed}
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert made == {fingerprint({"b": ["x", None], "a": 1.5})}


@dataclass(frozen=True)
class _Inner:
    a: int = 1


@dataclass(frozen=True)
class _Outer:
    size: int
    mode: str = "center"
    inner: _Inner = _Inner()
    path: str = field(default="", compare=False)


def test_records_drop_defaults_and_what_is_not_compared() -> None:
    assert record(_Outer(224)) == {"size": 224}
    assert record(_Outer(224, "squash", _Inner(2), "/somewhere")) == {"size": 224, "mode": "squash", "inner": {"a": 2}}


def test_a_default_of_another_type_is_not_a_default() -> None:
    assert record(_Inner(True)) == {"a": True}


@given(st.binary())
def test_content_hash_of_bytes_is_xxh3_128(data: bytes) -> None:
    assert content_hash(data) == xxhash.xxh3_128(data).digest()


def test_content_hash_of_pixels_follows_its_definition() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert content_hash(pixels) == xxhash.xxh3_128(b"3x4:u1:" + bytes(range(12))).digest()
    assert content_hash(pixels.T) == xxhash.xxh3_128(b"4x3:u1:" + pixels.T.tobytes()).digest()
    wide = pixels.astype(">u2")
    assert content_hash(wide) == xxhash.xxh3_128(b"3x4:u2:" + wide.astype("<u2").tobytes()).digest()


def test_differences_name_the_path_and_both_values() -> None:
    left = {"a": {"b": 1, "c": [1, 2]}, "only": 3}
    right = {"a": {"b": 2, "c": (1, 2)}}
    assert differences(left, right) == [("a.b", 1, 2), ("only", 3, None)]
