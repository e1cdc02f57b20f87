"""Only arrays and plain values come out of a pickle; nothing else in it is ever run or even named."""

from __future__ import annotations

import os
import pickle
import random
import tracemalloc
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


def test_c1_a_batch_of_cifar_as_python_2_wrote_it() -> None:
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
        b"U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x06\x00\x00\x00\x00\x01\x02\xfd\xfe\xfftbU\x06labels]q\x08(K\x06K\x09eu."
    )
    found = read_pickle(content)
    assert found["data"].tolist() == [[0, 1, 2], [253, 254, 255]]
    assert found["labels"] == [6, 9]
    found["data"][0, 0] = 7  # Arrays are one's own and may be written to.


def test_c1_truth_of_revisited_oxford() -> None:
    truth = {
        "imlist": ["a", "b"],
        "gnd": [{"bbx": [1.5, 2.0, 3.0, 4.0], "easy": np.array([0, 1]), "hard": np.array([], np.int64)}],
    }
    for protocol in range(6):
        np.testing.assert_equal(read_pickle(pickle.dumps(truth, protocol=protocol)), truth)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
DTYPE = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
ORDER = b"(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"


@pytest.mark.parametrize(
    "content",
    {
        "a class": b"cnumpy\nndarray\n.",
        "a class in a list": b"(cnumpy\ndtype\nl.",
        "memory that was never written": b"cnumpy\nndarray\n((I64\nttR.",
        "any dtype": b"cnumpy\ndtype\n(S'O'\ntR.",
        "a dtype of fields": b"cnumpy\ndtype\n(S'u1,u1'\ntR.",
        "a dtype that lies about its size": DTYPE + b"(I3\nS'|'\nNNNI4096\nI1\nI0\ntb.",
        "a dtype of fields by its state": DTYPE + b"(I3\nS'|'\nN(S'a'\nt}I16\nI1\nI27\ntb.",
        "a dtype changed twice": DTYPE + ORDER + ORDER + b".",
        "objects by their addresses": ARRAY + b"(I1\n(I1\ntcnumpy\ndtype\n(S'O'\nI0\nI1\ntRI00\n(lp0\ntb.",
        "an array whose state is set twice": ARRAY + (b"(I1\n(I1\nt" + DTYPE + ORDER + b"I00\nS'a'\ntb") * 2 + b".",
        "fewer bytes than values": ARRAY + b"(I1\n(I9\nt" + DTYPE + ORDER + b"I00\nS'a'\ntb.",
        "a negative length": ARRAY + b"(I1\n(I-1\nI-1\nt" + DTYPE + ORDER + b"I00\nS'a'\ntb.",
        "an item set in an array": ARRAY + b"I0\nI1\ns.",
        "an append to an array": ARRAY + b"I0\na.",
        "an item set in a list": b"(lI0\nI1\ns.",
        "attributes of a dict": b"(d}b.",
        "an array as a key": b"(d" + ARRAY + b"I1\ns.",
        "an instance": b"(inumpy\nndarray\n.",
        "an object": b"(cnumpy\nndarray\no.",
        "a new object": b"cnumpy\nndarray\n)\x81.",
        "a persistent id": b"Pabc\n.",
        "an extension": b"\x82\x01.",
        "a list in itself": b"(lp0\ng0\na.",
        "depth": b"]" * 200_000 + b"a" * 199_999 + b".",
        "a huge integer": b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".",
        "no string": b"S'abc\n.",
        "nothing before a mark": b"t.",
    }.values(),
)
def test_c1_hostile_pickles(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected a pickle"):
        read_pickle(content)


ENCODED = b"c_codecs\nencode\nq\x00X\x00\x00\x04\x00" + b"a" * (1 << 18) + b"q\x01("


@pytest.mark.parametrize(
    "content",
    {
        "a memo with a large key": b"Nr\xff\xff\xff\xff",
        "a long that is not there": b"\x8b\xff\xff\xff\x7f",
        "a text that is not there": b"\x8d" + b"\xff" * 7 + b"\x7f",
        "dicts": b"}" * 300_000,
        "one text encoded a thousand times": ENCODED + b"h\x00h\x01X\x06\x00\x00\x00latin1\x86R" * 1000 + b"l.",
        "one array of a large text a thousand times": b"S'" + b"a" * (1 << 18) + b"'\np0\n" + DTYPE + ORDER + b"p1\n("
        + (ARRAY + b"(I1\n(I262144\ntg1\nI00\ng0\ntb") * 1000 + b"l.",
    }.values(),
)  # fmt: skip
def test_c1_no_pickle_takes_much_more_memory_than_its_bytes(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("featurebank.extract.pickles.MAX_OPERATIONS", 100_000)  # A tenth of it, and of the memory.
    tracemalloc.start()
    with pytest.raises(ValueError, match="expected a pickle"):
        read_pickle(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 15e6


def test_c1_random_programs_are_refused_or_hold_plain_values() -> None:
    pieces = [
        b"(", b"N", b"I1\n", b"I-1\n", b"S'b'\n", b"K\x04", b"]", b"}", b")", b"l", b"t", b"d", b"a", b"e", b"s", b"u",
        b"R", b"b", b"\x85", b"\x86", b"\x87", b"q\x00", b"h\x00", b"p1\n", b"g1\n", b"\x94", b"\x89", b"C\x01a",
        b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", ARRAY, DTYPE, DTYPE + ORDER,
        b"(I1\n(I1\nt" + DTYPE + ORDER + b"I00\nS'a'\ntb", b"cnumpy.core.numeric\n_frombuffer\n",
    ]  # fmt: skip
    generator = random.Random(0)  # noqa: S311
    for _ in range(5000):
        try:
            found = read_pickle(b"".join(generator.choices(pieces, k=generator.randint(1, 12))) + b".")
        except ValueError:
            continue
        _assert_plain(found)


def _assert_plain(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        for item in value:
            _assert_plain(item)
    elif isinstance(value, dict):
        for item in value.values():
            _assert_plain(item)
    else:
        assert value is None or isinstance(value, (str, bytes, int, float, np.ndarray, np.generic))
        assert not isinstance(value, (np.ndarray, np.generic)) or value.dtype.kind in "biufc"
