"""The verbs that keep a store, and those options of ``ls`` and ``show`` that compare two sets."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from command_line import featurebank_, words
from feature_sets import KEY, make_sealed

from featurebank.store import FeatureStore
from featurebank.store.fingerprint import fingerprint

DAY = 24 * 3600


def add(store: FeatureStore, provenance: str, **changes: object) -> Path:
    key = {**KEY, **changes}
    path = store.path_for("demo", "test", "tiny/net", fingerprint(key))
    make_sealed(path, key=key, provenance={"torch": provenance}).close()
    return path


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def test_gc_lists_and_deletes_only_when_told(store: FeatureStore) -> None:
    path = add(store, "2.9")
    partial = path.with_name("0123456789abcdef.h5.partial")
    partial.write_bytes(b"cut short")
    os.utime(partial, (time.time() - 2 * DAY,) * 2)
    listed = featurebank_("gc", "--store", store.root)
    assert listed.code == 0
    assert partial.name in listed.out
    assert "nothing was deleted; repeat with --delete" in listed.out
    (garbage,) = featurebank_("gc", "--store", store.root, "--json").json["files"]
    assert (garbage["path"], garbage["deleted"]) == (str(partial), False)
    assert partial.exists()
    assert "Deleted from" in featurebank_("gc", "--store", store.root, "--delete").out
    assert not partial.exists()
    assert "nothing to collect" in featurebank_("gc", "--store", store.root).out
    assert path.exists()


def test_merge_brings_in_another_store_and_says_what_it_refused(store: FeatureStore, tmp_path: Path) -> None:
    other = FeatureStore(tmp_path / "other")
    add(other, "2.9")
    done = featurebank_("merge", other.root, "--store", store.root)
    assert (done.code, "copied" in done.out) == (0, True)
    broken = add(other, "2.9", precision="a")
    broken.write_bytes(b"nothing of the kind")
    done = featurebank_("merge", other.root, "--store", store.root, "--json")
    assert done.code == 1
    assert sorted(one["result"] for one in done.json["sets"]) == ["present", "refused"]
    assert featurebank_("merge", tmp_path / "nowhere", "--store", store.root).code == 2


def test_show_diff_names_what_differs(store: FeatureStore) -> None:
    one, two = add(store, "2.9"), add(store, "2.10", precision="bfloat16")
    names = [path.name[:16] for path in (one, two)]
    place = ("show", "demo/test", "tiny/net", "--store", store.root, "--fingerprint", names[0])
    done = featurebank_(*place, "--diff", names[1][:10])
    assert done.code == 0, done.err
    assert "key.precision null" in words(done.out)
    assert 'provenance.torch "2.9" "2.10"' in words(done.out)
    fields = [entry["field"] for entry in featurebank_(*place, "--diff", names[1], "--json").json["differences"]]
    assert fields == ["key.precision", "provenance.sealed.at", "provenance.sealed.mark", "provenance.torch"]
    assert "have the same manifest" in featurebank_(*place, "--diff", names[0]).out
    assert featurebank_(*place, "--diff", "zzz").code == 2
    assert "several fingerprints" in featurebank_(*place, "--diff", "").err


def test_pack_and_unpack_write_other_stores(store: FeatureStore, tmp_path: Path) -> None:
    pytest.importorskip("hdf5plugin")
    path = add(store, "2.9")
    packed, again = (FeatureStore(tmp_path / name) for name in ("packed", "again"))
    (row,) = featurebank_("pack", packed.root, "--store", store.root, "--json").json["sets"]
    assert row["after"] == Path(row["path"]).stat().st_size
    assert featurebank_("pack", packed.root, "--store", store.root).code == 0
    assert [report.error for report in packed.verify()] == [""]
    done = featurebank_("unpack", again.root, "--store", packed.root)
    assert (done.code, "Unpacked into" in done.out) == (0, True), done.err
    assert (again.root / path.relative_to(store.root)).read_bytes() == path.read_bytes()
    refused = featurebank_("unpack", tmp_path / "other", "--store", store.root)
    assert (refused.code, "must be packed to be unpacked" in words(refused.out)) == (1, True)


@pytest.mark.parametrize("verb", ["pack", "unpack", "merge"])
def test_c13_links_out_of_the_store_are_followed_by_no_verb(store: FeatureStore, tmp_path: Path, verb: str) -> None:
    pytest.importorskip("hdf5plugin")
    outside, target = FeatureStore(tmp_path / "outside"), tmp_path / "target"
    add(outside, "2.9")
    store.root.mkdir()
    (store.root / "demo").symlink_to(outside.root / "demo")
    words_of = (verb, store.root, "--store", target) if verb == "merge" else (verb, target, "--store", store.root)
    done = featurebank_(*words_of)
    assert done.code == 1
    assert "must lie within" in words(done.out)
    assert not [path for path in target.rglob("*") if path.is_file()]
    assert featurebank_("gc", "--delete", "--hours", "0", "--store", store.root).code == 0
    assert len(outside.ls()) == 1
