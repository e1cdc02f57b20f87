"""Only arrays and plain values come out of a pickle; nothing else in it is ever run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurebank.extract.pickles import read_pickle


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "labels": [1, 2], "name": "é"},
        [(1, 2.5), None, True, {"a": {1: "b"}}],
        {"empty": np.array([], np.int64), "big": np.arange(3, dtype=">f4"), "scalar": np.float64(0.25)},
        {"bytes": b"\x00\xff", "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
    ],
)
def test_arrays_and_plain_values(value: Any, protocol: int) -> None:
    found = read_pickle(pickle.dumps(value, protocol=protocol))
    np.testing.assert_equal(found, value)


def test_a_pickle_of_python_2() -> None:
    """As CIFAR's: keys and data are byte strings, the array's module is the old one."""
    content = (
        b"(dp1\nS'labels'\np2\n(lp3\nI6\naI9\nasS'data'\np4\ncnumpy.core.multiarray\n_reconstruct\np5\n"
        b"(cnumpy\nndarray\np6\n(I0\ntS'b'\ntRp7\n(I1\n(I2\ntcnumpy\ndtype\np8\n(S'u1'\nI0\nI1\ntRp9\n"
        b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x07\\xff'\ntbs."
    )
    found = read_pickle(content)
    assert found["labels"] == [6, 9]
    assert found["data"].tolist() == [7, 255]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(ValueError, match=r"found a reference to (posix|os)\.mkdir; refused"):
        read_pickle(pickle.dumps({"data": Evil(tmp_path / "run")}, protocol=protocol))
    assert not (tmp_path / "run").exists()


# CPython 3.11 itself complains on stderr of a bytearray that a damaged pickle breaks off in.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_damaged_pickles_are_refused_or_hold_plain_values() -> None:
    whole = pickle.dumps({"data": np.arange(40, dtype=np.uint8), "labels": [1, 2], "name": "a"}, protocol=2)
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), 2):
            content[place] = generator.integers(0, 256)
        try:
            read_pickle(bytes(content))
        except ValueError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize(
    "content",
    [
        b"cnumpy\nload\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(I0\ntS'b'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"c_codecs\nencode\n(S'eJw='\nS'zip'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'abcdefgh'\ntR.",
        b"",
        b"no pickle",
        pickle.dumps(np.arange(1000))[:-500],
    ],
)
def test_what_is_no_pickle_of_arrays(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_pickle(content)
