"""COCO's numbers: to the bit those of pycocotools, for masks, crowds, ties and empty images; intervals over images."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from featurebank.extract.datasets import DatasetSpec, open_split
from featurebank.extract.datasets.masks import RLE, Mask, Polygons
from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.jobs.detection.evaluation import (
    DRAWN,
    METRICS,
    Detections,
    Evaluation,
    difference,
    evaluate,
)
from featurebank.pipelines.jobs.detection.pasting import encode
from featurebank.probes.intervals import row_weights

pytest.importorskip("hotcoco")
HEIGHT, WIDTH = 240, 320
Kind = Literal["box", "mask"]
Set = tuple[list[Objects], list[Detections]]


def ellipse(box: NDArray[np.float64]) -> RLE:
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    middle, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 2) / 2
    return RLE.of(((x + 0.5 - middle[0]) / half[0]) ** 2 + ((y + 0.5 - middle[1]) / half[1]) ** 2 <= 1)


def mask_of(kind: int, box: NDArray[np.float64]) -> Mask:
    if kind == 0:
        return ellipse(box)
    x1, y1, x2, y2 = box
    triangle = np.array([[x1, y2], [(x1 + x2) / 2, y1], [x2, y2]])
    return Polygons([triangle] if kind == 1 else [triangle, np.array([[x1, y1], [x2, y1], [x1, y2]])])


def generated(
    seed: int, images: int, *, classes: int, shown: int, most: int = 8, found: int = 20, places: int | None = 2
) -> Set:
    """Sets with empty images, crowds, classes without objects (all from ``shown`` on) and scores of few ``places``."""
    draw = np.random.default_rng(seed)
    truth, detected = [], []
    for image in range(images):
        n = 0 if image % 7 == 3 else int(draw.integers(0, most))
        low = draw.uniform(0, [WIDTH - 12, HEIGHT - 12], (n, 2))
        high = np.minimum(low + draw.uniform(6, 220, (n, 2)), [WIDTH, HEIGHT])
        boxes, labels = np.hstack([low, high]), draw.integers(0, shown, n)
        m = 0 if image % 5 == 4 else int(draw.integers(0, found))
        near = boxes[draw.integers(0, n, m)] if n else np.tile([10.0, 10.0, 50.0, 40.0], (m, 1))
        near = near + draw.normal(0, 5, (m, 4)) * draw.random((m, 1))
        low = np.clip(near[:, :2], 0, [WIDTH - 4, HEIGHT - 4])
        near = np.hstack([low, np.clip(near[:, 2:], low + 2, [WIDTH, HEIGHT])])
        scores = np.sort(draw.random(m))[::-1]
        truth.append(
            Objects(
                height=HEIGHT,
                width=WIDTH,
                boxes=boxes,
                labels=labels,
                crowd=draw.random(n) < 0.15,
                masks=tuple(mask_of(k % 3, box) for k, box in enumerate(boxes)),
            )
        )
        detected.append(
            Detections(
                boxes=near,
                scores=scores if places is None else scores.round(places),
                labels=draw.integers(0, classes, m) if not n else draw.integers(0, shown, m),
                masks=tuple(ellipse(box) for box in near),
            )
        )
    return truth, detected


def names(classes: int) -> list[str]:
    return [f"class {k}" for k in range(classes)]


def without_masks(sets: Set) -> Set:
    truth, found = sets
    return (
        [Objects(height=o.height, width=o.width, boxes=o.boxes, labels=o.labels, crowd=o.crowd) for o in truth],
        [Detections(boxes=d.boxes, scores=d.scores, labels=d.labels) for d in found],
    )


def reference(sets: Set, classes: int, kind: Kind, *, agnostic: bool = False) -> Any:
    """pycocotools' evaluation of the same, from dictionaries as its JSON files hold them."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    mask = pytest.importorskip("pycocotools.mask")

    def box(corners: NDArray[np.float64]) -> list[float]:
        return [*corners[:2].tolist(), *(corners[2:] - corners[:2]).tolist()]

    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (shown, found) in enumerate(zip(*sets, strict=True), 1):
        for k in range(len(shown.labels)):
            x, y, w, h = box(shown.boxes[k])
            one: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(shown.labels[k]) + 1,
            }
            one |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": int(shown.crowd[k])}
            if shown.masks:
                runs = mask.encode(np.asfortranarray(shown.masks[k].full(HEIGHT, WIDTH), np.uint8))
                one |= {"segmentation": runs, "area": float(mask.area(runs))}
            annotations.append(one)
        for k in range(len(found.labels)):
            one = {"image_id": image, "category_id": int(found.labels[k]) + 1, "score": float(found.scores[k])}
            if kind == "box":
                one["bbox"] = box(found.boxes[k])
            else:
                one["segmentation"] = mask.encode(np.asfortranarray(found.masks[k].full(HEIGHT, WIDTH), np.uint8))
            results.append(one)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": k + 1, "height": HEIGHT, "width": WIDTH} for k in range(len(sets[0]))],
            "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        judged = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox" if kind == "box" else "segm")
        judged.params.useCats = int(not agnostic)
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


