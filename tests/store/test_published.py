"""A store on a static server: found through its index, read as from a disk, for little more than the bytes it uses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Server

from featurebank.store import (
    CorruptError,
    Entry,
    FeatureStore,
    FormatVersionError,
    InvalidInputError,
    NotFoundError,
    StorageError,
    UnknownNameError,
)
from featurebank.store._published import _digest

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
N, D = 6000, 192
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float16)
Y = np.arange(N) % 3


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path)
    made.add("texts 50%/train", "org/minilm", X, labels=Y, class_names=["a", "b", "c"])
    made.add("texts 50%/test", "org/minilm", X[:500] + 1, labels=Y[:500])
    made.index()
    return made


def change(store: FeatureStore, how: Callable[[Any], object]) -> None:
    """Another index, whose digest is right all the same."""
    path = store.root / "index.json"
    index = json.loads(path.read_text())
    how(index)
    path.write_text(json.dumps(index | {"digest": _digest(index["sets"])}))


def named(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.place,
        entry.name,
        entry.fingerprint,
        entry.state,
        entry.n_rows,
        entry.nbytes,
        entry.outputs,
        entry.recipe,
    )


def test_a_store_on_a_server_is_read_for_at_most_a_fifth_more_than_is_used(server: Server, store: FeatureStore) -> None:
    far = FeatureStore(server.url)
    with far["texts 50%/train", "org/minilm"] as train, far["texts 50%/test", "org/minilm"] as test:
        read, labels, tested = train.X, train.y, test.X
        np.testing.assert_array_equal(read, X, strict=True)
        np.testing.assert_array_equal(labels, Y, strict=True)
        np.testing.assert_array_equal(tested, X[:500] + 1, strict=True)
        used = read.nbytes + labels.nbytes + tested.nbytes
        assert train.class_names == ["a", "b", "c"]
    assert used < sum(server.sent) <= 1.2 * used
    assert len(server.sent) < 40
    assert [named(entry) for entry in far] == [named(entry) for entry in store]
    assert (len(far), "texts 50%/train" in far, repr(far)) == (2, True, f"FeatureStore({server.url!r})")


def test_what_is_read_is_checked(server: Server, store: FeatureStore) -> None:
    (path,) = (entry.path for entry in store.ls("texts 50%/train"))
    with store["texts 50%/train", "org/minilm"] as fs:
        address = fs.table.outputs[0].values.address
    data = bytearray(path.read_bytes())
    data[address + 4321] ^= 1
    path.write_bytes(data)
    with FeatureStore(server.url)["texts 50%/train", "org/minilm"] as fs, pytest.raises(CorruptError, match="pooled"):
        fs.X  # noqa: B018


def test_an_index_that_is_out_of_step_is_one_clear_error(server: Server, store: FeatureStore) -> None:
    far = FeatureStore(server.url)
    change(store, lambda index: index["sets"][0].update(digest="0" * 32))
    with pytest.raises(CorruptError, match=r"of the store's index.*digest 0{32}; found.*featurebank index"):
        far["texts 50%/test", "org/minilm"]
    for entry in store.ls("texts 50%/train"):
        entry.path.unlink()
    with pytest.raises(NotFoundError):
        far["texts 50%/train", "org/minilm"]


@pytest.mark.parametrize(
    ("how", "error", "text"),
    [
        (lambda index: index["sets"][0].update(split=".."), CorruptError, r"name a folder; found '\.\.'"),
        (lambda index: index["sets"][0].update(backbone=7), CorruptError, "must be texts"),
        (lambda index: index["sets"][0].update(fingerprint="../../x"), CorruptError, "64 hex digits"),
        (lambda index: index["sets"][0].pop("outputs"), CorruptError, "KeyError"),
        (lambda index: index["sets"][0].update(n_rows=[]), CorruptError, "TypeError"),
        (lambda index: index.update(version=2), FormatVersionError, "version 1; found 2"),
    ],
)
def test_an_index_says_only_what_an_index_says(
    server: Server, store: FeatureStore, how: Callable[[Any], object], error: type[Exception], text: str
) -> None:
    change(store, how)
    with pytest.raises(error, match=text):
        FeatureStore(server.url).ls()


def test_a_damaged_index_is_found(server: Server, store: FeatureStore) -> None:
    path = store.root / "index.json"
    text = path.read_bytes()
    for damaged in (
        text.replace(b'"n_rows":500', b'"n_rows":501'),
        text[:-40],
        b"[" * 100_000,
        b"\xff" * 200,
        b"3".ljust(200),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptError, match=r"must be the index of a store; found .*featurebank index"):
            FeatureStore(server.url).ls()


def test_a_server_without_an_index_is_no_store(server: Server, store: FeatureStore) -> None:
    (store.root / "index.json").unlink()
    with pytest.raises(NotFoundError, match=r"with an index.json; found none.*featurebank index"):
        len(FeatureStore(server.url))
    server.ranges = False
    store.index()
    with pytest.raises(StorageError, match="must serve ranges"):
        FeatureStore(server.url).ls()


def test_a_store_on_a_server_is_read_only_and_misses_name_the_nearest(
    server: Server, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATUREBANK_STORE", server.url)
    far = FeatureStore()
    with pytest.raises(UnknownNameError, match="did you mean 'org/minilm'"):
        far["texts 50%/train", "org/minilmm"]
    for write in (
        lambda: far.add("a/b", "c", X),
        far.gc,
        far.index,
        lambda: store.merge(far),
        lambda: far.merge(store),
    ):
        with pytest.raises(
            InvalidInputError, match="must be a folder of this machine for that; found a store on a server"
        ):
            write()
    assert [report.result for report in far.verify()] == ["could not be checked"] * 2
    assert len(far.same_content("texts 50%/train", "texts 50%/train")) == N


def test_any_file_system_of_fsspec_has_a_store(store: FeatureStore) -> None:
    import fsspec  # type: ignore[import-untyped]

    memory = fsspec.filesystem("memory")
    try:
        for path in store.root.rglob("*"):
            if path.is_file():
                memory.pipe_file(f"/bucket/{path.relative_to(store.root)}", path.read_bytes())
        with FeatureStore("memory://bucket")["texts 50%/test", "org/minilm"] as fs:
            np.testing.assert_array_equal(fs.X, X[:500] + 1)
    finally:
        memory.rm("/bucket", recursive=True)


def test_the_older_contents_and_names_are_those_of_the_folder(server: Server, store: FeatureStore) -> None:
    newer = store.add("texts 50%/test", "org/minilm", X[:600], labels=Y[:600])
    store.index()
    with FeatureStore(server.url)["texts 50%/test", "org/minilm"] as fs:
        assert (fs.fingerprint, len(fs.older)) == (newer.fingerprint, 1)
