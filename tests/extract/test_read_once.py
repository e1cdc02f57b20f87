"""Contents are hashed as they are decoded: the same sets as when they are known before, and each file read once."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import VIT, make_images, open_folder, run, wanted_sets
from sealed_arrays import sealed_arrays
from tiny_network import TinyNetwork

from featurebank.extract import backbones, batches, engine
from featurebank.extract.batches import Reader
from featurebank.extract.contents import Contents, Part
from featurebank.extract.datasets import dataset_digest
from featurebank.extract.datasets._records import FileSplit
from featurebank.extract.datasets.contract import Split
from featurebank.extract.device import Execution
from featurebank.extract.engine import extract
from featurebank.extract.making import Making
from featurebank.extract.progress import Clock
from featurebank.extract.sink import Assembler
from featurebank.extract.wanted import Outcome, Request, want
from featurebank.store import FeatureSetWriter, FeatureStore

IMAGES, CHUNK = 160, 64
EXECUTION = Execution(device="cpu", compile="never", batch_size=8, workers=1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backbones, "build", TinyNetwork)
    monkeypatch.setenv("FEATUREBANK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, one of them damaged, that have not been changed for an hour."""
    made = make_images(tmp_path / "images", IMAGES)
    (made / "class0" / "00009.png").write_bytes(b"no image")
    return settled(made)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each record was read, to be hashed or decoded."""
    counted: Counter[str] = Counter()
    real = FileSplit.read

    def read(self: FileSplit, index: int) -> bytes:
        counted[self.ids[index]] += 1
        return real(self, index)

    monkeypatch.setattr(FileSplit, "read", read)
    return counted


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that went through the network."""
    rows: list[int] = []
    real = Assembler.add

    def add(self: Assembler, start: int, outputs: Any, failed: Any) -> None:
        real(self, start, outputs, failed)
        rows.extend(range(start, start + len(next(iter(outputs.values())))))

    monkeypatch.setattr(Assembler, "add", add)
    return rows


def settled(folder: Path) -> Path:
    earlier = time.time() - 3600
    for path in folder.rglob("*.png"):
        os.utime(path, (earlier, earlier))
    return folder


def once(store: Path, split: Split) -> Outcome:
    return run(store, split, [VIT], execution=EXECUTION)[0]


def hashed_first(store: Path, split: Split) -> Outcome:
    request, digests = Request(backbone=backbones.resolve(VIT), split=0), {0: dataset_digest(split)}
    sets = want([request], [split], FeatureStore(store), precision="float32", digests=digests)
    return extract(sets, [split], execution=EXECUTION)[0]


def interrupted(store: Path, split: Split) -> None:
    """A run that ends as if it were killed, with the first two chunks committed."""
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        real = Assembler.add

        def add(self: Assembler, *rows: Any) -> None:
            real(self, *rows)
            if self.chunks_written == 2 * len(self.writer.outputs):
                self.commit()
                raise KeyboardInterrupt

        patch.setattr(Assembler, "add", add)
        patch.setattr(Making, "let_go", lambda self: self.writer and self.writer.close())
        with pytest.raises(KeyboardInterrupt):
            once(store, split)


def small(patch: pytest.MonkeyPatch) -> None:
    class SmallChunks(FeatureSetWriter):
        @classmethod
        def create(cls, path: Any, **keywords: Any) -> Any:
            return super().create(path, **{**keywords, "chunk_bytes": 1024})

    patch.setattr(engine, "FeatureSetWriter", SmallChunks)


