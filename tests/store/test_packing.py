"""Packed copies: smaller, read by the same reader, unpacked to the same bytes, refused when damaged."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from feature_sets import FAILED_ROW, KEY, N_ROWS, REASON, make_records, make_values, make_writer
from resealing import with_table

from featurebank.store import (
    CorruptError,
    ExistsError,
    FeatureSet,
    FeatureSetWriter,
    FeatureStore,
    InvalidInputError,
    Output,
    Records,
    StoreError,
    _packed,
    _packing,
)
from featurebank.store.fingerprint import fingerprint

pytest.importorskip("hdf5plugin")
VALUES = make_values()


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packing, "_CHUNK_BYTES", 1024)


@pytest.fixture
def packed(sealed: Path) -> Path:
    path = sealed.with_name("packed.h5")
    with FeatureSet(sealed) as fs:
        fs.pack(path).close()
    return path


def test_the_same_reader_reads_the_same(packed: Path, sealed: Path) -> None:
    with FeatureSet(packed) as fs, FeatureSet(sealed) as original:
        assert (fs.fingerprint, fs.manifest, fs.outputs) == (
            original.fingerprint,
            original.manifest,
            original.outputs,
        )
        for name, values in VALUES.items():
            np.testing.assert_array_equal(fs[name], values, strict=True)
            np.testing.assert_array_equal(fs.load(name), values, strict=True)
            for rows in (
                [3, 3, -1, 69, 0],
                np.arange(N_ROWS) % 3 == 0,
                slice(5, 61),
                slice(60, 5, -7),
                [],
                slice(9, 9),
            ):
                np.testing.assert_array_equal(fs.load(name, rows), original.load(name, rows), strict=True)
            with pytest.raises(IndexError):
                fs.load(name, [N_ROWS])
        assert not fs["pooled"].flags.writeable
        np.testing.assert_array_equal(fs.ids, original.ids)
        np.testing.assert_array_equal(fs.content_hash, original.content_hash)
        assert fs.reasons == {FAILED_ROW: REASON}
        assert fs.head is not None
        for batch in fs.batches(7, shuffle=True):
            np.testing.assert_array_equal(batch["tokens"], VALUES["tokens"][batch["rows"]])
        np.testing.assert_array_equal(fs.to_torch("pooled")[5][0], VALUES["pooled"][5])
        copy = pickle.loads(pickle.dumps(fs))  # noqa: S301
        np.testing.assert_array_equal(copy.load("pooled", [7]), VALUES["pooled"][[7]])
        report = fs.verify()
        assert (report.ok, report.n_rows, report.n_failed) == (True, N_ROWS, 1)


def test_unpacking_gives_the_bytes_there_were(packed: Path, sealed_bytes: bytes) -> None:
    path = packed.with_name("again.h5")
    with FeatureSet(packed) as fs:
        fs.unpack(path).close()
    assert path.read_bytes() == sealed_bytes


def test_an_unpacking_that_was_cut_short_is_gone_on_with(packed: Path, sealed_bytes: bytes) -> None:
    path = packed.with_name("again.h5")
    with FeatureSet(packed) as fs:
        fs.unpack(path).close()
        path.rename(path.with_name("again.h5.partial"))
        fs.unpack(path).close()
    assert path.read_bytes() == sealed_bytes


def test_another_keys_partial_is_left_alone(packed: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    make_writer(path, key={"other": 1}).close()
    with FeatureSet(packed) as fs, pytest.raises(ExistsError, match="already exists"):
        fs.unpack(path)
    assert path.with_name("other.h5.partial").exists()


def test_hdf5_reads_it_too(packed: Path) -> None:
    import hdf5plugin  # noqa: F401 - registers the filter

    with h5py.File(packed, "r") as file:
        for name, values in VALUES.items():
            np.testing.assert_array_equal(file["outputs"][name][:], values, strict=True)
            assert len(file["packed"][name]) == len(list(file["outputs"][name].iter_chunks()))


def test_it_is_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features after a ReLU: half of them zero, the others of few magnitudes."""
    monkeypatch.undo()
    n, width = 2000, 256
    values = np.maximum(np.random.default_rng(0).standard_normal((n, width)), 0).astype(np.float16)
    made = make_records(n)
    records = Records(ids=made.ids, labels=made.labels, content_hash=made.content_hash)
    with FeatureSetWriter.create(
        tmp_path / "a.h5", key=KEY, outputs=[Output(name="pooled", shape=(width,))], records=records
    ) as writer:
        rows = writer.chunk_rows("pooled")
        for index in range(writer.n_chunks("pooled")):
            writer.write_chunk("pooled", index, values[index * rows : (index + 1) * rows])
        writer.mark_ok(0, n)
        with writer.seal() as fs, fs.pack(tmp_path / "b.h5") as packed:
            nbytes = int(packed.header.indexes["pooled"][:, 1].sum())
            np.testing.assert_array_equal(packed["pooled"], values)
    assert nbytes < 0.7 * values.nbytes
    sizes = [(tmp_path / name).stat().st_size for name in ("a.h5", "b.h5")]
    assert sizes[1] < sizes[0] - 0.25 * values.nbytes


