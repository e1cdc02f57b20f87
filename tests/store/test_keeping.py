"""Keeping a store: merging another one into it, collecting what it can do without, content that stands twice."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import KEY, N_ROWS, fill, make_records, make_sealed, make_values

from featurebank.store import (
    FeatureSet,
    FeatureSetWriter,
    FeatureStore,
    Merged,
    NotFoundError,
    Output,
    Records,
    _layout,
    _merging,
    _packing,
)
from featurebank.store.fingerprint import fingerprint

DAY = 24 * 3600


def key_of(**changes: Any) -> dict[str, Any]:
    return {**KEY, **changes}


def place(store: FeatureStore, key: dict[str, Any]) -> Path:
    dataset = key["dataset"]
    return store.path_for(dataset["name"], dataset["split"], key["backbone"]["name"], fingerprint(key))


def add(store: FeatureStore, **changes: Any) -> Path:
    key = key_of(**changes)
    path = place(store, key)
    make_sealed(path, key=key).close()
    return path


def grown(digest: str) -> dict[str, Any]:
    dataset: Any = KEY["dataset"]
    return {**dataset, "digest": digest}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


@pytest.fixture
def other(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "other")


def test_merging_copies_what_is_missing_and_keeps_what_is_there(store: FeatureStore, other: FeatureStore) -> None:
    ours, theirs = add(store), add(other)
    new = add(other, dtype="float32")
    ours_before = ours.stat().st_mtime_ns
    results = {merged.source: merged for merged in store.merge(other)}
    assert results[theirs] == Merged(source=theirs, path=ours, result="present")
    assert results[new].result == "copied"
    assert results[new].path.read_bytes() == new.read_bytes()
    assert ours.stat().st_mtime_ns == ours_before
    assert [entry.state for entry in store.ls()] == ["sealed", "sealed"]
    assert {merged.result for merged in store.merge(other)} == {"present"}


def test_merging_refuses_what_is_damaged_and_goes_on(store: FeatureStore, other: FeatureStore) -> None:
    sound, chunk, header = add(other), add(other, precision="a"), add(other, precision="b")
    data = bytearray(chunk.read_bytes())
    data[data.index(make_values()["tokens"][20].tobytes())] ^= 1
    chunk.write_bytes(data)
    header.write_bytes(b"nothing of the kind")
    results = {merged.source: merged for merged in store.merge(other)}
    assert results[sound].result == "copied"
    assert [results[path].result for path in (chunk, header)] == ["refused", "refused"]
    assert f"{chunk} is damaged: output 'tokens'" in results[chunk].message
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == [sound.name]


def test_partials_are_not_merged(store: FeatureStore, other: FeatureStore) -> None:
    path = place(other, KEY)
    make_sealed(path).close()
    path.rename(path.with_name(path.name + ".partial"))
    assert store.merge(other) == []


def test_gc_finds_what_dead_runs_left(store: FeatureStore) -> None:
    sealed = add(store)
    partial = place(store, key_of(precision="a"))
    records, outputs = make_records(), [Output(name="pooled", shape=(64,))]
    held = FeatureSetWriter.create(partial, key=key_of(precision="a"), outputs=outputs, records=records)
    hidden = sealed.with_name(".0123456789abcdef.layout")
    hidden.write_bytes(b"cut short")
    for path in (held.partial_path, hidden):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    assert [garbage.path for garbage in store.gc()] == [hidden]
    held.close()
    assert store.gc(hours=72) == []
    found = store.gc()
    assert {garbage.path for garbage in found} == {hidden, held.partial_path}
    assert all("nobody has written to it for 48 h" in garbage.reason for garbage in found)
    assert hidden.exists()
    assert all(garbage.deleted for garbage in store.gc(delete=True))
    assert {path for path in store.root.rglob("*") if path.is_file()} == {sealed, store.root / ".origin"}


def test_gc_finds_the_sets_of_a_dataset_that_has_changed(store: FeatureStore) -> None:
    first = add(store, dataset=grown("a"))
    last = add(store, dataset=grown("b"))
    other_precision = add(store, dataset=grown("a"), precision="bfloat16")
    os.utime(first, (time.time() - DAY,) * 2)
    (garbage,) = store.gc()
    assert (garbage.path, garbage.deleted) == (first, False)
    assert garbage.reason == f"{last.name} has the same key with a later content of the dataset"
    assert garbage.nbytes == first.stat().st_size
    store.gc(delete=True)
    assert {entry.path for entry in store.ls()} == {last, other_precision}


def test_content_in_both_of_two_splits(store: FeatureStore) -> None:
    rows = np.arange(N_ROWS)
    hashes = np.stack([rows + 1, rows * 0], axis=1).astype("<u8").view(np.uint8).reshape(N_ROWS, 16)
    other_hashes = hashes.copy()
    other_hashes[:, 15] = 1
    other_hashes[[3, 5, 6]] = hashes[[60, 0, 0]]
    for split, content in (("train", hashes), ("test", other_hashes)):
        key = key_of(dataset={"name": "demo", "split": split})
        made = make_records()
        records = Records(ids=[f"{split}-{row}" for row in rows], labels=made.labels, content_hash=content)
        path = place(store, key)
        outputs = [Output(name="pooled", shape=(64,))]
        with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records) as writer:
            fill(writer, make_values())
            writer.seal().close()
    pairs = [("train-60", "test-3"), ("train-0", "test-5"), ("train-0", "test-6")]
    assert store.same_content("demo/train", "demo/test") == pairs
    assert store.same_content("demo/test", "demo/train") == [("test-5", "train-0"), ("test-3", "train-60")]
    with pytest.raises(NotFoundError, match="did you mean 'demo/test'"):
        store.same_content("demo/train", "demo/tst")


def files(store: FeatureStore) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_file() and path.name != ".origin")


def during(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, action: Callable[[], object]) -> list[object]:
    """Does something in the middle of an operation, just before one of its steps; what came of it."""
    real, done = getattr(module, name), []

    def step(*arguments: Any, **keywords: Any) -> Any:
        done.append(action())
        return real(*arguments, **keywords)

    monkeypatch.setattr(module, name, step)
    return done


def test_c13_what_is_damaged_or_too_large_is_refused_before_anything_is_written(
    store: FeatureStore, other: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk, sound = add(other), add(other, precision="a")
    data = bytearray(chunk.read_bytes())
    data[data.index(make_values()["tokens"][20].tobytes())] ^= 1
    chunk.write_bytes(data)
    usage = shutil.disk_usage(other.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=sound.stat().st_size - 1))
    written = during(monkeypatch, os, "sendfile", lambda: None)
    results = {merged.source: merged for merged in store.merge(other)}
    assert "is damaged: output 'tokens'" in results[chunk].message
    assert f"cannot copy {sound.stat().st_size} bytes" in results[sound].message
    assert "bytes are free" in results[sound].message
    assert (written, files(store)) == ([], [])


@pytest.mark.parametrize(
    ("moment", "change"),
    list(itertools.product(["before", "during"], ["another file", "a link", "other bytes", "shorter"])),
)
def test_c13_a_source_that_changes_while_it_is_copied_is_noticed(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, change: str
) -> None:
    other = FeatureStore(tmp_path / "other")
    source, elsewhere = add(other), add(FeatureStore(tmp_path / "elsewhere"), precision="a")
    original = source.read_bytes()

    def swap() -> None:
        if change == "other bytes":
            with source.open("r+b") as file:
                file.seek(original.index(make_values()["tokens"][20].tobytes()))
                file.write(b"!")
        elif change == "shorter":
            os.truncate(source, 5000)
        else:
            source.unlink()
            if change == "a link":
                source.symlink_to(elsewhere)
            else:
                source.write_bytes(elsewhere.read_bytes())

    # Before it is opened, or when it has been found sound.
    if moment == "before":
        during(monkeypatch, _merging, "_copy_verified", swap)
    else:
        during(monkeypatch, os, "sendfile", swap)
    (merged,) = store.merge(other)
    if moment == "during" and change in ("another file", "a link"):
        assert merged.result == "copied"
        assert merged.path.read_bytes() == original, "what was verified was not what was copied"
    else:
        assert merged.result == "refused"
        assert str(source) in merged.message
        assert files(store) == []


def test_c13_gc_leaves_what_is_being_written(
    store: FeatureStore, other: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hdf5plugin")

    def collect() -> list[Any]:
        return store.gc(delete=True, hours=0)

    source, key = add(other), key_of(precision="b")
    places = ((os, "sendfile"), (_packing, "_write_header"), (_layout, "_finish"))
    seen = [during(monkeypatch, module, name, collect) for module, name in places]
    assert [merged.result for merged in store.merge(other)] == ["copied"]
    packed = store.root / source.relative_to(other.root)
    packed.unlink()
    with FeatureSet(source) as original:
        original.pack(packed).close()
    outputs = [Output(name="pooled", shape=(64,))]
    with FeatureSetWriter.create(place(store, key), key=key, outputs=outputs, records=make_records()) as writer:
        assert collect() == []
        writer.write_chunk("pooled", 0, np.ones((N_ROWS, 64), np.float16))
    assert all(found and not any(found) for found in seen)
    assert len(store.ls()) == 2


def test_b1_gc_goes_by_no_copys_time(store: FeatureStore, other: FeatureStore) -> None:
    """An older content that was merged later, and subsets that differ in more than content."""
    add(other, dataset=grown("a"))
    newest = add(store, dataset=grown("b"))
    os.utime(newest, (time.time() - 300 * DAY,) * 2)
    assert [merged.result for merged in store.merge(other)] == ["copied"]
    for number, subset in enumerate(({"size": 10}, {"size": 20}, {"size": 10, "seed": 1})):
        add(store, dataset={**grown(str(number)), "subset": subset})
    store.gc(delete=True, hours=0)
    assert newest.exists()
    assert len(store.ls()) == 5
    with store.open("demo/test", "tiny/net", fingerprint=newest.stem) as feature_set:
        assert feature_set.path == newest
