"""No row is lost without a word: shards, ends of files, files that are no images by their names."""

from __future__ import annotations

import gzip
import logging
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from featurebank.extract.datasets import DatasetSpec, Split, open_split
from featurebank.extract.datasets._idx import read_idx
from featurebank.extract.errors import AssetError, DatasetError

Draw = Callable[[Path, int], Path]


def opened(name: str, split: str = "all") -> Split:
    return open_split(DatasetSpec(name=name, split=split))


def shards(folder: Path, *names: str) -> Path:
    folder.mkdir()
    images = pa.array([{"bytes": b"x", "path": None}])
    for name in names:
        pq.write_table(pa.table({"image": images, "label": [0]}), folder / name)
    return folder


def test_a17_a_missing_parquet_shard_is_named(tmp_path: Path) -> None:
    whole = shards(tmp_path / "whole", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    assert len(opened(f"hf:{whole}", "train")) == 2
    cut = shards(tmp_path / "cut", "train-00000-of-00003.parquet", "train-00002-of-00003.parquet")
    with pytest.raises(DatasetError, match=r"expected 3 shards, 1 of them missing: train-00001-of-00003\.parquet"):
        opened(f"hf:{cut}", "train")
    shards(tmp_path / "cut/val", "val-00000-of-00001.parquet")
    assert len(opened(f"hf:{cut}", "val")) == 1
    mixed = shards(tmp_path / "mixed", "train-00000-of-00001.parquet", "train-00000-of-00002.parquet")
    with pytest.raises(DatasetError, match="expected the shards of one numbering"):
        opened(f"hf:{mixed}", "train")


def test_a17_an_arrow_stream_cut_between_batches_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data-00000-of-00001.arrow"
    batch = pa.RecordBatch.from_pydict({"image": [{"bytes": b"x", "path": None}], "label": [0]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as stream:
        stream.write_batch(batch)
        stream.write_batch(batch)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    assert len(opened(f"hf:{tmp_path}")) == 2
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DatasetError, match=r"data-00000-of-00001\.arrow is cut short: it has no end marker"):
        opened(f"hf:{tmp_path}")


def tar(path: Path, members: int = 3) -> bytes:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as content:
        for k in range(members):
            (path.parent / f"{k}.png").write_bytes(b"x" * 600)
            content.add(path.parent / f"{k}.png", f"{k}.png")
    return path.read_bytes()


@pytest.mark.parametrize("kept", [3 * 1536, 2 * 1536 + 100, 2 * 1536, 1536 + 512], ids=lambda kept: f"{kept} bytes")
def test_a17_a_tar_without_its_end_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.tar"
    content = tar(path)
    assert len(opened(f"wds:{path}")) == 3
    path.write_bytes(content[:kept])
    with pytest.raises(DatasetError, match=r"a\.tar: expected a tar file .* whole to its end marker, found: "):
        opened(f"wds:{path}")


def test_a17_a_damaged_header_and_two_tars_in_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    content = tar(path)
    path.write_bytes(content[:1536] + b"?" + content[1537:])
    with pytest.raises(DatasetError, match="no end marker at 1,536"):
        opened(f"wds:{path}")
    path.write_bytes(content + content)
    with pytest.raises(DatasetError, match="something behind the end marker"):
        opened(f"wds:{path}")


def test_a17_gaps_between_shards_and_other_members_are_said(tmp_path: Path) -> None:
    for k in (0, 3):
        with tarfile.open(tmp_path / f"train-{k:06}.tar", "w") as content:
            for name in ("0.png", "0.txt"):
                (tmp_path / name).write_bytes(b"x")
                content.add(tmp_path / name, name)
    notes = opened(f"wds:{tmp_path}", "train").notes
    assert list(notes) == ["2 numbers between those of the 2 shards have no shard", "2 members passed over: .txt 2"]


def test_a17_files_passed_over_are_counted_and_said(
    tmp_path: Path, draw: Draw, caplog: pytest.LogCaptureFixture
) -> None:
    draw(tmp_path / "cat/0.png", 0)
    for name in ("1.heic", "2.HEIC", "3.heic", "4.heic", "none", "a.jpg?w=100", ".hidden"):
        (tmp_path / "cat" / name).touch()
    with caplog.at_level(logging.WARNING, "featurebank"):
        found = opened(f"folder:{tmp_path}")
    assert list(found.notes) == ["6 files passed over: .heic 4, (none) 1, .jpg?w=100 1"]
    assert found.notes[0] in caplog.text


def test_a17_other_files_that_are_cut_short(tmp_path: Path) -> None:
    idx = bytes([0, 0, 8, 1, 0, 0, 0, 200]) + np.random.default_rng(0).bytes(200)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx))
    assert read_idx(tmp_path / "a.gz") == idx
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx)[:-12])
    with pytest.raises(AssetError, match="expected a readable IDX file"):
        read_idx(tmp_path / "a.gz")
    (tmp_path / "a.csv").write_text("path,label\na.png,0\nb.png\n")
    with pytest.raises(DatasetError, match="line 3: expected 2 fields"):
        opened(f"manifest:{tmp_path / 'a.csv'}")