def test_every_flipped_byte_is_found(packed: Path) -> None:
    original = packed.read_bytes()
    data = np.frombuffer(original, np.uint8)
    places = np.union1d(np.flatnonzero(data)[::23], np.arange(0, len(data), 211)).tolist()
    missed = []
    for place in places:
        packed.write_bytes(original[:place] + bytes([original[place] ^ 0x10]) + original[place + 1 :])
        try:
            with FeatureSet(packed) as fs:
                fs.verify()
        except StoreError:
            continue
        missed.append(place)
    assert missed == []


def test_damage_is_found_on_the_way(packed: Path) -> None:
    with FeatureSet(packed) as fs:
        address, nbytes, _ = fs.header.indexes["tokens"][5].tolist()
    data = bytearray(packed.read_bytes())
    data[address + nbytes // 2] ^= 1
    packed.write_bytes(data)
    with FeatureSet(packed) as fs:
        np.testing.assert_array_equal(fs.load("tokens", [0, 19, 24]), VALUES["tokens"][[0, 19, 24]])
        for read in (lambda: fs["tokens"], lambda: fs.load("tokens", [21]), fs.verify):
            with pytest.raises(CorruptError, match="'tokens', packed chunk 5, rows 20 to 23, must have its recorded"):
                read()


def test_a_frame_of_another_size_never_reaches_the_decompressor(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_packed, "_frame", lambda _: (1 << 40, 1 << 40))
    with FeatureSet(packed) as fs, pytest.raises(CorruptError, match="must say that it holds a whole chunk"):
        fs.load("pooled", [0])


@pytest.mark.parametrize("changes", [{"packed_rows": 0}, {"packed_rows": 71}, {"packed_rows": 5}, {"index": None}])
def test_hostile_tables_are_refused(packed: Path, changes: dict[str, object]) -> None:
    with_table(packed, lambda table: table["outputs"][0].update(changes))
    with pytest.raises(CorruptError, match="malformed"):
        FeatureSet(packed)


def test_hostile_indexes_are_refused(packed: Path) -> None:
    with FeatureSet(packed) as fs:
        index = fs.table.outputs[0].index
        assert index is not None
    original = packed.read_bytes()
    for address, nbytes in ((1 << 63, 8), (0, 8), (len(original) - 4, 8), (index.address, 8), (8192, (1 << 64) - 1)):
        entry = np.array([address, nbytes], "<u8").tobytes()
        packed.write_bytes(original[: index.address] + entry + original[index.address + 16 :])
        with pytest.raises(CorruptError, match="packed chunk"):
            FeatureSet(packed)


def test_a_store_of_packed_copies(tmp_path: Path, packed: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    path = store.path_for("demo", "test", "tiny/net", fingerprint(KEY))
    path.parent.mkdir(parents=True)
    packed.rename(path)
    assert [entry.state for entry in store.ls()] == ["sealed"]
    assert [report.error for report in store.verify()] == [""]
    with store.open("demo/test", "tiny/net") as fs:
        np.testing.assert_array_equal(fs.load("pooled", [1]), VALUES["pooled"][[1]])


def test_nothing_is_replaced_or_packed_twice(packed: Path, sealed: Path, tmp_path: Path) -> None:
    with FeatureSet(sealed) as fs:
        with pytest.raises(ExistsError, match="already exists"):
            fs.pack(packed)
        with pytest.raises(InvalidInputError, match="must be packed"):
            fs.unpack(tmp_path / "new.h5")
    with FeatureSet(packed) as fs, pytest.raises(InvalidInputError, match="cannot be packed again"):
        fs.pack(tmp_path / "new.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.h5", "packed.h5"]


def test_damaged_sets_are_not_packed(sealed: Path) -> None:
    data = bytearray(sealed.read_bytes())
    data[data.index(VALUES["tokens"][20].tobytes())] ^= 1
    sealed.write_bytes(data)
    for verify in ("header", "first_touch"):
        with FeatureSet(sealed, verify) as fs, pytest.raises(CorruptError, match=r"output 'tokens', 1 chunk \(1\)"):
            fs.pack(sealed.with_name("new.h5"))
    assert not sealed.with_name("new.h5").exists()


def test_one_row_and_wide_rows(tmp_path: Path) -> None:
    values = {"pooled": np.full((1, 3000), 0.5, np.float16)}
    made = make_records(1)
    with make_writer(
        tmp_path / "a.h5", outputs=[Output(name="pooled", shape=(3000,))], records=made, head=None
    ) as writer:
        writer.write_chunk("pooled", 0, values["pooled"])
        writer.mark_ok(0, 1)
        with writer.seal() as fs, fs.pack(tmp_path / "b.h5") as packed:
            np.testing.assert_array_equal(packed["pooled"], values["pooled"])
            packed.unpack(tmp_path / "c.h5").close()
    assert (tmp_path / "c.h5").read_bytes() == (tmp_path / "a.h5").read_bytes()
