"""Files in COCO's format, of one's own and official; VOC, Sim10k and Cityscapes: each object where its file has it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from official_layouts import LAYOUTS
from PIL import Image

from featurebank.extract.datasets import DatasetSpec, label_of, open_split
from featurebank.extract.datasets.objects import Annotated, Objects, objects_digest
from featurebank.extract.errors import DatasetError
from featurebank.store.errors import UnknownNameError

BOX = [1, 2, 3.5, 4]
SQUARE = [1, 2, 4.5, 2, 4.5, 6, 1, 6]


def opened(name: str, split: str = "all", root: Path | None = None) -> Annotated:
    found = open_split(DatasetSpec(name=name, split=split, root=root))
    assert isinstance(found, Annotated)
    return found


def annotation(image: int, kind: int, **facts: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": kind, "bbox": BOX, **facts}


def written(folder: Path, *annotations: dict[str, Any], **facts: Any) -> str:
    """A file of two images of 10 x 8 pixels, and categories 0 and 7."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (10, 8), (len(name), 0, 0)).save(folder / name)
    value = {
        "images": [{"id": k, "file_name": name, "width": 10, "height": 8} for k, name in ((5, "b.png"), (9, "a.png"))],
        "categories": [{"id": 7, "name": "owl"}, {"id": 0, "name": "tit"}],
        "annotations": list(annotations),
        **facts,
    }
    path = folder / "birds.json"
    path.write_text(json.dumps(value))
    return f"coco:{path}"


def shown(split: Annotated) -> list[Objects]:
    return [split.objects(row) for row in range(len(split))]


def test_boxes_classes_and_crowds(tmp_path: Path) -> None:
    birds = opened(
        written(tmp_path, annotation(5, 7), annotation(5, 0, bbox=[0, 0, 10, 8], iscrowd=1), annotation(5, 0, ignore=1))
    )
    assert (list(birds.ids), list(birds.class_names)) == (["a.png", "b.png"], ["tit", "owl"])
    assert birds.labels.tolist() == [[0, 0], [1, 1]]
    empty, both = shown(birds)
    assert (len(empty), empty.boxes.shape) == (0, (0, 4)), "an image without objects is a record"
    assert both.boxes.tolist() == [[1, 2, 4.5, 6], [0, 0, 10, 8], [1, 2, 4.5, 6]], "no pixel is added"
    assert (both.labels.tolist(), both.crowd.tolist(), both.masks) == ([1, 0, 0], [False, True, True], ())
    assert (both.height, both.width, birds.object_notes) == (8, 10, [])
    assert birds.read(1) == (tmp_path / "b.png").read_bytes()


def test_masks_as_polygons_and_as_runs_of_either_form(tmp_path: Path) -> None:
    runs = {"size": [8, 10], "counts": [10, 4, 4, 4, 4, 4, 50]}
    text = {"size": [8, 10], "counts": ":44000^1"}
    birds = opened(written(tmp_path, *(annotation(9, 7, segmentation=mask) for mask in ([SQUARE], runs, text))))
    pixels = [mask.full(8, 10) for mask in birds.objects(0).masks]
    assert (len(pixels), birds.object_notes) == (3, [])
    expected = np.zeros((8, 10), bool)
    expected[2:6, 1:4] = True
    for mask in pixels[1:]:
        assert np.array_equal(mask, expected)
    assert np.array_equal(pixels[0][:, :4], expected[:, :4])


def test_what_no_image_can_show_is_dropped_and_counted(tmp_path: Path) -> None:
    birds = opened(
        written(
            tmp_path,
            annotation(9, 7, segmentation=[SQUARE, [1, 1, 2, 2]]),
            annotation(9, 7, segmentation=[[1, 1, 2, 2]]),
            annotation(9, 7, segmentation={"size": [10, 8], "counts": [80]}),
            annotation(9, 7, segmentation=[]),
            annotation(9, 3, segmentation=[SQUARE]),
            annotation(4, 7, segmentation=[SQUARE]),
            annotation(9, 7, segmentation=[SQUARE], bbox=[1, 2, -3, 4]),
            annotation(9, 7, segmentation=[SQUARE], bbox=[50, 2, 3, 4]),
            annotation(9, 7, segmentation=[SQUARE], bbox=[1, 2, 30, 4]),
            {"image_id": 9, "category_id": 7, "segmentation": [SQUARE]},
        )
    )
    found = birds.objects(0)
    assert found.boxes.tolist() == [[1, 2, 4.5, 6], [1, 2, 10, 6], [1, 2, 4.5, 6]]
    assert len(found.masks) == 3
    assert sorted(birds.object_notes) == [
        "1 object clipped: a box that reaches beyond its image",
        "1 object dropped: a box outside its image",
        "1 object dropped: a box that ends before it begins",
        "1 object dropped: of a category that the file does not list",
        "1 object dropped: of an image that the file does not list",
        "1 object had a mask that cannot be read, or has not the image's size",
        "2 objects had a polygon of fewer than three points, which was dropped",
        "3 objects dropped: without a mask, where others have one",
    ]


