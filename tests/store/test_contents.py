"""Several contents of one dataset in a store: which is read, which may go, and what a copy has no say in."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featurebank.store import (
    AmbiguousError,
    FeatureSet,
    FeatureSetWriter,
    FeatureStore,
    Output,
    Records,
    stamps,
)
from featurebank.store._noted import noted
from featurebank.store.entries import Entry
from featurebank.store.fingerprint import fingerprint

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A clock that a test sets; every look at it takes a second."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stamps, "now", made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def key_of(digest: str, *, weights: str = "w", **dataset: Any) -> dict[str, Any]:
    backbone = {"name": "tiny/net", "weights": weights}
    return {"dataset": {"name": "pets", "split": "train", "digest": digest, **dataset}, "backbone": backbone}


def add(store: FeatureStore, key: dict[str, Any], n_rows: int = 2) -> Path:
    path = store.path_for("pets", "train", key["backbone"]["name"], fingerprint(key))
    hashes = np.arange(1, 16 * n_rows + 1, dtype=np.uint8).reshape(n_rows, 16)
    records = Records(ids=[str(row) for row in range(n_rows)], labels=np.zeros(n_rows, np.int64), content_hash=hashes)
    with FeatureSetWriter.create(path, key=key, outputs=[Output(name="pooled", shape=(2,))], records=records) as writer:
        writer.write_chunk("pooled", 0, np.ones((n_rows, 2), np.float16))
        writer.mark_ok(0, n_rows)
        writer.seal().close()
    return path


def without_stamp(monkeypatch: pytest.MonkeyPatch, store: FeatureStore, key: dict[str, Any]) -> Path:
    """A set as releases without stamps sealed it."""
    with monkeypatch.context() as patch:
        patch.setattr("featurebank.store.writer.new_stamp", lambda *_: {})
        return add(store, key)


def age(path: Path, days: int) -> None:
    """Says of a file that it is so many days old, or young."""
    moment = datetime.now().timestamp() - days * 86400
    os.utime(path, (moment, moment))


def opened(store: FeatureStore, **keywords: Any) -> Path:
    with store.open("pets/train", "tiny/net", **keywords) as feature_set:
        return Path(str(feature_set.path))


# the stamp


@pytest.mark.usefixtures("clock")
def test_b1_a_set_knows_when_it_was_sealed_and_by_which_store(store: FeatureStore) -> None:
    path = add(store, key_of("a"))
    (entry,) = store.ls()
    assert entry.sealed_at == "2026-01-01T00:00:01.000000Z"
    assert entry.is_own
    with FeatureSet(path) as feature_set:
        assert feature_set.provenance["sealed"]["at"] == entry.sealed_at
        assert feature_set.verify().ok


def test_b1_a_clock_that_goes_back_reverses_no_order(store: FeatureStore, clock: Clock) -> None:
    add(store, key_of("a"))
    clock.time = START - timedelta(days=300)
    newest = add(store, key_of("b"))
    assert opened(store) == newest
    assert sorted(entry.sealed_at for entry in store.ls()) == [
        "2026-01-01T00:00:01.000000Z",
        "2026-01-01T00:00:01.000001Z",
    ]


@pytest.mark.usefixtures("clock")
def test_b1_packing_and_unpacking_keep_the_stamp(store: FeatureStore, tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    path = add(store, key_of("a"))
    with FeatureSet(path) as original, original.pack(tmp_path / "packed.h5") as packed:
        with packed.unpack(tmp_path / "again.h5") as again:
            assert original.provenance == packed.provenance == again.provenance
        shutil.copyfile(str(packed.path), path)
    assert [entry.is_own for entry in store.ls()] == [True]


@pytest.mark.parametrize("change", ["time", "values", "secret"])
def test_b3_a_mark_is_of_one_store_one_time_and_one_content(store: FeatureStore, tmp_path: Path, change: str) -> None:
    path, other = add(store, key_of("a")), FeatureStore(tmp_path / "other")
    with FeatureSet(path) as feature_set:
        sealed = feature_set.provenance["sealed"]
    key = key_of("a")
    forged = {"time": {**sealed, "at": "2026-02-01T00:00:00.000000Z"}, "values": sealed, "secret": sealed}[change]
    target = other.path_for("pets", "train", "tiny/net", fingerprint(key))
    records = Records(ids=["0", "1"], labels=np.zeros(2, np.int64), content_hash=np.ones((2, 16), np.uint8))
    with FeatureSetWriter.create(
        target, key=key, outputs=[Output(name="pooled", shape=(2,))], records=records, provenance={"sealed": forged}
    ) as writer:
        writer.write_chunk("pooled", 0, np.full((2, 2), 3, np.float16))
        writer.mark_ok(0, 2)
        writer.seal_as_it_is()
    path.unlink()
    if change == "secret":
        shutil.copyfile(target, path)
        (store.root / ".origin").unlink()
    else:
        assert [merged.result for merged in store.merge(other)] == ["copied"]
    (entry,) = store.ls()
    assert entry.sealed_at == forged["at"]
    assert not entry.is_own


@pytest.mark.parametrize("sealed", [{}, {"at": "2026-13-31T23:59:59.999999Z"}, {"at": 7}, {"at": "2026"}, [], None])
def test_b1_what_is_no_time_is_unknown(sealed: Any) -> None:
    assert stamps.stamp_of({"sealed": sealed}).at == ""


def test_b2_another_stores_time_that_is_yet_to_come_is_not_believed(
    store: FeatureStore, tmp_path: Path, clock: Clock
) -> None:
    other = FeatureStore(tmp_path / "other")
    clock.time = START + timedelta(days=9)
    add(other, key_of("a"))
    clock.time = START
    own = add(store, key_of("b"))
    store.merge(other)
    assert opened(store) == own
    clock.time = START + timedelta(days=9)
    assert opened(store) != own


# which is read


@pytest.mark.usefixtures("clock")
def test_b2_the_newest_content_is_opened_and_one_line_says_so(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = add(store, key_of("a")), add(store, key_of("b"))
    age(newest, 300)
    with store.open("pets/train", "tiny/net") as feature_set:
        assert feature_set.path == newest
        assert [name[:16] for name in feature_set.older] == [older.stem]
    assert opened(store, fingerprint=older.stem[:6]) == older
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"of 2 contents of the dataset the newest is read, {newest.stem}" in line
    assert line.endswith(f"a fingerprint chooses an older one: {older.stem}")


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        (key_of("a", subset={"size": 10}), key_of("b", subset={"size": 20}), "dataset.subset.size: 10 and 20"),
        (key_of("a", subset={"seed": 1}), key_of("b", subset={"seed": 2}), "dataset.subset.seed: 1 and 2"),
        (key_of("a"), key_of("a", weights="v"), "backbone.weights: 'w' and 'v'"),
    ],
)
def test_b2_what_differs_in_more_than_content_is_ambiguous(
    store: FeatureStore, first: dict[str, Any], second: dict[str, Any], differs: str
) -> None:
    paths = [add(store, key) for key in (first, second)]
    with pytest.raises(AmbiguousError) as caught:
        opened(store)
    text = str(caught.value)
    left, right = differs.split(": ")[1].split(" and ")
    assert differs in text or f"{differs.split(':', maxsplit=1)[0]}: {right} and {left}" in text
    for path in paths:
        assert path.stem in text
        assert opened(store, fingerprint=path.stem) == path


def test_b2_unknown_times_are_older_than_known_ones_and_among_themselves_ambiguous(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for digest in "ab":
        without_stamp(monkeypatch, store, key_of(digest))
    with pytest.raises(AmbiguousError, match="sealed at an unknown time"):
        opened(store)
    newest = add(store, key_of("c"))
    assert opened(store) == newest


def test_b2_a_damaged_newest_content_is_said_to_be_passed_over(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    older, newest = add(store, key_of("a")), add(store, key_of("b"))
    os.truncate(newest, 5000)
    assert opened(store) == older
    assert f"passed over: {newest} is damaged" in caplog.text


# what may go


@pytest.mark.usefixtures("clock")
def test_b1_a_merged_older_set_does_not_supersede_the_newer(store: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore(tmp_path / "other")
    add(other, key_of("a"))
    newer = add(store, key_of("b"))
    (merged,) = store.merge(other)
    assert merged.note.startswith("an older content of the dataset")
    age(newer, 300)
    (garbage,) = store.gc(delete=True, hours=0)
    assert (garbage.path, garbage.deleted) == (merged.path, False)
    assert garbage.kept == "another store made this one, by its own clock"
    assert newer.exists()
    assert merged.path.exists()
    assert opened(store) == newer


def test_b1_subsets_are_sets_of_their_own(store: FeatureStore) -> None:
    for key in (
        key_of("a", subset={"size": 10}),
        key_of("b", subset={"size": 20}),
        key_of("c", subset={"size": 10, "seed": 1}),
    ):
        add(store, key)
    assert store.gc(delete=True, hours=0) == []
    assert len(store.ls()) == 3


def test_b1_unknown_times_are_listed_and_kept(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for digest in "ab":
        without_stamp(monkeypatch, store, key_of(digest))
    add(store, key_of("c"))
    found = store.gc(delete=True, hours=0)
    assert [garbage.kept for garbage in found] == ["which of them is the later one is not known"] * 2
    assert len(store.ls()) == 3


@pytest.mark.usefixtures("clock")
def test_b1_what_the_data_give_now_is_kept(store: FeatureStore) -> None:
    older, newer = key_of("a"), key_of("b")
    first, second = add(store, older), add(store, newer)
    store.note_content("folder", older["dataset"])
    assert store.gc(delete=True, hours=0) == [], "the data went back to what they were"
    store.note_content("folder", key_of("c")["dataset"])
    (garbage,) = store.gc(delete=True, hours=0)
    assert garbage.kept == "the data gave neither content when they were last looked at"
    store.note_content("another folder of that name", older["dataset"])
    store.note_content("folder", newer["dataset"])
    assert store.gc(delete=True, hours=0) == []
    store.note_content("another folder of that name", newer["dataset"])
    (garbage,) = store.gc(delete=True, hours=0)
    assert (garbage.path, garbage.deleted, garbage.kept) == (first, True, "")
    assert [entry.path for entry in store.ls()] == [second]


class RandomStores:
    """Stores in which datasets have grown, been cut to subsets, merged, packed and copied, by two checkpoints."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.chance = chance
        self.stores = [FeatureStore(root / name) for name in ("ours", "theirs")]
        for store in self.stores:
            store.root.mkdir(parents=True)
        self.newest: dict[str, tuple[int, str]] = {}
        self.contents = 0

    def grow(self) -> None:
        store = self.chance.choice(self.stores)
        subset = self.chance.choice([{}, {}, {"subset": {"size": 1}}, {"subset": {"size": 1, "seed": 1}}])
        key = key_of(str(self.contents), weights=self.chance.choice("wwv"), **subset)
        self.contents += 1
        path = add(store, key)
        if self.chance.random() < 0.9:
            store.note_content(store.root.name, key["dataset"])
        self.newest[stamps.recipe_of(key)] = (self.contents, path.name)

    def merge(self) -> None:
        ours, theirs = self.chance.sample(self.stores, 2)
        ours.merge(theirs)

    def copy(self) -> None:
        """As ``cp -r`` does, which gives files new times."""
        ours, theirs = self.chance.sample(self.stores, 2)
        for entry in theirs.ls():
            target = ours.root / entry.path.relative_to(theirs.root)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(entry.path, target)

    def pack(self) -> None:
        """In its place, so that the packed file is the store's own still."""
        entries = self.chance.choice(self.stores).ls()
        for entry in entries[:1]:
            with entry.open() as feature_set:
                if feature_set.table.version == 1:
                    feature_set.pack(entry.path.with_name("packed.h5")).close()
                    entry.path.with_name("packed.h5").replace(entry.path)

    def forget(self) -> None:
        """Files get any time."""
        for store in self.stores:
            for entry in store.ls():
                age(entry.path, self.chance.randrange(-100, 100))


