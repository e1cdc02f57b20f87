"""COCO's numbers of detections: ours against pycocotools, on generated boxes; both from arrays, in one process.

Ours begins with each image's objects and detections, pycocotools with the dictionaries of its files, which are made
beforehand: only its index of them is part of its time, as only our arrays are of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from typing import Any

import numpy as np
from harness import alternate, report, table
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]

from featurebank.extract.datasets.objects import Objects
from featurebank.pipelines.jobs.detection.evaluation import METRICS, Detections, evaluate

HEIGHT, WIDTH = 480, 640
FASTER = 20


def generated(images: int, classes: int, seed: int) -> tuple[list[Objects], list[Detections]]:
    """About 5 objects an image, one in twenty a crowd, and 20 detections near them, with ties among their scores."""
    draw = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(images):
        n, m = (int(draw.poisson(mean)) for mean in (5.3, 19.5))
        low = draw.uniform(0, [WIDTH * 0.8, HEIGHT * 0.8], (n, 2))
        extent = draw.uniform(4, 200, (n, 2)) * draw.choice([0.2, 1.0], (n, 1))
        boxes = np.hstack([low, np.minimum(low + extent, [WIDTH, HEIGHT])])
        labels = draw.integers(0, classes, n)
        truth.append(Objects(height=HEIGHT, width=WIDTH, boxes=boxes, labels=labels, crowd=draw.random(n) < 0.05))
        if not n:
            boxes, labels = np.array([[10.0, 10.0, 90.0, 60.0]]), np.array([0])
        source = draw.integers(0, len(boxes), m)
        near = boxes[source] + draw.normal(0, 8, (m, 4)) * draw.random((m, 1))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        named = np.where(draw.random(m) < 0.8, labels[source], draw.integers(0, classes, m))
        scores = np.sort(draw.random(m).round(2))[::-1]
        found.append(Detections(boxes=near, scores=scores, labels=named))
    return truth, found


def boxes_of(corners: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[float]]:
    """COCO's x, y, w, h of (n, 4) corners."""
    return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]).tolist()  # type: ignore[no-any-return]


def as_coco(truth: list[Objects], found: list[Detections], classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as the two files of COCO hold it."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image, (shown, detected) in enumerate(zip(truth, found, strict=True), 1):
        for box, label, crowd in zip(boxes_of(shown.boxes), shown.labels, shown.crowd, strict=True):
            one = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label) + 1, "bbox": box}
            annotations.append({**one, "area": box[2] * box[3], "iscrowd": int(crowd)})
        for box, label, score in zip(boxes_of(detected.boxes), detected.labels, detected.scores, strict=True):
            results.append({"image_id": image, "category_id": int(label) + 1, "bbox": box, "score": float(score)})
    images = [{"id": k + 1, "height": HEIGHT, "width": WIDTH} for k in range(len(truth))]
    categories = [{"id": k + 1, "name": str(k)} for k in range(classes)]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def reference(dataset: dict[str, Any], results: list[dict[str, Any]]) -> Any:
    """What pycocotools evaluates; it prints as it goes."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dataset
        coco.createIndex()
        judged = COCOeval(coco, coco.loadRes([dict(one) for one in results]), "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged


def main() -> None:
    """One table, the numbers that differ, what intervals take beside it; a JSON line for the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--classes", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    truth, found = generated(given.images, given.classes, 0)
    dataset, results = as_coco(truth, found, given.classes)
    names = [str(k) for k in range(given.classes)]
    counts = f"{given.images:,} images, {len(dataset['annotations']):,} objects, {len(results):,} detections"
    seconds = alternate(
        {
            "ours": lambda: evaluate(truth, found, names, resamples=0),
            "pycocotools": lambda: reference(dataset, results),
        },
        repeats=given.repeats,
        warmup=0,
    )
    table(f"evaluation of {counts} of {given.classes} classes", seconds)
    ours, judged = evaluate(truth, found, names, resamples=0), reference(dataset, results)
    numbers = np.array([*ours.numbers.values()])
    differ = [name for name, one, other in zip(METRICS, numbers, judged.stats, strict=True) if one != other]
    precision = judged.eval["precision"][:, :, :, 0, -1]
    places = int((ours.precision != np.where(precision > -1, precision, np.nan)).sum())
    print(f"numbers that differ in a bit: {differ or 'none'} of {len(METRICS)}; AP {ours.numbers['AP']:.5f}")
    print(f"values of the precision that differ in a bit: {places:,} of {precision.size:,}")
    start = time.perf_counter()
    drawn = evaluate(truth, found, names)
    low, high = drawn.intervals["AP"]
    print(f"with intervals of 1,000 draws of images: {time.perf_counter() - start:.2f} s; AP {low:.4f} to {high:.4f}")
    own, other = (statistics.median(seconds[name]) for name in ("ours", "pycocotools"))
    report(
        "detection_evaluate",
        ours=own,
        reference=other,
        unit="s",
        bound=f"ratio <= {1 / FASTER}",
        differ=len(differ) + places,
    )


if __name__ == "__main__":
    main()