def test_a_subset_and_another_process_have_the_same_objects(tmp_path: Path) -> None:
    birds = opened(written(tmp_path, annotation(5, 7, segmentation=[SQUARE]), annotation(9, 0, segmentation=[SQUARE])))
    again = pickle.loads(pickle.dumps(birds))  # noqa: S301
    assert objects_digest(again) == objects_digest(birds)
    part = birds.take(np.array([1]))  # type: ignore[attr-defined]
    assert [part.objects(0).labels.tolist(), part.ids] == [[1], ["b.png"]]
    other = opened(written(tmp_path, annotation(5, 7), annotation(9, 0)))
    assert objects_digest(other) != objects_digest(birds)


@pytest.mark.parametrize(
    "changed",
    [
        {"bbox": [1, 1, 4, 3]},
        {"category_id": 0},
        {"iscrowd": 1},
        {"segmentation": [[1, 1, 5, 1, 5, 5]]},
        {"segmentation": {"size": [8, 10], "counts": [20, 4, 56]}},
    ],
)
def test_a_digest_of_objects_sees_each_change_and_needs_no_image(tmp_path: Path, changed: dict[str, Any]) -> None:
    first = annotation(5, 7, bbox=[1, 1, 4, 4], segmentation=[SQUARE])
    before, same = opened(written(tmp_path, first)), opened(written(tmp_path, first))
    after = opened(written(tmp_path, first | changed))
    for image in tmp_path.glob("*.png"):
        image.unlink()
    assert objects_digest(same) == objects_digest(before)
    assert objects_digest(after) != objects_digest(before)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_annotations_of_an_image_that_lies_on_its_side_are_refused(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    birds = opened(written(tmp_path, annotation(9, 7)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (10, 8)).save(tmp_path / "a.png", {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix), exif=exif)
    if orientation != 6:
        assert birds.objects(0).boxes.tolist() == [[1, 2, 4.5, 6]]
        return
    with pytest.raises(DatasetError, match=r"a\.png: annotations must be those of .* image, 8 x 10 .*found 10 x 8"):
        birds.objects(0)


def test_annotations_of_another_size_and_unreadable_images_are_told(tmp_path: Path) -> None:
    birds = opened(written(tmp_path, annotation(9, 7)))
    Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match=r"this image, 20 x 16 pixels; found 10 x 8: give the images that were"):
        birds.objects(0)
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"b\.png: not a readable image"):
        birds.objects(1)


def test_sizes_that_the_file_leaves_out_are_the_images_own(tmp_path: Path) -> None:
    images = [{"id": 5, "file_name": "b.png", "width": 1e400}, {"id": 9, "file_name": "a.png", "height": -1}]
    birds = opened(written(tmp_path, annotation(9, 7, bbox=[8, 2, 4, 4]), images=images))
    assert birds.objects(0).boxes.tolist() == [[8, 2, 10, 6]]


def test_lvis_names_images_by_their_addresses(tmp_path: Path) -> None:
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (10, 8)).save(tmp_path / "val2017" / "9.png")
    images = [{"id": 9, "coco_url": "http://images.cocodataset.org/val2017/9.png", "width": 10, "height": 8}]
    birds = opened(written(tmp_path, annotation(9, 7), images=images))
    assert (birds.ids, birds.objects(0).labels.tolist()) == (["val2017/9.png"], [1])


def test_images_lie_beside_the_file_or_below_the_root(tmp_path: Path) -> None:
    name = written(tmp_path)
    for folder in (tmp_path / "images", tmp_path / "elsewhere"):
        folder.mkdir()
        for image in ("a.png", "b.png"):
            (folder / image).write_bytes((tmp_path / image).read_bytes())
    (tmp_path / "a.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of them missing: a\.png; give the root"):
        opened(name)
    (tmp_path / "b.png").unlink()
    assert len(opened(name)) == len(opened(name, root=tmp_path / "elsewhere")) == 2
    (tmp_path / "labels").mkdir()
    assert len(opened(written(tmp_path / "labels"))) == 2
    assert label_of(DatasetSpec(name=name, split="all")) == "birds"
    with pytest.raises(UnknownNameError, match="known: all"):
        opened(name, "train")


