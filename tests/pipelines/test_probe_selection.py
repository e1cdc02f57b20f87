"""From the names a person writes to pairs of feature sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_sets import clusters, write_pair, write_set

from featurebank.pipelines.asking.cases import Case, Selection
from featurebank.pipelines.asking.roles import Key, parse_key, same_recipe
from featurebank.pipelines.asking.roles import select as select_cases
from featurebank.pipelines.questions.linear import Linear
from featurebank.pipelines.questions.shift import Shift
from featurebank.store import FeatureStore, NotFoundError
from featurebank.store.errors import UnknownNameError


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path)
    for backbone in ("net", "timm:vit@random:0"):
        write_pair(made, "pets", backbone)
    return made


def select(store: FeatureStore, keys: list[str], **more: Any) -> Selection:
    return select_cases(store, Linear(), keys, **more)


def further(store: FeatureStore, name: str, key: str = "pets@net", **more: Any) -> list[str]:
    (case,) = select_cases(store, Shift(on=(name,)), [key], **more).cases
    return [entry.split for entry in case.sets["on"]]


def validation(case: Case) -> str | None:
    return next((entry.split for entry in case.sets.get("validation", ())), None)


def add(store: FeatureStore, place: str, backbone: str = "net", **key: Any) -> None:
    write_set(store, place, backbone, *clusters(9), **key)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("pets", Key(dataset="pets")),
        ("pets@net", Key(dataset="pets", backbone="net")),
        ("pets/test", Key(dataset="pets", test="test")),
        ("pets/a:b@timm:vit@random:0", Key(dataset="pets", train="a", test="b", backbone="timm:vit@random:0")),
        ("pets/big/test", Key(dataset="pets/big", test="test")),
        ("torchvision:Flowers102/train:test", Key(dataset="torchvision:Flowers102", train="train", test="test")),
    ],
)
def test_keys_are_taken_apart_by_the_datasets_there_are(text: str, key: Key) -> None:
    assert parse_key(text, ["pets", "pets/big", "torchvision:Flowers102"]) == key


def test_a_dataset_means_every_backbone_on_train_and_test(store: FeatureStore) -> None:
    selection = select(store, ["pets"])
    assert [(c.backbone, c.one("train").split, c.one("test").split, validation(c)) for c in selection.cases] == [
        ("net", "train", "test", None),
        ("timm:vit@random:0", "train", "test", None),
    ]
    assert len({entry.fingerprint for entry in selection.cases[0].every}) == 2
    assert select(store, ["pets@timm:vit@random:0", "pets"], backbones=["net"]).cases == selection.cases[::-1]


def test_a_validation_split_is_used_where_there_is_one(store: FeatureStore) -> None:
    add(store, "pets/val")
    first, second = select(store, ["pets"]).cases
    assert validation(first) == "val"
    assert validation(second) is None
    (only,) = select(store, ["pets/train:val@net"]).cases
    assert (only.one("test").split, validation(only)) == ("val", None)


def test_without_a_test_split_the_validation_split_is_scored(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for split in ("train", "val"):
        add(store, f"imagenet/{split}")
    (pair,) = select(store, ["imagenet"]).cases
    assert (pair.one("test").split, validation(pair)) == ("val", None)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("pest", UnknownNameError, "unknown dataset 'pest'; did you mean 'pets'"),
        ("pest/test", UnknownNameError, "unknown dataset 'pest'; did you mean 'pets'"),
        ("pets/tset", UnknownNameError, "unknown split of pets 'tset'; did you mean 'test'"),
        ("pets@nte", UnknownNameError, "unknown backbone of pets 'nte'; did you mean 'net'"),
        ("pets/test:test", NotFoundError, "expected two different splits"),
    ],
)
def test_unknown_names_get_the_nearest(store: FeatureStore, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        select(store, [text])


def test_a_missing_split_is_named_with_those_there_are(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    add(store, "mnist/all")
    with pytest.raises(UnknownNameError, match=r"split of mnist 'train'; known: all .*mnist/TRAIN:TEST"):
        select(store, ["mnist"])


def test_a_backbone_without_one_of_the_sets_is_passed_over_unless_it_was_named(store: FeatureStore) -> None:
    add(store, "pets/train", "half")
    selection = select(store, ["pets"])
    assert [pair.backbone for pair in selection.cases] == ["net", "timm:vit@random:0"]
    assert selection.passed_over == [f"half has no pets/test in {store.root}"]
    with pytest.raises(NotFoundError, match="half has no pets/test"):
        select(store, ["pets@half"])


def test_sets_made_in_different_ways_are_not_mixed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    add(store, "pets/train", precision="float32")
    add(store, "pets/test", precision="bfloat16")
    selection = select(store, ["pets"])
    assert selection.cases == []
    assert "precision: 'float32' and 'bfloat16'" in selection.failed["net", "pets/test"]


def test_of_several_sets_those_made_alike_are_paired_or_one_is_chosen(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    add(store, "pets/train", precision="float32")
    for precision in ("float32", "bfloat16"):
        add(store, "pets/test", precision=precision)
    (pair,) = select(store, ["pets"]).cases
    add(store, "pets/train", precision="bfloat16")
    selection = select(store, ["pets"])
    assert selection.cases == []
    assert "several sets match" in selection.failed["net", "pets/test"]
    assert select(store, ["pets"], fingerprints=[pair.one("test").fingerprint[:8]]).cases == [pair]


def test_unfinished_and_damaged_sets_are_failures_of_their_backbone(store: FeatureStore) -> None:
    net, vit = (pair.one("test").path for pair in select(store, ["pets"]).cases)
    net.rename(net.with_name(net.name + ".partial"))
    vit.write_bytes(b"nothing of the kind")
    selection = select(store, ["pets"])
    assert selection.cases == []
    assert set(selection.failed) == {("net", "pets/test"), ("timm:vit@random:0", "pets/test")}


def test_without_fitting_only_the_test_set_is_needed(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    add(store, "pets/test")
    (case,) = select_cases(store, Shift(on=("pets/test",), head="own"), ["pets"]).cases
    assert set(case.sets) == {"test", "on"}


def test_further_sets_are_one_split_the_test_split_or_all(store: FeatureStore) -> None:
    for split in ("fog_1", "fog_2"):
        add(store, f"pets_c/{split}")
    assert further(store, "pets_c") == ["fog_1", "fog_2"]
    assert further(store, "pets_c/fog_2") == ["fog_2"]
    assert further(store, "pets") == ["test"]
    with pytest.raises(UnknownNameError, match="did you mean 'fog_"):
        further(store, "pets_c/fog_3")
    with pytest.raises(NotFoundError, match="has no pets_c/fog_1"):
        further(store, "pets_c", "pets@timm:vit@random:0")
    passed = select_cases(store, Shift(on=("pets_c",)), ["pets"])
    assert [case.backbone for case in passed.cases] == ["net"]
    assert passed.passed_over == [f"timm:vit@random:0 has no pets_c/fog_1 and no pets_c/fog_2 in {store.root}"]


def test_further_sets_made_another_way_are_refused(store: FeatureStore) -> None:
    add(store, "pets_c/fog", precision="float32")

    def refused() -> str:
        return select_cases(store, Shift(on=("pets_c",)), ["pets@net"]).failed["net", "pets/test"]

    assert "precision: None and 'float32'" in refused()
    add(store, "pets_c/fog")
    assert further(store, "pets_c") == ["fog"]
    add(store, "pets_c/fog", backbone="net", dataset={"name": "pets_c", "split": "fog", "digest": "ab"})
    assert "several sets match" in refused()


def test_the_dataset_and_the_list_of_outputs_do_not_make_a_recipe() -> None:
    left = {"dataset": {"name": "a"}, "backbone": {"name": "x", "outputs": ["pooled"]}, "version": 1}
    right = {"dataset": {"name": "b"}, "backbone": {"name": "x", "outputs": ["pooled", "logits"]}, "version": 1}
    assert same_recipe(left, right) == []
    assert same_recipe(left, {**right, "version": 2}) == ["version: 1 and 2"]


def test_features_are_views_of_the_file(store: FeatureStore) -> None:
    from featurebank.pipelines.asking.inputs import read_rows

    (pair, _) = select(store, ["pets"]).cases
    rows = read_rows(pair.one("test"), "pooled")
    assert not rows.features.flags.writeable
    assert rows.features.base is not None
    assert (rows.failed, rows.total) == (0, 45)
    np.testing.assert_array_equal(rows.rows, np.arange(45))