def test_no_set_that_is_the_newest_content_of_its_recipe_is_ever_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores at random; and what is certain to be superseded does go."""
    pytest.importorskip("hdf5plugin")
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)  # nothing pulls the plug
    deleted = kept = 0
    for seed in range(8):
        made = RandomStores(tmp_path / str(seed), random.Random(seed))  # noqa: S311 - a reproducible sequence
        for _ in range(12):
            step = made.chance.choices([made.grow, made.merge, made.copy, made.pack], [8, 1, 1, 1])[0]
            step()
        made.forget()
        newest = {name for _, name in made.newest.values()}
        for store in made.stores:
            before = {entry.path for entry in store.ls()}
            latest = dict(_latest(store.ls()))
            found = store.gc(delete=True, hours=0)
            after = {entry.path for entry in store.ls()}
            gone = before - after
            assert {garbage.path for garbage in found if garbage.deleted} == gone
            assert not {path.name for path in gone} & newest, seed
            assert not gone & {entry.path for entry in latest.values()}, seed
            assert {entry.path for entry in latest.values()} <= after
            deleted += len(gone)
            kept += sum(bool(garbage.kept) for garbage in found)
            assert not [garbage for garbage in store.gc(delete=True, hours=0) if garbage.deleted]
    assert deleted > 10
    assert kept > 5


def _latest(entries: list[Entry]) -> Iterator[tuple[str, Entry]]:
    for recipe in {entry.recipe for entry in entries}:
        group = [entry for entry in entries if entry.recipe == recipe]
        yield recipe, max(group, key=lambda entry: entry.sealed_at)


# records that could not be read


def test_f4_records_that_could_not_be_read_have_no_content_in_common(store: FeatureStore) -> None:
    for split in ("train", "test"):
        key = {"dataset": {"name": "pets", "split": split}, "backbone": {"name": "tiny/net"}}
        hashes = np.zeros((3, 16), np.uint8)
        hashes[1] = 7
        records = Records(ids=[f"{split}{row}" for row in range(3)], labels=np.zeros(3, np.int64), content_hash=hashes)
        path = store.path_for("pets", split, "tiny/net", fingerprint(key))
        outputs = [Output(name="pooled", shape=(2,))]
        with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records) as writer:
            writer.write_chunk("pooled", 0, np.ones((3, 2), np.float16))
            writer.mark_ok(0, 3)
            writer.seal().close()
    assert store.same_content("pets/train", "pets/test") == [("train1", "test1")]


def test_f4_a_partial_that_vanishes_meanwhile_is_passed_over(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = add(store, key_of("a"))
    gone = [path.with_name(f"{'0' * 16}.h5.partial"), path.with_name(".0000000000000000.layout")]
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*glob(self, pattern), *gone])
    assert [garbage.path for garbage in store.gc(delete=True, hours=0)] == []


def test_entries_open_what_lies_in_the_store(store: FeatureStore, tmp_path: Path) -> None:
    outside = FeatureStore(tmp_path / "outside")
    path, foreign = add(store, key_of("a")), add(outside, key_of("a"))
    (entry,) = store.ls()
    path.unlink()
    path.symlink_to(foreign)
    for there in (entry, replace(entry, path=path)):
        with pytest.raises(ValueError, match=r"must lie within .*; a link leads to"):
            there.open()


def test_c11_notes_are_neither_written_nor_read_through_a_link(tmp_path: Path) -> None:
    store, outside = FeatureStore(tmp_path / "store"), tmp_path / "outside"
    store.root.mkdir()
    outside.mkdir()
    (store.root / ".contents").symlink_to(outside)
    store.note_content("here", {"name": "pets", "digest": "ab"})
    assert not [*outside.iterdir()]
    (store.root / ".contents").unlink()
    store.note_content("here", {"name": "pets", "digest": "ab"})
    (file,) = (store.root / ".contents").iterdir()
    assert [*noted(store.root).values()] == [{"ab"}]
    file.rename(outside / "note")
    file.symlink_to(outside / "note")
    assert noted(store.root) == {}
    file.unlink()
    os.mkfifo(file)
    assert noted(store.root) == {}
