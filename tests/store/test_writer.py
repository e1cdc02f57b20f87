"""The writer: what it refuses, what resume finds, and a seal that is the same every time."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import FAILED_ROW, KEY, N_ROWS, OUTPUTS, fill, make_head, make_records, make_sealed, make_values
from feature_sets import make_writer as create
from numpy.typing import NDArray

from featurebank.store import (
    CorruptError,
    ExistsError,
    FeatureSet,
    FeatureSetWriter,
    IncompleteError,
    InvalidInputError,
    LockedError,
    NonFiniteError,
    NotFoundError,
    Output,
    Records,
    StorageError,
)
from featurebank.store._disk import Disk
from featurebank.store.fingerprint import fingerprint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "demo.h5"


def test_layout_says_what_is_to_be_written(path: Path) -> None:
    with create(path) as writer:
        assert (writer.n_rows, writer.outputs, writer.fingerprint) == (N_ROWS, OUTPUTS, fingerprint(KEY))
        assert writer.manifest == {"key": KEY, "provenance": {}}
        assert writer.partial_path == path.with_name("demo.h5.partial")
        assert [(writer.chunk_rows(o.name), writer.n_chunks(o.name)) for o in OUTPUTS] == [(32, 3), (16, 5), (70, 1)]
        assert all(writer.pending(o.name).all() for o in OUTPUTS)
        assert [p.name for p in path.parent.iterdir()] == ["demo.h5.partial"]


@pytest.mark.parametrize("rows", [1, 3, 31, 64, 513, 1281])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_chunks_are_whole_pages_and_nest(tmp_path: Path, rows: int, dtype: str) -> None:
    outputs = [Output(name="a", shape=(rows,), dtype=dtype)]
    n = 5000
    with create(tmp_path / "a.h5", outputs=outputs, records=make_records(n), head=None, chunk_bytes=1) as writer:
        chunk = writer.chunk_rows("a")
        assert chunk <= 2048
        assert chunk & (chunk - 1) == 0
        assert chunk * rows * np.dtype(dtype).itemsize % 4096 == 0


def test_rows_larger_than_a_chunk_may_be_have_one_each(tmp_path: Path) -> None:
    outputs = [Output(name="a", shape=((4 << 20) + 1,), dtype="float32")]
    with create(tmp_path / "a.h5", outputs=outputs, records=make_records(3), head=None) as writer:
        assert (writer.chunk_rows("a"), writer.n_chunks("a")) == (1, 3)
        rows = np.arange(3, dtype=np.float32)[:, None].repeat((4 << 20) + 1, axis=1)
        for row in range(3):
            writer.write_chunk("a", row, rows[row : row + 1])
        writer.mark_ok(0, 3)
        with writer.seal() as fs:
            np.testing.assert_array_equal(fs["a"][:, -1], [0, 1, 2])
            fs.verify()


def test_pending_until_committed(path: Path) -> None:
    values = make_values()["pooled"]
    with create(path) as writer:
        writer.write_chunk("pooled", 1, values[32:64])
        assert writer.pending("pooled").tolist() == [True, True, True]
        assert writer.commit() == 1
        assert writer.pending("pooled").tolist() == [True, False, True]
        assert writer.commit() == 0
        writer.write_chunk("pooled", 1, values[:32])
        assert writer.pending("pooled").tolist() == [True, True, True]


def test_a_chunk_written_during_a_commit_goes_to_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values, sync = make_values()["pooled"], Disk.sync
    with create(path) as writer:
        writer.write_chunk("pooled", 0, values[32:64])
        writer.write_chunk("pooled", 1, values[32:64])

        def sync_meanwhile(disk: Disk) -> None:
            writer.write_chunk("pooled", 0, values[:32])
            writer.write_chunk("pooled", 2, values[64:])
            sync(disk)

        with monkeypatch.context() as patch:
            patch.setattr(Disk, "sync", sync_meanwhile)
            assert writer.commit() == 2
        assert writer.pending("pooled").tolist() == [True, False, True]
        assert writer.commit() == 2
    with FeatureSetWriter.resume(path) as writer:
        assert writer.pending("pooled").tolist() == [False, False, False]


def test_chunks_have_at_most_2048_rows(tmp_path: Path) -> None:
    outputs = [Output(name="a", shape=())]
    with create(
        tmp_path / "a.h5", outputs=outputs, records=make_records(5000), head=None, chunk_bytes=2 << 20
    ) as writer:
        assert (writer.chunk_rows("a"), writer.n_chunks("a")) == (2048, 3)


def test_resume_finds_what_was_committed(path: Path) -> None:
    values = make_values()["pooled"]
    with create(path) as writer:
        writer.write_chunk("pooled", 0, values[:32])
        writer.mark_ok(0, 32)
        writer.mark_failed(5, "broken")
    with FeatureSetWriter.resume(path) as writer:
        assert writer.pending("pooled").tolist() == [False, True, True]
        assert writer.pending("tokens").all()
        assert writer.status.tolist() == [1] * 5 + [2] + [1] * 26 + [0] * (N_ROWS - 32)


def test_resume_hashes_again(path: Path) -> None:
    with create(path) as writer:
        fill(writer, make_values())
    data = bytearray(writer.partial_path.read_bytes())
    data[data.index(make_values()["pooled"][33].tobytes())] ^= 1
    writer.partial_path.write_bytes(data)
    with FeatureSetWriter.resume(path) as writer:
        assert writer.pending("pooled").tolist() == [False, True, False]
        assert not writer.pending("tokens").any()


def test_resumed_file_is_the_same_to_the_byte(path: Path, sealed_bytes: bytes) -> None:
    values = make_values()
    with create(path) as writer:
        writer.mark_failed(3, "a reason that goes away")
        writer.write_chunk("tokens", 2, values["tokens"][32:48])
    with FeatureSetWriter.resume(path) as writer:
        writer.set_provenance({"device": "gpu"})
        fill(writer, values)
        writer.seal(provenance={}).close()
    assert path.read_bytes() == sealed_bytes
    assert list(path.parent.iterdir()) == [path]


def test_seal_is_the_same_but_for_provenance(tmp_path: Path, sealed_bytes: bytes) -> None:
    with create(tmp_path / "b.h5", provenance={"device": "cpu"}) as writer:
        fill(writer, make_values())
        with writer.seal({"device": "gpu", "seconds": 1.5}) as fs:
            assert fs.provenance == {"device": "gpu", "seconds": 1.5}
            fs.verify()
    data = np.frombuffer((tmp_path / "b.h5").read_bytes(), np.uint8)
    before = np.frombuffer(sealed_bytes, np.uint8)
    changed = np.flatnonzero(data != before)
    manifest = sealed_bytes.index(b'{"key":')
    assert {*changed[changed < manifest].tolist()} <= {*range(64, 80)}
    assert changed[changed > manifest].max() < manifest + 400


def test_seal_names_what_is_missing(path: Path) -> None:
    values = make_values()["pooled"]
    with create(path) as writer:
        writer.write_chunk("pooled", 1, values[32:64])
        writer.mark_ok(2, N_ROWS)
        with pytest.raises(IncompleteError) as caught:
            writer.seal()
    text = str(caught.value)
    assert "2 chunks of 'pooled' (0, 2)" in text
    assert "1 chunk of 'blocks.9.cls' (0)" in text
    assert "the status of 2 rows (0, 1)" in text
    assert writer.partial_path.exists()


def test_seal_refuses_to_replace(path: Path) -> None:
    with create(path) as writer:
        fill(writer, make_values())
        path.write_bytes(b"mine")
        with pytest.raises(ExistsError, match="already exists"):
            writer.seal()
    assert path.read_bytes() == b"mine"


def test_resume_after_a_crash_between_seal_and_rename(path: Path, sealed_bytes: bytes) -> None:
    path.parent.mkdir()
    path.with_name("demo.h5.partial").write_bytes(sealed_bytes)
    with FeatureSetWriter.resume(path) as writer:
        assert not any(writer.pending(o.name).any() for o in OUTPUTS)
        writer.seal().close()
    assert path.read_bytes() == sealed_bytes


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -np.nan])
def test_non_finite_values_are_refused(path: Path, value: float, dtype: str) -> None:
    with create(path, outputs=[Output(name="a", shape=(64,), dtype=dtype)], chunk_bytes=1) as writer:
        rows = writer.chunk_rows("a")
        extremes = np.array([np.finfo(dtype).max, np.finfo(dtype).min, -0.0, np.finfo(dtype).smallest_subnormal])
        values = np.resize(extremes.astype(dtype), (rows, 64))
        writer.write_chunk("a", 1, values)
        values[3, 7] = values[5, 0] = value
        with pytest.raises(NonFiniteError, match=rf"output 'a' .* 2 rows: {rows + 3}, {rows + 5};"):
            writer.write_chunk("a", 1, values)


@pytest.mark.parametrize(
    ("name", "index", "values", "message"),
    [
        ("pooled", 0, np.zeros((32, 64)), r"float16 \(32, 64\); found float64 \(32, 64\)"),
        ("pooled", 0, np.zeros((31, 64), np.float16), r"found float16 \(31, 64\)"),
        ("pooled", 2, np.zeros((32, 64), np.float16), r"must be float16 \(6, 64\)"),
        ("pooled", 0, np.zeros((32, 64), ">f2"), "must be float16"),
        ("pooled", 3, np.zeros((32, 64), np.float16), "must be 0 to 2; found 3"),
        ("pooled", -1, np.zeros((32, 64), np.float16), "must be 0 to 2; found -1"),
    ],
)
def test_wrong_chunks_are_refused(path: Path, name: str, index: int, values: NDArray[Any], message: str) -> None:
    with create(path) as writer, pytest.raises(InvalidInputError, match=message):
        writer.write_chunk(name, index, values)


def test_unknown_output_names_the_nearest(path: Path) -> None:
    with create(path) as writer, pytest.raises(NotFoundError, match="did you mean 'pooled'"):
        writer.pending("poold")


def _records(**changes: Any) -> Records:
    return dataclasses.replace(make_records(), **changes)


_IDS = list(make_records().ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": []}, "at least one output"),
        ({"outputs": [Output(name="a/b", shape=(3,))]}, "letters, digits"),
        ({"outputs": [Output(name="..", shape=(3,))]}, "letters, digits"),
        ({"outputs": [Output(name="rows", shape=(3,))]}, "none of labels, rows"),
        ({"outputs": [Output(name="a", shape=(3,)), Output(name="a", shape=(4,))]}, "'a' twice"),
        ({"outputs": [Output(name="a", shape=(0,))]}, "positive ints"),
        ({"outputs": [Output(name="a", shape=(3,), dtype="bfloat16")]}, "float16 or float32"),
        ({"records": _records(ids=[])}, "at least one record"),
        ({"records": _records(ids=["", *_IDS[1:]])}, "empty id in row 0"),
        ({"records": _records(ids=[*_IDS[:-1], _IDS[0]])}, r"again in row 69 \(1 duplicates\)"),
        ({"records": _records(ids=["x" * 1025, *_IDS[1:]])}, "1025 bytes"),
        ({"records": _records(ids=["x\0y", *_IDS[1:]])}, "without NUL"),
        ({"records": _records(ids=["\ud800", *_IDS[1:]])}, "valid Unicode"),
        ({"records": _records(ids=[3, *_IDS[1:]])}, "must be str; found int in row 0"),
        ({"records": _records(labels=np.zeros(69, np.int64))}, r"found int64 \(69,\)"),
        ({"records": _records(labels=np.zeros(70, np.int32))}, "found int32"),
        ({"records": _records(labels=np.zeros((70, 0), np.int64))}, r"\(70, 0\)"),
        ({"records": _records(content_hash=np.zeros((70, 8), np.uint8))}, "content_hash"),
        ({"records": _records(columns={"id/": np.zeros(70)})}, "a column's name"),
        ({"records": _records(columns={"a": np.zeros(69)})}, "one value per id"),
        ({"records": _records(columns={"a": np.array([None] * 70)})}, "found object"),
        ({"head": (np.zeros((2, 3), np.float32), np.zeros(3, np.float32))}, "weight"),
        ({"head": (np.zeros((2, 3), np.float32), np.array([0, np.nan], np.float32))}, "finite"),
        ({"chunk_bytes": 0}, "chunk_bytes"),
        ({"chunk_bytes": 1 << 30}, "chunk_bytes"),
        ({"key": []}, "mapping"),
    ],
)
def test_what_cannot_be_stored_is_refused(path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((InvalidInputError, TypeError), match=message):
        create(path, **changes)
    assert not path.parent.exists() or not list(path.parent.iterdir())


def test_paths_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"end in \.h5"):
        create(tmp_path / "demo.hdf5")
    with pytest.raises(InvalidInputError, match=r"must be named after its fingerprint"):
        create(tmp_path / "0123456789abcdef.h5")
    with pytest.raises(NotFoundError, match="no such file"):
        FeatureSetWriter.resume(tmp_path / "absent.h5")


def test_existing_files_are_kept(path: Path, sealed: Path) -> None:
    with create(path) as writer:
        before = writer.partial_path.read_bytes()
        with pytest.raises(ExistsError, match=r"resume it with FeatureSetWriter\.resume"):
            create(path)
        assert writer.partial_path.read_bytes() == before
        assert list(path.parent.iterdir()) == [writer.partial_path]
    for attempt in (create, FeatureSetWriter.resume):
        with pytest.raises(ExistsError, match="already exists: it is sealed"):
            attempt(sealed)


def test_one_writer_at_a_time(path: Path) -> None:
    with create(path) as writer:
        with pytest.raises(LockedError, match="another writer"):
            FeatureSetWriter.resume(path)
        writer.commit()
    FeatureSetWriter.resume(path).close()


def test_closed_writer_says_so(path: Path) -> None:
    with create(path) as writer:
        pass
    with pytest.raises(InvalidInputError, match="is closed; resume"):
        writer.mark_ok(0, 1)
    with pytest.raises(InvalidInputError, match="is closed; resume"):
        writer.write_chunk("pooled", 0, make_values()["pooled"][:32])


def test_an_error_does_not_commit(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), create(path) as writer:  # noqa: PT012
        writer.write_chunk("pooled", 0, make_values()["pooled"][:32])
        raise ZeroDivisionError
    with FeatureSetWriter.resume(path) as writer:
        assert writer.pending("pooled").all()


def test_reasons_are_cut_at_a_character(path: Path) -> None:
    with create(path) as writer:
        fill(writer, make_values())
        writer.mark_failed(0, "a" + "ü" * 60)
        writer.mark_ok(FAILED_ROW, FAILED_ROW + 1)
        with writer.seal() as fs:
            assert fs.reasons == {0: "a" + "ü" * 47}


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 71)])
def test_rows_outside_are_refused(path: Path, start: int, stop: int) -> None:
    with create(path) as writer:
        with pytest.raises(InvalidInputError, match="rows must lie within 0 to 70"):
            writer.mark_ok(start, stop)
        with pytest.raises(InvalidInputError, match="a row must lie within 0 to 69"):
            writer.mark_failed(-1 if start < 0 else 70, "")


def test_provenance_may_grow_by_64_kib(path: Path) -> None:
    with create(path) as writer:
        writer.set_provenance({"log": "x" * 65_000})
        writer.set_provenance({"log": "y"})
        with pytest.raises(InvalidInputError, match="must fit into"):
            writer.set_provenance({"log": "x" * 80_000})
    with FeatureSetWriter.resume(path) as writer:
        assert writer.manifest["provenance"] == {"log": "y"}
    with create(path.with_name("large.h5"), provenance={"log": "x" * 200_000}) as writer:
        assert len(writer.manifest["provenance"]["log"]) == 200_000


def test_a_provenance_cut_short_costs_only_itself(path: Path) -> None:
    with create(path, provenance={"log": "x" * 1000}) as writer:
        pass
    data = bytearray(writer.partial_path.read_bytes())
    start = data.index(b'"provenance":')
    data[start + 50 : start + 60] = b'"}}       '
    writer.partial_path.write_bytes(data)
    with FeatureSetWriter.resume(path) as writer:
        assert writer.manifest == {"key": KEY, "provenance": {}}
    data[data.index(b'"cat"') + 1] = ord("b")
    writer.partial_path.write_bytes(data)
    with pytest.raises(CorruptError, match="its key must have the fingerprint"):
        FeatureSetWriter.resume(path)


def test_threads_write_while_another_commits(path: Path, sealed_bytes: bytes) -> None:
    values = make_values()
    with create(path) as writer:
        jobs = [(o.name, index) for o in writer.outputs for index in range(writer.n_chunks(o.name))]

        def write(share: list[tuple[str, int]]) -> None:
            for name, index in share:
                rows = writer.chunk_rows(name)
                writer.write_chunk(name, index, values[name][index * rows : (index + 1) * rows])
                writer.commit()

        threads = [threading.Thread(target=write, args=(jobs[k::3],)) for k in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not any(writer.pending(o.name).any() for o in OUTPUTS)
        fill(writer, values)
        writer.seal().close()
    assert path.read_bytes() == sealed_bytes


def _refuse(code: int) -> Any:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_full_disk_shows_at_creation(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", _refuse(errno.ENOSPC))
    with pytest.raises(StorageError) as caught:
        create(path)
    assert caught.value.errno == errno.ENOSPC
    pattern = (
        rf"cannot reserve \d+ bytes in {re.escape(str(path))}\.partial: .* \(\d+ bytes are free\); free some space"
    )
    assert re.search(pattern, str(caught.value))
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_failing_disk_keeps_what_was_committed(path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    values = make_values()["pooled"]
    with create(path) as writer:
        writer.write_chunk("pooled", 0, values[:32])
        writer.commit()
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", _refuse(code))
            with pytest.raises(
                StorageError, match=rf"cannot write 4096 bytes in {re.escape(str(writer.partial_path))}"
            ):
                writer.write_chunk("pooled", 1, values[32:64])
        writer.write_chunk("pooled", 2, values[64:])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", _refuse(code))
            with pytest.raises(StorageError, match="cannot sync"):
                writer.commit()
        assert writer.commit() == 0
        assert writer.pending("pooled").tolist() == [False, True, True]
    with FeatureSetWriter.resume(path) as writer:
        assert writer.pending("pooled").tolist() == [False, True, True]


def test_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot create"):
        create(tmp_path / "file" / "demo.h5")


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch, sealed_bytes: bytes) -> None:
    real = os.pwrite
    with create(path) as writer:
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[:1000], at))
        fill(writer, make_values())
        writer.seal().close()
    assert path.read_bytes() == sealed_bytes


def test_a_writer_that_sealed_meanwhile_is_noticed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(path) as writer:
        fill(writer, make_values())
    real = Disk.__init__

    def renamed_after_opening(self: Disk, file: Path, *, writable: bool = False) -> None:
        real(self, file, writable=writable)
        file.unlink()

    monkeypatch.setattr(Disk, "__init__", renamed_after_opening)
    with pytest.raises(NotFoundError, match="sealed or deleted it meanwhile"):
        FeatureSetWriter.resume(path)


def test_multi_label_and_headless_sets(path: Path) -> None:
    labels = np.arange(140).reshape(70, 2)
    with create(path, records=dataclasses.replace(make_records(), labels=labels, columns={}), head=None) as writer:
        fill(writer, make_values())
        with writer.seal() as fs:
            np.testing.assert_array_equal(fs.labels, labels, strict=True)
            assert (fs.head, fs.columns) == (None, {})


def test_many_outputs_and_columns(path: Path) -> None:
    """More than HDF5 keeps links for in one object header, and a header of more than one page."""
    outputs = [Output(name=f"blocks.{k}.cls", shape=(k + 1,)) for k in range(40)]
    columns = {f"c{k}": np.arange(70, dtype=f"<i{2 ** (k % 4)}") for k in range(40)}
    values = {o.name: np.full((70, *o.shape), k, np.float16) for k, o in enumerate(outputs)}
    with create(path, outputs=outputs, records=dataclasses.replace(make_records(), columns=columns)) as writer:
        fill(writer, values)
        with writer.seal() as fs:
            fs.verify()
            for name, expected in values.items():
                np.testing.assert_array_equal(fs[name], expected, strict=True)
            for name, column in columns.items():
                np.testing.assert_array_equal(fs.columns[name], column, strict=True)


def test_big_endian_input_is_stored_little_endian(path: Path) -> None:
    head = (make_head()[0].astype(">f4"), make_head()[1].astype(">f4"))
    columns = {"a": np.arange(70, dtype=">i4")}
    make_sealed(path, head=head, records=dataclasses.replace(make_records(), columns=columns)).close()
    with FeatureSet(path) as fs:
        assert fs.head is not None
        np.testing.assert_array_equal(fs.head[0], make_head()[0], strict=True)
        np.testing.assert_array_equal(fs.columns["a"], np.arange(70, dtype="<i4"), strict=True)