IMAGE = {"id": 1, "file_name": "a.png", "width": 10, "height": 8}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"images": [IMAGE, {**IMAGE, "file_name": "b.png"}]}, "ids must be distinct, found '1' more than once"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "ids must be distinct"),
        ({"images": [{**IMAGE, "file_name": "../a.png"}]}, "paths must lie below the folder"),
        ({"images": [{**IMAGE, "file_name": 3}]}, "file_name must be text, found '3'"),
        ({"images": [{"id": 1}]}, "in COCO's format, .* KeyError: 'file_name'"),
        ({"images": [7]}, "in COCO's format"),
        ({"annotations": {"a": 1}}, "in COCO's format"),
        ({"annotations": [annotation(9, 7, bbox=[1, 2, "x", 3])]}, "in COCO's format"),
        ({"categories": None}, "in COCO's format"),
        ({"images": []}, "expected at least one record"),
        ({"annotations": [annotation(9, 7)] * 30_000}, r"at most 10,000 objects; found 30,000 in a\.png"),
    ],
)
def test_files_that_are_none_are_one_clear_error(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        opened(written(tmp_path, **facts))


def test_a_file_that_is_no_json_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 100_000)
    for name in ("a.json", "b.json"):
        with pytest.raises(DatasetError, match=rf"{name}: expected a JSON file in COCO's format.*check the path"):
            opened(f"coco:{tmp_path / name}")


# Official files.


def test_coco(tmp_path: Path) -> None:
    LAYOUTS["coco"](tmp_path)
    first, second, third = shown(opened("coco@partial", "train", tmp_path))
    assert (first.labels.tolist(), first.crowd.tolist(), first.boxes.tolist()) == ([1], [True], [[1, 3, 3, 5]])
    assert first.masks[0].full(6, 8).sum() == 4
    assert second.labels.tolist() == [0, 0, 2]
    assert len(third) == 0


def test_vocs_pixels_are_counted_from_one(tmp_path: Path) -> None:
    LAYOUTS["voc2012_detection"](tmp_path)
    first, second = shown(opened("voc2012_detection@partial", "train", tmp_path))
    assert first.boxes.tolist() == [[0, 0, 8, 6], [1, 1, 4, 5]]
    assert (first.labels.tolist(), first.crowd.tolist()) == ([6, 11], [False, True]), "hard to see is a crowd"
    assert len(second) == 0


def test_sim10k(tmp_path: Path) -> None:
    LAYOUTS["sim10k"](tmp_path)
    frames = opened("sim10k@partial", "trainval", tmp_path)
    assert frames.objects(0).boxes.tolist() == [[0, 1, 4, 5]] * 3
    assert frames.objects(0).labels.tolist() == [0, 0, 2]
    path = tmp_path / "VOC2012" / "Annotations" / "3384645.xml"
    path.write_text(path.read_text().replace("<xmax>4</xmax>", "<xmax>four</xmax>", 1).replace("<width>8</width>", ""))
    frames = opened("sim10k@partial", "trainval", tmp_path)
    assert len(frames.objects(0)) == 2
    assert frames.object_notes == ["1 object dropped: a box that is no finite numbers"]


def test_cityscapes(tmp_path: Path) -> None:
    LAYOUTS["cityscapes"](tmp_path)
    streets = opened("cityscapes@partial", "train", tmp_path)
    first, second = shown(streets)
    assert [streets.class_names[label] for label in first.labels] == ["car", "car", "person"]
    assert first.crowd.tolist() == [False, True, False]
    assert first.boxes.tolist() == [[0, 0, 1, 1]] * 3
    assert len(first.masks) == 3
    assert len(second) == 0
    truth = tmp_path / "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json"
    truth.write_text(truth.read_text().replace("[[0, 0], [1, 0], [1, 1]]", "[[0, 0], [1, 0]]", 2))
    streets = opened("cityscapes@partial", "train", tmp_path)
    assert len(streets.objects(0)) == 2
    assert streets.object_notes == ["1 object dropped: a polygon of fewer than three points"]