def test_each_file_is_read_once_and_the_set_is_that_of_contents_known_before(
    folder: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    split = open_folder(folder)
    unreadable = split.path(7)  # type: ignore[attr-defined]
    Path(unreadable).unlink()
    Path(unreadable).symlink_to("nowhere")
    (begun,) = wanted_sets(tmp_path / "a", split, [VIT])
    assert begun.is_provisional
    first = extract([begun], [split], execution=EXECUTION)[0]
    assert reads == dict.fromkeys(split.ids, 1)
    assert (first.state, first.computed, sorted(first.failed)) == ("sealed", IMAGES, [3, 7])
    second = hashed_first(tmp_path / "b", open_folder(folder))
    assert begun.outcome.fingerprint == second.fingerprint
    assert begun.key["dataset"]["digest"] == dataset_digest(split)
    assert first.path.name == second.path.name
    assert sealed_arrays(tmp_path / "a") == sealed_arrays(tmp_path / "b")
    assert not list(tmp_path.rglob("*.partial"))


def test_a_second_run_reads_nothing_or_where_stamps_tell_nothing_only_hashes(
    folder: Path, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    once(tmp_path / "store", open_folder(folder))
    monkeypatch.setattr(backbones, "build", lambda _: pytest.fail("a network was built"))
    reads.clear()
    (again,) = wanted_sets(tmp_path / "store", open_folder(folder), [VIT])
    assert (again.outcome.state, again.is_provisional, sum(reads.values())) == ("present", False, 0)
    moved = shutil.copytree(folder, tmp_path / "moved" / "images")
    (again,) = wanted_sets(tmp_path / "store", open_folder(moved), [VIT])
    assert again.outcome.state == "present"


def test_what_was_interrupted_goes_on_in_a_copy_of_the_folder_too(
    folder: Path, tmp_path: Path, reads: Counter[str], computed: list[int]
) -> None:
    interrupted(tmp_path / "store", open_folder(folder))
    (partial,) = (tmp_path / "store").rglob("*.partial")
    moved = open_folder(shutil.copytree(folder, tmp_path / "moved" / "images"))
    reads.clear()
    computed.clear()
    outcome = once(tmp_path / "store", moved)
    assert outcome.state == "sealed"
    assert not partial.exists()
    assert sorted(computed) == list(range(2 * CHUNK, IMAGES))
    assert reads == dict.fromkeys(moved.ids, 1)
    hashed_first(tmp_path / "whole", moved)
    assert sealed_arrays(tmp_path / "store") == sealed_arrays(tmp_path / "whole")


@pytest.mark.parametrize("row", [5, 140])
def test_a_file_that_changed_between_two_runs_is_computed_anew_and_no_other_chunk(
    folder: Path, tmp_path: Path, computed: list[int], row: int
) -> None:
    split = open_folder(folder)
    interrupted(tmp_path / "store", split)
    changed, other = (folder / split.ids[k] for k in (row, 50))
    size = changed.stat().st_size
    changed.write_bytes(other.read_bytes()[:size].ljust(size, b"\0"))  # as long as before
    computed.clear()
    assert once(tmp_path / "store", open_folder(folder)).state == "sealed"
    again = range(CHUNK) if row < CHUNK else range(0)
    assert sorted(computed) == [*again, *range(2 * CHUNK, IMAGES)]
    hashed_first(tmp_path / "whole", open_folder(folder))
    assert sealed_arrays(tmp_path / "store") == sealed_arrays(tmp_path / "whole")


def test_what_is_unfinished_is_found_by_a_run_that_knows_all_contents(
    folder: Path, tmp_path: Path, computed: list[int]
) -> None:
    interrupted(tmp_path / "store", open_folder(folder))
    computed.clear()
    split = open_folder(folder)
    dataset_digest(split)
    (known,) = wanted_sets(tmp_path / "store", split, [VIT])
    assert not known.is_provisional
    assert extract([known], [split], execution=EXECUTION)[0].state == "sealed"
    assert sorted(computed) == list(range(2 * CHUNK, IMAGES))
    assert not list(tmp_path.rglob("*.partial"))


def test_images_that_another_dataset_has_are_hashed_first_and_copied(folder: Path, tmp_path: Path) -> None:
    hashed_first(tmp_path / "store", open_folder(folder))
    more = settled(make_images(shutil.copytree(folder, tmp_path / "more" / "images"), 4, seed=9))
    outcome = once(tmp_path / "store", open_folder(more, label="others"))
    assert outcome.state == "sealed"
    assert outcome.copied >= IMAGES - 6


def test_a_set_that_has_come_into_being_meanwhile_is_kept_and_the_own_one_given_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = open_folder(folder)
    (begun,) = wanted_sets(tmp_path / "store", split, [VIT])
    real = FeatureSetWriter.identify

    def late(self: FeatureSetWriter, path: Any, key: Any) -> None:
        monkeypatch.setattr(FeatureSetWriter, "identify", real)
        made = hashed_first(tmp_path / "other", open_folder(folder))
        shutil.copy(made.path, path)
        real(self, path, key)

    monkeypatch.setattr(FeatureSetWriter, "identify", late)
    outcome = extract([begun], [split], execution=EXECUTION)[0]
    assert outcome.state == "present"
    assert outcome.path.exists()
    assert not list((tmp_path / "store").rglob("*.partial"))


def test_the_first_rows_are_safe_before_their_chunk_is_full(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    real = FeatureSetWriter.keep_parts

    def keep_parts(self: FeatureSetWriter, parts: Any) -> None:
        real(self, parts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("featurebank.store._partial.lock", lambda _: None)
            with FeatureSetWriter.resume(self.path) as other:
                held.append(int(other.held("pooled").sum()))
                assert other.content_hash[other.held("pooled")].any(axis=1).all()

    monkeypatch.setattr(FeatureSetWriter, "keep_parts", keep_parts)
    assert once(tmp_path / "store", open_folder(folder)).state == "sealed"
    assert held == [8]


class Waiting(FileSplit):
    """Every read takes a while; how many there were at once."""

    under_way = most = 0
    seconds = 0.0
    lock = threading.Lock()

    def read(self, index: int) -> bytes:
        with self.lock:
            Waiting.under_way += 1
            Waiting.most = max(self.most, self.under_way)
        time.sleep(self.seconds)
        with self.lock:
            Waiting.under_way -= 1
        return super().read(index)


@pytest.mark.parametrize(("seconds", "room", "most"), [(0.01, 1 << 29, 8), (0.01, 1 << 10, 1), (0.0, 1 << 29, 1)])
def test_as_many_requests_as_storage_is_waited_for_and_memory_allows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, room: int, most: int
) -> None:
    plain = open_folder(folder)
    split = Waiting(plain.spec, plain.ids, plain.labels, folder=folder, files=list(plain.ids))
    contents = Contents(split)
    monkeypatch.setattr(Waiting, "seconds", seconds)
    monkeypatch.setattr(Waiting, "most", 0)
    monkeypatch.setattr("featurebank.extract.in_flight.encoded", room)
    part = Part(split, None, contents.hashes, contents.known)
    read = Reader(part, Clock(), strict=False)
    try:
        for batch in batches.batches([(0, 24)], [((0, 24),)], 8):
            read(batch)
            assert [batch.content(offset) is not None for offset in range(8)] == [True] * 8
    finally:
        read.close()
    assert Waiting.most == most
    assert contents.known.tolist() == [True] * 24 + [False] * (IMAGES - 24)
    assert np.array_equal(contents.hashes[:24], plain.content_hashes()[:24])


def test_contents_that_nobody_may_write_to_are_not_read_again(folder: Path) -> None:
    split = open_folder(folder)
    hashes = split.content_hashes()
    hashes.flags.writeable = False

    class Unstamped:
        """A split whose contents are always known, as arrays in memory are."""

        ids, labels, spec = split.ids, split.labels, split.spec

        def __len__(self) -> int:
            return len(self.ids)

        def content_hashes(self) -> Any:
            return hashes

    contents = Contents(Unstamped())  # type: ignore[arg-type]
    contents.read()
    assert contents.whole
    assert contents.hashes is hashes
