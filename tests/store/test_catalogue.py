"""The catalogue: folders and names, near misses, ambiguity, partials and damage."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import KEY, N_ROWS, OUTPUTS, fill, make_sealed, make_values, make_writer
from hypothesis import given
from hypothesis import strategies as st

from featurebank.store import (
    AmbiguousError,
    CorruptError,
    FeatureSet,
    FeatureStore,
    InvalidInputError,
    NotFoundError,
    NotSealedError,
)
from featurebank.store.fingerprint import fingerprint

HEX = "0123456789abcdef" * 4


def key_of(dataset: str, split: str, backbone: str, **more: Any) -> dict[str, Any]:
    return {"dataset": {"name": dataset, "split": split}, "backbone": {"name": backbone}, **more}


def add(store: FeatureStore, dataset: str, split: str, backbone: str, *, sealed: bool = True, **more: Any) -> Path:
    key = key_of(dataset, split, backbone, **more)
    path = store.path_for(dataset, split, backbone, fingerprint(key))
    if sealed:
        make_sealed(path, key=key).close()
    else:
        make_writer(path, key=key).close()
    return path


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def test_empty_store(store: FeatureStore) -> None:
    assert store.find(HEX) is None
    assert store.state("a", "b", "c", HEX) == "absent"
    assert not store.root.exists()
    store.root.mkdir()
    assert store.ls() == []
    with pytest.raises(NotFoundError, match="there is none at all"):
        store.open("mnist/test", "resnet18")


READING: dict[str, Callable[[FeatureStore], object]] = {
    "ls": FeatureStore.ls,
    "open": lambda store: store.open("mnist/test", "resnet18"),
    "by_fingerprint": lambda store: store.by_fingerprint(HEX),
    "verify": FeatureStore.verify,
    "gc": FeatureStore.gc,
    "same_content": lambda store: store.same_content("mnist/train", "mnist/test"),
    "len": len,
    "iterating": list,
    "in": lambda store: "mnist/test" in store,
}


@pytest.mark.parametrize("verb", READING)
@pytest.mark.parametrize("kind", ["nothing", "a file"])
def test_d13_a_store_that_does_not_exist_is_an_error_where_it_is_read(tmp_path: Path, verb: str, kind: str) -> None:
    store = FeatureStore(tmp_path / "typo" / "features")
    if kind == "a file":
        store.root.parent.mkdir()
        store.root.touch()
    above = tmp_path if kind == "nothing" else store.root.parent
    text = f"{store.root} must be a store's folder; found {kind}; of the folders above it {above} exists"
    with pytest.raises(NotFoundError, match=re.escape(text)):
        READING[verb](store)
    assert not store.root.is_dir()


def test_d13_a_store_is_made_where_it_is_written(tmp_path: Path) -> None:
    made, copied = FeatureStore(tmp_path / "new" / "made"), FeatureStore(tmp_path / "new" / "copied")
    with pytest.raises(NotFoundError, match="must be a store's folder; found nothing"):
        copied.merge(made)
    assert not copied.root.exists()
    add(made, "a", "train", "x")
    assert [one.result for one in copied.merge(made)] == ["copied"]
    assert len(copied) == 1


def test_d13_a_store_is_a_container_of_its_sealed_sets(store: FeatureStore) -> None:
    assert store, "a store that is yet to be made is no false value"
    add(store, "a", "train", "x")
    add(store, "a", "train", "y")
    add(store, "b", "test", "x", sealed=False)
    path = add(store, "c", "test", "x")
    path.write_bytes(path.read_bytes()[:100])
    assert len(store) == 2
    assert [(entry.dataset, entry.backbone) for entry in store] == [("a", "x"), ("a", "y")]
    names = ("a/train", "a", "a/test", "b/test", "c/test", "", "x")
    assert [name for name in names if name in store] == ["a/train", "a"]
    assert all(entry in store for entry in store)
    assert 7 not in store


def test_d13_the_store_that_is_not_named_is_the_one_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATUREBANK_STORE", f"{tmp_path}/sets")
    assert FeatureStore().root == tmp_path / "sets"
    assert FeatureStore(tmp_path).root == tmp_path
    monkeypatch.delenv("FEATUREBANK_STORE")
    with pytest.raises(InvalidInputError, match=r"\$FEATUREBANK_STORE must be set"):
        FeatureStore()


def test_ls_names_what_is_there(store: FeatureStore) -> None:
    b = add(store, "fashion_mnist", "train", "timm/resnet18")
    a = add(store, "cifar/10", "test", "resnet18", sealed=False)
    entries = store.ls()
    assert [(e.dataset, e.split, e.backbone, e.state) for e in entries] == [
        ("cifar/10", "test", "resnet18", "partial"),
        ("fashion_mnist", "train", "timm/resnet18", "sealed"),
    ]
    sealed = entries[1]
    assert (sealed.path, sealed.n_rows, sealed.outputs, sealed.message) == (b, N_ROWS, OUTPUTS, "")
    assert sealed.nbytes == b.stat().st_size
    assert sealed.fingerprint == fingerprint(key_of("fashion_mnist", "train", "timm/resnet18"))
    assert entries[0].path == a.with_name(a.name + ".partial")
    assert [e.backbone for e in store.ls(dataset="fashion_mnist")] == ["timm/resnet18"]
    assert [e.backbone for e in store.ls(dataset="cifar/10/test")] == ["resnet18"]
    assert [e.dataset for e in store.ls(backbone="resnet18")] == ["cifar/10"]
    assert store.ls(dataset="fashion_mnist/test") == []


def test_open_and_find(store: FeatureStore) -> None:
    path = add(store, "a/b", "train", "x/y")
    fp = fingerprint(key_of("a/b", "train", "x/y"))
    for opened in (store.open("a/b/train", "x/y"), store.open("a/b/train", "x/y", fingerprint=fp[:5]), store.find(fp)):
        assert opened is not None
        assert (opened.path, opened.fingerprint) == (path, fp)
        opened.close()
    assert store.find(fp[:16] + "0" * 48) is None
    assert store.state("a/b", "train", "x/y", fp) == "sealed"
    with pytest.raises(NotFoundError, match=rf"unknown fingerprint '{HEX}'"):
        store.open("a/b/train", "x/y", fingerprint=HEX)


def test_misses_name_the_nearest(store: FeatureStore) -> None:
    add(store, "fashion_mnist", "train", "efficientnet_lite0")
    with pytest.raises(
        NotFoundError, match="unknown dataset 'fashion-mnist/train'; did you mean 'fashion_mnist/train'"
    ):
        store.open("fashion-mnist/train", "efficientnet_lite0")
    with pytest.raises(KeyError, match="unknown backbone 'efficientnet_lite'; did you mean 'efficientnet_lite0'"):
        store.open("fashion_mnist/train", "efficientnet_lite")
    with pytest.raises(InvalidInputError, match="'dataset/split'; found 'fashion_mnist'"):
        store.open("fashion_mnist", "efficientnet_lite0")


def test_ambiguity_says_how_the_keys_differ(store: FeatureStore) -> None:
    for size in (160, 224):
        add(store, "a", "train", "x", preprocessing={"size": size, "crop": "center"})
    prints = [e.fingerprint for e in store.ls()]
    with pytest.raises(AmbiguousError) as caught:
        store.open("a/train", "x")
    text = str(caught.value)
    assert all(fp[:16] in text for fp in prints)
    first = store.open("a/train", "x", fingerprint=prints[0])
    size = first.key["preprocessing"]["size"]
    first.close()
    assert f"preprocessing.size: {size} and {384 - size}" in text
    assert "crop" not in text


def test_partials_are_pointed_out(store: FeatureStore) -> None:
    path = add(store, "a", "train", "x", sealed=False)
    fp = fingerprint(key_of("a", "train", "x"))
    assert store.state("a", "train", "x", fp) == "partial"
    assert store.find(fp) is None
    with pytest.raises(NotSealedError, match=re.escape(f"{path}.partial is still a partial; resume")):
        store.open("a/train", "x")


def test_damage_is_listed_and_stops_nothing(store: FeatureStore) -> None:
    broken, whole, shifted = (add(store, "a", "train", name) for name in ("broken", "whole", "shifted"))
    os.truncate(broken, 5000)
    data = bytearray(shifted.read_bytes())
    data[data.index(make_values()["pooled"][40].tobytes())] ^= 1
    shifted.write_bytes(data)
    (whole.parent / "notes.txt").write_text("mine")
    states = {e.backbone: (e.state, e.fingerprint, "its size" in e.message) for e in store.ls()}
    assert states["broken"] == ("damaged", broken.name[:16], True)
    assert states["whole"][0] == states["shifted"][0] == "sealed"
    reports = {report.path: report for report in store.verify()}
    assert [reports[path].ok for path in (broken, whole, shifted)] == [False, True, False]
    assert "output 'pooled', 1 chunk (1)" in reports[shifted].error
    assert str(broken) in reports[broken].error
    with pytest.raises(CorruptError, match=re.escape(str(broken))):
        store.open("a/train", "broken")
    store.open("a/train", "whole").close()


def test_moved_and_renamed_files_are_damaged(store: FeatureStore) -> None:
    moved, renamed = add(store, "a", "train", "x"), add(store, "a", "test", "x")
    target = store.root / "a" / "train" / "y" / moved.name
    target.parent.mkdir()
    moved.rename(target)
    renamed.rename(renamed.with_name("0123456789abcdef.h5"))
    messages = {e.path.name: e.message for e in store.ls()}
    assert "must lie in the folders of its key, a / train / x; found a / train / y" in messages[moved.name]
    assert "must be named after its fingerprint" in messages["0123456789abcdef.h5"]


def test_links_out_of_the_store_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    outside = FeatureStore(tmp_path / "outside")
    add(outside, "a", "train", "x")
    store.root.mkdir()
    (store.root / "a").symlink_to(outside.root / "a")
    (entry,) = store.ls()
    assert (entry.state, entry.n_rows) == ("damaged", 0)
    assert "must lie within" in entry.message
    assert store.find(fingerprint(key_of("a", "train", "x"))) is None
    with pytest.raises(InvalidInputError, match="a link leads to"):
        store.path_for("a", "train", "x", HEX)


@pytest.mark.parametrize("name", ["", ".", "..", "\ud800", "x" * 256, "é" * 43])
def test_names_that_name_no_folder_are_refused(store: FeatureStore, name: str) -> None:
    for names in ((name, "b", "c"), ("a", name, "c"), ("a", "b", name)):
        with pytest.raises(InvalidInputError):
            store.path_for(*names, HEX)


@pytest.mark.parametrize("fp", ["", "0" * 16, "../" * 21 + "x", HEX.upper(), HEX + "\n"])
def test_fingerprints_are_64_hex_digits(store: FeatureStore, fp: str) -> None:
    with pytest.raises(InvalidInputError, match="64 hex digits"):
        store.path_for("a", "b", "c", fp)


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc/passwd", "a\\b", "~root", "%2F", "%2e%2e", "a\nb", "a\0b", "-rf", "a b", "ü", ".hidden"]
)
def test_hostile_names_stay_inside_and_come_back(store: FeatureStore, name: str) -> None:
    path = add(store, name, name, name)
    assert path.resolve().parent.parent.parent.parent == store.root.resolve()
    assert re.fullmatch(r"[A-Za-z0-9._:+@=,%-]+", path.parent.name)
    (entry,) = store.ls()
    assert (entry.dataset, entry.split, entry.backbone, entry.state) == (name, name, name, "sealed")
    store.open(f"{name}/{name}", name).close() if "/" not in name else None


@given(st.lists(st.text(min_size=1, max_size=20), min_size=3, max_size=3))
def test_paths_are_reversible_and_inside(names: list[str]) -> None:
    from featurebank.store._names import decode_component

    store = FeatureStore("/tmp/features")  # noqa: S108
    try:
        path = store.path_for(names[0], names[1], names[2], HEX)
    except InvalidInputError:
        assert any(
            name in (".", "..") or len(name.encode("utf-8", "surrogatepass")) > 80 or _surrogate(name) for name in names
        )
        return
    assert path.relative_to(store.root).parts[3:] == (HEX[:16] + ".h5",)
    assert [decode_component(part) for part in path.relative_to(store.root).parts[:3]] == names


def _surrogate(name: str) -> bool:
    return any(0xD800 <= ord(character) < 0xE000 for character in name)


def test_sealing_turns_a_partial_into_a_set(store: FeatureStore) -> None:
    key = {**KEY, "dataset": {"name": "demo", "split": "test"}}
    path = store.path_for("demo", "test", "tiny/net", fingerprint(key))
    with make_writer(path, key=key) as writer:
        assert [e.state for e in store.ls()] == ["partial"]
        fill(writer, make_values())
        writer.seal().close()
    assert [e.state for e in store.ls()] == ["sealed"]


def test_f7_opening_looks_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore(tmp_path)
    make_sealed(store.path_for("demo", "test", "tiny/net", fingerprint(KEY))).close()
    for number in range(20):
        other = tmp_path / f"other{number}" / "test" / "tiny" / f"{number:016x}.h5"
        other.parent.mkdir(parents=True)
        other.touch()
    looked: list[str] = []
    own = os.scandir

    def counted(place: str) -> Any:
        looked.append(str(place))
        return own(place)

    monkeypatch.setattr(os, "scandir", counted)
    store.open("demo/test", "tiny/net").close()
    assert looked
    assert all(place.startswith(str(tmp_path / "demo" / "test")) for place in looked)
    with pytest.raises(NotFoundError, match="known: demo/test, other0/test, other1/test"):
        store.open("unlike/any", "tiny/net")


def test_d13_a_set_is_asked_for_by_its_names_and_the_list_is_a_table(store: FeatureStore) -> None:
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    values = np.eye(4, 8)
    store.add("agnews/train", "minilm", values, labels=[0, 1, -1, 1])
    store.add("agnews/train", "other", {"a": values, "b": values})
    with store["agnews/train", "minilm"] as fs:
        np.testing.assert_array_equal(fs.X, values)
        assert fs.y.tolist() == [0, 1, -1, 1]
    with store["agnews/train", "other"] as fs, pytest.raises(InvalidInputError, match="found a, b; take fs"):
        fs.X  # noqa: B018
    for names in ("agnews/train", ("agnews/train",), ("agnews/train", 3)):
        with pytest.raises(InvalidInputError, match=r"\['dataset/split', 'backbone'\]; found"):
            store[names]  # type: ignore[index]
    tables = store.ls().to_pandas(), store.ls().to_polars()
    assert (type(tables[0]), type(tables[1])) == (pandas.DataFrame, polars.DataFrame)
    for table in tables:
        assert list(table["name"]) == ["minilm", "other"]
        assert list(table["n_rows"]) == [4, 4]
        assert list(table["outputs"]) == ["pooled", "a b"]
        assert list(table["path"]) == [str(entry.path) for entry in store]


def test_d13_x_and_y_leave_out_what_has_no_features(sealed: Path) -> None:
    with FeatureSet(sealed) as fs:
        assert not fs.ok.all()
        np.testing.assert_array_equal(fs.X, fs["pooled"][fs.ok])
        np.testing.assert_array_equal(fs.y, fs.labels[fs.ok])
