"""One fault, one casualty: whatever one file of a store is, everything else in the store goes on."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_
from feature_sets import KEY, N_ROWS
from resealing import reseal, with_table

from featurebank.store import (
    CorruptError,
    FeatureSet,
    FeatureStore,
    StorageError,
    StoreError,
    TooLargeError,
    _header,
)
from featurebank.store.fingerprint import fingerprint
from featurebank.store.verify import reported

NAME = ("demo", "test", "tiny/net")
ODD: tuple[Any, ...] = (
    *([], {}, "", None, True, -1, 0, 1.5, 1 << 62, 1 << 63, 10**400, float("nan"), "\ud800", "|S999999999", "<f2"),
    *([1 << 61] * 8, [0], [[]], {"shape": []}, "/manifest", "../x", [1] * 400),
)


def emptied(path: Path) -> None:
    with_table(path, lambda table: table["outputs"][0]["values"].update(shape=[]))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def linked(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def ring(path: Path) -> None:
    path.unlink()
    other = path.with_name("other")
    path.symlink_to(other)
    other.symlink_to(path)


def deep(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b'"tiny/net"')
    data[at : at + 10] = b"[" * 10
    path.write_bytes(data)
    reseal(path)


BAD: dict[str, Callable[[Path], object]] = {
    "a link to itself": linked,
    "links in a ring": ring,
    "a link to nothing": dangling,
    "a pipe": pipe,
    "a folder": folder,
    "no bytes": lambda path: path.write_bytes(b""),
    "half of it": lambda path: os.truncate(path, path.stat().st_size // 2),
    "an empty shape": emptied,
    "no JSON": deep,
}


@pytest.fixture
def store(tmp_path: Path, sealed_bytes: bytes) -> FeatureStore:
    """A healthy set, and beside it a copy of it for each kind of fault."""
    store = FeatureStore(tmp_path / "features")
    for name, digits in zip(("", *BAD), (fingerprint(KEY)[:16], *(f"{n:016x}" for n in range(len(BAD)))), strict=True):
        path = store.path_for(*NAME, digits.ljust(64, "0")) if not name else _place(store, name, digits)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sealed_bytes)
        BAD.get(name, id)(path)
    return store


def _place(store: FeatureStore, name: str, digits: str) -> Path:
    backbone = NAME[2] if len(name) % 2 else "other"
    return store.path_for(*NAME[:2], backbone, digits.ljust(64, "0"))


def test_c6_every_bad_file_is_one_damaged_entry(store: FeatureStore) -> None:
    states = {entry.path.stem: (entry.state, entry.message) for entry in store.ls()}
    assert states.pop(fingerprint(KEY)[:16]) == ("sealed", "")
    assert len(states) == len(BAD)
    for stem, (state, message) in states.items():
        assert state == "damaged"
        assert stem in message
        assert "\n" not in message


def test_c6_everything_else_goes_on(store: FeatureStore, tmp_path: Path) -> None:
    good = store.root / "demo" / "test" / "tiny%2Fnet" / f"{fingerprint(KEY)[:16]}.h5"
    results = {report.path: report.result for report in store.verify()}
    assert results.pop(good) == "as sealed"
    assert len(results) == len(BAD)
    assert "as sealed" not in results.values()
    assert store.gc(hours=0) == []
    assert [one.result for one in FeatureStore(tmp_path / "copy").merge(store)].count("copied") == 1
    assert store.by_fingerprint(fingerprint(KEY)).path == good
    found = store.find(fingerprint(KEY))
    assert found is not None
    assert found.path == good
    assert len(store.same_content("demo/test", "demo/test")) == N_ROWS


def test_c6_every_verb_goes_on(store: FeatureStore, tmp_path: Path) -> None:
    key = ("demo/test", "tiny/net", "--store", store.root)
    at = ("--store", store.root)
    codes = {
        "ls": featurebank_("ls", *at).code,
        "duplicates": featurebank_("duplicates", "demo/test@tiny/net", "--exact", *at).code,
        "near duplicates": featurebank_("duplicates", "demo/test@tiny/net", *at).code,
        "verify": featurebank_("verify", *at).code,
        "gc": featurebank_("gc", *at).code,
        "show": featurebank_("show", *key).code,
        "export": featurebank_("export", *key[:2], tmp_path / "out", *key[2:]).code,
        "merge": featurebank_("merge", store.root, "--store", tmp_path / "merged").code,
        "pack": featurebank_("pack", tmp_path / "packed", *at).code,
    }
    assert codes == {
        **dict.fromkeys(("ls", "duplicates", "near duplicates", "gc", "show", "export"), 0),
        **dict.fromkeys(("verify", "merge", "pack"), 1),
    }
    for folder in ("merged", "packed"):
        assert [entry.state for entry in FeatureStore(tmp_path / folder).ls()] == ["sealed"]


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        *((error, CorruptError) for error in (IndexError, KeyError, OverflowError, RecursionError, RuntimeError)),
        *((error, CorruptError) for error in (AssertionError, AttributeError, ZeroDivisionError, UnicodeError)),
        (MemoryError, TooLargeError),
        (OSError, StorageError),
    ],
)
def test_c6_whatever_is_raised_while_a_file_is_read_is_that_files_fault(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception], kind: type[StoreError]
) -> None:
    def failing(*_: Any) -> Any:
        raise raised("odd")

    monkeypatch.setattr(_header, "read_header", failing)
    with pytest.raises(kind, match=str(sealed)):
        FeatureSet(sealed)
    assert reported(sealed).result == ("damaged" if kind is CorruptError else "could not be checked")


def test_c6_no_odd_value_of_a_table_escapes(tmp_path: Path, sealed_bytes: bytes) -> None:
    generator = random.Random(6)  # noqa: S311 - mutations
    store = FeatureStore(tmp_path)
    good = store.path_for(*NAME, fingerprint(KEY))
    good.parent.mkdir(parents=True)
    good.write_bytes(sealed_bytes)
    for number in range(400):
        path = good.with_name(f"{number:016x}.h5")
        path.write_bytes(sealed_bytes)
        with_table(path, lambda table: _changed(table, generator))
    states = {entry.path: (entry.state, entry.message) for entry in store.ls()}
    assert states.pop(good) == ("sealed", "")
    assert {state for state, _ in states.values()} == {"damaged"}
    assert all(str(path) in message for path, (_, message) in states.items())


def _changed(table: dict[str, Any], generator: random.Random) -> None:
    """Puts an odd value anywhere into the table."""
    node: Any = table
    while True:
        place = generator.choice(list(node) if isinstance(node, dict) else range(len(node)))
        below = node[place]
        if not isinstance(below, dict | list) or not below or generator.random() < 0.2:
            if generator.random() < 0.1 and isinstance(node, dict):
                del node[place]
            else:
                node[place] = generator.choice(ODD)
            return
        node = below


def test_c6_rows_that_are_not_there_are_the_callers_fault(sealed: Path) -> None:
    with FeatureSet(sealed) as fs, pytest.raises(IndexError):
        fs.load("pooled", np.array([N_ROWS]))
