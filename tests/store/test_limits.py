"""The limits of the format: one table for writer and reader, and bombs that a reader survives in little memory."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import KEY, N_ROWS, make_records, make_sealed, make_writer
from resealing import enlarge, reseal, with_table

from featurebank.store import (
    CorruptError,
    FeatureSet,
    FeatureStore,
    InvalidInputError,
    Output,
    Records,
    StoreError,
    TooLargeError,
    _records,
    _values,
    limits,
)
from featurebank.store._chunks import checksum
from featurebank.store._packed import PackedValues
from featurebank.store._table import Array, OutputEntry

FORMAT = Path(limits.__file__).with_name("FORMAT.md")
BESIDE_THE_INPUT = 512 << 20


def test_c5_the_table_in_the_format_is_the_one_in_the_code() -> None:
    rows = re.findall(r"^\|.*\(`([A-Z_]+)`\) \| ([\d,]+)", FORMAT.read_text(encoding="utf-8"), re.MULTILINE)
    written = {name: int(number.replace(",", "")) for name, number in rows}
    assert written == {
        name: value for name, value in vars(limits).items() if name.isupper() and name != "TYPE_CHECKING"
    }


# Each limit lowered to what the demo file has: one less must stop the writer, and the reader of a file that has more.
DEMO = {
    "HEADER_BYTES": 4096,
    "COVERED_BYTES": 120_000,
    "MANIFEST_BYTES": 69_632,
    "MANIFEST_MARKS": 11,
    "MANIFEST_DEPTH": 4,
    "ROWS": N_ROWS,
    "OUTPUTS": 3,
    "COLUMNS": 3,
    "ROW_DIMENSIONS": 2,
    "LABELS": 1,
    "CLASSES": 64,
    "ID_BYTES": 16,
    "TEXT_BYTES": 5,
    "REASON_BYTES": 96,
    "ALL_ID_BYTES": 16 * N_ROWS,
    "ALL_TEXT_BYTES": 5 * N_ROWS,
    "CHUNK_BYTES": 4096,
    "CHUNKS": 9,
}


@pytest.mark.parametrize("name", [name for name in DEMO if name not in ("COVERED_BYTES", "REASON_BYTES")])
def test_c5_the_writer_refuses_what_the_reader_refuses(
    tmp_path: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limits, name, DEMO[name])
    make_sealed(tmp_path / "fits.h5").close()
    FeatureSet(sealed).manifest  # noqa: B018 - it is decoded when asked for
    monkeypatch.setattr(limits, name, DEMO[name] - 1)
    with pytest.raises(InvalidInputError):
        make_writer(tmp_path / "refused.h5")
    assert not list(tmp_path.glob("refused*"))
    with pytest.raises(CorruptError):
        FeatureSet(sealed).manifest  # noqa: B018


@pytest.mark.parametrize("name", ["COVERED_BYTES", "REASON_BYTES"])
def test_c5_what_no_caller_can_exceed_is_still_refused_in_a_file(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limits, name, DEMO[name])
    FeatureSet(sealed).close()
    monkeypatch.setattr(limits, name, DEMO[name] // 2)
    with pytest.raises(CorruptError, match="at most"):
        FeatureSet(sealed)


def test_c5_packed_chunks_are_as_many_as_fit(tmp_path: Path, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hdf5plugin")
    with FeatureSet(sealed) as fs:
        fs.pack(tmp_path / "packed.h5").close()
        monkeypatch.setattr(limits, "PACKED_CHUNKS", 2)
        with pytest.raises(InvalidInputError, match="packed chunks of all outputs must be at most 2; found"):
            fs.pack(tmp_path / "refused.h5")
    with pytest.raises(CorruptError, match="packed chunks of all outputs must be at most 2; found"):
        FeatureSet(tmp_path / "packed.h5")
    monkeypatch.undo()
    monkeypatch.setattr(limits, "PACKED_STRETCHES", 0)
    with pytest.raises(CorruptError, match="the packed chunks must be in at most 0 stretches"):
        FeatureSet(tmp_path / "packed.h5")


def test_c5_what_the_writer_accepts_the_reader_opens(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    for number in range(25):
        rows = int(generator.integers(1, 40))
        path = tmp_path / f"{number}.h5"
        outputs = [
            Output(name=f"o{k}" * int(generator.integers(1, 40)), shape=shape, dtype=["float16", "float32"][k % 2])
            for k, shape in enumerate(
                tuple(generator.integers(1, 4, int(generator.integers(8))).tolist()) for _ in range(3)
            )
        ]
        ids = [f"{row}{'é' * int(generator.integers(1, 500))}" for row in range(rows)]
        labels = generator.integers(-1, 3, (rows, *generator.integers(1, 5, int(generator.integers(2)))))
        key = {**KEY, "deep": _nested(int(generator.integers(60))), "list": ["[{,"] * int(generator.integers(200))}
        columns = {f"c{k}": np.array(["x" * int(generator.integers(4000))] * rows) for k in range(3)}
        records = Records(ids=ids, labels=labels, content_hash=np.zeros((rows, 16), np.uint8), columns=columns)
        with make_writer(
            path, key=key, outputs=outputs, records=records, head=None, provenance={"a": [[1.5]]}
        ) as writer:
            for output in outputs:
                size, ends = writer.chunk_rows(output.name), range(writer.n_chunks(output.name))
                for index in ends:
                    values = np.ones((min(size, rows - index * size), *output.shape), output.dtype)
                    writer.write_chunk(output.name, index, values)
            writer.mark_ok(0, rows)
            with writer.seal() as fs:
                assert (fs.ids.tolist(), fs.key, len(fs.columns)) == (ids, key, 3)


def test_c5_many_ids_are_decoded_in_the_memory_that_they_need(sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_records, "_LARGEST_STR", 100)
    monkeypatch.setattr(_records, "_DECODED_AT_ONCE", 100)
    with FeatureSet(sealed) as fs:
        assert fs.ids.dtype == np.dtypes.StringDType()
        assert fs.ids.tolist() == list(make_records().ids)
        assert fs.ids[[3, 1]].tolist() == [make_records().ids[row] for row in (3, 1)]
        assert fs.columns["place"].tolist() == make_records().columns["place"].tolist()


def sparse_index(path: Path) -> None:
    _packed(path)
    with_table(path, lambda table: [output.update(packed_rows=1) for output in table["outputs"]])
    enlarge(path, rows=20_000_000, id_bytes=1)


def sparse_ids(path: Path) -> None:
    make_sealed(path).close()
    enlarge(path, rows=1_000_000, id_bytes=990)
    reseal(path)


def empty_ids(path: Path) -> None:
    make_sealed(path).close()
    enlarge(path, rows=150_000, id_bytes=1000)
    reseal(path)


def no_status(path: Path) -> None:
    make_sealed(path).close()
    enlarge(path, rows=10_000_000, id_bytes=1)
    reseal(path)


def large_manifest(path: Path) -> None:
    _with_provenance(path, 48 << 20)


def many_values(path: Path) -> None:
    _with_provenance(path, 15 << 20)


def large_row(path: Path) -> None:
    """A few kilobytes that say, truthfully, that they are 640 MiB, in a file whose every digest is right."""
    zstandard = pytest.importorskip("backports.zstd")
    _packed(path)
    frame = bytearray()
    compressor = zstandard.ZstdCompressor()
    compressor.set_pledged_input_size(640 << 20)
    for _ in range(640):
        frame += compressor.compress(bytes(1 << 20))
    frame += compressor.flush()
    end = path.stat().st_size
    xxhash = importlib.import_module("xxhash")
    index = [[end, len(frame), xxhash.xxh3_64_intdigest(frame)]]
    index += [[end + len(frame) + row, 1, 1] for row in range(N_ROWS - 1)]
    with path.open("r+b") as file:
        file.seek(end)
        file.write(frame + bytes(N_ROWS - 1) + np.array(index, "<u8").tobytes())
        size = file.tell()
        file.seek(16)
        file.write(struct.pack("<Q", size))

    def change(table: dict[str, Any]) -> None:
        tokens = next(output for output in table["outputs"] if output["name"] == "tokens")
        table["outputs"] = [tokens]
        tokens["values"]["shape"] = [N_ROWS, 160 << 20]
        tokens["chunk_stride"] = tokens["chunk_rows"] * (640 << 20)
        tokens["packed_rows"] = 1
        tokens["index"].update(address=end + len(frame) + N_ROWS - 1, shape=[N_ROWS, 3])

    with_table(path, change)
    reseal(path)


BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "sparse index": (sparse_index, "packed chunks of all outputs must be at most 2,097,152; found"),
    "sparse ids": (sparse_ids, "the bytes of all ids, each as long as the longest, must be at most 536,870,912"),
    "empty ids": (empty_ids, "each id must be at least one byte; found none in rows 0"),
    "no status": (no_status, "the status of each row must be 1 or 2; found 0 to 0"),
    "large manifest": (large_manifest, "the bytes of the manifest must be at most 16,777,216"),
    "many values": (many_values, "must have at most 262,144 brackets and commas"),
    "large row": (large_row, "must be at most 67,108,864; found"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_c5_bombs_are_refused_in_little_memory(tmp_path: Path, name: str) -> None:
    make, message = BOMBS[name]
    store = FeatureStore(tmp_path)
    path = store.path_for("demo", "test", "tiny/net", "0" * 64).with_name("bomb.h5")
    path.parent.mkdir(parents=True)
    make(path)

    def read() -> str:
        try:
            with FeatureSet(path) as fs:
                return "\n".join(_said(part, fs) for part in PARTS)
        except StoreError as error:
            return str(error)

    assert re.search(message, _in_little_memory(read, 512 * path.stat().st_blocks))
    placed = path.with_name(f"{'0' * 16}.h5")
    path.rename(placed)
    assert _in_little_memory(lambda: store.ls()[0].state, 512 * placed.stat().st_blocks) == "damaged"


PARTS: tuple[Callable[[FeatureSet], Any], ...] = (
    lambda fs: fs.manifest,
    lambda fs: fs.reasons,
    lambda fs: fs.ids,
    lambda fs: [fs.load(name, [0]) for name in fs.outputs],
)


def _said(part: Callable[[FeatureSet], Any], feature_set: FeatureSet) -> str:
    try:
        part(feature_set)
    except StoreError as error:
        return str(error)
    return "read"


def _in_little_memory(ask: Callable[[], str], size: int) -> str:
    """The answer of a child that may take 512 MiB beside what it has and what the input takes of the disk."""
    outcome, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            own = int(status.partition("VmData:")[2].split()[0]) << 10
            # Private memory: what a mapping of a hole takes of the address space is nothing.
            resource.setrlimit(resource.RLIMIT_DATA, (own + size + BESIDE_THE_INPUT,) * 2)
            answer = ask()
        except BaseException:
            answer = traceback.format_exc()
        os.write(told, answer.encode()[-4000:])
        os._exit(0)
    os.close(told)
    with os.fdopen(outcome, "rb") as file:
        answer = file.read().decode()
    os.waitpid(child, 0)
    return answer


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else []


def _packed(path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    with make_sealed(path.with_name("plain.h5")) as fs:
        fs.pack(path).close()


def _with_provenance(path: Path, nbytes: int) -> None:
    """A file whose manifest is so large, most of it empty lists in the provenance, with right digests."""
    make_sealed(path).close()
    text = b'{"key":' + json.dumps(KEY, sort_keys=True, separators=(",", ":")).encode() + b',"provenance":{"a":['
    text += b"[]," * ((nbytes - len(text) - 10) // 3) + b"[]]}}"
    end = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(end)
        file.write(text)
        file.seek(16)
        file.write(struct.pack("<Q", end + len(text)))
    with_table(path, lambda table: table["manifest"].update(address=end, dtype=f"|S{len(text)}"))
    reseal(path)


@pytest.mark.parametrize(("window_log", "refused"), [(10, False), (27, True), (31, True)])
def test_c5_a_frame_asks_for_no_larger_window_than_its_chunk(window_log: int, refused: bool) -> None:
    pytest.importorskip("backports.zstd")
    values = np.arange(256, dtype=np.float16).reshape(4, 64)
    shuffled = np.ascontiguousarray(values.view(np.uint8).reshape(-1, 2).T).tobytes()
    # RFC 8878: the size in four bytes, a window of its own, one raw block.
    frame = struct.pack("<IBBI", 0xFD2FB528, 2 << 6, window_log - 10 << 3, len(shuffled))
    frame += (1 | len(shuffled) << 3).to_bytes(3, "little") + shuffled
    data = np.frombuffer(frame, np.uint8)
    entry = OutputEntry(
        "pooled",
        Array("/outputs/pooled", 0, (4, 64), "<f2"),
        4,
        512,
        Array("", 0, (1,), "<u8"),
        4,
        Array("", 0, (1, 3), "<u8"),
    )
    packed = PackedValues(
        Path("demo.h5"), lambda _address, _nbytes: data, entry, np.array([[0, len(data), checksum(data)]], np.uint64)
    )
    if refused:
        with pytest.raises(CorruptError, match="packed chunk 0, rows 0 to 3, must ask for no larger window"):
            packed.fresh()
    else:
        np.testing.assert_array_equal(packed.fresh(), values)


def test_c5_whole_outputs_that_do_not_fit_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sealed(path := tmp_path / "demo.h5").close()

    def none(*_: Any, **__: Any) -> Any:
        raise MemoryError("Unable to allocate 9 TiB")

    with FeatureSet(path) as fs:
        reads: list[Callable[[], Any]] = [lambda: fs.load("pooled"), lambda: fs.load("pooled", [1]), lambda: fs.ids]
        monkeypatch.setattr(_values, "_empty", none)
        monkeypatch.setattr(_values, "view_of", none)
        monkeypatch.setattr(np.strings, "decode", none)
        for read in reads:
            with pytest.raises(TooLargeError, match=r"demo\.h5 needs more memory to be read than there is") as raised:
                read()
            assert isinstance(raised.value, MemoryError)
