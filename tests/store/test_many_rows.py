"""What many rows cost: no Python object for each row stays, and no pass over all ranges for each task."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featurebank.extract.plan import task_rows
from featurebank.store import InvalidInputError, Output, Records, _disk, limits
from featurebank.store._layout import Contents, lay_out
from featurebank.store._manifest import decode
from featurebank.store._records import checked_records
from featurebank.store.fingerprint import records_digest

N = 150_000


def many_ids() -> list[str]:
    """Ids over several of the pieces in which they are encoded, the longest and a wide one in the last."""
    return [*(f"images/{row}" for row in range(N - 1)), "images/müller/the-longest"]


def records(ids: object) -> Records:
    return Records(ids=ids, labels=np.zeros(N, np.int64), content_hash=np.zeros((N, 16), np.uint8))  # type: ignore[arg-type]


def peak_of(case: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        case()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ids_in_pieces_are_stored_as_each_encodes() -> None:
    ids = many_ids()
    expected = np.array([name.encode("utf-8") for name in ids])
    for given in (ids, np.array(ids), np.array(ids, np.dtypes.StringDType())):
        found = checked_records(records(given))[0]["id"]
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()


def test_the_digest_of_ids_in_pieces_is_that_of_all_at_once() -> None:
    ids, labels, hashes = many_ids(), np.arange(N), np.ones((N, 16), np.uint8)
    encoded = [name.encode("utf-8") for name in ids]
    parts = [b"featurebank dataset 1\n", N.to_bytes(8, "little"), np.array([*map(len, encoded)], "<u4").tobytes()]
    parts += [b"".join(encoded), np.array([1, N], "<u8").tobytes(), labels.astype("<i8").tobytes(), hashes.tobytes()]
    expected = hashlib.sha256(b"".join(parts)).hexdigest()
    assert records_digest(ids, labels, hashes) == expected
    assert records_digest(np.array(ids, np.dtypes.StringDType()), labels, hashes) == expected
    assert records_digest(iter(ids), labels, hashes) == expected


def test_no_object_for_each_id_is_kept() -> None:
    ids = np.array([f"{row:012}" for row in range(N)], np.dtypes.StringDType())
    labels, hashes = np.zeros(N, np.int64), np.zeros((N, 16), np.uint8)
    pieces = 6 << 20
    # Encoded twice, in pieces and whole, and a hash each; a bytes object alone takes 45.
    assert peak_of(lambda: checked_records(records(ids))) < 32 * N + pieces
    assert peak_of(lambda: records_digest(ids, labels, hashes)) < 24 * N + pieces


def test_a_new_file_is_read_back_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_disk, "_SMALL_PIECE", 1 << 20)
    given = {"id": np.full(N, b"images/7"), "label": np.zeros(N, np.int64), "content_hash": np.zeros((N, 16), np.uint8)}
    outputs = (Output(name="pooled", shape=(2,)),)
    contents = Contents(key={}, provenance={}, outputs=outputs, records=given, columns={}, head={}, chunk_bytes=1 << 20)
    # Reasons alone, nothing but zeros yet, have 96 bytes a row.
    assert peak_of(lambda: lay_out(tmp_path / "set.h5.partial", contents).close()) < 48 * N


@pytest.mark.parametrize(("row", "name", "text"), [(149_000, "images/7", "row 149000 "), (70_000, "", "row 70000")])
def test_ids_that_cannot_be_stored_are_named_by_their_row(row: int, name: str, text: str) -> None:
    ids = many_ids()
    ids[row] = name
    with pytest.raises(InvalidInputError, match=text):
        checked_records(records(ids))


class Counted(tuple[tuple[int, int], ...]):
    """Ranges that count how many of them are looked at."""

    looked = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        found = super().__getitem__(index)
        type(self).looked += len(found) if isinstance(index, slice) else 1
        return found

    def __iter__(self):  # type: ignore[no-untyped-def]
        type(self).looked += len(self)
        return super().__iter__()


def test_a_task_looks_at_its_own_ranges_only() -> None:
    ranges = Counted((start, start + 2) for start in range(0, 400_000, 4))
    assert task_rows(ranges, 200_001, 200_009) == ((200_001, 200_002), (200_004, 200_006), (200_008, 200_009))
    assert Counted.looked < 64


def test_marks_after_the_last_brace_count_where_json_would_read_them() -> None:
    text = b'{"key":{"a":{},"b":[' + b"[]," * limits.MANIFEST_MARKS
    with pytest.raises(ValueError, match="brackets and commas"):
        decode(text)