def repeated(sets: Set, times: NDArray[np.float64]) -> Set:
    """Each image as often as drawn."""
    rows = np.repeat(np.arange(len(times)), times.astype(int))
    return [sets[0][k] for k in rows], [sets[1][k] for k in rows]


def agree(ours: Evaluation, judged: Any) -> None:
    stats = np.where(judged.stats > -1, judged.stats, np.nan)
    assert list(ours.numbers) == list(METRICS)
    np.testing.assert_array_equal([*ours.numbers.values()], stats)  # to the bit
    precision = judged.eval["precision"][:, :, :, 0, -1]
    np.testing.assert_array_equal(ours.precision, np.where(precision > -1, precision, np.nan))
    for k in range(len(ours.class_names)):
        own = precision[:, :, k]
        for name, part in (("AP", own), ("AP50", own[0]), ("AP75", own[5])):
            expected = np.mean(part[part > -1]) if (part > -1).any() else np.nan
            np.testing.assert_array_equal(ours.by_class[name][k], expected)


CASES: dict[str, dict[str, Any]] = {
    "a few images, with ties": {"images": 24, "classes": 5, "shown": 4},
    "more than a hundred detections of a class": {"images": 4, "classes": 2, "shown": 1, "most": 40, "found": 300},
    "no ties": {"images": 20, "classes": 3, "shown": 3, "places": None},
    "all scores alike": {"images": 12, "classes": 3, "shown": 2, "places": 0},
}


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("kind", ["box", "mask"])
@pytest.mark.parametrize("case", CASES)
def test_every_number_is_that_of_pycocotools_to_the_bit(case: str, kind: Kind, agnostic: bool) -> None:
    given = CASES[case]
    sets = generated(len(case), **given)
    classes = given["classes"]
    ours = evaluate(*sets, names(classes), kind=kind, agnostic=agnostic, resamples=0)
    assert 0 < ours.numbers["AP"] < ours.numbers["AP50"]
    assert len(ours.class_names) == (1 if agnostic else classes)
    agree(ours, reference(sets, classes, kind, agnostic=agnostic))


def test_boxes_of_a_set_without_masks_are_measured_by_their_own_areas() -> None:
    sets = without_masks(generated(5, 20, classes=3, shown=3))
    agree(evaluate(*sets, names(3), resamples=0), reference(sets, 3, "box"))


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_no_detections_give_zero(kind: Kind) -> None:
    truth, found = generated(0, 10, classes=3, shown=3)
    nothing = [Detections(boxes=np.empty((0, 4)), scores=np.empty(0), labels=np.empty(0, np.int64)) for _ in found]
    ours = evaluate(truth, nothing, names(3), kind=kind, resamples=50)
    assert set(ours.numbers.values()) == {0.0}
    assert ours.intervals["AP"] == (0.0, 0.0)
    assert ours.notes == ("nothing was detected in any image",)


@pytest.mark.parametrize("images", [0, 1, 9])
def test_nothing_to_find_is_not_measured_and_said(images: int) -> None:
    empty = Objects(
        height=HEIGHT,
        width=WIDTH,
        boxes=np.empty((0, 4)),
        labels=np.empty(0, np.int64),
        crowd=np.empty(0, np.bool_),
    )
    found = generated(0, images, classes=2, shown=2)[1]
    ours = evaluate([empty] * images, found, names(2), resamples=20)
    assert np.isnan([*ours.numbers.values()]).all()
    assert ours.intervals == {}
    assert ours.notes[0] == "not measured, as no image shows one: class 0, class 1; means are over the other classes"


def test_a_class_without_objects_is_not_measured_and_the_mean_is_over_the_others() -> None:
    ours = evaluate(*generated(3, 30, classes=4, shown=2), names(4), resamples=0)
    assert np.isnan(ours.by_class["AP"]).tolist() == [False, False, True, True]
    assert ours.objects[2:].tolist() == [0, 0]
    np.testing.assert_allclose(ours.numbers["AP"], ours.by_class["AP"][:2].mean(), rtol=1e-12)
    assert ours.notes[0].startswith("not measured, as no image shows one: class 2, class 3;")


