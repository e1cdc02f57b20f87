"""``featurebank detect``: from a configuration to COCO's numbers, the same however often it is killed."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, opened
from command_line import featurebank_
from object_scenes import NETWORK, configured, scenes, weights_of
from PIL import Image

from featurebank.pipelines.training import loop
from featurebank.pipelines.training.learner import Learner
from featurebank.store.text import html_text

NAMES = ("square", "<i>bar</i>")


def configuration(folder: Path, store: str = "store", **options: Any) -> Path:
    own = {
        "head": "mask", "px": 128, "strides": [8, 16], "channels": 16, "anchor": 3, "width": 32, "epochs": 3,
        "batch_size": 4, "rate": 3e-3, "on": ["other/test"],
    }  # fmt: skip
    return configured("detect", folder, store, {**own, **options})


@dataclass(frozen=True)
class Run:
    """A run and what it printed."""

    folder: Path
    config: Path
    found: Any


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("detect")
    scenes(folder / "toy", "train", 17, 0, NAMES)
    scenes(folder / "toy", "test", 9, 1, NAMES)
    scenes(folder / "other", "test", 6, 2, NAMES[::-1])  # the names' order is another one
    config = configuration(folder)
    run = featurebank_("detect", config, "--json", "--html", folder / "page.html")
    assert run.code == 0, run.json["answers"][0]["error"]
    return Run(folder, config, run.json)


def test_ap_and_ap50_of_boxes_and_masks_of_each_set_are_rows_of_one_table(done: Run) -> None:
    (answer,) = done.found["answers"]
    rows = {(row["metric"], row["score"], row["set"]): row for row in answer["rows"] if not row["group"]}
    for kind in ("box", "mask"):
        for place in ("toy/test", "other/test"):
            ap, ap50 = (rows[metric, kind, place] for metric in ("ap", "ap50"))
            assert 0 <= ap["value"] <= ap50["value"] <= 1
    losses = [epoch["loss"] for epoch in answer["chosen"][""]["history"]["0"]]
    assert losses[-1] < 0.8 * losses[0]
    assert {row["group"] for row in answer["rows"]} == {"", *NAMES}
    assert answer["rows"][0]["metric"] == "ap"
    assert any("maps from the cache" in note for note in answer["notes"])


def test_the_page_shows_images_with_objects_and_detections_and_asks_for_nothing(done: Run) -> None:
    text = (done.folder / "page.html").read_text(encoding="utf-8")
    assert 8 <= text.count("<image ") <= 9
    assert text.count('<image width="128" height="96"') == text.count("<image ")
    assert text.count('<path class="object') > text.count("<image ") / 2
    assert "detects them as" in text
    assert not [place for place in re.findall(r'(?:src|href)="([^"]*)"', text) if not place.startswith("data:image/")]
    assert html_text(NAMES[1]) in text
    assert "<i>" not in text
    with chromium() as browser, opened(browser, done.folder / "page.html", axe=True) as found:
        assert found.violations() == []
        assert found.errors == []


def test_a_second_run_trains_nothing(done: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is trained")

    monkeypatch.setattr(loop, "Learner", refuse)
    again = featurebank_("detect", done.config, "--json")
    assert again.code == 0, again.err
    assert again.json["answers"][0]["known"]
    forced = featurebank_("detect", done.config, "--json", "--force", "--evaluate-only")
    assert [row["value"] for row in forced.json["answers"][0]["rows"]] == [
        row["value"] for row in done.found["answers"][0]["rows"]
    ]


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
    assert featurebank_("detect", config, "--json").code == 130
    (answer,) = featurebank_("detect", config, "--json", "--evaluate-only").json["answers"]
    assert "must be trained for --evaluate-only; found no weights of it" in answer["error"]
    monkeypatch.undo()
    assert featurebank_("detect", config, "--json").code == 0
    assert weights_of(done.folder / "stopped", "detectors") == weights_of(done.folder / "store", "detectors")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"px": 100}, "px must be a multiple of 32; found 100"),
        ({"strides": [5]}, "strides must be of 4, 8, 16, 32"),
        ({"head": "retina"}, "head: Input should be 'faster', 'mask', 'cascade' or 'cascade-mask'; found 'retina'"),
        ({"seeds": [1, 1]}, "seeds must be different numbers"),
        ({"scales": [2, 1]}, "scales must be two numbers above 0 and at most 4, the smaller first; found (2.0, 1.0)"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_done(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    done = featurebank_("detect", configuration(tmp_path, **options))
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_a_changed_box_is_scored_anew_and_how_many_detections_are_changes_no_weights(done: Run) -> None:
    shutil.copytree(done.folder / "toy", done.folder / "edited" / "toy")
    shutil.copytree(done.folder / "other", done.folder / "edited" / "other")
    options: dict[str, Any] = {"epochs": 1, "head": "faster", "px": 64}
    config = configuration(done.folder / "edited", **options)

    def asked(path: Path) -> Any:
        (answer,) = featurebank_("detect", path, "--json").json["answers"]
        return answer

    assert not asked(config)["known"]
    assert asked(config)["known"]
    assert not asked(configuration(done.folder / "edited", **options, detections=1, least_score=0.0))["known"]
    place = done.folder / "edited" / "other" / "objects_test.json"
    document = json.loads(place.read_text())
    document["annotations"][0]["bbox"][2] -= 1
    place.write_text(json.dumps(document))
    assert not asked(config)["known"]
    assert asked(config)["known"]
    assert len(list((done.folder / "edited" / "store" / "detectors").iterdir())) == 1
    folder = done.folder / "edited" / "store" / "results" / "detect"
    assert min(len(np.load(path)["image"]) for path in folder.glob("*.npz")) == 9


def test_drawn_scales_are_trained_on_without_the_cache(done: Run) -> None:
    config = configuration(
        done.folder, "scaled", scales=[0.5, 1.5], epochs=1, head="cascade", federated=1, px=64, on=[]
    )
    (answer,) = featurebank_("detect", config, "--json").json["answers"]
    assert any("maps computed at every step, as scales are drawn" in note for note in answer["notes"])
    assert not list((done.folder / "scaled" / "tuned").glob("maps/*"))


def test_a_dataset_without_boxes_is_one_clear_line(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for index in range(4):
            place = tmp_path / "data" / split / f"class{index % 2}" / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), 40 * index, np.uint8)).save(place)
    config = {
        "store": str(tmp_path / "store"), "backbones": [NETWORK], "detect": ["plain"],
        "datasets": [{"name": f"folder:{tmp_path}/data", "label": "plain", "splits": ["train", "test"]}],
        "extraction": {"device": "cpu"},
    }  # fmt: skip
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config))
    done = featurebank_("detect", path)
    assert done.code == 1
    assert "must have objects with boxes or masks; found none" in " ".join((done.out + done.err).split())
