"""Damage that is found on the way: chunks hashed before their values are first handed out."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import independent_reader
import numpy as np
import pytest
from feature_sets import make_values
from numpy.typing import NDArray

from featurebank.store import CorruptError, FeatureSet, InvalidInputError, _chunks, _values

TOKENS_20 = r"output 'tokens', 1 chunk \(1\) .* chunk 1, rows 16 to 31"


@pytest.fixture
def damaged(sealed: Path) -> Path:
    """One bit of row 20 of ``tokens``, in chunk 1 (rows 16 to 31), is another."""
    data = bytearray(sealed.read_bytes())
    data[data.index(independent_reader.read(sealed).outputs["tokens"][20].tobytes()) + 2] ^= 1
    sealed.write_bytes(data)
    return sealed


READS: dict[str, Callable[[FeatureSet], Any]] = {
    "view": lambda fs: fs["tokens"],
    "load": lambda fs: fs.load("tokens"),
    "rows": lambda fs: fs.load("tokens", [3, 31]),
    "negative rows": lambda fs: fs.load("tokens", np.array([-54])),
    "mask": lambda fs: fs.load("tokens", np.arange(70) == 16),
    "slice": lambda fs: fs.load("tokens", slice(30, 0, -30)),
    "batches": lambda fs: list(fs.batches(7, outputs=["tokens"], shuffle=True)),
    "item": lambda fs: fs.to_torch("tokens")[20],
    "items": lambda fs: fs.to_torch("tokens").__getitems__([0, 20]),
}


@pytest.mark.parametrize("how", READS)
def test_reading_damaged_rows_is_refused_each_time(damaged: Path, how: str) -> None:
    with FeatureSet(damaged) as fs:
        READS[how](fs)
    with FeatureSet(damaged, verify="first_touch") as fs:
        for _ in range(2):
            with pytest.raises(CorruptError, match=TOKENS_20):
                READS[how](fs)


def test_what_lies_elsewhere_is_read(damaged: Path) -> None:
    values = make_values()
    with FeatureSet(damaged, verify="first_touch") as fs:
        np.testing.assert_array_equal(fs["pooled"], values["pooled"])
        np.testing.assert_array_equal(fs.load("tokens", [0, 15, 32, 69]), values["tokens"][[0, 15, 32, 69]])
        np.testing.assert_array_equal(fs.load("tokens", slice(32, None)), values["tokens"][32:])


def test_each_chunk_is_hashed_once(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    own = _chunks.checksum

    def counted(data: NDArray[np.uint8]) -> int:
        hashed.append(len(data))
        return own(data)

    monkeypatch.setattr(_values, "checksum", counted)
    with FeatureSet(sealed, verify="first_touch") as fs:
        for _ in range(3):
            fs.load("tokens", [20, 21])
        assert len(hashed) == 1
        for _ in range(3):
            _ = fs["tokens"]
        assert len(hashed) == 5
    with FeatureSet(sealed) as fs:
        _ = fs["tokens"]
    assert len(hashed) == 5


def test_other_processes_verify_too(damaged: Path) -> None:
    with FeatureSet(damaged, verify="first_touch") as fs:
        copy = pickle.loads(pickle.dumps(fs))  # noqa: S301
    with copy, pytest.raises(CorruptError, match=TOKENS_20):
        _ = copy["tokens"]


def test_another_word_is_refused(sealed: Path) -> None:
    with pytest.raises(InvalidInputError, match="verify must be one of header, first_touch; found 'all'"):
        FeatureSet(sealed, verify="all")  # type: ignore[arg-type]


def test_f7_a_slice_costs_its_rows(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    own = np.arange

    def counted(*given: Any, **settings: Any) -> Any:
        rows = own(*given, **settings)
        made.append(len(rows))
        return rows

    monkeypatch.setattr(np, "arange", counted)
    with FeatureSet(sealed) as fs, FeatureSet(sealed, verify="first_touch") as checked:
        for chosen in (slice(3, 6), slice(5, 2, -1), slice(4, 4)):
            expected = make_values()["tokens"]
            made.clear()
            np.testing.assert_array_equal(fs.load("tokens", chosen), expected[chosen])
            assert made == []
            np.testing.assert_array_equal(checked.load("tokens", chosen), expected[chosen])
            assert max(made, default=0) <= 3
