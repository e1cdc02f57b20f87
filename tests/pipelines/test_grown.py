"""Every verb after a dataset has grown: the newest content is read, one line says so, a fingerprint chooses another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import Done, featurebank_, words
from probe_sets import clusters, write_set

from featurebank.pipelines.asking.cases import Selection
from featurebank.pipelines.asking.roles import select as select_cases
from featurebank.pipelines.questions.linear import Linear
from featurebank.store import FeatureStore

GROWN, OLD = 60, 30


def select(store: FeatureStore, keys: list[str], **more: Any) -> Selection:
    return select_cases(store, Linear(), keys, **more)


def add(store: FeatureStore, place: str, n_rows: int, **key: Any) -> None:
    dataset, split = place.split("/")
    named = {"name": dataset, "split": split, "digest": str(n_rows), "class_names": ["ant", "bee", "cat"]}
    write_set(store, place, "net", *clusters(n_rows), dataset=named, **key)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path / "features")
    for n_rows in (OLD, GROWN):
        for place in ("pets/train", "pets/test", "other/test"):
            add(made, place, n_rows)
    return made


def of(store: FeatureStore, place: str, n_rows: int) -> str:
    (found,) = (e.fingerprint[:16] for e in store.ls(dataset=place) if e.n_rows == n_rows)
    return found


def told(done: Done, store: FeatureStore, place: str, backbone: str = "net") -> bool:
    newest, older = of(store, place, GROWN), of(store, place, OLD)
    line = f"{place}, {backbone}: of 2 contents of the dataset the newest is read, {newest}"
    return words(done.err).count(line) == 1 and f"a fingerprint chooses an older one: {older}" in words(done.err)


def test_b2_probe_reads_the_newest_content(store: FeatureStore) -> None:
    task = ("--task", "knn", "--k", "1", "--json", "--store", store.root)
    done = featurebank_("probe", "pets", *task)
    assert done.code == 0, done.err
    assert told(done, store, "pets/train")
    assert told(done, store, "pets/test")
    fingerprints = [of(store, "pets/train", GROWN), of(store, "pets/test", GROWN)]
    assert [name[:16] for name in done.json["answers"][0]["rows"][0]["fingerprints"]] == fingerprints
    older = of(store, "pets/train", OLD)
    done = featurebank_("probe", "pets", *task, "--fingerprint", older[:8])
    assert done.code == 0, done.err
    assert [name[:16] for name in done.json["answers"][0]["rows"][0]["fingerprints"]] == [older, fingerprints[1]]


def test_b2_retrieve_duplicates_and_ood_read_the_newest_content(store: FeatureStore) -> None:
    for command in (
        ("retrieve", "pets/test"),
        ("retrieve", "pets/test", "--gallery", "other/test"),
        ("duplicates", "pets/test"),
        ("ood", "pets", "--ood", "other/test", "--score", "knn"),
    ):
        done = featurebank_(*command, "--store", store.root)
        assert done.code == 0, (command, done.out, done.err)


def test_b2_show_and_export_read_the_newest_content(store: FeatureStore, tmp_path: Path) -> None:
    done = featurebank_("show", "pets/train", "net", "--store", store.root, "--json")
    assert (done.code, done.json["n_rows"]) == (0, GROWN)
    older = of(store, "pets/train", OLD)
    done = featurebank_("show", "pets/train", "net", "--store", store.root, "--json", "--fingerprint", older)
    assert (done.code, done.json["n_rows"], done.err) == (0, OLD, "")
    done = featurebank_("export", "pets/train", "net", tmp_path / "out", "--store", store.root, "--json")
    assert (done.code, done.json["rows"]) == (0, GROWN)


def test_b2_a_real_ambiguity_lists_what_tells_the_sets_apart(store: FeatureStore) -> None:
    add(store, "pets/train", 12, precision="bfloat16")
    assert len(select(store, ["pets"]).cases) == 1, "no test set was made that way"
    add(store, "pets/test", 12, precision="bfloat16")
    selection = select(store, ["pets"])
    text = selection.failed["net", "pets/test"]
    for place in ("pets/train", "pets/test"):
        assert f"several sets match {place}, net; choose one with --fingerprint" in text
        assert of(store, place, 12) in text
        assert of(store, place, OLD) not in text
        (pair,) = select(store, ["pets"], fingerprints=[of(store, place, 12)]).cases
        assert (pair.one("train").n_rows, pair.one("test").n_rows) == (12, 12)
    assert "precision: " in text
    for size in (5, 6):
        key = {"name": "pets", "split": "val", "digest": "0", "subset": {"size": size}}
        write_set(store, "pets/val", "net", *clusters(size), dataset=key)
    train, val = of(store, "pets/train", GROWN), of(store, "pets/val", 5)
    assert "dataset.subset.size: " in select(store, ["pets"], fingerprints=[train]).failed["net", "pets/test"]
    (pair,) = select(store, ["pets"], fingerprints=[train, val]).cases
    assert pair.one("validation").n_rows == 5