@pytest.mark.parametrize("agnostic", [False, True])
def test_a_draw_of_images_scores_as_the_set_that_holds_each_that_often(agnostic: bool) -> None:
    sets = generated(11, 25, classes=4, shown=3, places=None)
    ours = evaluate(*sets, names(4), agnostic=agnostic, resamples=1)
    (weights,) = row_weights(25, draws=6, random_state=4)
    curves = {area: matches.curves(weights) for area, matches in ours.matches.items()}
    for draw, times in enumerate(weights):
        whole = evaluate(*repeated(sets, times), names(4), agnostic=agnostic, resamples=0)
        for area, of in curves.items():
            precision, recall = of.precision[draw].mean(1), of.recall[draw].mean(1)
            np.testing.assert_allclose(precision, whole.by_class[f"AP{area}"], atol=1e-12)
            np.testing.assert_allclose(recall, whole.by_class[f"AR{area or 100}"], atol=1e-12)
        np.testing.assert_allclose(curves[""].precision[draw, :, 0], whole.by_class["AP50"], atol=1e-12)


def test_intervals_are_percentiles_of_the_draws_and_repeat_with_the_seed() -> None:
    sets = generated(1, 20, classes=3, shown=3, places=None)
    ours = evaluate(*sets, names(3), resamples=40, seed=7)
    drawn = [
        evaluate(*repeated(sets, times), names(3), resamples=0)
        for weights in row_weights(20, draws=40, random_state=7)
        for times in weights
    ]
    assert set(ours.intervals) == set(DRAWN)
    for name in DRAWN:
        expected = np.nanquantile([one.numbers[name] for one in drawn], (0.025, 0.975))
        np.testing.assert_allclose(ours.intervals[name], expected, atol=1e-12)
    for name, ends in ours.class_intervals.items():
        expected = np.nanquantile([one.by_class[name] for one in drawn], (0.025, 0.975), axis=0).T
        np.testing.assert_allclose(ends, expected, atol=1e-12)
    assert ours.intervals["AP"][0] < ours.numbers["AP"] < ours.intervals["AP"][1]
    assert evaluate(*sets, names(3), resamples=40, seed=8).intervals != ours.intervals
    assert evaluate(*sets, names(3), resamples=40, seed=7).intervals == ours.intervals


def test_a_difference_is_paired_over_the_images() -> None:
    truth, found = generated(2, 20, classes=2, shown=2, places=None)
    fewer = [Detections(boxes=d.boxes[:8], scores=d.scores[:8], labels=d.labels[:8]) for d in found]
    first, second = (evaluate(truth, one, names(2), resamples=30) for one in (found, fewer))
    value, low, high = difference(first, second, "AP50", resamples=30, seed=3)
    pairs = [
        tuple(evaluate(*repeated((truth, one), times), names(2), resamples=0).numbers["AP50"] for one in (found, fewer))
        for weights in row_weights(20, draws=30, random_state=3)
        for times in weights
    ]
    expected = np.quantile([one - other for one, other in pairs], (0.025, 0.975))
    assert value == first.numbers["AP50"] - second.numbers["AP50"]
    np.testing.assert_allclose((low, high), expected, atol=1e-12)
    assert difference(first, first, "APl", resamples=30) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="one of AP, AP50"):
        difference(first, second, "AR1")
    with pytest.raises(ValueError, match="same images and objects"):
        difference(first, evaluate(truth[:-1], found[:-1], names(2), resamples=5))
    with pytest.raises(ValueError, match="evaluated with resamples"):
        difference(first, evaluate(truth, found, names(2), resamples=0))


def broken(**changes: Any) -> list[Detections]:
    fields: dict[str, Any] = {
        "boxes": np.array([[1.0, 1.0, 9.0, 9.0]]),
        "scores": np.array([0.5]),
        "labels": np.array([0]),
        "masks": (ellipse(np.array([1.0, 1.0, 9.0, 9.0])),),
    }
    return [Detections(**{**fields, **changes})]


