"""The format: golden bytes, an independent reader, other HDF5 readers, and damage of every kind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import independent_reader
import numpy as np
import pytest
import xxhash
from feature_sets import FAILED_ROW, KEY, N_ROWS, OUTPUTS, REASON, make_head, make_records, make_sealed, make_values
from resealing import reseal, with_table

from featurebank.store import (
    CorruptError,
    FeatureSet,
    FormatVersionError,
    NotAFeatureSetError,
    NotFoundError,
    NotSealedError,
    StoreError,
)
from featurebank.store._header import FORMAT_VERSIONS

GOLDEN = Path(__file__).with_name("golden_v1.h5")
GOLDEN_SHA256 = {  # a file of each version, read for ever
    1: "e8140ed70dc7488bc1855980b1491b5795826b2a2774ee9830674dd0358a3436",
    2: "4512a93459ea57566183c84f15000eb85c584dcfb1cbc3735dd00ecd7be7046e",
}
# The layout's unused bytes are HDF5's business; releases that place arrays elsewhere write another, equally valid file.
GOLDEN_HDF5 = (2, 0, 0)


def golden(version: int) -> Path:
    return GOLDEN.with_name(f"golden_v{version}.h5")


def test_every_version_has_a_golden_file_which_is_unchanged() -> None:
    assert tuple(GOLDEN_SHA256) == FORMAT_VERSIONS
    for version, digest in GOLDEN_SHA256.items():
        content = golden(version).read_bytes()
        assert int.from_bytes(content[8:12], "little") == version
        assert hashlib.sha256(content).hexdigest() == digest


@pytest.mark.skipif(h5py.h5.get_libversion() != GOLDEN_HDF5, reason="another HDF5 release may place arrays elsewhere")
def test_same_inputs_give_the_golden_bytes(sealed_bytes: bytes) -> None:
    assert sealed_bytes == GOLDEN.read_bytes()


@pytest.mark.parametrize("version", GOLDEN_SHA256)
def test_golden_file_reads_and_verifies(version: int) -> None:
    if version > 1:
        pytest.importorskip("hdf5plugin")
    with FeatureSet(golden(version)) as fs:
        values, records, head = make_values(), make_records(), make_head()
        assert fs.outputs == tuple(o.name for o in OUTPUTS)
        for output in OUTPUTS:
            assert fs.info(output.name) == output
            np.testing.assert_array_equal(fs[output.name], values[output.name], strict=True)
        assert fs.ids.tolist() == list(records.ids)
        np.testing.assert_array_equal(fs.labels, records.labels, strict=True)
        np.testing.assert_array_equal(fs.content_hash, records.content_hash, strict=True)
        assert fs.columns.keys() == records.columns.keys()
        for name, column in records.columns.items():
            np.testing.assert_array_equal(fs.columns[name], column, strict=True)
        assert fs.head is not None
        np.testing.assert_array_equal(fs.head[0], head[0], strict=True)
        np.testing.assert_array_equal(fs.head[1], head[1], strict=True)
        assert (fs.manifest, fs.class_names) == ({"key": KEY, "provenance": {}}, ["cat", "dog"])
        assert np.flatnonzero(~fs.ok).tolist() == [FAILED_ROW]
        assert fs.reasons == {FAILED_ROW: REASON}
        report = fs.verify()
        assert (report.ok, report.n_rows, report.n_failed) == (True, N_ROWS, 1)
        assert report.chunks.keys() == {"pooled", "tokens", "blocks.9.cls"}
        assert version > 1 or report.chunks == {"pooled": 3, "tokens": 5, "blocks.9.cls": 1}


def test_independent_reader_agrees() -> None:
    read = independent_reader.read(GOLDEN)
    values, records = make_values(), make_records()
    assert read.manifest == {"key": KEY, "provenance": {}}
    text = json.dumps(KEY, sort_keys=True, separators=(",", ":"))
    assert read.fingerprint == hashlib.sha256(text.encode()).hexdigest()
    assert read.outputs.keys() == values.keys()
    for name in values:
        np.testing.assert_array_equal(read.outputs[name], values[name], strict=True)
    assert [name.decode() for name in read.records["id"]] == list(records.ids)
    np.testing.assert_array_equal(read.records["label"], records.labels)
    np.testing.assert_array_equal(read.records["content_hash"], records.content_hash)
    assert read.records["status"].tolist() == [2 if row == FAILED_ROW else 1 for row in range(N_ROWS)]
    assert read.records["reason"][FAILED_ROW].decode() == REASON
    assert [place.decode() for place in read.columns["place"]] == records.columns["place"].tolist()
    np.testing.assert_array_equal(read.columns["crowd"], records.columns["crowd"], strict=True)
    np.testing.assert_array_equal(read.head["weight"], make_head()[0], strict=True)
    rows = values["pooled"][:32]
    assert int(read.checksums["pooled"][0]) == xxhash.xxh3_64_intdigest(rows.tobytes())


def test_h5py_reads_the_same_numbers() -> None:
    with h5py.File(GOLDEN, "r") as file, FeatureSet(GOLDEN) as fs:
        for name in fs.outputs:
            np.testing.assert_array_equal(file["outputs"][name][:], fs[name], strict=True)
            assert file["outputs"][name].chunks[0] == fs.chunk_rows(name)
        assert [name.decode() for name in file["records/id"][:]] == fs.ids.tolist()
        np.testing.assert_array_equal(file["records/columns/crowd"][:], fs.columns["crowd"], strict=True)
        np.testing.assert_array_equal(file["head/weight"][:], make_head()[0], strict=True)
        assert json.loads(file["manifest"][()]) == fs.manifest
        assert file.attrs["fingerprint"].decode() == fs.fingerprint
        assert file.attrs["format_version"] == 1


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_h5dump_reads_the_same_numbers() -> None:
    def dumped(dataset: str) -> list[float]:
        command = ["h5dump", "-y", "-w", "0", "-m", "%.17g", "-d", dataset, str(GOLDEN)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        data = text[text.index("DATA {") : text.rindex("}")]
        return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", data)]

    values = make_values()
    assert dumped("/outputs/tokens") == pytest.approx(values["tokens"].ravel().tolist(), rel=1e-7)
    assert dumped("/outputs/pooled") == values["pooled"].astype(np.float64).ravel().tolist()
    assert dumped("/records/label") == make_records().labels.tolist()


def test_every_flipped_byte_is_found(sealed: Path, sealed_bytes: bytes) -> None:
    """A seventh of the bytes that say something, all of the fixed header, and every 101st byte anywhere."""
    data = np.frombuffer(sealed_bytes, np.uint8)
    places = np.union1d(np.flatnonzero(data)[::7], np.arange(0, len(data), 101)).tolist()
    places += [*range(160), len(data) - 1]
    missed = []
    with sealed.open("r+b", buffering=0) as file:
        for place in places:
            os.pwrite(file.fileno(), bytes([sealed_bytes[place] ^ 0x10]), place)
            try:
                with FeatureSet(sealed) as fs:
                    fs.verify()
            except StoreError as error:
                assert str(sealed) in str(error)  # noqa: PT017 - only where one is raised
            else:
                missed.append(place)
            os.pwrite(file.fileno(), sealed_bytes[place : place + 1], place)
    assert missed == []
    FeatureSet(sealed).verify()


def test_damage_in_a_chunk_is_located(sealed: Path, sealed_bytes: bytes) -> None:
    table = independent_reader.read(sealed)
    address = sealed_bytes.index(table.outputs["tokens"][20].tobytes())
    damage(sealed, address + 5, b"\xff")
    with pytest.raises(CorruptError, match=r"output 'tokens', 1 chunk \(1\) .* chunk 1, rows 16 to 31"):
        FeatureSet(sealed).verify()


def test_damaged_records_are_found_at_first_touch(sealed: Path, sealed_bytes: bytes) -> None:
    damage(sealed, sealed_bytes.index(b"images/\xc3\xa4003.png"), b"J")
    with FeatureSet(sealed) as fs:
        assert fs.labels[3] == 1
        with pytest.raises(CorruptError, match=r"/records/id"):
            _ = fs.ids


def test_every_truncation_is_found(sealed: Path, sealed_bytes: bytes) -> None:
    lengths = [*range(300), *range(300, len(sealed_bytes), 2003), len(sealed_bytes) - 1]
    for length in reversed(lengths):
        os.truncate(sealed, length)
        with pytest.raises((CorruptError, NotAFeatureSetError), match=re.escape(str(sealed))):
            FeatureSet(sealed)


def test_appended_bytes_are_found(sealed: Path) -> None:
    with sealed.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptError, match="its size"):
        FeatureSet(sealed)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", NotAFeatureSetError),
        (b"<!DOCTYPE html><html>404 Not Found</html>" * 9, NotAFeatureSetError),
        (b"\x89HDF\r\n\x1a\n" + bytes(5000), NotAFeatureSetError),
        (b"\x89FBK\r\n\x1a\n" + bytes(5000), FormatVersionError),
        (b"\x89FBK\r\n\x1a\n" + struct.pack("<I", 3), FormatVersionError),
        (b"\x89FBK\r\n\x1a\n" + struct.pack("<I", 1) + bytes(5000), CorruptError),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, error: type[StoreError]) -> None:
    path = tmp_path / "other.h5"
    path.write_bytes(content)
    with pytest.raises(error, match=re.escape(str(path))):
        FeatureSet(path)


def test_newer_version_says_what_to_do(sealed: Path) -> None:
    damage(sealed, 8, struct.pack("<I", 7))
    with pytest.raises(FormatVersionError, match=r"version 7; this release reads 1 and 2; install a newer"):
        FeatureSet(sealed)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotAFeatureSetError, match="a directory"):
        FeatureSet(tmp_path)
    with pytest.raises(NotFoundError, match="no such file"):
        FeatureSet(tmp_path / "absent.h5")
    os.mkfifo(tmp_path / "fifo.h5")
    with pytest.raises(NotAFeatureSetError, match="no regular file"):
        FeatureSet(tmp_path / "fifo.h5")


def test_partial_is_not_read(sealed: Path) -> None:
    damage(sealed, 48, b"\x01")
    with pytest.raises(NotSealedError, match="resume"):
        FeatureSet(sealed)


def damage(path: Path, address: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(address)
        file.write(data)


def _set(*place: Any) -> Callable[[dict[str, Any]], None]:
    *steps, last, value = place

    def change(table: dict[str, Any]) -> None:
        node: Any = table
        for step in steps:
            node = node[step]
        node[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("outputs", 0, "values", "address", 1 << 61),
        _set("outputs", 0, "values", "address", -4096),
        _set("outputs", 0, "values", "address", 1.5),
        _set("outputs", 0, "values", "address", True),
        _set("outputs", 0, "values", "address", 0),
        _set("outputs", 0, "values", "shape", [70, 1 << 60]),
        _set("outputs", 0, "values", "shape", [70, 1 << 63]),
        _set("outputs", 0, "values", "shape", [70, -64]),
        _set("outputs", 0, "values", "shape", [70, 0]),
        _set("outputs", 0, "values", "shape", [70] + [1] * 64),
        _set("outputs", 0, "values", "shape", "70"),
        _set("outputs", 0, "values", "dtype", "|O"),
        _set("outputs", 0, "values", "dtype", "<f8"),
        _set("outputs", 0, "values", "dtype", "|V64"),
        _set("outputs", 0, "chunk_rows", 0),
        _set("outputs", 0, "chunk_rows", 1 << 40),
        _set("outputs", 0, "chunk_stride", 1),
        _set("outputs", 0, "checksums", "shape", [1]),
        _set("outputs", 1, "name", "pooled"),
        _set("outputs", []),
        _set("records", []),
        _set("records", 0, "shape", [71]),
        _set("records", 0, "dtype", "|S999999999"),
        _set("records", 1, "name", "id"),
        _set("records", 2, "shape", [70, 15]),
        _set("head", 1, "shape", [3]),
        _set("columns", 0, "shape", [69]),
        _set("manifest", "dtype", "|u1"),
        _set("manifest", "address", 4097),
        _set("rows", 10**30),
        _set("rows", None),
        _set("fingerprint", "0" * 64),
        _set("fingerprint", 5),
        _set("columns", 0, "name", "../area"),
        _set("columns", 0, "path", "/records/id"),
        _set("outputs", 0, "values", "path", "/outputs/../records/id"),
        _set("head", 0, "path", "/head/bias"),
        lambda table: table["records"][0].update(address=table["records"][1]["address"]),
        lambda table: table["outputs"][0]["values"].update(address=table["outputs"][1]["values"]["address"]),
        lambda table: table.pop("manifest"),
    ],
)
def test_hostile_headers_are_refused(sealed: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with_table(sealed, change)
    with pytest.raises(CorruptError, match=re.escape(str(sealed))):
        FeatureSet(sealed)


@pytest.mark.parametrize("text", [b"[" * 2000, b"[]", b"null", b"{", b"\xff\xfe", b'{"rows":' + b"9" * 3000 + b"}"])
def test_hostile_json_is_refused(sealed: Path, text: bytes) -> None:
    data = bytearray(sealed.read_bytes())
    slots = struct.unpack_from("<I", data, 28)[0]
    struct.pack_into("<I", data, 24, len(text))
    data[128 + 16 * slots : 128 + 16 * slots + len(text)] = text
    data[32:48] = xxhash.xxh3_128_digest(bytes(data[:32]) + text)
    sealed.write_bytes(data)
    with pytest.raises(CorruptError, match="malformed"):
        FeatureSet(sealed)


def test_header_at_odds_with_the_hdf5_metadata_is_found(sealed: Path) -> None:
    """All digests right, but an output of the header is another one in HDF5."""

    with_table(sealed, _set("outputs", 1, "values", "shape", [N_ROWS, 64]))
    reseal(sealed)
    with FeatureSet(sealed) as fs, pytest.raises(CorruptError, match=r"HDF5 dataset /outputs/tokens"):
        fs.verify()


def test_extra_hdf5_object_is_found(tmp_path: Path) -> None:
    path = tmp_path / "demo.h5"
    make_sealed(path).close()
    with h5py.File(path, "r+") as file:
        file["extra"] = h5py.ExternalLink("elsewhere.h5", "/")
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, 16, len(data))
    path.write_bytes(data)
    with_table(path, lambda _: None)
    reseal(path)
    with FeatureSet(path) as fs, pytest.raises(CorruptError, match=r"/extra .*ExternalLink"):
        fs.verify()


def test_file_digest_is_what_the_format_says(sealed: Path, sealed_bytes: bytes) -> None:
    damage(sealed, 64, bytes(16))
    reseal(sealed)
    assert sealed.read_bytes() == sealed_bytes
