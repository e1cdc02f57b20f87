"""Files of strangers: pipes, devices, links, bombs, paths that lead elsewhere, and what no parser expects."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tarfile
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from layout_files import structs
from limited import run_limited
from official_layouts import LAYOUTS

from featurebank.extract.datasets import (
    DatasetSpec,
    Place,
    Split,
    _manifest,
    _reading,
    _tables,
    dataset_digest,
    open_split,
)
from featurebank.extract.datasets._matlab import read_mat
from featurebank.extract.datasets._reading import read_file
from featurebank.extract.errors import DatasetError

Draw = Callable[[Path, int], Path]


def opened(name: str, split: str = "all", **more: Any) -> Split:
    return open_split(DatasetSpec(name=name, split=split, **more))


def test_c8_pipes_and_devices_are_rows_that_cannot_be_read(tmp_path: Path, draw: Draw) -> None:
    draw(tmp_path / "cat/0.png", 0)
    os.mkfifo(tmp_path / "cat/1.png")
    (tmp_path / "cat/2.png").symlink_to("/dev/zero")
    (tmp_path / "cat/3.png").symlink_to(tmp_path / "cat/3.png")
    found = opened(f"folder:{tmp_path}")
    assert found.content_hashes().any(axis=1).tolist() == [True, False, False, False]
    for row in (1, 2):
        with pytest.raises(OSError, match="is no regular file"):
            found.read(row)


def test_c8_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(_reading.IMAGE_BYTES + 1)
    with pytest.raises(OSError, match="has 536,870,913 bytes, more than 536,870,912"):
        read_file(tmp_path / "a.png")


def test_c8_pipes_as_lists_are_errors(tmp_path: Path) -> None:
    for name in ("a.csv", "a.txt", "a.tar", "train.parquet", "state.json"):
        os.mkfifo(tmp_path / name)
    os.mkfifo(tmp_path / "a.parquet")
    names = ("manifest:a.csv", "manifest:a.parquet", "list:a.txt", "wds:", "hf:")
    for name, split in zip(names, ("all", "all", "all", "a", "a"), strict=True):
        prefix, _, place = name.partition(":")
        with pytest.raises(DatasetError, match="is no regular file"):
            opened(f"{prefix}:{tmp_path / place}", split)


def test_c8_links_that_fan_out_are_entered_once(tmp_path: Path, draw: Draw) -> None:
    for k in range(24):
        (tmp_path / f"l{k}").mkdir()
        for side in "ab":
            (tmp_path / f"l{k}" / side).symlink_to(tmp_path / f"l{k + 1}")
    draw(tmp_path / "l24/0.png", 0)
    draw(tmp_path / "zoo/real.png", 1)
    (tmp_path / "first").symlink_to(tmp_path / "zoo")
    found = opened(f"folder:{tmp_path}")
    assert list(found.ids) == ["l24/0.png", "zoo/real.png"]
    assert list(found.notes) == ["49 links to folders that were entered already"]


@pytest.mark.parametrize("bad", ["../../secret.jpg", "/etc/passwd", "a/../../../b.jpg"])
def test_c8_no_listing_leads_outside_its_folder(tmp_path: Path, draw: Draw, bad: str) -> None:
    LAYOUTS["coco"](tmp_path)
    path = tmp_path / "annotations/instances_val2017.json"
    value = json.loads(path.read_text())
    value["images"][0]["file_name"] = bad
    path.write_text(json.dumps(value))
    if not bad.startswith("/"):  # COCO's names stand behind a folder.
        with pytest.raises(DatasetError, match=r"coco 'val' under .*paths must lie below"):
            opened("coco@partial", "val", root=tmp_path)
    draw(tmp_path / "lists/0.png", 0)
    (tmp_path / "lists/a.csv").write_text(f"path,label\n0.png,0\n{bad},0\n")
    (tmp_path / "lists/a.txt").write_text(f"0.png 0\n{bad} 0\n")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo(bad)
        tar.addfile(info)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/state.json").write_text(json.dumps({"_data_files": [{"filename": bad}]}))
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict/dataset_dict.json").write_text(json.dumps({"splits": [bad]}))
    for name in ("manifest:lists/a.csv", "list:lists/a.txt", "wds:a.tar", "hf:hub", "hf:dict"):
        prefix, _, place = name.partition(":")
        with pytest.raises(DatasetError, match=r"paths must lie|below the root|a member|files below|the name"):
            opened(f"{prefix}:{tmp_path / place}")
    with pytest.raises(DatasetError, match="paths must lie below"):
        Place(tmp_path, "pets").read(bad)


def test_c8_galaxy10_reads_its_own_file_alone(tmp_path: Path) -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    (tmp_path / "secret").write_bytes(bytes(144))

    def write(make: Callable[[Any], object]) -> None:
        with h5py.File(tmp_path / "Galaxy10_DECals.h5", "w") as file:
            file["ans"] = np.arange(3)
            make(file)

    def outside(file: Any) -> None:
        file.create_dataset("images", images.shape, "u1", external=[(str(tmp_path / "secret"), 0, 144)])

    def linked(file: Any) -> None:
        file["images"] = h5py.ExternalLink("other.h5", "/images")

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout(images.shape, "u1")
        layout[:] = h5py.VirtualSource("other.h5", "images", images.shape)
        file.create_virtual_dataset("images", layout)

    write(lambda file: file.create_dataset("images", data=images))
    assert len(opened("galaxy10@partial", root=tmp_path)) == 3
    for make, message in ((outside, "this file alone"), (linked, "somewhere else"), (virtual, "this file alone")):
        write(make)
        with pytest.raises(DatasetError, match=rf"Galaxy10_DECals\.h5, found: images is .*{message}"):
            opened("galaxy10@partial", root=tmp_path)


def big_tar(path: Path, size: int) -> None:
    info = tarfile.TarInfo("0.png")
    info.size = size
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))


@pytest.mark.parametrize("size", [1 << 60, -512, 1 << 40])
def test_c9_a_member_larger_than_its_file(tmp_path: Path, size: int) -> None:
    big_tar(tmp_path / "a.tar", size)
    with pytest.raises(DatasetError, match=r"a\.tar: expected a tar file"):
        opened(f"wds:{tmp_path / 'a.tar'}")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "state",
    [DEEP, "[]", "3", "{}", '{"_data_files": 3}', '{"_data_files": [3]}', '{"_data_files": []}', "1" * 5000],
    ids=range(8),
)
def test_c9_an_odd_state(tmp_path: Path, state: str) -> None:
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(DatasetError, match=r"state\.json: expected"):
        opened(f"hf:{tmp_path}")


def test_c14_deep_json_of_official_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(DEEP)
    with pytest.raises(DatasetError, match=r"JSON at .*a\.json, found: lists nested too deep"):
        Place(tmp_path, "pets").json("a.json")


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), OverflowError("large"), KeyError("x"), OSError(5, "bad")]
)
def test_c9_whatever_a_source_raises_is_the_datasets_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("featurebank.extract.datasets._folder.images_below", fail)
    with pytest.raises(DatasetError, match=rf"folder:{tmp_path} 'all': expected a dataset that can be opened, found: "):
        opened(f"folder:{tmp_path}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be"])
def test_c14_xml_with_entities_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    text = '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><a>&d;</a>'
    content = text.encode(encoding)
    (tmp_path / "a.xml").write_bytes(b"\xfe\xff" + content if encoding == "utf-16-be" else content)
    with pytest.raises(DatasetError, match=r"plain XML at .*a\.xml, found: a document type"):
        Place(tmp_path, "pets").xml("a.xml")
    (tmp_path / "a.xml").write_bytes('<a><b n="1">é</b></a>'.encode("utf-16"))
    (child,) = Place(tmp_path, "pets").xml("a.xml")
    assert (child.tag, child.text, child.attrib) == ("b", "é", {"n": "1"})
    (tmp_path / "a.xml").write_text("<a>" * 1000 + "</a>" * 1000)
    with pytest.raises(DatasetError, match="nested deeper than 64"):
        Place(tmp_path, "pets").xml("a.xml")


def element(kind: int, body: bytes) -> bytes:
    return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)


def matrix(kind: int, dimensions: tuple[int, ...], body: bytes = b"") -> bytes:
    shape = struct.pack(f"<{len(dimensions)}i", *dimensions)
    parts = element(6, bytes([kind, 0, 0, 0, 0, 0, 0, 0])) + element(5, shape) + element(1, b"a")
    return element(14, parts + body)


def mat(content: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content


def packed(content: bytes) -> bytes:
    body = zlib.compress(content, 9)
    return struct.pack("<II", 15, len(body)) + body


def test_c14_matlab_files(tmp_path: Path) -> None:
    from scipy.io import savemat  # type: ignore[import-untyped]

    rows = structs([{"fname": "a.jpg", "class": 3}, {"fname": "b.jpg", "class": 4}])
    for compressed in (False, True):
        names = np.array(["x", "yy"], object)
        savemat(tmp_path / "a.mat", {"rows": rows, "n": np.arange(4.0), "names": names}, do_compression=compressed)
        found = read_mat((tmp_path / "a.mat").read_bytes())
        assert [row["fname"] for row in found["rows"]] == ["a.jpg", "b.jpg"]
        assert found["names"].tolist() == ["x", "yy"]
    assert read_mat(mat(matrix(6, (1, 1), element(9, struct.pack("<d", 2.5)))))["a"] == 2.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mat(matrix(1, (1 << 20, 1 << 10))), "1,073,741,824 cells in"),
        (mat(packed(matrix(1, (1 << 30, 1)))), "1,073,741,824 cells in"),
        (mat(packed(bytes(100 << 20))), "packed content of more than 67,108,864 bytes"),
        (mat(matrix(5, (1, 1))), "a matrix of class 5"),
        (mat(matrix(3, (1, 1))), "a matrix of class 3"),
        (mat(struct.pack("<II", 14, 1 << 31) + bytes(64)), "an element of 2,147,483,648 bytes where 64 are left"),
        (b"no MATLAB", "no MATLAB 5 file"),
        (bytes(128), "no MATLAB 5 file"),
    ],
    ids=range(8),
)
def test_c14_matlab_bombs(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a MATLAB file at .*a\.mat, found: .*{message}"):
        Place(tmp_path, "pets").mat("a.mat")


def test_c14_bombs_take_little_memory(tmp_path: Path) -> None:
    """A packed cell array of 2^30 cells, 3 GB of zeros in an idx.gz, and a device."""
    (tmp_path / "a.mat").write_bytes(mat(packed(matrix(1, (1 << 30, 1)))))
    packer = zlib.compressobj(9, wbits=31)
    with (tmp_path / "a.gz").open("wb") as file:
        file.write(packer.compress(bytes([0, 0, 8, 1, 0, 0, 0, 9])))
        file.writelines(packer.compress(bytes(1 << 20)) for _ in range(300))
        file.write(packer.flush())
    (tmp_path / "a.jpg").symlink_to("/dev/zero")
    (tmp_path / "large.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 4]) + b"\xff" * 16))
    code = """