@pytest.mark.parametrize(
    ("found", "match"),
    [
        ([], "found 1 of truth, 0 found"),
        (broken(labels=np.array([2])), "image 0: labels must be 0 to 1; found 2, 2"),
        (broken(scores=np.array([np.nan])), "image 0: boxes and scores must be finite"),
        (broken(boxes=np.ones((2, 4))), "image 0: boxes, labels and masks must be of its 1 scores"),
        (broken(masks=()), "image 0: each object and detection must have a mask; found 1 of 1 objects, 0 of 1 detect"),
    ],
)
def test_what_does_not_fit_is_refused(found: Sequence[Detections], match: str) -> None:
    box = np.array([[1.0, 1.0, 9.0, 9.0]])
    truth = Objects(
        height=HEIGHT, width=WIDTH, boxes=box, labels=np.array([0]), crowd=np.zeros(1, bool), masks=(ellipse(box[0]),)
    )
    with pytest.raises(ValueError, match=match):
        evaluate([truth], found, names(2), kind="mask")


def test_masks_are_encoded_in_the_box_as_torchvision_pastes_them() -> None:
    torch = pytest.importorskip("torch")
    heads = pytest.importorskip("torchvision.models.detection.roi_heads")
    draw = np.random.default_rng(0)
    low = draw.uniform(-20, [WIDTH, HEIGHT], (200, 2))
    boxes = np.hstack([low, np.maximum(low + draw.uniform(0, 90, (200, 2)) ** draw.choice([0.2, 1], (200, 1)), 0)])
    boxes[::3] = boxes[::3].round()
    boxes[0], boxes[1] = (0, 0, WIDTH, HEIGHT), (-30, -30, WIDTH + 30, HEIGHT + 30)
    masks = draw.random((200, 28, 28), np.float32)
    masks[::2] = np.sort(masks[::2], axis=1)
    pasted = heads.paste_masks_in_image(
        torch.from_numpy(masks)[:, None], torch.from_numpy(boxes.astype(np.float32)), (HEIGHT, WIDTH)
    )
    for mask, box, whole in zip(masks, boxes, pasted[:, 0].numpy(), strict=True):
        ours = encode(mask, box, HEIGHT, WIDTH)
        np.testing.assert_array_equal(ours.full(HEIGHT, WIDTH), whole > 0.5)
    assert encode(masks[0], [-40, 5, -30, 9], HEIGHT, WIDTH).area == 0  # where torchvision's own raises
    assert encode(masks[0], [5, HEIGHT + 9, 9, HEIGHT + 19], HEIGHT, WIDTH).area == 0
    with pytest.raises(ValueError, match="a box must be finite, with x1 <= x2"):
        encode(masks[0], [5, 5, 1, 9], HEIGHT, WIDTH)


def test_what_was_not_looked_for_or_not_wholly_annotated_counts_as_lvis_has_it(tmp_path: Path) -> None:
    """Read from a file as LVIS has them; against hotcoco's own way of LVIS, which is another code."""
    from hotcoco import COCO, COCOeval

    truth, found = generated(5, 24, classes=6, shown=5, found=30)
    draw = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, shown in enumerate(truth):
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / f"{image:02}.png")
        positive = set(shown.labels.tolist())
        negative = [k for k in range(6) if k not in positive and draw.random() < 0.5]
        open_ = [k for k in sorted(positive) if draw.random() < 0.4]
        images.append({
            "id": image, "file_name": f"{image:02}.png", "height": HEIGHT, "width": WIDTH,
            "neg_category_ids": negative, "not_exhaustive_category_ids": open_,
        })  # fmt: skip
        for box, label in zip(shown.boxes.tolist(), shown.labels.tolist(), strict=True):
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            corners = [box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3]]
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": sides,
                "area": sides[2] * sides[3], "segmentation": [corners],
            })  # fmt: skip
    names = [f"c{k}" for k in range(6)]
    categories = [{"id": k, "name": name, "frequency": "f"} for k, name in enumerate(names)]
    file = tmp_path / "lvis.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    split: Any = open_split(DatasetSpec(name=f"coco:{file}", split="all"))
    own = evaluate([split.objects(image) for image in range(len(truth))], found, names, resamples=0)
    whole = COCO(str(file))
    rows = [
        [image, *box[:2], box[2] - box[0], box[3] - box[1], score, label]
        for image, one in enumerate(found)
        for box, score, label in zip(one.boxes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True)
    ]
    reference = COCOeval(whole, whole.load_res(np.array(rows)), "bbox", lvis_style=True)
    with contextlib.redirect_stdout(io.StringIO()):
        reference.run()
    expected = reference.get_results()
    assert {name: own.numbers[name] for name in ("AP", "AP50", "AP75")} == pytest.approx(
        {name: expected[name] for name in ("AP", "AP50", "AP75")}, abs=1e-12
    )
    plain = [replace(split.objects(image), judged=None) for image in range(len(truth))]
    assert own.numbers["AP"] > evaluate(plain, found, names, resamples=0).numbers["AP"]
