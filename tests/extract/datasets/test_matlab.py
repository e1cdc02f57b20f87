"""MATLAB files: the same values as SciPy's, and damage is never more than an error."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from layout_files import structs
from scipy.io import loadmat, savemat  # type: ignore[import-untyped]

from featurebank.extract.datasets._matlab import read_mat

VARIABLES: dict[str, Any] = {
    "trnid": np.arange(1, 8, dtype=np.uint16),
    "weights": np.array([[1.5, np.nan, 3], [4, 5, 6]]),
    "one": 3.0,
    "none": np.zeros((0, 3)),
    "name": "image_00001.jpg",
    "names": np.array(["Images/a/1.jpg", "b", "c"], object),
    "lines": np.array(["abc", "def"]),
    "several": structs([{"fname": "a.jpg", "class": 3, "box": np.arange(4)}, {"fname": "b", "class": 4, "box": 0}]),
    "single": {"inner": {"WNID": "n01440764", "children": np.array([1, 2])}},
}


def written(compressed: bool = False) -> bytes:
    file = io.BytesIO()
    savemat(file, VARIABLES, do_compression=compressed)
    return file.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_c14_matlab_values_are_scipys(compressed: bool) -> None:
    content = written(compressed)
    expected = loadmat(io.BytesIO(content), simplify_cells=True)
    found = read_mat(content)
    assert found.keys() == VARIABLES.keys()
    assert found.pop("none").size == expected.pop("none").size == 0
    for name, value in found.items():
        np.testing.assert_equal(value, expected[name])


def test_c14_matlab_files_of_the_other_byte_order() -> None:
    def element(kind: int, body: bytes) -> bytes:
        return struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)

    flags, shape = struct.pack(">II", 9, 0), struct.pack(">ii", 1, 2)
    small = struct.pack(">HH4s", 1, 1, b"n")
    body = element(6, flags) + element(5, shape) + small + element(3, struct.pack(">hh", 1, 300))
    found = read_mat(bytes(124) + b"\x01\x00MI" + element(14, body))
    assert found["n"].tolist() == [1, 300]


@pytest.mark.parametrize("compressed", [False, True])
def test_c14_damaged_matlab_files_are_read_or_refused(compressed: bool) -> None:
    """Sizes, types, classes, dimensions, counts of fields: each byte of them set to what it must not be."""
    content = written(compressed)
    generator = np.random.default_rng(0)
    for _ in range(3000):
        damaged = bytearray(content)
        for place in generator.integers(124, len(content), 2).tolist():
            damaged[place] = int(generator.choice([0, 1, 14, 17, 127, 255, damaged[place] ^ 1]))
        with suppress(ValueError, zlib.error):
            read_mat(bytes(damaged[: int(generator.integers(len(content) // 2, 2 * len(content)))]))
