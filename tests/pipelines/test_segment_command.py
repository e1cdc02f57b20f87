"""``featurebank segment``: from a configuration to overlaps with the truth, the same however often it is stopped."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import featurebank_
from object_scenes import KINDS, configured, scenes, weights_of
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score  # type: ignore[import-untyped]

from featurebank.pipelines.asking.results import Results
from featurebank.pipelines.training import loop
from featurebank.pipelines.training.learner import Learner

TRAIN = 17


def configuration(folder: Path, store: str = "store", **options: Any) -> Path:
    own = {
        "px": 128, "strides": [8, 16], "channels": 16, "epochs": 5, "batch_size": 4, "rate": 1e-2, "on": ["other/test"],
    }  # fmt: skip
    return configured("segment", folder, store, {**own, **options})


@dataclass(frozen=True)
class Run:
    """A run and what it printed."""

    folder: Path
    config: Path
    answer: Any


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("segment")
    scenes(folder / "toy", "train", TRAIN, 0)
    scenes(folder / "toy", "test", 9, 1)
    scenes(folder / "other", "test", 6, 2, names=("bar", "disc"))  # the names' order is another one, and one is new
    config = configuration(folder)
    run = featurebank_("segment", config, "--json", "--html", folder / "page.html")
    assert run.code == 0, run.json["answers"][0]["error"]
    return Run(folder, config, run.json["answers"][0])


def truth(folder: Path, numbers: dict[str, int], split: str = "test") -> np.ndarray[Any, Any]:
    """(N, 96, 128) classes, painted rectangle by rectangle, the larger first."""
    document = json.loads((folder / f"objects_{split}.json").read_text())
    names = {one["id"]: one["name"] for one in document["categories"]}
    painted = np.zeros((len(document["images"]), 96, 128), np.uint8)
    for one in sorted(document["annotations"], key=lambda one: -one["area"]):
        x, y, wide, high = one["bbox"]
        painted[one["image_id"], y : y + high, x : x + wide] = numbers[names[one["category_id"]]]
    return painted


@pytest.mark.parametrize(
    ("place", "numbers"), [("toy/test", {"square": 1, "bar": 2}), ("other/test", {"bar": 2, "disc": 255})]
)
def test_overlaps_are_those_of_an_independent_reference(done: Run, place: str, numbers: dict[str, int]) -> None:
    rows = {(row["metric"], row["group"]): row["value"] for row in done.answer["rows"] if row["set"] == place}
    results = Results(done.folder / "store")
    kept = results.arrays(next(row for row in results.rows() if row.metric == "miou"))
    canvases = kept["predictions" if place == "toy/test" else f"{place} predictions"]
    labels = truth(done.folder / place.partition("/")[0], numbers)
    predicted = canvases[:, 16:112][labels != 255]  # at this size an image is as large as its place on the canvas
    labels = labels[labels != 255]
    assert rows["miou", ""] == pytest.approx(jaccard_score(labels, predicted, average="macro", zero_division=0))
    assert rows["dice", ""] == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert rows["pixel_accuracy", ""] == pytest.approx((labels == predicted).mean())
    ious = jaccard_score(labels, predicted, average=None, labels=[0, 1, 2], zero_division=0)
    for name, number in (("background", 0), ("square", 1), ("bar", 2)):
        if number in labels:
            assert rows["iou", name] == pytest.approx(ious[number])


def test_it_learns_from_cached_maps_and_has_intervals_and_curves(done: Run) -> None:
    first = done.answer["rows"][0]
    assert (first["metric"], first["set"]) == ("miou", "toy/test")
    assert first["low"] <= first["value"] <= first["high"]
    losses = [epoch["loss"] for epoch in done.answer["chosen"][""]["history"]["0"]]
    assert losses[-1] < 0.5 * losses[0]
    assert {row["group"] for row in done.answer["rows"]} == {"", "background", *KINDS}
    assert any("maps from the cache" in note for note in done.answer["notes"])
    assert "training loss" in (done.folder / "page.html").read_text()


def test_a_second_run_computes_nothing_unless_objects_have_changed(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is trained")

    monkeypatch.setattr(loop, "Learner", refuse)
    assert featurebank_("segment", done.config, "--json").json["answers"][0]["known"]
    file = done.folder / "toy" / "objects_test.json"
    text = file.read_text()
    document = json.loads(text)
    document["annotations"] = document["annotations"][:-1]
    file.write_text(json.dumps(document))
    again = featurebank_("segment", done.config, "--json")
    file.write_text(text)
    assert not again.json["answers"][0]["known"]
    assert again.json["answers"][0]["rows"][0]["value"] != done.answer["rows"][0]["value"]


def test_masks_in_files_train_as_those_of_the_same_objects(done: Run) -> None:
    for split in ("train", "test"):
        (done.folder / "masks" / split).mkdir(parents=True)
        for index, labels in enumerate(truth(done.folder / "toy", {"square": 1, "bar": 2}, split)):
            Image.fromarray(labels).save(done.folder / "masks" / split / f"{split}{index:02}.png")
    template = f"{done.folder}/masks/{{split}}/{{stem}}.png"
    config = configuration(done.folder, "files", masks=template, classes=["background", *KINDS], on=[])
    run = featurebank_("segment", config, "--json")
    assert run.code == 0, run.json["answers"][0]["error"]
    assert weights_of(done.folder / "files", "segmenters") == weights_of(done.folder / "store", "segmenters")
    rows = [row["value"] for row in done.answer["rows"] if row["set"] == "toy/test"]
    assert [row["value"] for row in run.json["answers"][0]["rows"]] == rows
    file = done.folder / "masks" / "test" / "test00.png"
    Image.fromarray(np.zeros((96, 128), np.uint8)).save(file)
    again = featurebank_("segment", config, "--json").json["answers"][0]
    assert [row["value"] for row in again["rows"]] != rows


def test_stopped_at_a_step_it_ends_with_the_same_weights(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [0]
    update = Learner.update

    def stopping(self: Any, *arguments: Any) -> float:
        steps[0] += 1
        if steps[0] == 7:
            raise KeyboardInterrupt
        return update(self, *arguments)

    config = configuration(done.folder, "stopped")
    monkeypatch.setattr(Learner, "update", stopping)
    assert featurebank_("segment", config, "--json").code == 130
    monkeypatch.undo()
    assert featurebank_("segment", config, "--json").code == 0
    assert weights_of(done.folder / "stopped", "segmenters") == weights_of(done.folder / "store", "segmenters")


def test_a_share_of_the_images_is_trained_on_and_what_they_lack_is_said(done: Run) -> None:
    config = configuration(done.folder, "share", fraction=0.06, epochs=1, on=[])
    document = json.loads(config.read_text())
    (entry,) = document["segment"]
    document["segment"] += [{**entry, "options": {**entry["options"], "fraction": 0.1}}]
    config.write_text(json.dumps(document))
    run = featurebank_("segment", config, "--json", "--html", done.folder / "share.html")
    assert run.code == 0, run.err
    page = (done.folder / "share.html").read_text()
    assert page.index("<h2>fraction 0.06</h2>") < page.index("<h2>fraction 0.1</h2>")
    notes = run.json["answers"][0]["notes"]
    assert f"toy/train: 1 of {TRAIN} images are trained on" in notes
    assert any("1 classes that no train image shows" in note for note in notes)


def test_a_tuned_backbone_is_trained_and_a_frozen_one_is_not(done: Run) -> None:
    def trained(store: str) -> list[str]:
        return [
            name for name in weights_of(done.folder / store, "segmenters") if re.fullmatch(r"network\..*weight", name)
        ]

    config = configuration(done.folder, "tuned", tuned=True, epochs=1, fraction=0.3, head="upernet", on=[])
    run = featurebank_("segment", config, "--json")
    assert run.code == 0, run.json["answers"][0]["error"]
    assert run.json["answers"][0]["notes"][0].startswith("backbone tuned, 1 epochs")
    assert not trained("store")
    assert len(trained("tuned")) > 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0}, "fraction must be above 0 and at most 1; found 0"),
        ({"masks": "m/{stem}.png"}, "masks and classes must come together"),
        ({"px": 100}, "px must be a multiple of 32; found 100"),
        ({"head": "unet"}, "head: Input should be 'fcn' or 'upernet'; found 'unet'"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run = featurebank_("segment", configuration(tmp_path, **options))
    assert run.code == 2
    assert message in " ".join(run.err.split())


@pytest.mark.parametrize("shown", ["classes", "boxes", "nothing"])
def test_images_without_masks_are_one_clear_line(tmp_path: Path, shown: str) -> None:
    if shown == "classes":
        for index in range(8):
            place = tmp_path / "toy" / ("train", "test")[index // 4] / f"class{index % 2}" / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), 20 * index, np.uint8)).save(place)
        message = "must have objects with boxes or masks; found none"
    else:
        for split in ("train", "test"):
            scenes(tmp_path / "toy", split, 4, 0)
            file = tmp_path / "toy" / f"objects_{split}.json"
            document = json.loads(file.read_text())
            for one in document["annotations"]:
                del one["segmentation"]
            if shown == "nothing":
                document["annotations"] = []
            file.write_text(json.dumps(document))
        message = {
            "boxes": "must have a mask of every object; found",
            "nothing": "must show two classes at least, counting the background; found 1 in 4 images",
        }[shown]
    config = json.loads(configuration(tmp_path, on=[]).read_text())
    name = f"folder:{tmp_path}/toy" if shown == "classes" else config["datasets"][0]["name"]
    config["datasets"] = [{"name": name, "label": "toy", "splits": ["train", "test"]}]
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    run = featurebank_("segment", tmp_path / "run.yaml")
    assert run.code == 1
    assert message in " ".join((run.out + run.err).split())
