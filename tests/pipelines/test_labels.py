"""Two checkpoints of one architecture: every verb tells them apart (B9)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from answers import analyses
from command_line import Done, featurebank_, words
from probe_sets import clusters
from runs import make_images

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.extracting.config import RunConfig
from featurebank.store import AmbiguousError, FeatureSetWriter, FeatureStore, NotFoundError, Output, Records
from featurebank.store.fingerprint import fingerprint

NAME = "timm:resnet18"
A, B = f"{NAME}[run_a]", f"{NAME}[run_b]"


def write(store: FeatureStore, place: str, weights: str, made: dict[str, Any], noise: float) -> None:
    dataset, _, split = place.rpartition("/")
    values, labels = clusters(45, noise=noise, seed=len(place))
    records = Records(
        ids=[f"{place}/{row}" for row in range(45)],
        labels=labels if dataset == "pets" else np.full(45, -1),
        content_hash=np.random.default_rng(len(place)).integers(0, 256, (45, 16), dtype=np.uint8),
        columns={"place": np.array(["north", "south"])[np.arange(45) % 2]},
    )
    key = {"dataset": {"name": dataset, "split": split}, "backbone": {"name": NAME, "weights": weights}}
    outputs = [Output(name="pooled", shape=values.shape[1:])]
    path = store.path_for(dataset, split, NAME, fingerprint(key))
    with FeatureSetWriter.create(path, key=key, outputs=outputs, records=records, provenance=made) as writer:
        writer.write_chunk("pooled", 0, values)
        writer.mark_ok(0, 45)
        writer.seal()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    made = FeatureStore(tmp_path_factory.mktemp("labels") / "features")
    for weights, noise in (("a", 0.2), ("b", 0.9)):
        for place in ("pets/train", "pets/test", "noise/test"):
            write(made, place, weights, {"weights_origin": f"run_{weights}.pth"}, noise)
    return made


def ask(store: FeatureStore, *arguments: Any, code: int = 0) -> Done:
    done = featurebank_(*arguments, "--store", store.root)
    assert done.code == code, done.err + done.out
    return done


def test_b9_ls_and_show_tell_them_apart(store: FeatureStore) -> None:
    listed = json.loads(ask(store, "ls", "--json").out)["sets"]
    assert {(one["backbone"], one["name"]) for one in listed} == {(NAME, A), (NAME, B)}
    assert A in ask(store, "ls").out
    assert len(json.loads(ask(store, "ls", "--backbone", B, "--json").out)["sets"]) == 3
    assert len(json.loads(ask(store, "ls", "--backbone", NAME, "--json").out)["sets"]) == 6
    for name, weights in ((A, "a"), (B, "b")):
        shown = json.loads(ask(store, "show", "pets/test", name, "--json").out)
        assert shown["manifest"]["key"]["backbone"]["weights"] == weights
    with pytest.raises(NotFoundError, match=r"unknown backbone 'timm:resnet18\[run_c\]'"):
        store.open("pets/test", f"{NAME}[run_c]")


def test_b9_probe_takes_both_or_one_and_compares_them(store: FeatureStore) -> None:
    found = json.loads(ask(store, "probe", "pets", "--task", "knn", "--compare", "--group", "place", "--json").out)
    values = {one["backbone"]: one["rows"][0]["value"] for one in found["answers"]}
    assert values[A] > values[B]
    ((pair,),) = analyses(found, "compare")
    assert (pair["details"]["first"], pair["details"]["second"]) == (A, B)
    assert pair["value"] == pytest.approx(values[A] - values[B])
    assert [rows[0]["backbone"] for rows in analyses(found, "groups")] == [A, B]
    for given in (("pets@" + B,), ("pets", "--backbone", B)):
        (one,) = json.loads(ask(store, "probe", *given, "--task", "knn", "--json").out)["answers"]
        assert (one["backbone"], one["known"], one["rows"][0]["value"]) == (B, True, values[B])
    assert len(json.loads(ask(store, "probe", f"pets@{NAME}", "--task", "knn", "--json").out)["answers"]) == 2
    done = ask(store, "probe", f"pets@{NAME}[run_c]", code=2)
    assert f"unknown backbone of pets '{NAME}[run_c]'; did you mean" in words(done.err)


def test_b9_a_name_that_one_of_several_has_alone_is_that_one(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, "pets/test", "a", {"weights_origin": "timm/resnet18"}, 0.2)
    write(store, "pets/test", "b", {"weights_origin": "run_b.pth"}, 0.2)
    assert {entry.name for entry in store.ls()} == {NAME, B}
    for name, weights in ((NAME, "a"), (B, "b")):
        with store.open("pets/test", name) as feature_set:
            assert feature_set.key["backbone"]["weights"] == weights
    write(store, "pets/test", "c", {}, 0.2)
    with pytest.raises(AmbiguousError, match="found 3"):
        store.open("pets/test", NAME)


def test_b9_retrieve_and_ood_take_both(store: FeatureStore) -> None:
    found = json.loads(ask(store, "retrieve", "pets/test", "--json").out)
    assert [one["backbone"] for one in found["answers"]] == [A, B]
    found = json.loads(ask(store, "retrieve", "pets/test", "--gallery", "pets/train", "--backbone", A, "--json").out)
    assert [one["backbone"] for one in found["answers"]] == [A]
    scores = ("--score", "mds", "--resamples", "0")
    found = json.loads(ask(store, "ood", "pets", "--ood", "noise", *scores, "--json").out)
    assert {one["backbone"] for one in found["answers"]} == {A, B}
    assert all(any(row["score"] == "mds" for row in one["rows"]) for one in found["answers"])


def test_b9_a_result_is_called_what_its_backbone_is_called_now(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for place in ("pets/train", "pets/test"):
        write(store, place, "a", {"weights_origin": "run_a.pth"}, 0.2)
    (alone,) = json.loads(ask(store, "probe", "pets", "--task", "knn", "--json").out)["answers"]
    for place in ("pets/train", "pets/test"):
        write(store, place, "b", {"weights_origin": "run_b.pth", "label": "other"}, 0.9)
    other, first = json.loads(ask(store, "probe", "pets", "--task", "knn", "--json").out)["answers"]
    assert (alone["backbone"], first["backbone"], other["backbone"]) == (NAME, A, f"{NAME}[other]")
    assert (first["known"], first["results"], other["known"]) == (True, alone["results"], False)


SMALL = "timm:test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for seed in (1, 2):
        torch.manual_seed(seed)
        torch.save(timm.create_model("test_resnet.r160_in1k").state_dict(), folder / f"run_{seed}.pth")
    for seed, split in enumerate(("train", "test")):
        make_images(folder / "pictures" / split, 24, seed=seed)
    path = folder / "run.yaml"
    path.write_text(
        json.dumps(
            {
                "backbones": [
                    {"name": SMALL, "checkpoint": "run_1.pth"},
                    {"name": SMALL, "checkpoint": "run_2.pth", "label": "longer"},
                ],
                "datasets": [{"name": "folder:pictures", "splits": ["train", "test"]}],
                "extraction": {"precision": "float32", "compile": "never"},
                "questions": [{"question": "linear", "of": "pictures/train:test"}],
            }
        )
    )
    return path


def test_b9_features_tells_checkpoints_apart_and_labels_are_in_no_key(config: Path) -> None:
    done = featurebank_("features", config, "--json")
    assert done.code == 0, done.err
    names = [f"{SMALL}[run_1]", f"{SMALL}[longer]"]
    assert {one["backbone"] for one in done.json["sets"]} == {*names}
    assert [one["backbone"] for one in done.json["answers"]] == names
    store = FeatureStore(config.parent / "features")
    assert {entry.name for entry in store.ls()} == {*names}
    with store.open("pictures/test", names[1]) as feature_set:
        assert feature_set.provenance["label"] == "longer"
        assert "longer" not in json.dumps(feature_set.key)
    unlabelled = config.with_name("unlabelled.yaml")
    unlabelled.write_text(config.read_text().replace(', "label": "longer"', ""))
    again = featurebank_("features", unlabelled, "--json")
    assert {one["state"] for one in again.json["sets"]} == {"present"}
    assert {one["backbone"] for one in again.json["sets"]} == {*names}


@pytest.mark.parametrize("label", ["a b", "x]", "\x1b", "a" * 65])
def test_b9_a_label_is_a_word(config: Path, label: str) -> None:
    wrong = config.with_name("wrong.yaml")
    wrong.write_text(json.dumps(json.loads(config.read_text()) | {"backbones": [{"name": SMALL, "label": label}]}))
    with pytest.raises(ConfigError, match=r"backbones\.0\.label"):
        RunConfig.read(wrong)
