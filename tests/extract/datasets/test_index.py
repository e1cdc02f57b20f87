"""The index of file hashes: right, remembered, and never wrong after a change, a crash or damage."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash

from featurebank.extract.datasets import _index
from featurebank.extract.datasets._index import file_hashes

OLD = time.time_ns() - 3600 * 10**9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return [write(tmp_path / f"{k}.bin", bytes([k % 256]) * k) for k in range(700)]


def write(path: Path, content: bytes, mtime: int = OLD) -> str:
    path.write_bytes(content)
    os.utime(path, ns=(mtime, mtime))
    return str(path)


def expected(paths: list[str]) -> list[bytes]:
    return [xxhash.xxh3_128_digest(Path(path).read_bytes()) for path in paths]


def rows(hashes: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in hashes]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that were read."""
    seen: list[str] = []
    read = _index._read

    def spy(paths: list[str], *rest: Any) -> np.ndarray:
        seen.extend(paths)
        return read(paths, *rest)

    monkeypatch.setattr(_index, "_read", spy)
    return seen


def test_hashes_are_right_and_read_once(files: list[str], folder: Path, reads: list[str]) -> None:
    first = file_hashes(files, folder=folder)
    assert first.shape == (700, 16)
    assert first.dtype == np.uint8
    assert rows(first) == expected(files)
    assert sorted(reads) == sorted(files)
    reads.clear()
    backwards = file_hashes(files[::-1], folder=folder)
    assert rows(backwards) == expected(files)[::-1]
    assert reads == []


def test_no_files(folder: Path) -> None:
    assert file_hashes([], folder=folder).shape == (0, 16)


@pytest.mark.parametrize("change", ["mtime", "size", "inode", "path"])
def test_a_changed_file_is_read_again(change: str, tmp_path: Path, folder: Path, reads: list[str]) -> None:
    path = write(tmp_path / "a.bin", b"before")
    file_hashes([path], folder=folder)
    reads.clear()
    if change == "mtime":
        write(Path(path), b"after!", OLD + 1)
    elif change == "size":
        write(Path(path), b"longer than before")
    elif change == "inode":
        Path(write(tmp_path / "new.bin", b"after!")).replace(path)
    else:
        path = str(Path(path).rename(tmp_path / "b.bin"))
    assert rows(file_hashes([path], folder=folder)) == expected([path])
    assert reads == [path]


def test_a_file_just_written_is_not_remembered(tmp_path: Path, folder: Path, reads: list[str]) -> None:
    path = write(tmp_path / "a.bin", b"first", time.time_ns())
    file_hashes([path], folder=folder)
    stamp = Path(path).stat().st_mtime_ns
    write(Path(path), b"other", stamp)  # same size, time and inode: what a coarse clock does
    assert rows(file_hashes([path], folder=folder)) == expected([path])
    assert reads == [path, path]


def test_a_file_from_the_future_is_not_remembered(tmp_path: Path, folder: Path, reads: list[str]) -> None:
    path = write(tmp_path / "a.bin", b"x", time.time_ns() + 3600 * 10**9)
    for _ in range(2):
        file_hashes([path], folder=folder)
    assert reads == [path, path]


def test_unreadable_files_are_zero_and_not_remembered(tmp_path: Path, folder: Path) -> None:
    missing = str(tmp_path / "later.bin")
    good = write(tmp_path / "good.bin", b"good")
    hashes = file_hashes([missing, good, str(tmp_path), "/nul\0byte"], folder=folder)
    assert [bool(row.any()) for row in hashes] == [False, True, False, False]
    write(Path(missing), b"now")
    assert rows(file_hashes([missing], folder=folder)) == expected([missing])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_segment_is_thrown_away(
    damage: str, files: list[str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file_hashes(files, folder=folder)
    (segment,) = folder.iterdir()
    content = bytearray(segment.read_bytes())
    content[100] ^= 1
    segment.write_bytes(bytes({"flip": content, "cut": content[:-40], "empty": bytearray()}[damage]))
    with caplog.at_level(logging.WARNING, "featurebank"):
        assert rows(file_hashes(files, folder=folder)) == expected(files)
    assert "is damaged" in caplog.text
    assert not segment.exists()


def test_a_crash_leaves_a_file_that_is_ignored(files: list[str], folder: Path) -> None:
    folder.mkdir()
    (folder / "tmpabc").write_bytes(b"half a segment")
    assert rows(file_hashes(files, folder=folder)) == expected(files)


def test_many_segments_are_merged(files: list[str], folder: Path, reads: list[str]) -> None:
    for first in range(0, 700, 20):
        file_hashes(files[first : first + 20], folder=folder)
        assert len(list(folder.iterdir())) <= _index.MAX_SEGMENTS
    reads.clear()
    assert rows(file_hashes(files, folder=folder)) == expected(files)
    assert reads == []


def test_a_folder_that_cannot_be_written_is_no_error(
    files: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert rows(file_hashes(files, folder=tmp_path / "file" / "index")) == expected(files)
    assert "cannot be written" in caplog.text


def test_several_processes_at_once(files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path / "cache"))
    parts = [files[first : first + 300] for first in (0, 200, 400)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        for part, hashes in zip(parts, pool.map(file_hashes, parts), strict=True):
            assert rows(hashes) == expected(part)
    assert rows(file_hashes(files)) == expected(files)