folder = pathlib.Path(sys.argv[2])
for read, name in ((lambda p: read_mat(p.read_bytes()), "a.mat"), (read_file, "a.jpg"), (read_idx, "large.gz")):
    try:
        read(folder / name)
    except (ValueError, OSError) as error:
        print(type(error).__name__)
print(len(read_idx(folder / "a.gz")))
"""
    imports = (
        "import scipy.io\nfrom featurebank.extract.datasets._matlab import read_mat\n"
        "from featurebank.extract.datasets._idx import read_idx\n"
        "from featurebank.extract.datasets._reading import read_file"
    )
    out = run_limited(code, tmp_path, imports=imports, megabytes=64)
    assert out.split() == ["ValueError", "OSError", "AssetError", "20"]


def test_f2_contents_are_read_once_and_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    n = 40
    images = pa.array([{"bytes": bytes([k]), "path": None} for k in range(n)])
    pq.write_table(pa.table({"image": images, "label": [0] * n}), tmp_path / "all.parquet", row_group_size=8)
    found = opened(f"hf:{tmp_path}")
    read, rows, threads = vars(found)["_read"], Counter[int](), set[str]()

    def counted(row: int) -> object:
        rows[row] += 1
        threads.add(threading.current_thread().name)
        return read(row)

    monkeypatch.setattr(found, "_read", counted)
    first = found.content_hashes()
    for _ in range(3):
        dataset_digest(found)
        assert found.content_hashes() is first
    assert set(rows.values()) == {1}
    assert threading.current_thread().name not in threads


def test_c9_a_row_that_its_source_cannot_give_is_that_rows_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pa.array([{"bytes": bytes([k]), "path": None} for k in range(3)])
    pq.write_table(pa.table({"image": images, "label": [0] * 3}), tmp_path / "all.parquet")
    found = opened(f"hf:{tmp_path}")
    read = vars(found)["_read"]

    def damaged(row: int) -> object:
        if row == 1:
            raise pa.ArrowInvalid("Corrupt snappy compressed data.")
        return read(row)

    monkeypatch.setattr(found, "_read", damaged)
    assert found.content_hashes().any(axis=1).tolist() == [True, False, True]
    with pytest.raises(OSError, match="Corrupt snappy"):
        found.read(1)


def test_c9_a_name_that_no_store_takes_is_the_datasets_error(tmp_path: Path, draw: Draw) -> None:
    folder = tmp_path / ("\u732b" * 60)
    draw(folder / "0.png", 0)
    with pytest.raises(DatasetError, match="a dataset's name must have at most 255 bytes once encoded"):
        opened(f"folder:{folder}")
    assert len(opened(f"folder:{folder}", label="cats")) == 1


@pytest.mark.parametrize("store_schema", [False, True])
def test_c14_parquet_files_that_unpack_to_far_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store_schema: bool
) -> None:
    """Each value written once: 100,000 rows in some kB, and a text of 10 kB in each of 1,000 rows."""
    monkeypatch.setattr(_tables, "FEW_ROWS", 1 << 10)
    monkeypatch.setattr(_tables, "COLUMN_BYTES", 1 << 22)
    monkeypatch.setattr(_manifest, "COLUMN_BYTES", 1 << 22)
    for rows, text, message in ((100_000, "x", "100,000 rows in"), (1000, "x" * 10_000, "more than 4,194,304")):
        same = np.zeros(rows, np.int32)
        texts, images = (pa.DictionaryArray.from_arrays(same, pa.array([value])) for value in (text, b"x"))
        path = tmp_path / f"hub{rows}/all.parquet"
        path.parent.mkdir()
        table = pa.table({"path": texts, "label": texts, "image": images})
        pq.write_table(table, path, store_schema=store_schema, compression="zstd")
        assert path.stat().st_size < 1 << 12
        for name in (f"manifest:{path}", f"hf:{path.parent}@image=image"):
            with pytest.raises(DatasetError, match=message):
                opened(name)
